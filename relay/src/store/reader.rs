//! Reading: a few read-only connections, used from blocking threads, that never wait for the writer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Row, params};
use tokio::sync::Semaphore;

use super::records::{NewEvent, RefusedRow, Sample, Snapshot, StoredEvent};
use super::{Store, StoreError, schema};

/// Reads at the same time; more wait.
const READERS: usize = 4;

/// The pool.
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(READERS)),
        }
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let (idle, path) = (self.idle.clone(), self.path.clone());
        let lock = |idle: &Mutex<Vec<Connection>>| {
            idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
        };
        tokio::task::spawn_blocking(move || {
            let connection = match lock(&idle) {
                Some(connection) => connection,
                None => schema::open_reader(&path)?,
            };
            let answer = work(&connection)?;
            idle.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            drop(permit);
            Ok(answer)
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }
}

fn event(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    let kind: String = row.get("aggregate_type")?;
    Ok(StoredEvent {
        position: row.get::<_, i64>("position")? as u64,
        event: NewEvent {
            // The log's aggregates are a closed set; robots are the first.
            aggregate_type: if kind == "robot" { "robot" } else { "other" },
            aggregate_id: row.get("aggregate_id")?,
            source: row.get("source")?,
            stream: uuid::Uuid::from_bytes(row.get("stream")?),
            seq: row.get::<_, i64>("seq")? as u64,
            kind: row.get("type")?,
            ts_ms: row.get::<_, i64>("ts")? as u64,
            received_ms: row.get::<_, i64>("received")? as u64,
            data: row.get("data")?,
            metadata: row.get("metadata")?,
        },
    })
}

impl Store {
    /// Events of one robot with a position beyond `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn events_of_robot(
        &self,
        robot: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let robot = robot.to_owned();
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached(
                    "SELECT * FROM events WHERE aggregate_type = 'robot' AND aggregate_id = ?1 AND position > ?2
                     ORDER BY position LIMIT ?3",
                )?
                .query_map(params![robot, after as i64, limit as i64], event)?
                .collect()
            })
            .await
    }

    /// The newest `limit` events of one robot, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn last_events_of_robot(
        &self,
        robot: &str,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let robot = robot.to_owned();
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached(
                    "SELECT * FROM events WHERE aggregate_type = 'robot' AND aggregate_id = ?1
                     ORDER BY position DESC LIMIT ?2",
                )?
                .query_map(params![robot, limit as i64], event)?
                .collect()
            })
            .await
    }

    /// Events of all aggregates with a position beyond `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached(
                    "SELECT * FROM events WHERE position > ?1 ORDER BY position LIMIT ?2",
                )?
                .query_map(params![after as i64, limit as i64], event)?
                .collect()
            })
            .await
    }

    /// The position of the newest event; 0 for an empty log.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn last_position(&self) -> Result<u64, StoreError> {
        self.inner
            .readers
            .read(|c| {
                c.query_row("SELECT COALESCE(MAX(position), 0) FROM events", [], |row| {
                    row.get::<_, i64>(0)
                })
            })
            .await
            .map(|position| position as u64)
    }

    /// History of one metric within `from_ms..to_ms`, oldest first. When there are more than `limit`
    /// samples, the newest `limit` are given.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn telemetry(
        &self,
        robot: &str,
        metric: &str,
        from_ms: u64,
        to_ms: u64,
        limit: usize,
    ) -> Result<Vec<Sample>, StoreError> {
        let (robot, metric) = (robot.to_owned(), metric.to_owned());
        self.inner
            .readers
            .read(move |c| {
                let mut samples: Vec<Sample> = c
                    .prepare_cached(
                        "SELECT ts, value FROM telemetry
                         WHERE robot = (SELECT id FROM robots WHERE robot = ?1)
                           AND metric = (SELECT id FROM metrics WHERE metric = ?2)
                           AND ts >= ?3 AND ts < ?4 ORDER BY ts DESC LIMIT ?5",
                    )?
                    .query_map(
                        params![
                            robot,
                            metric,
                            from_ms as i64,
                            to_ms.min(i64::MAX as u64) as i64,
                            limit as i64
                        ],
                        |row| {
                            Ok(Sample {
                                ts_ms: row.get::<_, i64>(0)? as u64,
                                value: row.get(1)?,
                            })
                        },
                    )?
                    .collect::<rusqlite::Result<_>>()?;
                samples.reverse();
                Ok(samples)
            })
            .await
    }

    /// The metrics that one robot has history of, sorted.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn metrics_of_robot(&self, robot: &str) -> Result<Vec<String>, StoreError> {
        let robot = robot.to_owned();
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached(
                    "SELECT metric FROM metrics m WHERE EXISTS
                     (SELECT 1 FROM telemetry t WHERE t.robot = (SELECT id FROM robots WHERE robot = ?1) AND t.metric = m.id)
                     ORDER BY metric",
                )?
                .query_map([robot], |row| row.get(0))?
                .collect()
            })
            .await
    }

    /// The newest `limit` refused messages, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn refused(&self, limit: usize) -> Result<Vec<RefusedRow>, StoreError> {
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached("SELECT * FROM refused ORDER BY id DESC LIMIT ?1")?
                    .query_map([limit as i64], |row| {
                        Ok(RefusedRow {
                            id: row.get::<_, i64>("id")? as u64,
                            at_ms: row.get::<_, i64>("at")? as u64,
                            client: row.get("client")?,
                            topic: row.get("topic")?,
                            kind: row.get("kind")?,
                            reason: row.get("reason")?,
                            payload: row.get("payload")?,
                            payload_bytes: row.get::<_, i64>("bytes")? as u64,
                        })
                    })?
                    .collect()
            })
            .await
    }

    /// The last picture of every robot that has one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, StoreError> {
        self.inner
            .readers
            .read(|c| {
                c.prepare_cached(
                    "SELECT robot, position, taken, picture FROM robots WHERE picture IS NOT NULL",
                )?
                .query_map([], |row| {
                    Ok(Snapshot {
                        robot: row.get(0)?,
                        position: row.get::<_, i64>(1)? as u64,
                        taken_ms: row.get::<_, i64>(2)? as u64,
                        picture: row.get(3)?,
                    })
                })?
                .collect()
            })
            .await
    }
}
