//! The one thread that writes. It takes what the queue holds, puts it into one transaction, and tells
//! only after the commit. When the disk refuses, it keeps the events, drops the telemetry, says so in
//! the health, and tries again with growing pauses; nothing is told that is not on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::database::{Database, DatabaseError, Result, values};
use super::history::Upkeep;
use super::identity::Index;
use super::log::{self, EventRetention};
use super::records::{Commit, NewBacklog, NewEvent, NewSample, Refused, Snapshot};
use super::slow::Slow;
use super::transaction::{Ids, fill};
use super::{Health, StoreError};
use crate::clock;
use crate::metrics::Metrics;

/// Most rows of one transaction.
const MAX_ROWS: usize = 20_000;
/// Old events deleted in one transaction.
const FORGET_ROWS: u64 = 5_000;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// Things to write that need no answer of their own.
#[derive(Debug, Default)]
pub struct Batch {
    /// Events; reported in a [`Commit`].
    pub events: Vec<NewEvent>,
    /// Samples; dropped when the disk refuses.
    pub samples: Vec<NewSample>,
    /// Late samples; reported in a [`Commit`] as events are. Dropped when the disk refuses: their robots
    /// keep them until they hear of it.
    pub backlogs: Vec<NewBacklog>,
    /// Refused messages; dropped when the disk refuses.
    pub refused: Vec<Refused>,
    /// Pictures of all robots that changed since the last ones; kept like events.
    pub snapshots: Vec<Snapshot>,
}

impl Batch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    fn rows(&self) -> usize {
        // A backlog without samples is a row too: it is to be acknowledged.
        self.events.len()
            + self.samples()
            + self.backlogs.len()
            + self.refused.len()
            + self.snapshots.len()
    }

    /// How many samples there are, late ones included.
    pub(super) fn samples(&self) -> usize {
        let late = |backlog: &NewBacklog| backlog.samples.len();
        self.samples.len() + self.backlogs.iter().map(late).sum::<usize>()
    }

    /// Lets go of all samples; how many that were.
    pub(super) fn shed_samples(&mut self) -> usize {
        let count = self.samples();
        self.samples = Vec::new();
        self.backlogs = Vec::new();
        count
    }

    /// Memory that the events hold, roughly.
    pub(super) fn event_bytes(&self) -> usize {
        self.events
            .iter()
            .map(|e| 200 + e.data.len() + e.metadata.len())
            .sum()
    }
}

/// A write that someone waits for.
pub(super) trait Job: Send {
    /// Writes; events are added to `commit`. An error undoes this job alone.
    fn apply(&mut self, database: &mut dyn Database, commit: &mut Commit) -> Result<()>;
    /// After the commit, or instead of it.
    fn done(self: Box<Self>, outcome: std::result::Result<(), StoreError>);
    /// Whether other relays keep something of it in memory.
    fn concerns_others(&self) -> bool {
        true
    }
}

/// What goes through the queue.
pub(super) enum Op {
    Batch(Batch),
    Job(Box<dyn Job>),
    Upkeep(Upkeep),
    Forget(Vec<EventRetention>),
    Stop,
}

/// How much waits in the queue; shared with those who fill it.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) event_bytes: AtomicUsize,
    pub(super) samples: AtomicUsize,
}

pub(super) struct Writer {
    pub(super) database: Box<dyn Database>,
    pub(super) queue: Receiver<Op>,
    pub(super) commits: mpsc::Sender<Commit>,
    pub(super) health: watch::Sender<Health>,
    /// How far the log goes.
    pub(super) appended: Arc<watch::Sender<u64>>,
    pub(super) index: Arc<Index>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) slow: Slow,
}

/// What is to be packed and deleted beside other writes.
#[derive(Default)]
struct Chores {
    history: Option<Upkeep>,
    events: Vec<EventRetention>,
}

impl Chores {
    fn is_empty(&self) -> bool {
        self.history.is_none() && self.events.is_empty()
    }
}

/// Batches whose commit was not answered: the connection ended first.
struct Doubt {
    transaction: i64,
    commit: Commit,
    batches: Vec<Batch>,
}

/// Why nothing was written, and what may have been all the same.
struct Failure {
    error: DatabaseError,
    /// The transaction and what it wrote.
    doubt: Option<Box<(i64, Commit)>>,
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        Self { error, doubt: None }
    }
}

impl Writer {
    /// Runs until [`Op::Stop`] or until every sender is gone.
    pub(super) fn run(mut self) {
        let mut ids = Ids::default();
        let mut pending: Vec<Batch> = Vec::new();
        let mut jobs: Vec<Box<dyn Job>> = Vec::new();
        let mut chores = Chores::default();
        let mut doubt: Option<Doubt> = None;
        let mut backoff = None;
        let mut stopping = false;
        while !stopping {
            stopping = self.collect(backoff, &mut pending, &mut jobs, &mut chores);
            if let Some(doubtful) = doubt.take() {
                match self.has_happened(doubtful.transaction, &doubtful.commit) {
                    Ok(true) => {
                        let mut batches = doubtful.batches;
                        self.committed(&mut batches, &mut Vec::new(), doubtful.commit);
                    }
                    Ok(false) => drop(pending.splice(0..0, doubtful.batches)),
                    Err(error) => {
                        doubt = Some(doubtful);
                        backoff = Some(next(backoff));
                        self.failed(&error);
                        self.shed(&mut pending);
                        continue;
                    }
                }
            }
            let is_idle = pending.is_empty() && jobs.is_empty();
            if backoff.is_none() {
                self.look_after(&mut chores, is_idle);
            }
            if is_idle && backoff.is_none() {
                continue;
            }
            let started = clock::monotonic();
            match self.write(&mut ids, &pending, &mut jobs, backoff.is_some()) {
                Ok(mut commit) => {
                    backoff = None;
                    let took = started.elapsed();
                    let ended = clock::now_ns();
                    let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                    commit.times = Some((ended.saturating_sub(took_ns), ended));
                    self.metrics.commit_seconds.observe(took.as_secs_f64());
                    self.slow.write(&pending, jobs.len(), took);
                    self.recovered();
                    self.committed(&mut pending, &mut jobs, commit);
                }
                Err(Failure { error, doubt: open }) => {
                    // The cached ids may be of rows that were rolled back.
                    ids = Ids::default();
                    backoff = Some(next(backoff));
                    for job in jobs.drain(..) {
                        job.done(Err(StoreError::Unavailable(error.to_string())));
                    }
                    self.failed(&error);
                    match open {
                        Some(open) => {
                            let (transaction, commit) = *open;
                            doubt = Some(Doubt {
                                transaction,
                                commit,
                                batches: std::mem::take(&mut pending),
                            });
                        }
                        None => self.shed(&mut pending),
                    }
                }
            }
        }
    }

    /// Waits for something to do and takes all that is there, up to [`MAX_ROWS`]. While the disk
    /// refuses it waits out the backoff, and turns jobs away. True: stop after this round.
    fn collect(
        &self,
        backoff: Option<Duration>,
        pending: &mut Vec<Batch>,
        jobs: &mut Vec<Box<dyn Job>>,
        chores: &mut Chores,
    ) -> bool {
        let walking = !chores.is_empty();
        let mut take = |op: Op| {
            match op {
                Op::Batch(batch) => pending.push(batch),
                Op::Job(job) if backoff.is_some() => {
                    job.done(Err(StoreError::Unavailable("the last write failed".into())));
                }
                Op::Job(job) => jobs.push(job),
                // A walk that has begun goes to its end.
                Op::Upkeep(walk) => {
                    chores.history.get_or_insert(walk);
                }
                Op::Forget(rules) => chores.events = rules,
                Op::Stop => return None,
            }
            Some(pending.iter().map(Batch::rows).sum::<usize>())
        };
        if let Some(pause) = backoff {
            let until = clock::monotonic() + pause;
            loop {
                match self
                    .queue
                    .recv_timeout(until.saturating_duration_since(clock::monotonic()))
                {
                    Ok(op) => {
                        if take(op).is_none() {
                            return true;
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => return false,
                    Err(RecvTimeoutError::Disconnected) => return true,
                }
            }
        }
        let mut rows = 0;
        if !walking {
            match self.queue.recv() {
                Ok(op) => match take(op) {
                    Some(n) => rows = n,
                    None => return true,
                },
                Err(_) => return true,
            }
        }
        while rows < MAX_ROWS {
            match self.queue.try_recv() {
                Ok(op) => match take(op) {
                    Some(n) => rows = n,
                    None => return true,
                },
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
        false
    }

    fn committed(&self, pending: &mut Vec<Batch>, jobs: &mut Vec<Box<dyn Job>>, commit: Commit) {
        let (mut events, mut samples, mut bytes) = (0, 0, 0);
        for batch in pending.drain(..) {
            events += batch.events.len();
            samples += batch.samples();
            bytes += batch.event_bytes();
        }
        self.backlog.event_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.backlog.samples.fetch_sub(samples, Ordering::Relaxed);
        self.metrics
            .events_committed
            .inc_by(commit.events.len() as u64);
        self.metrics
            .events_duplicate
            .inc_by(events.saturating_sub(commit.events.len()) as u64);
        self.metrics.samples_committed.inc_by(samples as u64);
        for job in jobs.drain(..) {
            job.done(Ok(()));
        }
        if let Some(last) = commit.events.last() {
            let position = last.position;
            self.appended
                .send_modify(|known| *known = position.max(*known));
        }
        if !commit.events.is_empty() || !commit.acks.is_empty() {
            // The receiver is gone only at the end of the process; the robot will ask again.
            let _ = self.commits.blocking_send(commit);
        }
    }

    /// Lets go of samples and refused messages; events and pictures stay.
    fn shed(&self, pending: &mut Vec<Batch>) {
        let mut samples = 0;
        for batch in pending.iter_mut() {
            samples += batch.shed_samples();
            batch.refused = Vec::new();
        }
        pending.retain(|batch| !batch.is_empty());
        self.backlog.samples.fetch_sub(samples, Ordering::Relaxed);
        self.metrics.shed("history", samples as u64);
    }

    fn failed(&self, error: &DatabaseError) {
        self.metrics.commit_failures.inc();
        let reason = error.to_string();
        self.health.send_if_modified(|health| {
            let news = Health::Failing { reason };
            let changed = *health != news;
            if changed {
                if *health == Health::Writing {
                    tracing::error!(reason = %error, "the store cannot write; events stay unacknowledged");
                }
                *health = news;
            }
            changed
        });
    }

    fn recovered(&self) {
        self.health.send_if_modified(|health| {
            let changed = *health != Health::Writing;
            if changed {
                tracing::info!("the store writes again");
                *health = Health::Writing;
            }
            changed
        });
    }

    /// One step of what there is to pack and delete. What fails loses nothing, and whether the disk takes writes is for
    /// others to say.
    fn look_after(&mut self, chores: &mut Chores, is_idle: bool) {
        let database = &mut *self.database;
        if let Some(walk) = &mut chores.history
            && (is_idle || walk.is_due())
        {
            let started = clock::monotonic();
            let step = walk.step(database);
            self.slow.chore("pack history", started.elapsed());
            match step {
                Ok(true) => {}
                Ok(false) => chores.history = None,
                Err(error) => {
                    tracing::warn!(%error, "history could not be packed; the next walk tries again");
                    chores.history = None;
                }
            }
        }
        if is_idle && let Some(rule) = chores.events.last() {
            let started = clock::monotonic();
            let step = database.transaction(|database| log::forget(database, rule, FORGET_ROWS));
            self.slow.chore("forget events", started.elapsed());
            match step {
                Ok(true) => {}
                Ok(false) => drop(chores.events.pop()),
                Err(error) => {
                    tracing::warn!(%error, "old events could not be deleted; they are in the next hour");
                    chores.events.clear();
                }
            }
        }
    }

    /// Whether a commit that was not answered is on disk. What is in the log does not tell alone: another relay may have
    /// been told the same events meanwhile. Nor does the transaction's number: a server that took over may have given it
    /// to another one.
    fn has_happened(&mut self, transaction: i64, commit: &Commit) -> Result<bool> {
        // Within the writing transaction: as long as the one in doubt is neither done nor undone, this one waits.
        self.database.begin()?;
        let happened = self.database.is_committed(transaction).and_then(|happened| {
            let Some(first) = commit.events.first().filter(|_| happened) else {
                return Ok(happened);
            };
            self.database.exists(
                "SELECT 1 FROM events WHERE position = ?1 AND source = ?2 AND stream = ?3 AND seq = ?4",
                values![
                    first.position,
                    first.event.source,
                    first.event.stream,
                    first.event.seq
                ],
            )
        });
        self.database.rollback();
        happened
    }

    /// One transaction with everything in it. After a failure, what is kept in memory is read again: what could not
    /// be written then may be there.
    fn write(
        &mut self,
        ids: &mut Ids,
        pending: &[Batch],
        jobs: &mut Vec<Box<dyn Job>>,
        is_after_failure: bool,
    ) -> std::result::Result<Commit, Failure> {
        let database = &mut *self.database;
        let transaction = database.begin()?;
        let filled = fill(database, ids, pending, jobs).and_then(|filled| {
            if is_after_failure {
                self.index.reload(database)?;
            }
            Ok(filled)
        });
        let (commit, failed) = match filled {
            Ok(filled) => filled,
            Err(error) => {
                database.rollback();
                return Err(error.into());
            }
        };
        if let Err(error) = database.commit() {
            database.rollback();
            let is_unknown = matches!(error, DatabaseError::Lost(_));
            return Err(Failure {
                error,
                doubt: is_unknown.then(|| Box::new((transaction, commit))),
            });
        }
        for (index, error) in failed.into_iter().rev() {
            jobs.remove(index).done(Err(error.into()));
        }
        Ok(commit)
    }
}

fn next(backoff: Option<Duration>) -> Duration {
    backoff.map_or(BACKOFF_FIRST, |b| (b * 2).min(BACKOFF_MOST))
}
