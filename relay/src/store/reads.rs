//! What consumers may read, by their names: asked for at every subscription, so answered from memory, with
//! [`People`](super::records::People).

use std::collections::BTreeMap;

use lekiwi_protocol::ConsumerName;
use lekiwi_protocol::access::Reads;

use super::database::{Database, DatabaseError, Result, values};
use super::people::parsed;
use super::{Store, StoreError};

pub(super) fn load(database: &mut dyn Database) -> Result<BTreeMap<ConsumerName, Reads>> {
    let mut filters: BTreeMap<ConsumerName, Vec<String>> = BTreeMap::new();
    database.query(
        "SELECT consumer, filter FROM consumer_reads ORDER BY consumer, filter",
        &[],
        &mut |row| {
            let consumer = parsed::<ConsumerName>(row, 0, "a consumer's name")?;
            filters.entry(consumer).or_default().push(row.get(1)?);
            Ok(())
        },
    )?;
    let reads = filters.into_iter().map(|(consumer, filters)| {
        let reads = Reads::parse(&filters).map_err(|_| DatabaseError::Column {
            column: 1,
            expected: "filters",
            actual: "another text",
        })?;
        Ok((consumer, reads))
    });
    reads.collect()
}

impl Store {
    /// What a consumer may read. From memory, never waits.
    #[must_use]
    pub fn reads(&self, consumer: &ConsumerName) -> Reads {
        let people = self.people();
        people.reads.get(consumer).cloned().unwrap_or_default()
    }

    /// Has a consumer read this from now on, whichever certificate it shows.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn set_reads(
        &self,
        consumer: ConsumerName,
        reads: Reads,
    ) -> std::result::Result<(), StoreError> {
        self.change_people(move |database| {
            let consumer = consumer.as_str();
            database.execute(
                "DELETE FROM consumer_reads WHERE consumer = ?1",
                values![consumer],
            )?;
            for filter in reads.filters() {
                database.execute(
                    "INSERT INTO consumer_reads (consumer, filter) VALUES (?1, ?2) ON CONFLICT (consumer, filter) DO NOTHING",
                    values![consumer, filter],
                )?;
            }
            Ok(())
        })
        .await
    }
}
