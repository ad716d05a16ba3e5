//! The live stream and the picture, as the HTTP interface sees them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use lekiwi_protocol::api::{EventRecord, Live};
use lekiwi_protocol::message::kind;
use support::{Client, PATIENCE, Relay, connection, envelope, from, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_robot_says_is_heard_live() {
    let relay = Relay::start().await;
    let mut live = relay.handle.live().subscribe();
    assert_eq!(relay.metrics.live_subscribers.get(), 1);
    let kiwi = relay
        .robot_as("kiwi-01", serde_json::json!({ "profile": "lekiwi" }))
        .await;
    let mut client: Client = relay.connect(&kiwi, "kiwi-01").await;
    client
        .publish(
            &from("kiwi-01", "connection"),
            connection("kiwi-01", 1, "ONLINE"),
            true,
        )
        .await;
    let metrics = serde_json::json!({ "metrics": { "cpu_percent": 12.5 } });
    client
        .publish(
            &from("kiwi-01", "telemetry"),
            envelope("kiwi-01", "telemetry", &metrics),
            false,
        )
        .await;
    let mut missing = vec![kind::REGISTERED, kind::CONNECTED, "connection", "telemetry"];
    while !missing.is_empty() {
        let received = tokio::time::timeout(PATIENCE, live.next())
            .await
            .expect("a batch in time")
            .unwrap();
        assert_eq!(received.dropped, 0);
        for message in &received.batch.messages {
            let parsed: Live = serde_json::from_str(&message.json).unwrap();
            assert_eq!(
                (&*parsed.message_type, &parsed.robot_id),
                (&*message.kind, &message.robot)
            );
            if parsed.message_type.starts_with("robot.") {
                let record: EventRecord = serde_json::from_value(parsed.payload.clone()).unwrap();
                assert_eq!(
                    (record.kind, record.position),
                    (parsed.message_type.clone(), parsed.sequence)
                );
            }
            if parsed.message_type == "telemetry" {
                assert_eq!(parsed.payload, metrics);
            }
            missing.retain(|kind| *kind != parsed.message_type);
        }
    }
    let (robots, position) = relay.handle.robots();
    assert_eq!(
        (robots.len(), robots[0].robot_type.as_str(), position),
        (1, "lekiwi", 2)
    );
    assert!(robots[0].status.registered_at.is_some() && robots[0].status.online);
    drop(live);
    assert_eq!(relay.metrics.live_subscribers.get(), 0);
    until("telemetry is in history", async || {
        let samples = relay
            .store
            .telemetry("kiwi-01", "cpu_percent", 0, u64::MAX, 10)
            .await
            .unwrap();
        samples.iter().any(|sample| sample.value == 12.5)
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_listener_is_told_how_much_it_missed() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    // After its registration, which is live too.
    let mut slow = relay.handle.live().subscribe();
    let mut quick = relay.handle.live().subscribe();
    let mut sent = 0_u64;
    let mut heard = 0;
    // One message a batch at most, as each waits for its answer and for the quick listener.
    while sent < 1_100 {
        let heartbeat = serde_json::json!({ "session": uuid::Uuid::nil(), "uptime_s": sent });
        client
            .publish(
                &from("kiwi-01", "heartbeat"),
                envelope("kiwi-01", "heartbeat", &heartbeat),
                false,
            )
            .await;
        sent += 1;
        while heard < sent {
            let received = quick.next().await.unwrap();
            assert_eq!(received.dropped, 0);
            heard += received.batch.messages.len() as u64;
        }
    }
    let first = slow.next().await.unwrap();
    assert_eq!(first.dropped, 1_100 - 1_024);
    let uptime: Live = serde_json::from_str(&first.batch.messages[0].json).unwrap();
    assert_eq!(uptime.payload["uptime_s"], 1_100 - 1_024);
    for _ in 0..1_100 {
        let heartbeat = serde_json::json!({ "session": uuid::Uuid::nil(), "uptime_s": sent });
        client
            .publish(
                &from("kiwi-01", "heartbeat"),
                envelope("kiwi-01", "heartbeat", &heartbeat),
                false,
            )
            .await;
        sent += 1;
        quick.next().await.unwrap();
    }
    assert_eq!(slow.next().await.unwrap().dropped, 2_200 - 1_024 - 77);
    relay.stop().await;
}
