//! Events that must reach the relay, and telemetry that should, kept until it says that they are safe. Used
//! by the driver and by the simulator. Blocking file IO, a few hundred microseconds an event (fsync).
//!
//! Normally SQLite: what [`Outbox::append`] numbered is on disk before the number is known. When the
//! disk takes nothing, events go into a bounded memory queue under a new stream, since numbers that
//! may be forgotten must never be reused; when it takes some again, a new durable stream begins. A
//! damaged database is set aside. Whatever went with a database, or with memory when the process ended,
//! is reported. Nothing here is fatal. Telemetry is `backlog`'s part.
//!
//! Invariants: numbers of a stream have no holes; an event leaves only when acknowledged or when an
//! `events.dropped` event took its place, and none does while there is telemetry to give up; ordinals
//! grow, also over a lost database (the file `<database>.ordinal` remembers the last one).

mod backlog;
mod disk;
mod eviction;
mod memory;
mod newest;
mod reserve;
mod samples;
mod wal;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lekiwi_agent_core::outbox::{Bounds, EVENT_OVERHEAD_BYTES, Losses, Progress};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::limits::MAX_EVENTS_PER_MESSAGE;
use lekiwi_protocol::message::{Ack, Dropped, Event, EventBatch, Priority, kind};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use backlog::Late;
pub use backlog::WRITE_EVERY;
use disk::{Disk, DiskError};
use memory::Memory;
use newest::Newest;

/// Most bytes of events in one message; leaves room for the envelope below the contract's limit.
pub const MAX_BATCH_BYTES: usize = 48 * 1024;
/// Most bytes of one event's data; larger data is replaced by its size.
pub const MAX_DATA_BYTES: usize = 16 * 1024;
/// How long a disk that took nothing is left alone.
const RETRY_DISK: Duration = Duration::from_secs(30);
/// Damaged databases that are kept for inspection.
const KEPT_DAMAGED: usize = 2;
/// The end of "whatever of this stream the relay does not have": the largest integer that every JSON
/// reader keeps exactly.
const UNKNOWN_END: u64 = (1 << 53) - 1;

/// How many events one call of [`Outbox::pending`] returns at most.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Most events.
    pub events: usize,
    /// Most bytes of them as JSON; a single event is returned whatever its size.
    pub bytes: usize,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            events: MAX_EVENTS_PER_MESSAGE,
            bytes: MAX_BATCH_BYTES,
        }
    }
}

/// An event on its way into the store.
struct Draft<'a> {
    kind: &'a str,
    timestamp: Timestamp,
    data: Value,
    bytes: u64,
}

impl<'a> Draft<'a> {
    fn new(kind: &'a str, timestamp: Timestamp, data: Value) -> Self {
        let text = data.to_string();
        let (data, length) = if text.len() > MAX_DATA_BYTES {
            let note = json!({ "left_out_bytes": text.len() });
            let length = note.to_string().len();
            (note, length)
        } else {
            (data, text.len())
        };
        let bytes = (kind.len() + length) as u64 + EVENT_OVERHEAD_BYTES;
        Self {
            kind,
            timestamp,
            data,
            bytes,
        }
    }

    fn tombstone(timestamp: Timestamp, dropped: &Dropped) -> Self {
        Self::new(kind::DROPPED, timestamp, json!(dropped))
    }
}

/// What a dropped event leaves behind for the tombstone: its number, and if it was a tombstone itself,
/// what that one covered.
fn lose(losses: &mut Losses, stream: Uuid, seq: u64, kind: &str, data: &Value) {
    losses.add(stream, [seq, seq]);
    if kind == kind::DROPPED
        && let Ok(inner) = Dropped::deserialize(data)
    {
        losses.add_dropped(&inner);
    }
}

/// Whether an event says no more than which others were dropped: another one can say it.
fn is_plain_tombstone(kind: &str, data: &Value) -> bool {
    kind == kind::DROPPED && data.get("reason").is_none()
}

/// The outbox. See the module's documentation.
pub struct Outbox {
    path: PathBuf,
    bounds: Bounds,
    newest: Newest,
    disk: Option<Disk>,
    /// Appends go here while present and `durable` is false; kept until everything in it is acknowledged.
    memory: Option<Memory>,
    durable: bool,
    failed_at: Option<Timestamp>,
    trouble: Option<String>,
    /// The database contradicted itself, and was not opened since.
    damaged: bool,
    /// A database with events was opened since somebody asked.
    has_found: bool,
    /// What reading found; it is dealt with where something can be written.
    unreadable: Cell<Option<DiskError>>,
    late: Late,
}

impl Outbox {
    /// Opens or creates the database at `path`. Never fails: see [`Self::trouble`].
    #[must_use]
    pub fn open(path: &Path, now: Timestamp) -> Self {
        Self::with_bounds(path, now, Bounds::DISK)
    }

    /// The same with another bound on disk.
    #[must_use]
    pub fn with_bounds(path: &Path, now: Timestamp, bounds: Bounds) -> Self {
        let mut outbox = Self {
            path: path.to_owned(),
            bounds,
            newest: Newest::read(path),
            disk: None,
            memory: None,
            durable: false,
            failed_at: None,
            trouble: None,
            damaged: false,
            has_found: false,
            unreadable: Cell::default(),
            late: Late::new(),
        };
        outbox.open_disk(now);
        outbox
    }

    /// Numbers and keeps an event; on disk when this returns, unless [`Self::is_durable`] says no.
    /// Data above [`MAX_DATA_BYTES`] is replaced by its size.
    pub fn append(&mut self, kind: &str, timestamp: Timestamp, data: Value) -> u64 {
        self.look_after_disk(timestamp);
        let draft = Draft::new(kind, timestamp, data);
        if self.durable
            && let Some(disk) = &mut self.disk
        {
            match disk.append(&draft, self.bounds) {
                Ok(seq) => return seq,
                Err(error) => self.disk_failed(timestamp, &error),
            }
        }
        let Newest {
            ordinal, stream, ..
        } = self.newest;
        self.memory
            .get_or_insert_with(|| Memory::new(ordinal, stream))
            .append(&draft)
    }

    /// The most urgent events that are kept, all of one priority and stream.
    #[must_use]
    pub fn pending(&self, limit: Limit) -> Option<EventBatch> {
        self.pending_after(&Progress::default(), limit)
            .map(|(_, batch)| batch)
    }

    /// The most urgent kept events after `progress`, all of one priority and stream, oldest first.
    #[must_use]
    pub fn pending_after(
        &self,
        progress: &Progress,
        limit: Limit,
    ) -> Option<(Priority, EventBatch)> {
        let disk = self.disk.as_ref().and_then(|disk| {
            disk.pending_after(progress, limit).unwrap_or_else(|error| {
                log::warn!("cannot read the outbox: {}", chain(&error));
                self.unreadable.set(Some(error));
                None
            })
        });
        let memory = self
            .memory
            .as_ref()
            .and_then(|memory| memory.pending_after(progress, limit));
        let place = |(priority, batch): &(Priority, EventBatch)| (*priority, batch.ordinal);
        match (disk, memory) {
            (Some(disk), Some(memory)) if place(&memory) < place(&disk) => Some(memory),
            (disk, memory) => disk.or(memory),
        }
    }

    /// Whether the disk has an event of this kind with this data.
    #[must_use]
    pub fn holds(&self, kind: &str, data: &Value) -> bool {
        let held = self.disk.as_ref().map(|disk| disk.holds(kind, data));
        held.is_some_and(|held| held.unwrap_or(false))
    }

    /// Whether events came back since the last call, with a disk that could not be read before: they are
    /// older than what was sent meanwhile.
    pub fn poll_found(&mut self) -> bool {
        std::mem::take(&mut self.has_found)
    }

    /// Forgets what the relay has. Returns how many kept events that were.
    pub fn acknowledge(&mut self, ack: &Ack) -> usize {
        let mut count = 0;
        for (stream, ranges) in &ack.acks {
            if let Some(disk) = &mut self.disk {
                count += disk.acknowledge(*stream, ranges);
            }
            if let Some(memory) = &mut self.memory {
                count += memory.acknowledge(*stream, ranges);
            }
        }
        if self.durable && self.memory.as_ref().is_some_and(Memory::is_empty) {
            self.memory = None;
            self.remember_streams(&[]);
        }
        count
    }

    /// The number of the newest event of [`Self::stream`]; 0 before the first.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        match (&self.disk, &self.memory) {
            (Some(disk), _) if self.durable => disk.last_seq(),
            (_, Some(memory)) => memory.last_seq(),
            _ => 0,
        }
    }

    /// The stream that the next event is numbered in.
    #[must_use]
    pub fn stream(&self) -> Uuid {
        self.newest.stream
    }

    /// Which stream of this robot that is, from 1.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.newest.ordinal
    }

    /// How many events wait for their acknowledgement.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.disk.as_ref().map_or(0, Disk::len) + self.memory.as_ref().map_or(0, Memory::len)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether new events survive a power cut.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Why it is not durable, or what was wrong when it was opened; for people.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    fn may_retry(&self, now: Timestamp) -> bool {
        self.failed_at.is_none_or(|at| {
            // A clock that was set back must not keep the disk closed for longer.
            now < at || now.since(at) >= RETRY_DISK
        })
    }

    /// Tries a disk again that failed for a while, and gives up one that cannot be read.
    fn look_after_disk(&mut self, now: Timestamp) {
        if let Some(error) = self.unreadable.take().filter(DiskError::is_damage) {
            self.disk_failed(now, &error);
        }
        if !self.durable && self.may_retry(now) {
            self.open_disk(now);
        }
    }

    fn open_disk(&mut self, now: Timestamp) {
        let mut set_aside = None;
        // After a failure the open database is used again: it is locked, and its unsent events stay readable.
        // One that was opened on a read-only disk would stay read-only.
        let open = self.disk.take().filter(|disk| !disk.is_read_only());
        let is_new = open.is_none();
        let opened = match open.map_or_else(|| Disk::open(&self.path), Ok) {
            Err(error) if error.is_damage() => {
                let aside = move_aside(&self.path, now);
                log::error!(
                    "{} was moved to {}, numbering begins again in a new stream: {}",
                    self.path.display(),
                    aside.display(),
                    chain(&error)
                );
                set_aside = Some((chain(&error), aside));
                self.damaged = true;
                Disk::open(&self.path)
            }
            other => other,
        };
        let ready = opened.and_then(|mut disk| {
            let found = disk.streams()?;
            let is_cut_short = std::mem::take(&mut disk.is_cut_short);
            self.damaged |= is_cut_short;
            // Numbering goes on only in the stream that is known to be the newest: after a lost
            // database, memory mode, or a database that was put back from a copy, a new one begins.
            let begun = match disk.stream() {
                Some(stream)
                    if stream == (self.newest.ordinal, self.newest.stream) && !is_cut_short =>
                {
                    Ok(())
                }
                stream => {
                    let ordinal = stream.map_or(0, |(ordinal, _)| ordinal);
                    disk.begin(ordinal.max(self.newest.ordinal) + 1, Uuid::new_v4())
                }
            };
            self.disk = Some(disk);
            begun.map(|()| found)
        });
        match ready {
            Ok(found) => {
                if let Some(disk) = &self.disk {
                    self.late.found(disk);
                    self.has_found |= is_new && disk.len() > 0;
                }
                let mut lost = self.newest.streams();
                let mut kept: Vec<Uuid> = self.memory.iter().flat_map(Memory::streams).collect();
                // A damaged log reads as a short one: nobody knows what it held.
                if !self.damaged {
                    kept.extend(found);
                }
                lost.retain(|stream| !kept.contains(stream));
                if set_aside.is_some() && lost.is_empty() {
                    lost.push(self.newest.stream);
                }
                let is_damaged = std::mem::take(&mut self.damaged);
                self.durable = true;
                self.failed_at = None;
                self.trouble = None;
                // What is lost stays known until the event that says so is on the disk.
                self.remember_streams(&lost);
                self.tell_lost(now, &lost, is_damaged, set_aside);
                if self.durable {
                    self.remember_streams(&[]);
                }
            }
            Err(error) => self.disk_failed(now, &error),
        }
    }

    /// Whatever of these streams the relay does not have is gone.
    fn tell_lost(
        &mut self,
        now: Timestamp,
        lost: &[Uuid],
        is_damaged: bool,
        set_aside: Option<(String, PathBuf)>,
    ) {
        let reason = if is_damaged {
            "the database was damaged"
        } else {
            "the memory or the database that held them is gone"
        };
        let mut data = json!({ "from": 1, "to": UNKNOWN_END, "reason": reason });
        if let Some((why, aside)) = set_aside {
            let name = aside.file_name().unwrap_or_default().to_string_lossy();
            self.trouble = Some(format!("{why}, set aside as {name}"));
            data["set_aside"] = json!(name);
        }
        for stream in lost {
            data["stream"] = json!(stream);
            self.append(kind::DROPPED, now, data.clone());
        }
    }

    /// Writes down the disk's newest stream, all others of which something is kept, and `more`.
    fn remember_streams(&mut self, more: &[Uuid]) {
        let Some((disk, (ordinal, stream))) = self
            .disk
            .as_ref()
            .zip(self.disk.as_ref().and_then(Disk::stream))
        else {
            return;
        };
        let kept = disk.streams().unwrap_or_default().into_iter();
        let remembered = self.memory.iter().flat_map(Memory::streams);
        let others = more.iter().copied().chain(kept).chain(remembered).collect();
        self.remember(Newest {
            ordinal,
            ..self.newest.next(stream, others)
        });
    }

    /// Goes over to memory. What is on disk stays readable where it is, if it is readable.
    fn disk_failed(&mut self, now: Timestamp, error: &DiskError) {
        let reason = chain(error);
        if self.trouble.as_ref() != Some(&reason) {
            log::error!("the outbox goes on in memory, a power cut would lose events: {reason}");
        }
        self.trouble = Some(reason);
        self.failed_at = Some(now);
        self.durable = false;
        if error.is_damage() {
            // Closed, so that the next attempt finds the damage and sets it aside.
            self.disk = None;
            self.damaged = true;
        }
        self.begin_memory();
    }

    fn begin_memory(&mut self) {
        if self.memory.is_some() && self.newest_is_memory() {
            return;
        }
        self.remember(self.newest.next(Uuid::new_v4(), self.newest.streams()));
        let Newest {
            ordinal, stream, ..
        } = self.newest;
        match &mut self.memory {
            Some(memory) => memory.begin(ordinal, stream),
            None => self.memory = Some(Memory::new(ordinal, stream)),
        }
    }

    fn newest_is_memory(&self) -> bool {
        self.memory
            .as_ref()
            .is_some_and(|memory| memory.stream() == self.newest.stream)
    }

    fn remember(&mut self, newest: Newest) {
        if self.newest == newest {
            return;
        }
        // On a read-only disk this fails; then a lost database would reuse an ordinal, never a stream.
        if let Err(error) = newest.write(&self.path) {
            log::debug!("the newest stream's ordinal is not on disk: {error}");
        }
        self.newest = newest;
    }

    /// Nothing is lost with a memory that is empty.
    fn forget_empty_memory(&mut self) {
        if self.newest_is_memory() && self.memory.as_ref().is_some_and(Memory::is_empty) {
            self.remember(Newest {
                stream: Uuid::nil(),
                ..self.newest.clone()
            });
        }
    }
}

fn chain(error: &DiskError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Moves a damaged database and its log away, and removes all but the newest few.
fn move_aside(path: &Path, now: Timestamp) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.damaged-");
    let aside = path.with_file_name(format!("{prefix}{:013}", now.as_ms()));
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(path.with_file_name(format!("{name}{suffix}")));
    }
    if fs::rename(path, &aside).is_err() {
        let _ = fs::remove_file(path);
    }
    let mut earlier: Vec<PathBuf> = path
        .parent()
        .and_then(|folder| fs::read_dir(folder).ok())
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    earlier.sort();
    for old in earlier.iter().rev().skip(KEPT_DAMAGED) {
        let _ = fs::remove_file(old);
    }
    aside
}

/// Takes events while both limits hold; the first always.
fn within(limit: Limit, events: impl Iterator<Item = (Event, u64)>) -> Vec<Event> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    for (event, size) in events.take(limit.events) {
        bytes += usize::try_from(size).unwrap_or(usize::MAX);
        if bytes > limit.bytes && !taken.is_empty() {
            break;
        }
        taken.push(event);
    }
    taken
}
