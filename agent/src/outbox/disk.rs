//! The durable part: SQLite with WAL and `synchronous = FULL`, opened exclusively (no shared memory
//! file), with a page cache of 128 KiB. One transaction an append, evictions and tombstones included.

use std::path::Path;

use lekiwi_agent_core::outbox::{Bounds, Cursor, covers, tombstones};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{Dropped, Event, EventBatch, SeqRange};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use serde_json::Value;
use uuid::Uuid;

use super::{Draft, Limit, remains, within};

/// Layout version in the file's header.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE streams (ordinal INTEGER PRIMARY KEY, stream BLOB NOT NULL UNIQUE, last_seq INTEGER NOT NULL);
    CREATE TABLE events (
        ordinal INTEGER NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, timestamp_ms INTEGER NOT NULL,
        data TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (ordinal, seq)
    ) WITHOUT ROWID;
    PRAGMA user_version = 1;";

/// Why the disk did not take it.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// The file is no database, of another layout, or its pages contradict each other.
    #[error("expected an intact outbox database")]
    Damaged {
        /// What SQLite found.
        #[source]
        source: rusqlite::Error,
    },
    /// A database, but not one of ours.
    #[error("expected an outbox database, got {0}")]
    Foreign(String),
    /// Full, read-only, missing or failing.
    #[error("expected a disk that takes events")]
    Unavailable {
        /// What the system said.
        #[source]
        source: rusqlite::Error,
    },
}

impl DiskError {
    /// Whether another attempt on the same file is pointless.
    pub(super) fn is_damage(&self) -> bool {
        !matches!(self, Self::Unavailable { .. })
    }
}

impl From<rusqlite::Error> for DiskError {
    fn from(source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged { source },
            // A missing table or a value of another type: not our file.
            None | Some(ErrorCode::Unknown | ErrorCode::TypeMismatch) => Self::Damaged { source },
            Some(_) => Self::Unavailable { source },
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    ordinal: u32,
    id: Uuid,
    last_seq: u64,
}

/// The open database.
pub(super) struct Disk {
    db: Connection,
    stream: Option<Stream>,
    count: u64,
    bytes: u64,
    /// Acknowledged, but the full disk did not take the deletion: not sent again, deleted later.
    undeleted: Vec<(Uuid, Vec<SeqRange>)>,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let db = Connection::open(path)?;
        db.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA cache_size = -128; PRAGMA wal_autocheckpoint = 64; PRAGMA journal_size_limit = 262144;
             PRAGMA temp_store = MEMORY;",
        )?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let tables: i64 =
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        match (version, tables) {
            (VERSION, _) => {
                let answer: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
                if answer != "ok" {
                    return Err(DiskError::Foreign(format!(
                        "one that fails its check: {answer}"
                    )));
                }
            }
            (0, 0) => {
                let creation = db.unchecked_transaction()?;
                creation.execute_batch(SCHEMA)?;
                creation.commit()?;
            }
            _ => {
                return Err(DiskError::Foreign(format!(
                    "one of layout version {version} instead of {VERSION}"
                )));
            }
        }
        let stream = db
            .query_row(
                "SELECT ordinal, stream, last_seq FROM streams ORDER BY ordinal DESC LIMIT 1",
                [],
                |row| {
                    Ok(Stream {
                        ordinal: row.get(0)?,
                        id: Uuid::from_bytes(row.get(1)?),
                        last_seq: unsigned(row.get(2)?),
                    })
                },
            )
            .optional()?;
        let (count, bytes) = db.query_row(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM events",
            [],
            |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))),
        )?;
        Ok(Self {
            db,
            stream,
            count,
            bytes,
            undeleted: Vec::new(),
        })
    }

    /// Numbers what follows in a new stream, and forgets streams of which nothing is left.
    pub(super) fn begin(&mut self, ordinal: u32, stream: Uuid) -> Result<(), DiskError> {
        let transaction = self.db.unchecked_transaction()?;
        transaction.execute(
            "DELETE FROM streams WHERE ordinal NOT IN (SELECT ordinal FROM events)",
            [],
        )?;
        transaction.execute(
            "INSERT INTO streams (ordinal, stream, last_seq) VALUES (?1, ?2, 0)",
            params![ordinal, stream.as_bytes()],
        )?;
        transaction.commit()?;
        self.stream = Some(Stream {
            ordinal,
            id: stream,
            last_seq: 0,
        });
        Ok(())
    }

    pub(super) fn append(&mut self, draft: &Draft<'_>, bounds: Bounds) -> Result<u64, DiskError> {
        let Some(mut stream) = self.stream else {
            return Err(DiskError::Foreign("one without a stream".to_owned()));
        };
        let transaction = self.db.unchecked_transaction()?;
        let (mut count, mut bytes) = (self.count, self.bytes);
        let free = bounds.excess(bytes, draft.bytes);
        let ranges = if free == 0 {
            Vec::new()
        } else {
            let (dropped, freed, ranges) = evict(&transaction, free)?;
            count -= dropped;
            bytes -= freed;
            ranges
        };
        let tombstones: Vec<Draft<'_>> = ranges
            .iter()
            .map(|range| Draft::tombstone(draft.timestamp, range))
            .collect();
        for draft in tombstones.iter().chain([draft]) {
            stream.last_seq += 1;
            count += 1;
            bytes += draft.bytes;
            insert(&transaction, &stream, draft)?;
        }
        transaction.execute(
            "UPDATE streams SET last_seq = ?2 WHERE ordinal = ?1",
            params![stream.ordinal, signed(stream.last_seq)],
        )?;
        transaction.commit()?;
        (self.count, self.bytes) = (count, bytes);
        self.stream = Some(stream);
        self.delete_undeleted();
        Ok(stream.last_seq)
    }

    pub(super) fn pending_after(
        &self,
        cursor: Cursor,
        limit: Limit,
    ) -> Result<Option<EventBatch>, DiskError> {
        let mut statement = self.db.prepare_cached(
            "SELECT e.ordinal, s.stream, e.seq, e.kind, e.timestamp_ms, e.data, e.bytes
             FROM events e JOIN streams s ON s.ordinal = e.ordinal
             WHERE (e.ordinal, e.seq) > (?1, ?2) ORDER BY e.ordinal, e.seq",
        )?;
        let mut rows = statement.query(params![cursor.ordinal, signed(cursor.seq)])?;
        let mut batch: Option<(u32, Uuid)> = None;
        let mut events = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let (ordinal, stream): (u32, Uuid) = (row.get(0)?, Uuid::from_bytes(row.get(1)?));
            let seq = unsigned(row.get(2)?);
            if self.is_undeleted(stream, seq) {
                continue;
            }
            if *batch.get_or_insert((ordinal, stream)) != (ordinal, stream)
                || events.len() >= limit.events
                || bytes > limit.bytes as u64
            {
                break;
            }
            let data: String = row.get(5)?;
            let size = unsigned(row.get(6)?);
            bytes += size;
            events.push((
                Event {
                    seq,
                    kind: row.get(3)?,
                    timestamp: Timestamp::from_ms(unsigned(row.get(4)?)),
                    data: serde_json::from_str(&data).unwrap_or(Value::Null),
                },
                size,
            ));
        }
        Ok(batch.map(|(ordinal, stream)| EventBatch {
            stream,
            ordinal,
            events: within(limit, events.into_iter()),
        }))
    }

    pub(super) fn acknowledge(&mut self, stream: Uuid, ranges: &[SeqRange]) -> usize {
        match self.delete(stream, ranges) {
            Ok(count) => count,
            Err(error) => {
                log::debug!("acknowledged events stay on the disk until the next attempt: {error}");
                let before = self.len();
                self.undeleted.push((stream, ranges.to_vec()));
                usize::try_from(before.saturating_sub(self.len())).unwrap_or(usize::MAX)
            }
        }
    }

    fn delete(&mut self, stream: Uuid, ranges: &[SeqRange]) -> Result<usize, rusqlite::Error> {
        let transaction = self.db.unchecked_transaction()?;
        let (mut count, mut bytes) = (0, 0);
        for [from, to] in ranges {
            let bound = params![stream.as_bytes(), signed(*from), signed(*to)];
            let filter = "ordinal = (SELECT ordinal FROM streams WHERE stream = ?1) AND seq BETWEEN ?2 AND ?3";
            bytes += transaction.query_row(
                &format!("SELECT coalesce(sum(bytes), 0) FROM events WHERE {filter}"),
                bound,
                |row| Ok(unsigned(row.get(0)?)),
            )?;
            count += transaction.execute(&format!("DELETE FROM events WHERE {filter}"), bound)?;
        }
        transaction.commit()?;
        self.count -= count as u64;
        self.bytes -= bytes;
        Ok(count)
    }

    fn delete_undeleted(&mut self) {
        while let Some((stream, ranges)) = self.undeleted.pop() {
            if self.delete(stream, &ranges).is_err() {
                self.undeleted.push((stream, ranges));
                break;
            }
        }
    }

    fn is_undeleted(&self, stream: Uuid, seq: u64) -> bool {
        self.undeleted
            .iter()
            .any(|(of, ranges)| *of == stream && covers(ranges, seq))
    }

    /// The newest stream: ordinal and id.
    pub(super) fn stream(&self) -> Option<(u32, Uuid)> {
        self.stream.map(|stream| (stream.ordinal, stream.id))
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.stream.map_or(0, |stream| stream.last_seq)
    }

    pub(super) fn len(&self) -> u64 {
        if self.undeleted.is_empty() {
            return self.count;
        }
        let held = |(stream, ranges): &(Uuid, Vec<SeqRange>)| -> u64 {
            ranges
                .iter()
                .filter_map(|[from, to]| {
                    self.db
                        .query_row(
                            "SELECT count(*) FROM events WHERE ordinal = (SELECT ordinal FROM streams
                             WHERE stream = ?1) AND seq BETWEEN ?2 AND ?3",
                            params![stream.as_bytes(), signed(*from), signed(*to)],
                            |row| Ok(unsigned(row.get(0)?)),
                        )
                        .ok()
                })
                .sum()
        };
        self.count
            .saturating_sub(self.undeleted.iter().map(held).sum())
    }
}

fn insert(
    transaction: &Transaction<'_>,
    stream: &Stream,
    draft: &Draft<'_>,
) -> Result<(), rusqlite::Error> {
    transaction
        .prepare_cached(
            "INSERT INTO events (ordinal, seq, kind, timestamp_ms, data, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            stream.ordinal,
            signed(stream.last_seq),
            draft.kind,
            signed(draft.timestamp.as_ms()),
            draft.data.to_string(),
            signed(draft.bytes)
        ])
        .map(|_| ())
}

/// Deletes the oldest events until `free` bytes are gone: how many, how many bytes, which ranges.
fn evict(transaction: &Transaction<'_>, free: u64) -> Result<(u64, u64, Vec<Dropped>), DiskError> {
    let (mut count, mut freed, mut last) = (0, 0, Cursor::default());
    let mut dropped = Vec::new();
    let mut statement = transaction.prepare(
        "SELECT e.ordinal, s.stream, e.seq, e.kind, e.data, e.bytes
         FROM events e JOIN streams s ON s.ordinal = e.ordinal ORDER BY e.ordinal, e.seq",
    )?;
    let mut rows = statement.query([])?;
    while freed < free
        && let Some(row) = rows.next()?
    {
        let stream = Uuid::from_bytes(row.get(1)?);
        let (kind, data): (String, String) = (row.get(3)?, row.get(4)?);
        last = Cursor {
            ordinal: row.get(0)?,
            seq: unsigned(row.get(2)?),
        };
        count += 1;
        freed += unsigned(row.get(5)?);
        let data = serde_json::from_str(&data).unwrap_or(Value::Null);
        dropped.extend(remains(stream, last.seq, &kind, &data));
        // Merged as they come, so that a large eviction does not need memory for each event.
        if dropped.len() > 256 {
            dropped = tombstones(dropped);
        }
    }
    transaction.execute(
        "DELETE FROM events WHERE (ordinal, seq) <= (?1, ?2)",
        params![last.ordinal, signed(last.seq)],
    )?;
    Ok((count, freed, tombstones(dropped)))
}

// SQLite's integers are signed; none of ours comes near the difference.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
