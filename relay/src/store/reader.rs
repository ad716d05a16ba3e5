//! Reading: a few connections that cannot write, used from blocking threads, that never wait for the writer.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::database::{Database, Result, values};
use super::records::{RefusedRow, Snapshot};
use super::slow::Slow;
use super::{Location, Store, StoreError};
use crate::clock;

/// Reads at the same time; more wait.
const READERS: usize = 4;

/// Connections that wait for work.
type Idle = Arc<Mutex<Vec<Box<dyn Database>>>>;

/// The pool.
pub(super) struct Readers {
    location: Location,
    idle: Idle,
    permits: Arc<Semaphore>,
    slow: Slow,
}

impl Readers {
    pub(super) fn new(location: Location, slow: Slow) -> Self {
        Self {
            location,
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(READERS)),
            slow,
        }
    }

    /// Reads; `what` names it where it is slow.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut dyn Database) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        let asked = clock::monotonic();
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let waited = asked.elapsed();
        let (idle, location) = (self.idle.clone(), self.location.clone());
        let answer = tokio::task::spawn_blocking(move || {
            let waiting = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut database = match waiting {
                Some(waiting) => waiting,
                None => location.reader()?,
            };
            if !database.is_usable() {
                database = location.reader()?;
            }
            // One that failed is not used again: it may be in any state.
            let answer = work(&mut *database)?;
            idle.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(database);
            drop(permit);
            Ok(answer)
        })
        .await
        .map_err(|_| StoreError::Closed)?;
        self.slow.read(what, waited, asked.elapsed());
        answer
    }
}

impl Store {
    /// The newest `limit` refused messages, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn refused(&self, limit: usize) -> std::result::Result<Vec<RefusedRow>, StoreError> {
        self.inner
            .readers
            .read("refused", move |database| {
                database.rows(
                    "SELECT id, at, client, topic, kind, reason, payload, bytes FROM refused ORDER BY id DESC LIMIT ?1",
                    values![limit],
                    |row| {
                        Ok(RefusedRow {
                            id: row.get(0)?,
                            at_ms: row.get(1)?,
                            client: row.get(2)?,
                            topic: row.get(3)?,
                            kind: row.get(4)?,
                            reason: row.get(5)?,
                            payload: row.get(6)?,
                            payload_bytes: row.get(7)?,
                        })
                    },
                )
            })
            .await
    }

    /// The last picture of every robot that has one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn snapshots(&self) -> std::result::Result<Vec<Snapshot>, StoreError> {
        self.inner
            .readers
            .read("snapshots", |database| {
                database.rows(
                    "SELECT robot, position, taken, picture FROM robots WHERE picture IS NOT NULL ORDER BY robot",
                    &[],
                    |row| {
                        Ok(Snapshot {
                            robot: row.get(0)?,
                            position: row.get(1)?,
                            taken_ms: row.get(2)?,
                            picture: row.get(3)?,
                        })
                    },
                )
            })
            .await
    }
}
