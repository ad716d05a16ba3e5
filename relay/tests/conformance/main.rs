//! What a store promises, of each kind that there is: the same tests against SQLite and against a real server of
//! PostgreSQL, and what only several relays on one database can show.
#![expect(clippy::unwrap_used, reason = "tests")]

mod alerts;
mod audit;
mod backup;
mod factors;
mod log;
mod outsiders;
mod past;
#[path = "../support/port.rs"]
mod port;
mod postgres_only;
mod renewals;
mod rows;
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lekiwi_relay::metrics::Metrics;
use lekiwi_relay::store::records::{Commit, NewEvent};
use lekiwi_relay::store::{Batch, Location, PostgresOptions, Store, StoreError};
use server::Server;
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use uuid::Uuid;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A place for a store, empty at first.
struct Place {
    location: Location,
    /// What must live as long, and the name of the database.
    server: Option<(Arc<Server>, String)>,
    dir: TempDir,
}

impl Place {
    fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            location: Location::Sqlite(dir.path().join("relay.db")),
            server: None,
            dir,
        }
    }

    fn postgres() -> Self {
        let server = Server::shared();
        let name = server.database();
        Self {
            location: at(&server, &server.url(&name)),
            server: Some((server, name)),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// One of each: a test that runs in both is a promise of both.
    fn of_each_kind() -> impl Iterator<Item = Self> {
        [Self::sqlite, Self::postgres]
            .into_iter()
            .map(|make| make())
    }

    async fn open(&self) -> (Store, Receiver<Commit>) {
        open(&self.location).await.unwrap()
    }

    /// Does something to the store beside every relay.
    fn batch(&self, sql: &str) {
        match &self.server {
            Some((server, name)) => server
                .admin(name, |client| client.batch_execute(sql))
                .unwrap(),
            None => {
                let file = rusqlite::Connection::open(self.dir.path().join("relay.db")).unwrap();
                file.execute_batch(sql).unwrap();
            }
        }
    }
}

impl Drop for Place {
    #[expect(clippy::print_stderr, reason = "a failure should say of which kind")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("that was in {}", self.location);
        }
    }
}

fn at(server: &Server, url: &str) -> Location {
    let options = PostgresOptions::read(url, Some(&server.password_file()), None).unwrap();
    Location::Postgres(Arc::new(options))
}

async fn open(location: &Location) -> Result<(Store, Receiver<Commit>), StoreError> {
    let location = location.clone();
    tokio::task::spawn_blocking(move || Store::open_at(&location, Arc::new(Metrics::default())))
        .await
        .unwrap()
}

fn event(source: &str, seq: u64) -> NewEvent {
    NewEvent {
        aggregate_type: "robot",
        aggregate_id: source.into(),
        source: source.into(),
        stream: Uuid::from_u128(1),
        seq,
        kind: "agent.started".into(),
        ts_ms: seq,
        received_ms: 1_000 + seq,
        data: "{}".into(),
        metadata: "{}".into(),
    }
}

fn batch(events: impl IntoIterator<Item = NewEvent>) -> Batch {
    Batch {
        events: events.into_iter().collect(),
        ..Batch::default()
    }
}

async fn committed(commits: &mut Receiver<Commit>) -> Commit {
    tokio::time::timeout(PATIENCE, commits.recv())
        .await
        .expect("a commit in time")
        .unwrap()
}

/// Polls until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "expected in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn exists(path: &Path) -> bool {
    std::fs::exists(path).unwrap()
}
