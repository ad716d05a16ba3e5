//! Everything that outlives the process: the event log, telemetry history, pictures of robots, refused
//! messages, and what the relay knows about tokens, certificates and people. In one SQLite file, or in a
//! PostgreSQL database that several relays share. Called by `ingest` (batches, no answer), by the HTTP
//! interface and by `identity`.
//!
//! One thread writes (group commit, synced at every commit); readers have connections of their own that
//! cannot write, and never wait for it. Certificates and sessions are answered from memory. What a database
//! must do is [`database::Database`]; what it is told is written once, for both.
//!
//! Invariants: an event is reported in a [`Commit`] only when it is on disk; (source, stream, seq) is
//! in the log at most once, and positions appear in their order; the queue is bounded in bytes, and what does
//! not fit is handed back.

mod alerts;
mod audit;
pub mod backup;
mod commands;
mod configurations;
mod database;
mod factors;
mod facts;
mod follow;
mod history;
mod identity;
mod invitations;
mod keys;
mod log;
mod outsiders;
mod past;
mod people;
mod postgres;
mod reader;
mod reads;
pub mod records;
mod renewals;
mod slow;
mod sqlite;
mod tokens;
mod transaction;
mod writer;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot, watch};

use crate::metrics::Metrics;
pub use alerts::AlertEvents;
pub use audit::{AuditQuery, NewEntry};
use database::Database;
pub use database::DatabaseError;
pub use factors::MOST_MISSES;
pub use follow::Follower;
pub use identity::InUseByName;
use identity::Index;
pub use invitations::Joining;
pub use log::{Appended, EventQuery, EventRetention, Expected, MAX_KINDS, NEVER_FORGOTTEN, Page};
pub use past::{LookedBack, Moment};
pub use people::Change;
pub use postgres::{Options as PostgresOptions, OptionsError as PostgresError};
use reader::Readers;
use records::Commit;
use slow::Slow;
use sqlite::Sqlite;
pub use writer::Batch;
use writer::{Backlog, Job, Op, Writer};

/// Events that may wait for the disk, in bytes. Beyond it they stay with the robots.
const MAX_EVENT_BYTES: usize = 64 * 1024 * 1024;
/// Samples that may wait for the disk. Beyond it they are dropped and counted.
const MAX_SAMPLES: usize = 400_000;
/// Batches and jobs that may wait.
const QUEUE: usize = 4_096;

/// Whether the store can write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The last commit went well.
    Writing,
    /// The last commit failed; it is tried again by itself.
    Failing {
        /// What the database said.
        reason: String,
    },
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened or brought to this version.
    #[error("cannot open the store {place}")]
    Open {
        /// The file, or the server and database.
        place: String,
        /// Why.
        #[source]
        source: DatabaseError,
    },
    /// The database was written by a later relay.
    #[error("expected a store of version {known} or earlier, got version {found} in {place}")]
    Newer {
        /// The file, or the server and database.
        place: String,
        /// Its version.
        found: usize,
        /// The latest version that this program knows.
        known: usize,
    },
    /// The file is damaged.
    #[error("expected a store without damage in {place}, got: {damage}")]
    Damaged {
        /// The file.
        place: String,
        /// What the database found.
        damage: String,
    },
    /// The disk refuses writes at the moment.
    #[error("the store cannot write at the moment: {0}")]
    Unavailable(String),
    /// The database cannot be reached at the moment.
    #[error("the store cannot be reached at the moment: {0}")]
    Unreachable(String),
    /// A statement failed.
    #[error("the store could not carry out a statement")]
    Database(#[source] DatabaseError),
    /// Events that should be put into the log together are about several things.
    #[error("expected events about {first} only, got one about {other}")]
    Mixed {
        /// What the first event is about.
        first: String,
        /// What another one is about.
        other: String,
    },
    /// The writing thread has ended.
    #[error("the store is closed")]
    Closed,
    /// The thread could not be started.
    #[error("cannot start the store's writing thread")]
    Thread(#[source] std::io::Error),
}

impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Lost(reason) => Self::Unreachable(reason),
            other => Self::Database(other),
        }
    }
}

impl StoreError {
    fn open(place: impl Display, source: DatabaseError) -> Self {
        Self::Open {
            place: place.to_string(),
            source,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Damaged { .. } => Some(
                "restore the last backup with `lekiwi-relay restore FILE`; `lekiwi-relay verify` says all that is wrong",
            ),
            Self::Newer { .. } => Some("run the relay that wrote it, or a later one"),
            _ => None,
        }
    }
}

/// Where a store is.
#[derive(Debug, Clone)]
pub enum Location {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// A database of PostgreSQL.
    Postgres(Arc<PostgresOptions>),
}

impl Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(options) => write!(f, "{options}"),
        }
    }
}

impl Location {
    /// A connection that writes; the database is there afterwards, and of this version.
    fn writer(&self) -> Result<Box<dyn Database>, StoreError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(Sqlite::open_writer(path)?),
            Self::Postgres(options) => Box::new(postgres::Postgres::open_writer(options)?),
        })
    }

    /// A connection that reads only.
    fn reader(&self) -> database::Result<Box<dyn Database>> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(Sqlite::open_reader(path)?),
            Self::Postgres(options) => Box::new(postgres::Postgres::open_reader(options)?),
        })
    }
}

/// A handle on the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    location: Location,
    queue: SyncSender<Op>,
    backlog: Arc<Backlog>,
    readers: Readers,
    index: Arc<Index>,
    health: watch::Receiver<Health>,
    appended: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the file at `path`, creating or migrating it, and starts the writing thread. What each commit made
    /// durable arrives at the receiver, which must be drained.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or of a later version.
    pub fn open(
        path: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, mpsc::Receiver<Commit>), StoreError> {
        Self::open_at(&Location::Sqlite(path.to_owned()), metrics)
    }

    /// Opens the store wherever it is, as [`Store::open`] does. Blocks.
    ///
    /// # Errors
    /// When the database cannot be reached or opened, is damaged, or of a later version.
    pub fn open_at(
        location: &Location,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, mpsc::Receiver<Commit>), StoreError> {
        let mut database = location.writer()?;
        let index = Arc::new(Index::load(&mut *database)?);
        let position = log::last_position(&mut *database)?;
        let (queue, ops) = std::sync::mpsc::sync_channel(QUEUE);
        let (commits, committed) = mpsc::channel(64);
        let (health_sender, health) = watch::channel(Health::Writing);
        let (appended_sender, appended) = watch::channel(position);
        let appended_sender = Arc::new(appended_sender);
        let backlog = Arc::new(Backlog::default());
        let writer = Writer {
            database,
            queue: ops,
            commits,
            health: health_sender,
            appended: appended_sender.clone(),
            index: index.clone(),
            backlog: backlog.clone(),
            metrics: metrics.clone(),
            slow: Slow::new(metrics.clone()),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(StoreError::Thread)?;
        if let Location::Postgres(options) = location {
            postgres::listen(options, appended_sender, &index).map_err(StoreError::Thread)?;
        }
        let inner = Inner {
            location: location.clone(),
            queue,
            backlog,
            readers: Readers::new(location.clone(), Slow::new(metrics.clone())),
            index,
            health,
            appended,
            metrics,
            thread: Mutex::new(Some(thread)),
        };
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            committed,
        ))
    }

    /// Whether the store can write; changes are seen by `changed().await`.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.clone()
    }

    /// Stands for leader of the relays on this database, whenever this one is `fit` to. While it leads there is a position:
    /// what earlier leaders wrote is up to there. A store that only one relay can have has no other leader.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn campaign(
        &self,
        fit: watch::Receiver<bool>,
    ) -> Result<watch::Receiver<Option<u64>>, StoreError> {
        match &self.inner.location {
            Location::Sqlite(_) => Ok(watch::channel(Some(0)).1),
            Location::Postgres(options) => {
                postgres::campaign(options, fit).map_err(StoreError::Thread)
            }
        }
    }

    /// Hands a batch to the writing thread, never waiting; what of it did not fit. Events and pictures are handed
    /// back. Samples beyond the bound are dropped and counted; late ones were not acknowledged, so their robots
    /// send them again, as they do with events.
    pub fn submit(&self, mut batch: Batch) -> Batch {
        let mut back = Batch::default();
        let inner = &*self.inner;
        if inner.backlog.samples.load(Ordering::Relaxed) + batch.samples() > MAX_SAMPLES {
            inner.metrics.shed("history", batch.shed_samples() as u64);
        }
        let mut bytes = batch.event_bytes();
        if inner.backlog.event_bytes.load(Ordering::Relaxed) + bytes > MAX_EVENT_BYTES {
            back.events = std::mem::take(&mut batch.events);
            bytes = 0;
        }
        if batch.is_empty() {
            return back;
        }
        inner
            .backlog
            .event_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        inner
            .backlog
            .samples
            .fetch_add(batch.samples(), Ordering::Relaxed);
        if let Err(
            TrySendError::Full(Op::Batch(batch)) | TrySendError::Disconnected(Op::Batch(batch)),
        ) = inner.queue.try_send(Op::Batch(batch))
        {
            inner
                .backlog
                .event_bytes
                .fetch_sub(bytes, Ordering::Relaxed);
            inner
                .backlog
                .samples
                .fetch_sub(batch.samples(), Ordering::Relaxed);
            inner.metrics.shed("history", batch.samples() as u64);
            back.events.extend(batch.events);
            back.snapshots = batch.snapshots;
        }
        back
    }

    /// Writes what is queued and ends the writing thread. Blocks; call it last.
    pub fn close(&self) {
        if self.inner.queue.send(Op::Stop).is_ok() {
            let thread = self
                .inner
                .thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(thread) = thread {
                // A panic of the writer was printed by its own hook.
                let _ = thread.join();
            }
        }
    }

    /// Runs `work` inside the next commit, then `publish` in the writing thread, and answers after it.
    async fn write<T, W, P>(&self, mut work: W, publish: P) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&mut dyn Database) -> database::Result<T> + Send + 'static,
        P: FnOnce(&T) + Send + 'static,
    {
        self.write_events(move |database, _| work(database), publish)
            .await
    }

    /// Like [`Store::write`], for work that puts events into the log.
    async fn write_events<T, W, P>(&self, work: W, publish: P) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&mut dyn Database, &mut Commit) -> database::Result<T> + Send + 'static,
        P: FnOnce(&T) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Work {
            work,
            publish,
            result: None,
            reply,
        };
        self.enqueue(job)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Hands a job to the writing thread.
    fn enqueue(&self, job: impl Job + 'static) -> Result<(), StoreError> {
        let sent = self.inner.queue.try_send(Op::Job(Box::new(job)));
        sent.map_err(|refused| match refused {
            TrySendError::Full(_) => StoreError::Unavailable("too much waits to be written".into()),
            TrySendError::Disconnected(_) => StoreError::Closed,
        })
    }
}

/// A [`Job`] made of closures.
struct Work<T, W, P> {
    work: W,
    publish: P,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W, P> Job for Work<T, W, P>
where
    T: Send,
    W: FnMut(&mut dyn Database, &mut Commit) -> database::Result<T> + Send,
    P: FnOnce(&T) + Send,
{
    fn apply(&mut self, database: &mut dyn Database, commit: &mut Commit) -> database::Result<()> {
        self.result = Some((self.work)(database, commit)?);
        Ok(())
    }

    fn done(self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = match (outcome, self.result) {
            (Ok(()), Some(value)) => {
                // Published here, not by the caller, who may have gone away since.
                (self.publish)(&value);
                Ok(value)
            }
            (Ok(()), None) => Err(StoreError::Closed),
            (Err(error), _) => Err(error),
        };
        // Nobody waits any more: the write happened all the same.
        let _ = self.reply.send(answer);
    }
}
