//! Who is heard: what consumers get of a robot in quarantine, after its approval, and after its rejection.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use lekiwi_protocol::RobotId;
use lekiwi_protocol::message::RegistrationStatus;
use lekiwi_relay::ingest::Decision;
use lekiwi_relay_core::Policy;
use serde_json::{Value, json};
use support::{Ca, Client, Identity, PATIENCE, Relay, connection, envelope, from, until, will};

const EVERYTHING: &str = "fleet/v1/default/robots/+/from/#";

fn factsheet(robot: &str, profile: &str, serial: &str) -> String {
    let nil = uuid::Uuid::nil();
    envelope(
        robot,
        "factsheet",
        &json!({
            "uuid": nil, "profile": profile, "agent_version": "1", "agent_target": "t", "boot_id": nil,
            "hardware": { "serial": serial, "model": "", "revision": "" },
        }),
    )
}

fn state(robot: &str, cpu: f64) -> String {
    envelope(
        robot,
        "state",
        &json!({
            "session": uuid::Uuid::from_u128(1), "activity": "idle", "operating_mode": "AUTOMATIC",
            "teleoperation": { "active": false }, "network": { "hostname": robot },
            "deployment": { "os_version": "", "agent_version": "" },
            "resources": { "cpu_percent": cpu }, "uptime_s": 1,
        }),
    )
}

/// A robot that was born, with its inbox subscribed.
async fn born(relay: &Relay, identity: &Identity, id: &str) -> Client {
    let topic = from(id, "connection");
    let mut options = relay.options(identity, id);
    options.set_last_will(will(&topic, connection(id, 1, "CONNECTION_BROKEN")));
    let mut client = Client::connect(options).await.unwrap();
    client
        .subscribe(&format!("fleet/v1/default/robots/{id}/to/#"))
        .await;
    client
        .publish(&topic, connection(id, 1, "ONLINE"), true)
        .await;
    client
}

/// Waits until the robot is told that this is its registration.
async fn told(client: &mut Client, status: &str) -> Value {
    loop {
        let message = client.message().await;
        if !message.topic.ends_with(b"/to/registration") {
            continue;
        }
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(body["type"], "registration");
        if body["payload"]["status"] == status {
            return body["payload"].clone();
        }
    }
}

/// The next message of a consumer: last level and payload.
async fn next(consumer: &mut Client) -> (String, Value) {
    let message = consumer.message().await;
    let topic = String::from_utf8(message.topic.to_vec()).unwrap();
    let body: Value = serde_json::from_slice(&message.payload).unwrap();
    let level = topic.split_once("/robots/").unwrap().1.to_owned();
    (level, body["payload"].clone())
}

async fn status(relay: &Relay, id: &str, expected: RegistrationStatus) {
    until("the picture has it", async || {
        relay
            .view(id)
            .is_some_and(|view| view.registration.status == expected)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantined_robot_reaches_nobody_until_it_is_approved() {
    let relay = Relay::start().await;
    let kiwi = relay
        .robot_as("kiwi-01", json!({ "profile": "unknown" }))
        .await;
    let honest = relay.robot("kiwi-02").await;
    let watcher = relay.consumer("watcher").await;
    let mut early = relay.connect(&watcher, "consumer:watcher:early").await;
    early.subscribe(EVERYTHING).await;

    let mut robot = born(&relay, &kiwi, "kiwi-01").await;
    robot
        .publish(
            &from("kiwi-01", "factsheet"),
            factsheet("kiwi-01", "unknown", "1a"),
            true,
        )
        .await;
    robot
        .publish(&from("kiwi-01", "state"), state("kiwi-01", 11.0), true)
        .await;
    for (topic, kind, payload) in [
        (
            "telemetry",
            "telemetry",
            json!({ "metrics": { "cpu_percent": 12.0 } }),
        ),
        (
            "heartbeat",
            "heartbeat",
            json!({ "session": uuid::Uuid::from_u128(1), "uptime_s": 2 }),
        ),
    ] {
        let message = envelope("kiwi-01", kind, &payload);
        robot.publish(&from("kiwi-01", topic), message, false).await;
    }
    robot
        .publish(
            &from("kiwi-01", "events"),
            support::events("kiwi-01", 5, 1..=1),
            false,
        )
        .await;
    assert_eq!(
        told(&mut robot, "quarantined").await,
        json!({ "status": "quarantined", "reason": "its hardware matches no profile" })
    );

    // A robot that speaks after it, to a consumer of before and to one of now: the first word is its own.
    let mut other = relay.connect(&honest, "kiwi-02").await;
    let mut late = relay.connect(&watcher, "consumer:watcher:late").await;
    late.subscribe(EVERYTHING).await;
    other
        .publish(
            &from("kiwi-02", "connection"),
            connection("kiwi-02", 2, "ONLINE"),
            true,
        )
        .await;
    for consumer in [&mut early, &mut late] {
        assert_eq!(next(consumer).await.0, "kiwi-02/from/connection");
    }
    // The relay knows who it is, and keeps nothing that it measures.
    let view = relay.view("kiwi-01").unwrap();
    assert_eq!(
        view.registration.reason.as_deref(),
        Some("its hardware matches no profile")
    );
    assert!(view.status.online && view.network.is_some() && view.resources.is_empty());
    until("its own event and the relay's are in the log", async || {
        let kept = relay.store.events_of_robot("kiwi-01", 0, 100).await;
        let kept = kept.unwrap();
        let kinds: Vec<_> = kept.iter().map(|e| &*e.event.kind).collect();
        kinds.contains(&"agent.started") && kinds.contains(&"robot.quarantined")
    })
    .await;

    // Approval takes effect without a reconnect.
    let id: RobotId = "kiwi-01".parse().unwrap();
    let profile = Some("lekiwi".to_owned());
    let approved = relay
        .handle
        .decide(&id, "admin", Decision::Approve { profile })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (
            approved.registration.status,
            approved.registration.approved_by.as_deref(),
            &*approved.robot_type
        ),
        (RegistrationStatus::Registered, Some("admin"), "lekiwi")
    );
    assert_eq!(
        told(&mut robot, "registered").await,
        json!({ "status": "registered", "profile": "lekiwi" })
    );
    for consumer in [&mut early, &mut late] {
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let (level, _) = next(consumer).await;
            // What waited for a verdict may come again with what is retained.
            if !level.starts_with("kiwi-02/") {
                seen.push(level);
            }
        }
        seen.sort_unstable();
        assert_eq!(
            seen,
            [
                "kiwi-01/from/connection",
                "kiwi-01/from/factsheet",
                "kiwi-01/from/state"
            ]
        );
    }
    let mut later = relay.connect(&watcher, "consumer:watcher:later").await;
    later
        .subscribe("fleet/v1/default/robots/kiwi-01/from/factsheet")
        .await;
    let kept = later.message().await;
    assert!(kept.retain, "retained for those who come");

    let metrics = json!({ "metrics": { "cpu_percent": 13.0 } });
    robot
        .publish(
            &from("kiwi-01", "telemetry"),
            envelope("kiwi-01", "telemetry", &metrics),
            false,
        )
        .await;
    assert_eq!(
        next(&mut early).await,
        ("kiwi-01/from/telemetry".to_owned(), metrics)
    );
    until("telemetry is in history", async || {
        let samples = relay
            .store
            .telemetry("kiwi-01", "cpu_percent", 0, u64::MAX, 10)
            .await
            .unwrap();
        assert!(
            samples.iter().all(|sample| sample.value == 13.0),
            "{samples:?}"
        );
        !samples.is_empty()
    })
    .await;

    // It says the same after its next connect, and is not asked again.
    robot
        .publish(
            &from("kiwi-01", "factsheet"),
            factsheet("kiwi-01", "unknown", "1a"),
            true,
        )
        .await;
    told(&mut robot, "registered").await;

    // Rejected: consumers are told that it went, and hear no more of it.
    while next(&mut early).await.0 != "kiwi-01/from/factsheet" {}
    relay
        .handle
        .decide(&id, "admin", Decision::Reject)
        .await
        .unwrap();
    let (topic, payload) = next(&mut early).await;
    assert_eq!(
        (&*topic, &payload["state"]),
        ("kiwi-01/from/connection", &"CONNECTION_BROKEN".into())
    );
    told(&mut robot, "rejected").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_robot_that_turns_into_something_else_is_held_back_at_once() {
    let relay = Relay::start().await;
    let kiwi = relay
        .robot_as(
            "kiwi-01",
            json!({ "token_profile": "lekiwi", "hardware_serial": "1a" }),
        )
        .await;
    let watcher = relay.consumer("watcher").await;
    let mut consumer = relay.connect(&watcher, "consumer:watcher").await;
    consumer
        .subscribe("fleet/v1/default/robots/+/from/factsheet")
        .await;
    let mut robot = born(&relay, &kiwi, "kiwi-01").await;
    let topic = from("kiwi-01", "factsheet");
    robot
        .publish(&topic, factsheet("kiwi-01", "lekiwi", "1a"), true)
        .await;
    assert_eq!(
        told(&mut robot, "registered").await,
        json!({ "status": "registered", "profile": "lekiwi" })
    );
    assert_eq!(next(&mut consumer).await.1["profile"], "lekiwi");

    // The same board again under another name.
    let twin = relay.robot("kiwi-02").await;
    let mut second = born(&relay, &twin, "kiwi-02").await;
    second
        .publish(
            &from("kiwi-02", "factsheet"),
            factsheet("kiwi-02", "lekiwi", "1a"),
            true,
        )
        .await;
    let reason = "kiwi-02 says board serial 1a, which belongs to kiwi-01";
    assert_eq!(
        told(&mut second, "quarantined").await,
        json!({ "status": "quarantined", "reason": reason, "profile": "lekiwi" })
    );

    robot
        .publish(&topic, factsheet("kiwi-01", "xle", "1a"), true)
        .await;
    let answer = told(&mut robot, "quarantined").await;
    assert_eq!(
        (&answer["status"], &answer["reason"]),
        (
            &"quarantined".into(),
            &"it says profile xle, and its token or approval was for lekiwi".into()
        )
    );
    // Another board: recorded, and let in where nothing else is wrong.
    let third = relay
        .robot_as("kiwi-03", json!({ "hardware_serial": "3c" }))
        .await;
    let mut robot = born(&relay, &third, "kiwi-03").await;
    robot
        .publish(
            &from("kiwi-03", "factsheet"),
            factsheet("kiwi-03", "lekiwi", "4d"),
            true,
        )
        .await;
    told(&mut robot, "registered").await;
    // Nothing of the other two came in between, but what the first one said before.
    loop {
        let (level, sheet) = next(&mut consumer).await;
        if level == "kiwi-03/from/factsheet" {
            assert_eq!(sheet["hardware"]["serial"], "4d");
            break;
        }
        assert_eq!(
            (&*level, &sheet["profile"]),
            ("kiwi-01/from/factsheet", &"lekiwi".into())
        );
    }
    until("the other board is in the log", async || {
        let events = relay
            .store
            .events_of_robot("kiwi-03", 0, 100)
            .await
            .unwrap();
        events.iter().any(|e| {
            &*e.event.kind == "robot.hardware_changed"
                && serde_json::from_str::<Value>(&e.event.data).unwrap()
                    == json!({ "old_serial": "3c", "new_serial": "4d" })
        })
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_policy_newcomers_wait_and_standing_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("relay.db");
    let relay = Relay::start_by(Policy::Approve, dir, Ca::new(), &database).await;
    let kiwi = relay.robot("kiwi-01").await;
    relay.robot("kiwi-02").await;
    status(&relay, "kiwi-01", RegistrationStatus::Quarantined).await;
    let id: RobotId = "kiwi-01".parse().unwrap();
    let approve = Decision::Approve { profile: None };
    relay.handle.decide(&id, "admin", approve).await.unwrap();
    status(&relay, "kiwi-01", RegistrationStatus::Registered).await;
    // In the log too, not only in the picture.
    until("both newcomers were accused", async || {
        let events = relay
            .store
            .events_of_robot("kiwi-02", 0, 100)
            .await
            .unwrap();
        events.iter().any(|e| &*e.event.kind == "robot.quarantined")
    })
    .await;
    let before = [relay.view("kiwi-01"), relay.view("kiwi-02")];
    let (dir, ca) = relay.stop().await;
    let relay = Relay::start_by(Policy::Approve, dir, ca, &database).await;
    assert_eq!([relay.view("kiwi-01"), relay.view("kiwi-02")], before);
    let mut robot = born(&relay, &kiwi, "kiwi-01").await;
    robot
        .publish(
            &from("kiwi-01", "factsheet"),
            factsheet("kiwi-01", "lekiwi", ""),
            true,
        )
        .await;
    told(&mut robot, "registered").await;
    tokio::time::timeout(PATIENCE, relay.stop()).await.unwrap();
}
