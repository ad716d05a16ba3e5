//! What one transaction writes: everything that waits, in SQL that every database understands. Called by the
//! writing thread between `begin` and `commit`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lekiwi_protocol::message::{kind, ranges};
use uuid::Uuid;

use super::database::{Database, DatabaseError, News, Result, SampleRow, values};
use super::records::{Ack, Commit, NewEvent, NewSample, Refused, Snapshot, StoredEvent};
use super::writer::{Batch, Job};
use super::{commands, configurations, past};

/// Refused messages kept for inspection.
const MAX_REFUSED: usize = 1_000;

/// Ids of robots and metrics that are on disk.
#[derive(Default)]
pub(super) struct Ids {
    robots: HashMap<Arc<str>, i64>,
    metrics: HashMap<Arc<str>, i64>,
    /// When the last picture of each robot was kept for looking back.
    kept: HashMap<i64, u64>,
}

/// Jobs that failed by themselves, by their index.
pub(super) type Failed = Vec<(usize, DatabaseError)>;

/// Everything into the transaction that was begun.
pub(super) fn fill(
    database: &mut dyn Database,
    ids: &mut Ids,
    pending: &[Batch],
    jobs: &mut [Box<dyn Job>],
) -> Result<(Commit, Failed)> {
    let mut commit = Commit::default();
    let mut seen: BTreeMap<(Arc<str>, Uuid), Vec<u64>> = BTreeMap::new();
    let events: Vec<&NewEvent> = pending.iter().flat_map(|batch| &batch.events).collect();
    insert_events(database, &events, &mut commit)?;
    for event in events {
        seen.entry((event.source.clone(), event.stream))
            .or_default()
            .push(event.seq);
    }
    let late = pending.iter().flat_map(|batch| &batch.backlogs);
    for late in late.clone() {
        seen.entry((late.source.clone(), late.stream))
            .or_default()
            .extend(&late.seqs);
    }
    let samples = pending.iter().flat_map(|batch| &batch.samples);
    insert_samples(
        database,
        ids,
        samples.chain(late.flat_map(|late| &late.samples)),
    )?;
    insert_refused(database, pending.iter().flat_map(|batch| &batch.refused))?;
    for snapshot in pending.iter().flat_map(|batch| &batch.snapshots) {
        insert_snapshot(database, ids, snapshot)?;
    }
    let (mut failed, mut concerns_others) = (Vec::new(), false);
    for (index, job) in jobs.iter_mut().enumerate() {
        let events = commit.events.len();
        database.batch("SAVEPOINT job")?;
        match job.apply(database, &mut commit) {
            Ok(()) => {
                concerns_others |= job.concerns_others();
                database.batch("RELEASE SAVEPOINT job")?;
            }
            Err(error) if !database.is_in_transaction() => return Err(error),
            Err(error) => {
                database.batch("ROLLBACK TO SAVEPOINT job; RELEASE SAVEPOINT job")?;
                commit.events.truncate(events);
                failed.push((index, error));
            }
        }
    }
    if pending.is_empty() && jobs.is_empty() {
        database.probe()?;
    }
    if let Some(last) = commit.events.last() {
        database.tell(News::Log(last.position))?;
    }
    if concerns_others {
        database.tell(News::Identity)?;
    }
    commit.acks = seen
        .into_iter()
        .map(|((source, stream), seqs)| Ack {
            source,
            stream,
            ranges: ranges(seqs),
        })
        .collect();
    Ok((commit, failed))
}

/// New events into the log, into what is kept of them beside it, and into `commit`.
pub(super) fn insert_events(
    database: &mut dyn Database,
    events: &[&NewEvent],
    commit: &mut Commit,
) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let positions = database.insert_events(events)?;
    for (event, position) in events.iter().zip(positions) {
        if let Some(position) = position {
            commands::project(database, event)?;
            configurations::project(database, event)?;
            if *event.kind == *kind::REGISTERED {
                // Who looks back finds it, also before its first picture.
                database.execute(ROBOT.0, values![event.aggregate_id])?;
            }
            commit.events.push(StoredEvent {
                position,
                event: (*event).clone(),
            });
        }
    }
    Ok(())
}

fn insert_samples<'a>(
    database: &mut dyn Database,
    ids: &mut Ids,
    samples: impl Iterator<Item = &'a NewSample>,
) -> Result<()> {
    let mut rows = Vec::new();
    for sample in samples {
        rows.push(SampleRow {
            robot: id(database, &mut ids.robots, &sample.robot, ROBOT)?,
            metric: id(database, &mut ids.metrics, &sample.metric, METRIC)?,
            ts: sample.ts_ms as i64,
            value: sample.value,
        });
    }
    if rows.is_empty() {
        return Ok(());
    }
    database.insert_samples(&rows)
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
    database: &mut dyn Database,
    known: &mut HashMap<Arc<str>, i64>,
    name: &Arc<str>,
    (insert, select): Naming,
) -> Result<i64> {
    if let Some(id) = known.get(name) {
        return Ok(*id);
    }
    let id = match database.value(select, values![name])? {
        Some(id) => id,
        None => {
            database.execute(insert, values![name])?;
            database
                .value(select, values![name])?
                .ok_or(DatabaseError::Column {
                    column: 0,
                    expected: "a number for the name",
                    actual: "nothing",
                })?
        }
    };
    known.insert(name.clone(), id);
    Ok(id)
}

fn insert_refused<'a>(
    database: &mut dyn Database,
    refused: impl Iterator<Item = &'a Refused>,
) -> Result<()> {
    let mut some = false;
    for message in refused {
        some = true;
        database.execute(
            "INSERT INTO refused (at, client, topic, kind, reason, payload, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            values![
                message.at_ms,
                message.client,
                message.topic,
                message.kind,
                message.reason,
                message.payload,
                message.payload_bytes,
            ],
        )?;
    }
    if some {
        database.execute(
            "DELETE FROM refused WHERE id <= (SELECT max(id) FROM refused) - ?1",
            values![MAX_REFUSED],
        )?;
    }
    Ok(())
}

fn insert_snapshot(database: &mut dyn Database, ids: &mut Ids, snapshot: &Snapshot) -> Result<()> {
    let robot = id(database, &mut ids.robots, &snapshot.robot, ROBOT)?;
    database.execute(
        "UPDATE robots SET position = ?2, taken = ?3, picture = ?4 WHERE id = ?1 AND position <= ?2",
        values![
            robot,
            snapshot.position,
            snapshot.taken_ms,
            snapshot.picture
        ],
    )?;
    let last = match ids.kept.get(&robot) {
        Some(last) => Some(*last),
        None => past::last_kept(database, robot)?,
    };
    let kept = match last {
        Some(last) if !past::is_due(robot, last, snapshot.taken_ms) => last,
        _ => {
            past::keep(database, robot, snapshot, last)?;
            snapshot.taken_ms
        }
    };
    ids.kept.insert(robot, kept);
    Ok(())
}
