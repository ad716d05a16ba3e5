//! Samples in the outbox's database: telemetry of an outage, in the order of its numbers. Written rarely,
//! many at a time; what was acknowledged is deleted as rarely.

use lekiwi_agent_core::backlog::{Place, Shelf, Thinner, account, merged};
use lekiwi_agent_core::outbox::{Bounds, Held, covers};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{Metrics, SeqRange, Thinned};
use rusqlite::{Connection, Row, Transaction, params};

use super::backlog::Sample;
use super::disk::{Disk, DiskError, signed, unsigned};

/// Oldest samples that are looked at for their age at a time: more than come in an hour.
const AGED_AT_ONCE: u32 = 2_000;

/// How many samples there are, how many bytes of them, and the newest one's number and outage.
pub(super) fn found(db: &Connection) -> Result<(u64, u64, (u64, u32)), rusqlite::Error> {
    db.query_row(
        "SELECT count(*), coalesce(sum(bytes), 0), coalesce(max(seq), 0), coalesce(max(outage), 0) FROM samples",
        [],
        |row| {
            let newest = (unsigned(row.get(2)?), row.get(3)?);
            Ok((unsigned(row.get(0)?), unsigned(row.get(1)?), newest))
        },
    )
}

/// The table as a shelf, within a transaction.
pub(super) struct Samples<'a> {
    transaction: &'a Transaction<'a>,
    count: u64,
    bytes: u64,
}

impl<'a> Samples<'a> {
    pub(super) fn of(transaction: &'a Transaction<'a>, count: u64, bytes: u64) -> Self {
        Self {
            transaction,
            count,
            bytes,
        }
    }

    /// How many, and how many bytes of them.
    pub(super) fn left(self) -> (u64, u64) {
        (self.count, self.bytes)
    }

    fn metrics(&self, place: Place) -> Result<String, DiskError> {
        Ok(self
            .transaction
            .prepare_cached("SELECT metrics FROM samples WHERE seq = ?1")?
            .query_row([signed(place.seq)], |row| row.get(0))?)
    }
}

impl Shelf for Samples<'_> {
    type Error = DiskError;

    fn count(&self) -> u64 {
        self.count
    }

    fn after(&self, seq: u64) -> Result<[Option<Place>; 2], DiskError> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT seq, outage, timestamp_ms, bytes FROM samples WHERE seq > ?1 ORDER BY seq LIMIT 2",
        )?;
        let mut rows = statement.query_map([signed(seq)], |row| {
            Ok(Place {
                seq: unsigned(row.get(0)?),
                outage: row.get(1)?,
                timestamp: Timestamp::from_ms(unsigned(row.get(2)?)),
                bytes: unsigned(row.get(3)?),
            })
        })?;
        Ok([rows.next().transpose()?, rows.next().transpose()?])
    }

    fn merge(&mut self, removed: Place, into: Place) -> Result<u64, DiskError> {
        let text = merge(&self.metrics(removed)?, &self.metrics(into)?);
        let bytes = super::backlog::bytes_of(&text);
        self.remove(removed)?;
        self.transaction
            .prepare_cached("UPDATE samples SET metrics = ?2, bytes = ?3 WHERE seq = ?1")?
            .execute(params![signed(into.seq), text, signed(bytes)])?;
        self.bytes = self.bytes - into.bytes + bytes;
        Ok((removed.bytes + into.bytes).saturating_sub(bytes))
    }

    fn remove(&mut self, place: Place) -> Result<(), DiskError> {
        self.transaction
            .prepare_cached("DELETE FROM samples WHERE seq = ?1")?
            .execute([signed(place.seq)])?;
        self.count -= 1;
        self.bytes -= place.bytes;
        Ok(())
    }
}

/// Two samples' metrics in one, as texts. A text that is none says nothing.
pub(super) fn merge(older: &str, newer: &str) -> String {
    let parse = |text| serde_json::from_str::<Metrics>(text).unwrap_or_default();
    // Names and numbers always become JSON.
    serde_json::to_string(&merged(parse(older), parse(newer))).unwrap_or_default()
}

impl Disk {
    /// Writes samples, after it deleted what was acknowledged and made room. What the bound has no room
    /// for at all is given up.
    pub(super) fn keep(
        &mut self,
        new: &[Sample],
        acknowledged: &[SeqRange],
        bounds: Bounds,
    ) -> Result<(), DiskError> {
        if !self.reserve.fill() {
            return Err(DiskError::Tight);
        }
        self.is_tight = false;
        let transaction = self.db.unchecked_transaction()?;
        let (gone, gone_bytes) = delete(&transaction, acknowledged)?;
        let held = Held {
            samples: self.bytes.samples - gone_bytes,
            ..self.bytes
        };
        let most = bounds.samples_beside(held.events);
        let mut room = most;
        // The newest that fit; usually all.
        let fitting = new.iter().rev().take_while(|sample| {
            let fits = sample.bytes() <= room;
            room = room.saturating_sub(sample.bytes());
            fits
        });
        let (given_up, new) = new.split_at(new.len() - fitting.count());
        let incoming = new.iter().map(Sample::bytes).sum();
        let mut samples = Samples::of(&transaction, self.samples - gone, held.samples);
        let mut thinner: Thinner = self.thinner;
        let (_, mut thinned) =
            thinner.make_room(&mut samples, bounds.room_for_samples(held, incoming))?;
        {
            let mut insert = transaction.prepare(
                "INSERT OR REPLACE INTO samples (seq, outage, timestamp_ms, metrics, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for sample in new {
                insert.execute(params![
                    signed(sample.seq),
                    sample.outage,
                    signed(sample.timestamp.as_ms()),
                    sample.metrics,
                    signed(sample.bytes())
                ])?;
            }
        }
        let (count, bytes) = samples.left();
        transaction.commit()?;
        self.thinner = thinner;
        self.samples = count + new.len() as u64;
        self.bytes.samples = bytes + incoming;
        if let Some(newest) = new.last() {
            self.newest_sample = (newest.seq, newest.outage);
        }
        for sample in given_up {
            account(&mut thinned, sample.alone());
        }
        self.account(thinned);
        Ok(())
    }

    /// The next samples after a number, without those that were acknowledged, and whether there are no more.
    pub(super) fn samples_after(
        &self,
        seq: u64,
        acknowledged: &[SeqRange],
        most: usize,
        most_bytes: u64,
    ) -> Result<(Vec<Sample>, bool), DiskError> {
        let sample = |row: &Row<'_>| {
            Ok(Sample {
                seq: unsigned(row.get(0)?),
                outage: row.get(1)?,
                timestamp: Timestamp::from_ms(unsigned(row.get(2)?)),
                metrics: row.get(3)?,
            })
        };
        let mut statement = self.db.prepare_cached(
            "SELECT seq, outage, timestamp_ms, metrics FROM samples WHERE seq > ?1 ORDER BY seq",
        )?;
        let mut found = Vec::new();
        let mut bytes = 0;
        for next in statement.query_map([signed(seq)], sample)? {
            let next = next?;
            if covers(acknowledged, next.seq) {
                continue;
            }
            bytes += next.bytes();
            if found.len() == most || (bytes > most_bytes && !found.is_empty()) {
                return Ok((found, false));
            }
            found.push(next);
        }
        Ok((found, true))
    }

    /// How many samples have these numbers.
    pub(super) fn samples_in(&self, ranges: &[SeqRange]) -> u64 {
        let count = |[from, to]: &SeqRange| {
            self.db
                .query_row(
                    "SELECT count(*) FROM samples WHERE seq BETWEEN ?1 AND ?2",
                    params![signed(*from), signed(*to)],
                    |row| Ok(unsigned(row.get(0)?)),
                )
                .unwrap_or(0)
        };
        ranges.iter().map(count).sum()
    }

    /// Deletes samples by their numbers.
    pub(super) fn forget(&mut self, ranges: &[SeqRange]) -> Result<(), DiskError> {
        let transaction = self.db.unchecked_transaction()?;
        let (count, bytes) = delete(&transaction, ranges)?;
        transaction.commit()?;
        self.samples -= count;
        self.bytes.samples -= bytes;
        Ok(())
    }

    /// Gives up the oldest eighth in one piece: what a full disk has room for, since thinning writes.
    pub(super) fn cut_samples(&mut self) -> Result<(), DiskError> {
        let last: i64 = self.db.query_row(
            "SELECT seq FROM samples ORDER BY seq LIMIT 1 OFFSET ?1",
            [signed(self.samples / 8)],
            |row| row.get(0),
        )?;
        self.give_up(unsigned(last))
    }

    /// Gives up samples from before `cutoff`, and what came before them; see [`Disk::expire`].
    pub(super) fn expire_samples(
        &mut self,
        floor: Timestamp,
        cutoff: Timestamp,
    ) -> Result<(), DiskError> {
        let last: Option<i64> = self.db.query_row(
            "SELECT max(seq) FROM (SELECT seq, timestamp_ms FROM samples ORDER BY seq LIMIT ?1)
             WHERE timestamp_ms >= ?2 AND timestamp_ms < ?3",
            params![AGED_AT_ONCE, signed(floor.as_ms()), signed(cutoff.as_ms())],
            |row| row.get(0),
        )?;
        last.map_or(Ok(()), |last| self.give_up(unsigned(last)))
    }

    /// Adds to what was done to samples.
    pub(super) fn account(&mut self, thinned: Option<Thinned>) {
        if let Some(thinned) = thinned {
            account(&mut self.thinned, thinned);
        }
    }

    fn give_up(&mut self, last: u64) -> Result<(), DiskError> {
        let (from, to): (i64, i64) = self.db.query_row(
            "SELECT coalesce(min(timestamp_ms), 0), coalesce(max(timestamp_ms), 0) FROM samples WHERE seq <= ?1",
            [signed(last)],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let before = self.samples;
        self.forget(&[[0, last]])?;
        self.account(Some(Thinned {
            from: Timestamp::from_ms(unsigned(from)),
            to: Timestamp::from_ms(unsigned(to)),
            samples: before - self.samples,
        }));
        Ok(())
    }
}

/// Deletes by numbers: how many, and how many bytes.
fn delete(
    transaction: &Transaction<'_>,
    ranges: &[SeqRange],
) -> Result<(u64, u64), rusqlite::Error> {
    let (mut count, mut bytes) = (0, 0);
    for [from, to] in ranges {
        let range = params![signed(*from), signed(*to)];
        bytes += transaction.query_row(
            "SELECT coalesce(sum(bytes), 0) FROM samples WHERE seq BETWEEN ?1 AND ?2",
            range,
            |row| Ok(unsigned(row.get(0)?)),
        )?;
        count += transaction.execute("DELETE FROM samples WHERE seq BETWEEN ?1 AND ?2", range)?;
    }
    Ok((count as u64, bytes))
}
