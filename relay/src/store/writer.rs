//! The one thread that writes. It takes what the queue holds, puts it into one transaction, and tells
//! only after the commit. When the disk refuses, it keeps the events, drops the telemetry, says so in
//! the health, and tries again with growing pauses; nothing is told that is not on disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use lekiwi_protocol::message::ranges;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::records::{
    Ack, Commit, NewBacklog, NewEvent, NewSample, Refused, Snapshot, StoredEvent,
};
use super::{Health, StoreError};
use super::{commands, configurations};
use crate::clock;
use crate::metrics::Metrics;

/// Most rows of one transaction.
const MAX_ROWS: usize = 20_000;
/// Refused messages kept for inspection.
const MAX_REFUSED: usize = 1_000;
/// Old samples deleted in one transaction.
const EXPIRE_ROWS: u32 = 5_000;
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
    /// Writes. An error undoes this job alone.
    fn apply(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// After the commit, or instead of it.
    fn done(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// What goes through the queue.
pub(super) enum Op {
    Batch(Batch),
    Job(Box<dyn Job>),
    Expire { before_ms: u64 },
    Stop,
}

/// How much waits in the queue; shared with those who fill it.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) event_bytes: AtomicUsize,
    pub(super) samples: AtomicUsize,
}

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) queue: Receiver<Op>,
    pub(super) commits: mpsc::Sender<Commit>,
    pub(super) health: watch::Sender<Health>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) metrics: Arc<Metrics>,
}

/// Ids of robots and metrics that are on disk.
#[derive(Default)]
struct Ids {
    robots: HashMap<Arc<str>, i64>,
    metrics: HashMap<Arc<str>, i64>,
}

/// A walk through history that deletes what is older than `before_ms`.
struct Expiry {
    before_ms: u64,
    /// The last series that is done.
    after: (i64, i64),
}

impl Writer {
    /// Runs until [`Op::Stop`] or until every sender is gone.
    pub(super) fn run(mut self) {
        let mut ids = Ids::default();
        let mut pending: Vec<Batch> = Vec::new();
        let mut jobs: Vec<Box<dyn Job>> = Vec::new();
        let mut expiry: Option<Expiry> = None;
        let mut backoff = None;
        let mut stopping = false;
        while !stopping {
            stopping = self.collect(backoff, &mut pending, &mut jobs, &mut expiry);
            if pending.is_empty() && jobs.is_empty() {
                if let Some(walk) = &mut expiry {
                    match self.expire(walk) {
                        Ok(true) => {}
                        Ok(false) => expiry = None,
                        Err(error) => {
                            self.failed(&error);
                            backoff = Some(next(backoff));
                        }
                    }
                }
                if backoff.is_none() {
                    continue;
                }
            }
            let started = clock::monotonic();
            match write(&mut self.connection, &mut ids, &pending, &mut jobs) {
                Ok(commit) => {
                    backoff = None;
                    self.metrics
                        .commit_seconds
                        .observe(started.elapsed().as_secs_f64());
                    self.recovered();
                    self.committed(&mut pending, &mut jobs, commit);
                }
                Err(error) => {
                    // The cached ids may be of rows that were rolled back.
                    ids = Ids::default();
                    backoff = Some(next(backoff));
                    for job in jobs.drain(..) {
                        job.done(Err(StoreError::Unavailable(error.to_string())));
                    }
                    self.failed(&error);
                    self.shed(&mut pending);
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
        expiry: &mut Option<Expiry>,
    ) -> bool {
        let walking = expiry.is_some();
        let mut take = |op: Op| {
            match op {
                Op::Batch(batch) => pending.push(batch),
                Op::Job(job) if backoff.is_some() => {
                    job.done(Err(StoreError::Unavailable("the last write failed".into())));
                }
                Op::Job(job) => jobs.push(job),
                Op::Expire { before_ms } => {
                    *expiry = Some(Expiry {
                        before_ms,
                        after: (0, 0),
                    })
                }
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
            .inc_by((events - commit.events.len()) as u64);
        self.metrics.samples_committed.inc_by(samples as u64);
        for job in jobs.drain(..) {
            job.done(Ok(()));
        }
        if events > 0 || !commit.acks.is_empty() {
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

    fn failed(&self, error: &rusqlite::Error) {
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

    /// One step of a walk; false when it is over.
    fn expire(&mut self, walk: &mut Expiry) -> rusqlite::Result<bool> {
        let series = self
            .connection
            .prepare_cached(
                "SELECT robot, metric FROM telemetry WHERE (robot, metric) > (?1, ?2) LIMIT 1",
            )?
            .query_row(params![walk.after.0, walk.after.1], |row| {
                Ok((row.get(0)?, row.get(1)?))
            });
        let (robot, metric): (i64, i64) = match series {
            Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(false),
            other => other?,
        };
        let deleted = self
            .connection
            .prepare_cached(
                "DELETE FROM telemetry WHERE robot = ?1 AND metric = ?2 AND ts IN
                 (SELECT ts FROM telemetry WHERE robot = ?1 AND metric = ?2 AND ts < ?3 LIMIT ?4)",
            )?
            .execute(params![robot, metric, walk.before_ms as i64, EXPIRE_ROWS])?;
        if deleted < EXPIRE_ROWS as usize {
            walk.after = (robot, metric);
        }
        Ok(true)
    }
}

fn next(backoff: Option<Duration>) -> Duration {
    backoff.map_or(BACKOFF_FIRST, |b| (b * 2).min(BACKOFF_MOST))
}

/// One transaction with everything in it.
fn write(
    connection: &mut Connection,
    ids: &mut Ids,
    pending: &[Batch],
    jobs: &mut Vec<Box<dyn Job>>,
) -> rusqlite::Result<Commit> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut commit = Commit::default();
    let mut seen: BTreeMap<(Arc<str>, Uuid), Vec<u64>> = BTreeMap::new();
    for batch in pending {
        insert_events(&transaction, &batch.events, &mut commit, &mut seen)?;
        insert_samples(&transaction, ids, &batch.samples)?;
        for late in &batch.backlogs {
            insert_samples(&transaction, ids, &late.samples)?;
            seen.entry((late.source.clone(), late.stream))
                .or_default()
                .extend(&late.seqs);
        }
        insert_refused(&transaction, &batch.refused)?;
        insert_snapshots(&transaction, ids, &batch.snapshots)?;
    }
    let mut failed = Vec::new();
    for (index, job) in jobs.iter_mut().enumerate() {
        transaction.execute_batch("SAVEPOINT job")?;
        match job.apply(&transaction) {
            Ok(()) => transaction.execute_batch("RELEASE job")?,
            // A full disk rolls the whole transaction back; a constraint only this job.
            Err(error) if transaction.is_autocommit() => return Err(error),
            Err(error) => {
                transaction.execute_batch("ROLLBACK TO job; RELEASE job")?;
                failed.push((index, error));
            }
        }
    }
    if pending.is_empty() && jobs.is_empty() {
        // After a failure: only a real write proves that the disk takes writes again.
        let version: i64 =
            transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    transaction.commit()?;
    for (index, error) in failed.into_iter().rev() {
        jobs.remove(index).done(Err(StoreError::Sqlite(error)));
    }
    commit.acks = seen
        .into_iter()
        .map(|((source, stream), seqs)| Ack {
            source,
            stream,
            ranges: ranges(seqs),
        })
        .collect();
    Ok(commit)
}

fn insert_events(
    connection: &Connection,
    events: &[NewEvent],
    commit: &mut Commit,
    seen: &mut BTreeMap<(Arc<str>, Uuid), Vec<u64>>,
) -> rusqlite::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO events (aggregate_type, aggregate_id, source, stream, seq, type, ts, received, data, metadata)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (source, stream, seq) DO NOTHING",
    )?;
    for event in events {
        let new = insert.execute(params![
            event.aggregate_type,
            event.aggregate_id,
            event.source,
            event.stream.as_bytes(),
            event.seq as i64,
            event.kind,
            event.ts_ms as i64,
            event.received_ms as i64,
            event.data,
            event.metadata,
        ])?;
        if new == 1 {
            let position = connection.last_insert_rowid() as u64;
            commands::project(connection, event)?;
            configurations::project(connection, event)?;
            commit.events.push(StoredEvent {
                position,
                event: event.clone(),
            });
        }
        seen.entry((event.source.clone(), event.stream))
            .or_default()
            .push(event.seq);
    }
    Ok(())
}

fn insert_samples(
    connection: &Connection,
    ids: &mut Ids,
    samples: &[NewSample],
) -> rusqlite::Result<()> {
    if samples.is_empty() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO telemetry (robot, metric, ts, value) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (robot, metric, ts) DO UPDATE SET value = excluded.value",
    )?;
    for sample in samples {
        let robot = id(connection, &mut ids.robots, &sample.robot, ROBOT)?;
        let metric = id(connection, &mut ids.metrics, &sample.metric, METRIC)?;
        insert.execute(params![robot, metric, sample.ts_ms as i64, sample.value])?;
    }
    Ok(())
}

/// Insert and look-up of a name.
type Naming = (&'static str, &'static str);
const ROBOT: Naming = (
    "INSERT INTO robots (robot) VALUES (?1) ON CONFLICT (robot) DO NOTHING",
    "SELECT id FROM robots WHERE robot = ?1",
);
const METRIC: Naming = (
    "INSERT INTO metrics (metric) VALUES (?1) ON CONFLICT (metric) DO NOTHING",
    "SELECT id FROM metrics WHERE metric = ?1",
);

fn id(
    connection: &Connection,
    known: &mut HashMap<Arc<str>, i64>,
    name: &Arc<str>,
    (insert, select): Naming,
) -> rusqlite::Result<i64> {
    if let Some(id) = known.get(name) {
        return Ok(*id);
    }
    connection.prepare_cached(insert)?.execute([name])?;
    let id = connection
        .prepare_cached(select)?
        .query_row([name], |row| row.get(0))?;
    known.insert(name.clone(), id);
    Ok(id)
}

fn insert_refused(connection: &Connection, refused: &[Refused]) -> rusqlite::Result<()> {
    if refused.is_empty() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO refused (at, client, topic, kind, reason, payload, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for message in refused {
        insert.execute(params![
            message.at_ms as i64,
            message.client,
            message.topic,
            message.kind,
            message.reason,
            message.payload,
            message.payload_bytes as i64,
        ])?;
    }
    let newest = connection.last_insert_rowid();
    connection
        .prepare_cached("DELETE FROM refused WHERE id <= ?1")?
        .execute([newest - MAX_REFUSED as i64])?;
    Ok(())
}

fn insert_snapshots(
    connection: &Connection,
    ids: &mut Ids,
    snapshots: &[Snapshot],
) -> rusqlite::Result<()> {
    if snapshots.is_empty() {
        return Ok(());
    }
    let mut update = connection.prepare_cached(
        "UPDATE robots SET position = ?2, taken = ?3, picture = ?4 WHERE id = ?1",
    )?;
    for snapshot in snapshots {
        let robot = id(connection, &mut ids.robots, &snapshot.robot, ROBOT)?;
        update.execute(params![
            robot,
            snapshot.position as i64,
            snapshot.taken_ms as i64,
            snapshot.picture
        ])?;
    }
    Ok(())
}
