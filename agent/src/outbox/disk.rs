//! The durable part: SQLite with WAL and `synchronous = FULL`, opened exclusively (no shared memory
//! file), with a page cache of 128 KiB. One transaction an append, evictions and tombstones included.
//! Events lie in the order in which they are sent. The samples beside them are in [`super::samples`].

use std::path::Path;

use lekiwi_agent_core::backlog::Thinner;
use lekiwi_agent_core::outbox::{Bounds, Cursor, Held, Progress, covers};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{Event, EventBatch, Priority, SeqRange, Thinned};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use serde_json::Value;
use uuid::Uuid;

use super::eviction::{aged, evict};
use super::reserve::Reserve;
use super::samples::{self, Samples};
use super::wal;
use super::{Draft, Limit, within};

/// Layout version in the file's header.
const VERSION: i64 = 2;

const STREAMS: &str = "
    CREATE TABLE streams (ordinal INTEGER PRIMARY KEY, stream BLOB NOT NULL UNIQUE, last_seq INTEGER NOT NULL);";
const SCHEMA: &str = "
    CREATE TABLE events (
        priority INTEGER NOT NULL, ordinal INTEGER NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL,
        timestamp_ms INTEGER NOT NULL, data TEXT NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (priority, ordinal, seq)
    ) WITHOUT ROWID;
    CREATE TABLE samples (
        seq INTEGER PRIMARY KEY, outage INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL, metrics TEXT NOT NULL,
        bytes INTEGER NOT NULL
    );
    PRAGMA user_version = 2;";
/// Free pages of the database that an event, or a few, can do with.
const SPARE_PAGES: u32 = 16;
/// Numbers of one stream, whatever their priority.
const OF_STREAM: &str =
    "priority IN (0, 1, 2, 3) AND ordinal = (SELECT ordinal FROM streams WHERE stream = ?1)
     AND seq BETWEEN ?2 AND ?3";

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
    /// What is left belongs to events.
    #[error("expected a disk with room for more than events")]
    Tight,
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
        !matches!(self, Self::Unavailable { .. } | Self::Tight)
    }

    /// Whether less on the disk would help.
    fn is_full(&self) -> bool {
        matches!(self, Self::Unavailable { source } if source.sqlite_error_code() == Some(ErrorCode::DiskFull))
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
    pub(super) db: Connection,
    stream: Option<Stream>,
    count: u64,
    /// Of events, and of samples.
    pub(super) bytes: Held,
    /// How many samples, and the newest one: number and outage.
    pub(super) samples: u64,
    pub(super) newest_sample: (u64, u32),
    pub(super) thinner: Thinner,
    pub(super) reserve: Reserve,
    /// The disk was full since the reserve was taken last: samples make room before it is needed.
    pub(super) is_tight: bool,
    /// Some of what was committed cannot be read, and nobody knows what.
    pub(super) is_cut_short: bool,
    /// What was done to samples since it was asked for.
    pub(super) thinned: Option<Thinned>,
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
        // A full disk does not take what the log has: that is no reason not to read it.
        let frames = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1));
        let frames = frames
            .ok()
            .and_then(|frames: i64| usize::try_from(frames).ok());
        let is_cut_short = frames.is_some_and(|frames| wal::is_cut_short(path, frames));
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
                creation.execute_batch(STREAMS)?;
                creation.execute_batch(SCHEMA)?;
                creation.commit()?;
            }
            (1, _) => migrate(&db)?,
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
        let (samples, sample_bytes, newest_sample) = samples::found(&db)?;
        Ok(Self {
            db,
            stream,
            count,
            bytes: Held {
                events: bytes,
                samples: sample_bytes,
            },
            samples,
            newest_sample,
            thinner: Thinner::default(),
            reserve: Reserve::beside(path),
            is_tight: false,
            is_cut_short,
            thinned: None,
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

    /// Numbers and keeps an event. What the bound leaves no room for goes: samples, then the least urgent
    /// events. Where the disk itself has none, samples go until it has.
    pub(super) fn append(&mut self, draft: &Draft<'_>, bounds: Bounds) -> Result<u64, DiskError> {
        loop {
            if self.is_tight && self.samples > 0 && self.spare_pages()? < SPARE_PAGES {
                self.cut_samples()?;
            }
            match self.try_append(draft, bounds) {
                Err(error) if error.is_full() && self.samples > 0 => self.make_way()?,
                result => return result,
            }
        }
    }

    /// The disk is full: samples go, and what the log holds goes to its place with the help of the reserve.
    /// From here on the log begins anew where it lies, and the database has free pages of its own.
    fn make_way(&mut self) -> Result<(), DiskError> {
        self.reserve.release();
        self.is_tight = true;
        self.cut_samples()?;
        self.db
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        Ok(())
    }

    /// Whether an event of this kind with this data is kept.
    pub(super) fn holds(&self, kind: &str, data: &Value) -> Result<bool, DiskError> {
        let found = self.db.query_row(
            "SELECT EXISTS (SELECT 1 FROM events WHERE kind = ?1 AND data = ?2)",
            params![kind, data.to_string()],
            |row| row.get(0),
        );
        Ok(found?)
    }

    fn spare_pages(&self) -> Result<u32, DiskError> {
        Ok(self
            .db
            .query_row("PRAGMA freelist_count", [], |row| row.get(0))?)
    }

    fn try_append(&mut self, draft: &Draft<'_>, bounds: Bounds) -> Result<u64, DiskError> {
        let mut stream = self.numbering()?;
        let transaction = self.db.unchecked_transaction()?;
        let room = bounds.room_for_event(self.bytes, draft.bytes);
        let mut samples = Samples::of(&transaction, self.samples, self.bytes.samples);
        let mut thinner = self.thinner;
        let (_, thinned) = thinner.make_room(&mut samples, room.samples)?;
        let (samples, sample_bytes) = samples.left();
        let evicted = evict(&transaction, room.events)?;
        let tombstones = evicted.tombstones(draft.timestamp);
        let (count, bytes) = insert(&transaction, &mut stream, tombstones.iter().chain([draft]))?;
        transaction.commit()?;
        self.thinner = thinner;
        self.count = self.count - evicted.count + count;
        self.bytes = Held {
            events: self.bytes.events - evicted.bytes + bytes,
            samples: sample_bytes,
        };
        self.samples = samples;
        self.account(thinned);
        self.stream = Some(stream);
        self.delete_undeleted();
        Ok(stream.last_seq)
    }

    /// Drops events from before `cutoff`. A time before `floor` comes from a clock that was not set: such
    /// an event is as old as what came after it.
    pub(super) fn expire(
        &mut self,
        now: Timestamp,
        floor: Timestamp,
        cutoff: Timestamp,
    ) -> Result<(), DiskError> {
        let mut stream = self.numbering()?;
        let transaction = self.db.unchecked_transaction()?;
        let evicted = aged(&transaction, floor, cutoff)?;
        if evicted.count == 0 {
            return Ok(());
        }
        let tombstones = evicted.tombstones(now);
        let (count, bytes) = insert(&transaction, &mut stream, tombstones.iter())?;
        transaction.commit()?;
        self.count = self.count - evicted.count + count;
        self.bytes.events = self.bytes.events - evicted.bytes + bytes;
        self.stream = Some(stream);
        Ok(())
    }

    fn numbering(&self) -> Result<Stream, DiskError> {
        self.stream
            .ok_or_else(|| DiskError::Foreign("one without a stream".to_owned()))
    }

    pub(super) fn pending_after(
        &self,
        progress: &Progress,
        limit: Limit,
    ) -> Result<Option<(Priority, EventBatch)>, DiskError> {
        for priority in Priority::ALL {
            let batch = self.pending_of(priority, progress.of(priority), limit)?;
            if let Some(batch) = batch {
                return Ok(Some((priority, batch)));
            }
        }
        Ok(None)
    }

    fn pending_of(
        &self,
        priority: Priority,
        cursor: Cursor,
        limit: Limit,
    ) -> Result<Option<EventBatch>, DiskError> {
        let mut statement = self.db.prepare_cached(
            "SELECT e.ordinal, s.stream, e.seq, e.kind, e.timestamp_ms, e.data, e.bytes
             FROM events e JOIN streams s ON s.ordinal = e.ordinal
             WHERE e.priority = ?1 AND (e.ordinal, e.seq) > (?2, ?3) ORDER BY e.ordinal, e.seq",
        )?;
        let mut rows =
            statement.query(params![priority as u8, cursor.ordinal, signed(cursor.seq)])?;
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
            bytes += transaction.query_row(
                &format!("SELECT coalesce(sum(bytes), 0) FROM events WHERE {OF_STREAM}"),
                bound,
                |row| Ok(unsigned(row.get(0)?)),
            )?;
            count +=
                transaction.execute(&format!("DELETE FROM events WHERE {OF_STREAM}"), bound)?;
        }
        transaction.commit()?;
        self.count -= count as u64;
        self.bytes.events -= bytes;
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

    /// The streams that are known, oldest first.
    pub(super) fn streams(&self) -> Result<Vec<Uuid>, DiskError> {
        let mut statement = self
            .db
            .prepare("SELECT stream FROM streams ORDER BY ordinal")?;
        let streams = statement.query_map([], |row| Ok(Uuid::from_bytes(row.get(0)?)))?;
        Ok(streams.collect::<Result<_, _>>()?)
    }

    /// Whether it was opened where nothing can be written.
    pub(super) fn is_read_only(&self) -> bool {
        self.db.is_readonly(rusqlite::MAIN_DB).unwrap_or(true)
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
                            &format!("SELECT count(*) FROM events WHERE {OF_STREAM}"),
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

/// Brings a file of the first version, which knew neither priorities nor samples, to this one.
fn migrate(db: &Connection) -> Result<(), DiskError> {
    let migration = db.unchecked_transaction()?;
    migration.execute_batch("ALTER TABLE events RENAME TO earlier")?;
    migration.execute_batch(SCHEMA)?;
    {
        let mut kinds = migration.prepare("SELECT DISTINCT kind FROM earlier")?;
        let mut rows = kinds.query([])?;
        while let Some(row) = rows.next()? {
            let kind: String = row.get(0)?;
            migration.execute(
                "INSERT INTO events (priority, ordinal, seq, kind, timestamp_ms, data, bytes)
                 SELECT ?1, ordinal, seq, kind, timestamp_ms, data, bytes FROM earlier WHERE kind = ?2",
                params![Priority::of(&kind) as u8, kind],
            )?;
        }
    }
    migration.execute_batch("DROP TABLE earlier")?;
    Ok(migration.commit()?)
}

/// Numbers and writes events: how many, and how many bytes.
fn insert<'a>(
    transaction: &Transaction<'_>,
    stream: &mut Stream,
    drafts: impl Iterator<Item = &'a Draft<'a>>,
) -> Result<(u64, u64), rusqlite::Error> {
    let (mut count, mut bytes) = (0, 0);
    let mut statement = transaction.prepare_cached(
        "INSERT INTO events (priority, ordinal, seq, kind, timestamp_ms, data, bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for draft in drafts {
        stream.last_seq += 1;
        count += 1;
        bytes += draft.bytes;
        statement.execute(params![
            Priority::of(draft.kind) as u8,
            stream.ordinal,
            signed(stream.last_seq),
            draft.kind,
            signed(draft.timestamp.as_ms()),
            draft.data.to_string(),
            signed(draft.bytes)
        ])?;
    }
    transaction.execute(
        "UPDATE streams SET last_seq = ?2 WHERE ordinal = ?1",
        params![stream.ordinal, signed(stream.last_seq)],
    )?;
    Ok((count, bytes))
}

// SQLite's integers are signed; none of ours comes near the difference.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
