//! Everything that outlives the process, in one SQLite file: the event log, telemetry history,
//! pictures of robots, refused messages, and what the relay knows about tokens, certificates and
//! people. Called by `ingest` (batches, no answer), by the HTTP interface and by `identity`.
//!
//! One thread writes (group commit, synced at every commit); readers have read-only connections of
//! their own and never wait for it. Certificates and sessions are answered from memory.
//!
//! Invariants: an event is reported in a [`Commit`] only when it is on disk; (source, stream, seq) is
//! in the log at most once; the queue is bounded in bytes, and what does not fit is handed back.

mod commands;
mod configurations;
mod identity;
mod reader;
pub mod records;
mod schema;
mod tokens;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::metrics::Metrics;
use identity::Index;
use reader::Readers;
use records::{Commit, NewEvent};
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
    /// The file cannot be opened or brought to this version.
    #[error("cannot open the store {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file was written by a later relay.
    #[error("expected a store of version {known} or earlier, got version {found} in {path}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The latest version that this program knows.
        known: usize,
    },
    /// The disk refuses writes at the moment.
    #[error("the store cannot write at the moment: {0}")]
    Unavailable(String),
    /// A statement failed.
    #[error("the store could not carry out a statement")]
    Sqlite(#[from] rusqlite::Error),
    /// The writing thread has ended.
    #[error("the store is closed")]
    Closed,
    /// The thread could not be started.
    #[error("cannot start the store's writing thread")]
    Thread(#[source] std::io::Error),
}

impl StoreError {
    fn open(path: &Path, source: rusqlite::Error) -> Self {
        Self::Open {
            path: path.to_owned(),
            source,
        }
    }
}

/// A handle on the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    queue: SyncSender<Op>,
    backlog: Arc<Backlog>,
    readers: Readers,
    index: Arc<Index>,
    health: watch::Receiver<Health>,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens `path`, creating or migrating it, and starts the writing thread. What each commit made
    /// durable arrives at the receiver, which must be drained.
    ///
    /// # Errors
    /// When the file cannot be opened, or is of a later version.
    pub fn open(
        path: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, mpsc::Receiver<Commit>), StoreError> {
        let connection = schema::open_writer(path)?;
        let index = Arc::new(Index::load(&connection)?);
        let (queue, ops) = std::sync::mpsc::sync_channel(QUEUE);
        let (commits, committed) = mpsc::channel(64);
        let (health_sender, health) = watch::channel(Health::Writing);
        let backlog = Arc::new(Backlog::default());
        let writer = Writer {
            connection,
            queue: ops,
            commits,
            health: health_sender,
            backlog: backlog.clone(),
            metrics: metrics.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(StoreError::Thread)?;
        let inner = Inner {
            queue,
            backlog,
            readers: Readers::new(path),
            index,
            health,
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

    /// Hands a batch to the writing thread, never waiting. Samples beyond the bound are dropped and
    /// counted; late ones were not acknowledged, so their robots send them again. Events beyond it are
    /// handed back; the same holds for theirs.
    pub fn submit(&self, mut batch: Batch) -> Vec<NewEvent> {
        let mut back = Vec::new();
        let inner = &*self.inner;
        if inner.backlog.samples.load(Ordering::Relaxed) + batch.samples() > MAX_SAMPLES {
            inner.metrics.shed("history", batch.shed_samples() as u64);
        }
        let mut bytes = batch.event_bytes();
        if inner.backlog.event_bytes.load(Ordering::Relaxed) + bytes > MAX_EVENT_BYTES {
            inner.metrics.shed("events", batch.events.len() as u64);
            back = std::mem::take(&mut batch.events);
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
            inner.metrics.shed("events", batch.events.len() as u64);
            inner.metrics.shed("history", batch.samples() as u64);
            back.extend(batch.events);
        }
        back
    }

    /// Deletes history older than `before_ms`, little by little, beside other writes.
    pub fn expire_telemetry(&self, before_ms: u64) {
        // A full queue has better things to do; the next call will come.
        let _ = self.inner.queue.try_send(Op::Expire { before_ms });
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
    async fn write<T, W, P>(&self, work: W, publish: P) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        P: FnOnce(&T) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Work {
            work,
            publish,
            result: None,
            reply,
        };
        match self.inner.queue.try_send(Op::Job(Box::new(job))) {
            Ok(()) => answer.await.unwrap_or(Err(StoreError::Closed)),
            Err(TrySendError::Full(_)) => Err(StoreError::Unavailable(
                "too much waits to be written".into(),
            )),
            Err(TrySendError::Disconnected(_)) => Err(StoreError::Closed),
        }
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
    W: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    P: FnOnce(&T) + Send,
{
    fn apply(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.result = Some((self.work)(connection)?);
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
