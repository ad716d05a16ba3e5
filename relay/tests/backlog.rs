//! Telemetry of an outage, told afterwards: who may, what it changes, and when it is acknowledged.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::RobotId;
use lekiwi_protocol::Timestamp;
use lekiwi_relay::clock;
use lekiwi_relay::ingest::Decision;
use lekiwi_relay::metrics::Metrics;
use lekiwi_relay::store::records::{NewBacklog, NewSample};
use lekiwi_relay::store::{Batch, Health, Store};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PubAckReason;
use serde_json::{Value, json};
use support::{Client, PATIENCE, Relay, envelope, events, from, until};
use uuid::Uuid;

/// Ten minutes ago, to the second.
fn past() -> u64 {
    (clock::now_ms() - 600_000) / 1_000 * 1_000
}

/// Late samples of `cpu_percent`: number and time.
fn backlog(robot: &str, stream: u128, samples: &[(u64, u64)]) -> String {
    let samples: Vec<Value> = samples
        .iter()
        .map(|(seq, ms)| {
            json!({ "seq": seq, "timestamp": Timestamp::from_ms(*ms), "metrics": { "cpu_percent": seq } })
        })
        .collect();
    let stream = Uuid::from_u128(stream);
    envelope(
        robot,
        "backlog",
        &json!({ "stream": stream, "ordinal": 1, "samples": samples }),
    )
}

async fn history(relay: &Relay) -> Vec<(u64, f64)> {
    let samples = relay
        .store
        .telemetry("kiwi-01", "cpu_percent", 0, u64::MAX, 1_000)
        .await
        .unwrap();
    samples.iter().map(|s| (s.ts_ms, s.value)).collect()
}

async fn say(client: &Client, topic: &str, payload: String) {
    client
        .client
        .publish(topic, QoS::AtLeastOnce, false, payload)
        .await
        .unwrap();
}

/// The next acknowledgement, as it stands.
async fn acks(client: &mut Client) -> Value {
    loop {
        let message = client.message().await;
        if message.topic.ends_with(b"/to/ack") {
            let body: Value = serde_json::from_slice(&message.payload).unwrap();
            return body["payload"]["acks"].clone();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_samples_go_into_history_once_and_never_into_the_picture() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    client
        .subscribe("fleet/v1/default/robots/kiwi-01/to/#")
        .await;
    let topic = from("kiwi-01", "backlog");
    let (stream, start) = (Uuid::from_u128(9).to_string(), past());
    // With a hole, where the robot thinned out.
    let message = backlog(
        "kiwi-01",
        9,
        &[(1, start), (2, start + 1_000), (4, start + 3_000)],
    );
    for _ in 0..2 {
        say(&client, &topic, message.clone()).await;
        let expected = json!({ stream.as_str(): [[1, 2], [4, 4]] });
        assert_eq!(acks(&mut client).await, expected);
        assert_eq!(
            history(&relay).await,
            [(start, 1.0), (start + 1_000, 2.0), (start + 3_000, 4.0)]
        );
    }
    // The same sample under the numbers of a restarted agent.
    say(&client, &topic, backlog("kiwi-01", 10, &[(1, start)])).await;
    let again = json!({ Uuid::from_u128(10).to_string(): [[1, 1]] });
    assert_eq!(acks(&mut client).await, again);
    assert_eq!(history(&relay).await.len(), 3);
    let view = relay.view("kiwi-01").unwrap();
    assert!(view.resources.is_empty(), "{:?}", view.resources);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impossible_times_are_acknowledged_and_not_kept() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    client
        .subscribe("fleet/v1/default/robots/kiwi-01/to/#")
        .await;
    let good = past();
    let years = 4 * 366 * 86_400_000;
    let samples = [
        (1, 0),
        (2, good - years),
        (3, good),
        (4, good + 2 * 86_400_000),
    ];
    say(
        &client,
        &from("kiwi-01", "backlog"),
        backlog("kiwi-01", 9, &samples),
    )
    .await;
    assert_eq!(
        acks(&mut client).await,
        json!({ Uuid::from_u128(9).to_string(): [[1, 4]] })
    );
    assert_eq!(history(&relay).await, [(good, 3.0)]);
    let text = relay.metrics.encode();
    assert!(
        text.contains("lekiwi_shed_total{place=\"clock\"} 3"),
        "{text}"
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_backlogs_are_refused_and_nobody_speaks_for_another() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    let topic = from("kiwi-01", "backlog");
    let many: Vec<(u64, u64)> = (1..=101).map(|seq| (seq, past())).collect();
    for (samples, reason) in [
        (
            &[(2, past()), (2, past())][..],
            "expected ascending sample numbers from 1, got 2 after 2",
        ),
        (&many, "expected at most 100 samples, got 101"),
    ] {
        let message = backlog("kiwi-01", 9, samples);
        assert_eq!(
            client.publish(&topic, message, false).await,
            PubAckReason::Success
        );
        relay.refusal(&format!("kiwi-01 {topic}: {reason}")).await;
    }
    let other = from("kiwi-02", "backlog");
    assert_eq!(
        client
            .publish(&other, backlog("kiwi-02", 9, &[(1, past())]), false)
            .await,
        PubAckReason::NotAuthorized
    );
    assert_eq!(history(&relay).await, []);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_robot_in_quarantine_nothing_is_taken_nor_acknowledged() {
    let relay = Relay::start().await;
    let kiwi = relay
        .robot_as("kiwi-01", json!({ "profile": "unknown" }))
        .await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    client
        .subscribe("fleet/v1/default/robots/kiwi-01/to/#")
        .await;
    let nil = Uuid::nil();
    let factsheet = envelope(
        "kiwi-01",
        "factsheet",
        &json!({
            "uuid": nil, "profile": "unknown", "agent_version": "1", "agent_target": "t", "boot_id": nil,
            "hardware": { "serial": "1a", "model": "", "revision": "" },
        }),
    );
    say(&client, &from("kiwi-01", "factsheet"), factsheet).await;
    let robot = RobotId::new("kiwi-01").unwrap();
    until("it is in quarantine", async || {
        relay.view("kiwi-01").is_some_and(|view| {
            view.registration.status == lekiwi_protocol::message::RegistrationStatus::Quarantined
        })
    })
    .await;
    let (topic, start) = (from("kiwi-01", "backlog"), past());
    let message = backlog("kiwi-01", 9, &[(1, start)]);
    say(&client, &topic, message.clone()).await;
    // What came behind it is acknowledged: its events are the operator's to see.
    say(
        &client,
        &from("kiwi-01", "events"),
        events("kiwi-01", 5, 1..=1),
    )
    .await;
    let events_only = json!({ Uuid::from_u128(5).to_string(): [[1, 1]] });
    assert_eq!(acks(&mut client).await, events_only);
    assert_eq!(history(&relay).await, []);

    let approve = Decision::Approve {
        profile: Some("lekiwi".to_owned()),
    };
    relay.handle.decide(&robot, "admin", approve).await.unwrap();
    say(&client, &topic, message).await;
    let taken = json!({ Uuid::from_u128(9).to_string(): [[1, 1]] });
    assert_eq!(acks(&mut client).await, taken);
    assert_eq!(history(&relay).await, [(start, 1.0)]);
    relay.stop().await;
}

#[tokio::test]
async fn a_disk_that_refuses_acknowledges_no_late_sample() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.db");
    let (store, mut commits) = Store::open(&path, Arc::new(Metrics::default())).unwrap();
    let late = || Batch {
        backlogs: vec![NewBacklog {
            source: "kiwi-01".into(),
            stream: Uuid::from_u128(9),
            seqs: vec![1, 2],
            samples: vec![NewSample {
                robot: "kiwi-01".into(),
                metric: "cpu_percent".into(),
                ts_ms: 7,
                value: 1.0,
            }],
        }],
        ..Batch::default()
    };
    // Somebody else writes, and does not end.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.submit(late());
    let health = store.health();
    until("the store refuses", async || {
        *health.borrow() != Health::Writing
    })
    .await;
    other.execute_batch("ROLLBACK").unwrap();
    until("the store writes again", async || {
        *health.borrow() == Health::Writing
    })
    .await;
    // What was shed is not acknowledged; the robot sends it again.
    assert!(commits.try_recv().is_err());
    store.submit(late());
    let commit = tokio::time::timeout(PATIENCE, commits.recv())
        .await
        .expect("a commit in time")
        .unwrap();
    assert_eq!(commit.events, []);
    assert_eq!(commit.acks[0].ranges, [[1, 2]]);
    let kept = store
        .telemetry("kiwi-01", "cpu_percent", 0, 10, 10)
        .await
        .unwrap();
    assert_eq!(kept.len(), 1);
    // A commit of nothing but other samples is nobody's news.
    store.submit(Batch {
        samples: late().backlogs.remove(0).samples,
        ..Batch::default()
    });
    let silence = tokio::time::timeout(Duration::from_millis(300), commits.recv()).await;
    assert!(silence.is_err(), "{silence:?}");
}
