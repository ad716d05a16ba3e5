//! The store in a file, under bad weather: killed, out of space, of a later version. Needs root for its tmpfs.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lekiwi_relay::metrics::Metrics;
use lekiwi_relay::store::records::{Commit, NewEvent, Session};
use lekiwi_relay::store::{Batch, Health, Store, StoreError};
use rumqttc::v5::mqttbytes::QoS;
use support::{Ca, PATIENCE, Relay, events, from, until};
use tokio::sync::mpsc::Receiver;
use uuid::Uuid;

fn open(path: &Path) -> (Store, Receiver<Commit>) {
    Store::open(path, Arc::new(Metrics::default())).unwrap()
}

fn event(seq: u64) -> NewEvent {
    NewEvent {
        aggregate_type: "robot",
        aggregate_id: "kiwi-01".into(),
        source: "kiwi-01".into(),
        stream: Uuid::from_u128(1),
        seq,
        kind: "agent.started".into(),
        ts_ms: 1,
        received_ms: 2,
        data: "{}".into(),
        metadata: "{}".into(),
    }
}

fn batch(seqs: impl IntoIterator<Item = u64>) -> Batch {
    Batch {
        events: seqs.into_iter().map(event).collect(),
        ..Batch::default()
    }
}

async fn seqs(store: &Store) -> Vec<u64> {
    let events = store
        .events_of_robot("kiwi-01", 0, 1_000_000)
        .await
        .unwrap();
    let mut seqs: Vec<u64> = events
        .iter()
        .filter(|e| &*e.event.source == "kiwi-01")
        .map(|e| e.event.seq)
        .collect();
    seqs.sort_unstable();
    seqs
}

/// Run as a child by the test below, which kills it. Prints each number that was committed.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the parent reads it")]
async fn child_that_writes_until_it_is_killed() {
    let Ok(path) = std::env::var("LEKIWI_TEST_STORE") else {
        return;
    };
    let (store, mut commits) = open(Path::new(&path));
    for seq in 1.. {
        store.submit(batch([seq]));
        for ack in commits.recv().await.unwrap().acks {
            println!("committed {}", ack.ranges[0][1]);
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_that_writes_until_it_is_killed",
            "--nocapture",
        ])
        .env("LEKIWI_TEST_STORE", &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut committed = 0;
    for line in lines {
        if let Some(seq) = line.unwrap().strip_prefix("committed ") {
            committed = seq.parse().unwrap();
        }
        if committed == 50 {
            // SIGKILL, in the middle of what comes next.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(committed >= 50);
    let (store, mut commits) = open(&path);
    let kept = seqs(&store).await;
    assert!(
        kept.len() as u64 >= committed,
        "{} kept, {committed} acknowledged",
        kept.len()
    );
    assert_eq!(kept, (1..=kept.len() as u64).collect::<Vec<_>>());
    store.submit(batch([1]));
    assert_eq!(commits.recv().await.unwrap().events, []);
}

/// A file system of its own, unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(
            mounted.success(),
            "cannot mount a tmpfs for this test: run it as root"
        );
        Self(path)
    }

    /// Takes all space that is left.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        for size in [65_536, 4_096] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        ballast
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Best effort: a leftover mount harms nobody.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_acknowledgements_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(dir.path().join("disk"), "4m");
    let database = disk.0.join("relay.db");
    let relay = Relay::start_with(dir, Ca::new(), &database).await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    client
        .subscribe("fleet/v1/default/robots/kiwi-01/to/#")
        .await;
    let topic = from("kiwi-01", "events");
    let ballast = disk.fill();
    let health = relay.store.health();
    let mut sent = 0;
    while *health.borrow() == Health::Writing {
        assert!(sent < 100_000, "the disk never got full");
        client
            .client
            .publish(
                &topic,
                QoS::AtLeastOnce,
                false,
                events("kiwi-01", 1, sent + 1..=sent + 100),
            )
            .await
            .unwrap();
        sent += 100;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        *health.borrow(),
        Health::Failing {
            reason: "database or disk is full".into()
        }
    );
    // Meanwhile everything that needs no writing works, and what needs it says why it does not.
    let telemetry = support::envelope(
        "kiwi-01",
        "telemetry",
        &serde_json::json!({ "metrics": { "cpu_percent": 3.0 } }),
    );
    client
        .client
        .publish(
            from("kiwi-01", "telemetry"),
            QoS::AtLeastOnce,
            false,
            telemetry,
        )
        .await
        .unwrap();
    until("the picture lives on", async || {
        relay
            .view("kiwi-01")
            .is_some_and(|v| v.resources.values().eq([&3.0]))
    })
    .await;
    let safe = seqs(&relay.store).await;
    assert!((safe.len() as u64) < sent);
    let session = Session {
        hash: [1; 32],
        user: "admin".into(),
        created_ms: 0,
        expires_ms: 1,
        address: "127.0.0.1".into(),
        agent: "curl".into(),
    };
    assert_eq!(
        relay
            .store
            .insert_session(session.clone())
            .await
            .unwrap_err()
            .to_string(),
        "the store cannot write at the moment: the last write failed"
    );
    assert!(relay.store.session(&[1; 32], 0).is_none());

    std::fs::remove_file(ballast).unwrap();
    let all: Vec<u64> = (1..=sent).collect();
    let mut acked = std::collections::BTreeSet::new();
    while acked.len() < all.len() {
        let message = tokio::time::timeout(PATIENCE, client.message())
            .await
            .expect("acknowledgements after the disk is free");
        let ack: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        let ranges = &ack["payload"]["acks"][Uuid::from_u128(1).to_string()];
        for range in serde_json::from_value::<Vec<[u64; 2]>>(ranges.clone()).unwrap() {
            acked.extend(range[0]..=range[1]);
        }
    }
    assert_eq!(seqs(&relay.store).await, all);
    assert_eq!(*health.borrow(), Health::Writing);
    relay.store.insert_session(session).await.unwrap();
    relay.stop().await;
}

#[tokio::test]
async fn a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Store::open(&path, Arc::new(Metrics::default())).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "expected a store of version 9 or earlier, got version 99 in {}",
            path.display()
        )
    );
    std::fs::write(
        &path,
        "this is no database, and long enough to look like one at first sight",
    )
    .unwrap();
    let error = Store::open(&path, Arc::new(Metrics::default())).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }));
    assert_eq!(
        error.to_string(),
        format!("cannot open the store {}", path.display())
    );
}
