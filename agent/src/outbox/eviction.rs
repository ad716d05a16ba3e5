//! Events that the outbox's database gives up, and the tombstones that say which.

use lekiwi_agent_core::outbox::{Cursor, Losses};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{Dropped, Priority, kind};
use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::Value;
use uuid::Uuid;

use super::disk::{DiskError, signed, unsigned};
use super::{Draft, is_plain_tombstone, lose};

/// Oldest events of a priority that are looked at for their age at a time.
const AGED_AT_ONCE: u32 = 1_000;

/// Events that are given up in a transaction.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    pub(super) count: u64,
    pub(super) bytes: u64,
    dropped: Vec<Dropped>,
}

impl Evicted {
    pub(super) fn tombstones(&self, now: Timestamp) -> Vec<Draft<'static>> {
        let draft = |dropped| Draft::tombstone(now, dropped);
        self.dropped.iter().map(draft).collect()
    }
}

/// A walk over events that deletes as it goes.
struct Eviction<'a> {
    transaction: &'a Transaction<'a>,
    evicted: Evicted,
    losses: Losses,
}

impl<'a> Eviction<'a> {
    fn of(transaction: &'a Transaction<'a>) -> Self {
        Self {
            transaction,
            evicted: Evicted::default(),
            losses: Losses::default(),
        }
    }

    /// Deletes events of a priority, in their order, while `wants` says so of number, kind and data; those
    /// that are `spared` stay and end nothing.
    fn take(
        &mut self,
        priority: Priority,
        spared: impl Fn(&str, &Value) -> bool,
        wants: impl Fn(&Evicted, Cursor) -> bool,
    ) -> Result<(), DiskError> {
        let mut statement = self.transaction.prepare(
            "SELECT e.ordinal, s.stream, e.seq, e.kind, e.data, e.bytes
             FROM events e JOIN streams s ON s.ordinal = e.ordinal
             WHERE e.priority = ?1 ORDER BY e.ordinal, e.seq",
        )?;
        let mut delete = self
            .transaction
            .prepare("DELETE FROM events WHERE priority = ?1 AND ordinal = ?2 AND seq = ?3")?;
        let mut rows = statement.query([priority as u8])?;
        while let Some(row) = rows.next()? {
            let stream = Uuid::from_bytes(row.get(1)?);
            let at = Cursor {
                ordinal: row.get(0)?,
                seq: unsigned(row.get(2)?),
            };
            let (kind, data): (String, String) = (row.get(3)?, row.get(4)?);
            if !wants(&self.evicted, at) {
                break;
            }
            let data = serde_json::from_str(&data).unwrap_or(Value::Null);
            if spared(&kind, &data) {
                continue;
            }
            self.evicted.count += 1;
            self.evicted.bytes += unsigned(row.get(5)?);
            lose(&mut self.losses, stream, at.seq, &kind, &data);
            // SQLite lets a walk delete the row that it stands on.
            delete.execute(params![priority as u8, at.ordinal, signed(at.seq)])?;
        }
        Ok(())
    }

    /// Earlier tombstones say their part in the new ones, so that they do not pile up.
    fn done(mut self) -> Result<Evicted, DiskError> {
        if self.evicted.count > 0 {
            let others = |kind: &str, data: &Value| !is_plain_tombstone(kind, data);
            self.take(Priority::of(kind::DROPPED), others, |_, _| true)?;
        }
        self.evicted.dropped = self.losses.tombstones();
        Ok(self.evicted)
    }
}

/// Deletes the least urgent events, the oldest of these first, until `bytes` are gone.
pub(super) fn evict(transaction: &Transaction<'_>, bytes: u64) -> Result<Evicted, DiskError> {
    let mut eviction = Eviction::of(transaction);
    for priority in Priority::ALL.into_iter().rev() {
        if eviction.evicted.bytes < bytes {
            eviction.take(priority, |_, _| false, |evicted, _| evicted.bytes < bytes)?;
        }
    }
    eviction.done()
}

/// Deletes the oldest events up to the last one that is known to be from before `cutoff`.
pub(super) fn aged(
    transaction: &Transaction<'_>,
    floor: Timestamp,
    cutoff: Timestamp,
) -> Result<Evicted, DiskError> {
    let mut eviction = Eviction::of(transaction);
    for priority in Priority::ALL {
        let last = transaction
            .query_row(
                "SELECT ordinal, seq FROM
                 (SELECT ordinal, seq, timestamp_ms FROM events WHERE priority = ?1 ORDER BY ordinal, seq LIMIT ?2)
                 WHERE timestamp_ms >= ?3 AND timestamp_ms < ?4 ORDER BY ordinal DESC, seq DESC LIMIT 1",
                params![
                    priority as u8,
                    AGED_AT_ONCE,
                    signed(floor.as_ms()),
                    signed(cutoff.as_ms())
                ],
                |row| {
                    Ok(Cursor {
                        ordinal: row.get(0)?,
                        seq: unsigned(row.get(1)?),
                    })
                },
            )
            .optional()?;
        if let Some(last) = last {
            eviction.take(priority, |_, _| false, |_, at| at <= last)?;
        }
    }
    eviction.done()
}
