//! Who did what: entries that are only ever added, each with a hash over itself and the hash before it. There is one
//! writing transaction at a time, of all relays on a database, so that there is one chain.

use std::collections::BTreeMap;

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::AuditEntry;
use lekiwi_protocol::audit::{
    self, Broken, Chain, Hash, Mark, PRUNED, PRUNED_HASH, PRUNED_NUMBER, Whole,
};
use tokio::sync::oneshot;

use super::database::{Database, Result, Row, ToValue, Value, values};
use super::log::Statement;
use super::records::Commit;
use super::writer::Job;
use super::{Location, Store, StoreError};

const COLUMNS: &str = "number, at, who, address, action, subject, outcome, trace, detail, hash";
/// Entries that are forgotten at once.
const PRUNE_ROWS: u64 = 10_000;

/// An entry that has no number yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewEntry {
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
    /// Who.
    pub who: String,
    /// From which address, if any.
    pub address: String,
    /// What they did.
    pub action: &'static str,
    /// On what.
    pub on: String,
    /// What came of it.
    pub outcome: &'static str,
    /// The trace of the request, if any.
    pub trace: String,
    /// More, by name.
    pub detail: BTreeMap<String, String>,
}

/// Which entries. Without conditions: all of them.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// By this one, such as `person:ada`.
    pub who: Option<String>,
    /// That did this.
    pub action: Option<String>,
    /// On this robot.
    pub robot: Option<String>,
    /// At this time or later, milliseconds since the epoch.
    pub from_ms: Option<u64>,
    /// Before this time.
    pub to_ms: Option<u64>,
    /// Beyond this entry.
    pub after: u64,
    /// Before this entry.
    pub before: Option<u64>,
    /// The newest first instead of the oldest.
    pub newest_first: bool,
}

/// What keeps one entry. Other relays need not hear of it.
struct Record {
    entry: NewEntry,
    number: u64,
    reply: oneshot::Sender<std::result::Result<u64, StoreError>>,
}

impl Job for Record {
    fn apply(&mut self, database: &mut dyn Database, _: &mut Commit) -> Result<()> {
        self.number = append(database, &self.entry)?;
        Ok(())
    }

    fn done(self: Box<Self>, outcome: std::result::Result<(), StoreError>) {
        // Nobody waits any more: it is on record all the same.
        let _ = self.reply.send(outcome.map(|()| self.number));
    }

    fn concerns_others(&self) -> bool {
        false
    }
}

impl Store {
    /// Keeps an entry; it is on disk when this answers with its number.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn record(&self, entry: NewEntry) -> std::result::Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        let number = 0;
        self.enqueue(Record {
            entry,
            number,
            reply,
        })?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Keeps an entry of what the command line does, beside a running relay or without one. Blocks.
    ///
    /// # Errors
    /// When the database cannot be opened, is of another version, or cannot be written.
    pub fn keep_offline(
        location: &Location,
        entry: &NewEntry,
    ) -> std::result::Result<(), StoreError> {
        let mut database = location.writer()?;
        database.transaction(|database| append(database, entry))?;
        Ok(())
    }

    /// Up to `limit` entries.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn audit(
        &self,
        query: AuditQuery,
        limit: usize,
    ) -> std::result::Result<Vec<AuditEntry>, StoreError> {
        let read = move |database: &mut dyn Database| find(database, &query, limit);
        self.inner.readers.read("audit", read).await
    }

    /// Forgets entries from before a time, some thousands at most; how many. An entry of `relay` says which.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn prune_audit(
        &self,
        before_ms: u64,
        now_ms: u64,
        relay: String,
    ) -> std::result::Result<u64, StoreError> {
        let prune =
            move |database: &mut dyn Database| prune(database, before_ms, now_ms, relay.clone());
        self.write(prune, |_| {}).await
    }
}

/// The last entry's number and hash.
fn last(database: &mut dyn Database) -> Result<(u64, Hash)> {
    let sql = "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1";
    let last = database.row(sql, &[], |row| {
        let hash: Vec<u8> = row.get(1)?;
        // Whatever somebody made of it, what happens from now on is kept; the damage is found where it was done.
        Ok((row.get(0)?, hash.try_into().unwrap_or(audit::START)))
    })?;
    Ok(last.unwrap_or((0, audit::START)))
}

fn append(database: &mut dyn Database, new: &NewEntry) -> Result<u64> {
    let (number, previous) = last(database)?;
    let mut entry = AuditEntry {
        number: number + 1,
        at: Timestamp::from_ms(new.at_ms),
        who: new.who.clone(),
        address: new.address.clone(),
        action: new.action.to_owned(),
        on: new.on.clone(),
        outcome: new.outcome.to_owned(),
        trace: new.trace.clone(),
        detail: new.detail.clone(),
        hash: String::new(),
    };
    let hash = audit::hash(&previous, &entry);
    entry.hash = hex::encode(hash);
    database.execute(
        &format!("INSERT INTO audit ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"),
        values![
            entry.number,
            entry.at.as_ms(),
            entry.who,
            entry.address,
            entry.action,
            entry.on,
            entry.outcome,
            entry.trace,
            written(&entry.detail),
            hash
        ],
    )?;
    Ok(entry.number)
}

/// Texts by name always become JSON.
fn written(detail: &BTreeMap<String, String>) -> String {
    serde_json::to_string(detail).unwrap_or_default()
}

/// A row, whatever somebody made of it: what is not as it was written has another hash.
fn entry(row: &Row<'_>) -> Result<AuditEntry> {
    let positive = |number: i64| u64::try_from(number).unwrap_or_default();
    let text: String = row.get(8)?;
    let detail = serde_json::from_str::<BTreeMap<String, String>>(&text);
    let detail = detail.ok().filter(|detail| written(detail) == text);
    let hash: Vec<u8> = row.get(9)?;
    Ok(AuditEntry {
        number: positive(row.get(0)?),
        at: Timestamp::from_ms(positive(row.get(1)?)),
        who: row.get(2)?,
        address: row.get(3)?,
        action: row.get(4)?,
        on: row.get(5)?,
        outcome: row.get(6)?,
        trace: row.get(7)?,
        detail: detail.unwrap_or_else(|| BTreeMap::from([("unreadable".to_owned(), text)])),
        hash: hex::encode(hash),
    })
}

fn find(database: &mut dyn Database, query: &AuditQuery, limit: usize) -> Result<Vec<AuditEntry>> {
    let mut statement = Statement {
        sql: format!("SELECT {COLUMNS} FROM audit WHERE number > "),
        parameters: Vec::new(),
    };
    statement.bind("", query.after.to_value());
    let (on, below) = match &query.robot {
        Some(robot) => (format!("robots/{robot}"), format!("robots/{robot}/%")),
        None => Default::default(),
    };
    let conditions: [(&str, Option<Value<'_>>); 5] = [
        (
            " AND number < ",
            query.before.as_ref().map(ToValue::to_value),
        ),
        (" AND who = ", query.who.as_ref().map(ToValue::to_value)),
        (
            " AND action = ",
            query.action.as_ref().map(ToValue::to_value),
        ),
        (" AND at >= ", query.from_ms.as_ref().map(ToValue::to_value)),
        (" AND at < ", query.to_ms.as_ref().map(ToValue::to_value)),
    ];
    for (condition, value) in conditions {
        if let Some(value) = value {
            statement.bind(condition, value);
        }
    }
    if query.robot.is_some() {
        statement.bind(" AND (subject = ", on.to_value());
        statement.bind(" OR subject LIKE ", below.to_value());
        statement.sql.push(')');
    }
    let order = if query.newest_first { "DESC" } else { "ASC" };
    statement.bind(
        &format!(" ORDER BY number {order} LIMIT "),
        limit.to_value(),
    );
    database.rows(&statement.sql, &statement.parameters, entry)
}

fn prune(database: &mut dyn Database, before_ms: u64, now_ms: u64, relay: String) -> Result<u64> {
    // All before the first that stays, so that what stays is a chain whatever the clock did.
    let first: Option<u64> =
        database.value("SELECT number FROM audit ORDER BY number LIMIT 1", &[])?;
    let stays: Option<u64> = database.value(
        "SELECT number FROM audit WHERE at >= ?1 ORDER BY number LIMIT 1",
        values![before_ms],
    )?;
    let (Some(first), Some(stays)) = (first, stays) else {
        return Ok(0);
    };
    let upto = stays.saturating_sub(1).min(first + PRUNE_ROWS - 1);
    let hash = database.value::<Hash>("SELECT hash FROM audit WHERE number = ?1", values![upto])?;
    let Some(hash) = hash.filter(|_| upto >= first) else {
        return Ok(0);
    };
    append(
        database,
        &NewEntry {
            at_ms: now_ms,
            who: relay,
            action: PRUNED,
            on: "audit".to_owned(),
            outcome: crate::audit::DONE,
            detail: BTreeMap::from([
                (PRUNED_NUMBER.to_owned(), upto.to_string()),
                (PRUNED_HASH.to_owned(), hex::encode(hash)),
            ]),
            ..NewEntry::default()
        },
    )?;
    database.execute("DELETE FROM audit WHERE number <= ?1", values![upto])
}

/// Checks all entries against each other, and against what was signed of them.
pub(super) fn check(
    database: &mut dyn Database,
    marks: &[Mark],
) -> Result<std::result::Result<Whole, Broken>> {
    let mut chain = Chain::expecting(marks.to_vec());
    let mut broken = None;
    let all = format!("SELECT {COLUMNS} FROM audit ORDER BY number");
    database.query(&all, &[], &mut |row| {
        if broken.is_none() {
            broken = chain.take(&entry(row)?).err();
        }
        Ok(())
    })?;
    Ok(broken.map_or_else(|| chain.finish(), Err))
}
