//! The live stream and the picture, as the HTTP interface sees them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::{EventRecord, Live, RelayMessage, Subscribe, Watchers};
use lekiwi_protocol::message::{Priority, kind};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay::clock;
use lekiwi_relay::live::{Form, Message, Todo, Watcher, form};
use lekiwi_relay::store::Batch;
use lekiwi_relay::store::records::NewEvent;
use lekiwi_relay_core::gateway::deadline;
use support::{Client, PATIENCE, Relay, connection, envelope, from, next, until};

fn topics(topics: &[&str]) -> Subscribe {
    Subscribe {
        id: "a".to_owned(),
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        ..Subscribe::default()
    }
}

/// The envelope of a message, out of the form in which a stream has it.
fn parsed(message: &Arc<Message>) -> Live {
    let event = form(message, Form::Sse);
    let text = std::str::from_utf8(&event).unwrap();
    let data = text.lines().find_map(|line| line.strip_prefix("data: "));
    serde_json::from_str(data.unwrap()).unwrap()
}

/// The next messages of all that is told.
async fn messages(watcher: &Watcher) -> Vec<Live> {
    let messages = next(watcher)
        .await
        .into_iter()
        .filter_map(|todo| match todo {
            Todo::Tell(message, _) => Some(parsed(&message)),
            _ => None,
        });
    messages.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_robot_says_is_heard_live() {
    let relay = Relay::start().await;
    let live = relay.handle.live().watch("ana", [0; 32], None);
    live.subscribe(&topics(&["*"]), || 0).unwrap();
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
        for parsed in messages(&live).await {
            assert_eq!(parsed.robot_id.as_str(), "kiwi-01");
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
async fn a_slow_listener_gets_the_newest_and_is_told_that_it_is_slow() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    let slow = relay.handle.live().watch("ana", [0; 32], None);
    let quick = relay.handle.live().watch("ben", [1; 32], None);
    for listener in [&slow, &quick] {
        listener.subscribe(&topics(&["heartbeat"]), || 0).unwrap();
        next(listener).await;
    }
    let (mut sent, mut heard, mut end) = (0, 0, None);
    // Until the first has waited for longer than a picture may.
    while end.is_none_or(|end| clock::monotonic() < end) {
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
            heard += messages(&quick).await.len() as u64;
        }
        let wait = deadline(Priority::Normal) + Duration::from_millis(100);
        end.get_or_insert(clock::monotonic() + wait);
    }
    let told = next(&slow).await;
    let [
        Todo::Say(RelayMessage::Slowed { waiting: 1 }),
        Todo::Tell(newest, _),
    ] = told.as_slice()
    else {
        panic!(
            "expected to be told, and the newest, got {} things",
            told.len()
        );
    };
    assert_eq!(parsed(newest).payload["uptime_s"], sent - 1);
    relay.stop().await;
}

/// Robots register while listeners come that want everything from the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_and_live_events_join_without_a_gap_or_a_double() {
    const ROBOTS: u64 = 40;
    let relay = Relay::start().await;
    let mut listeners = Vec::new();
    for n in 0..ROBOTS {
        if n % 4 == 0 {
            let live = relay.handle.live().watch("ana", [0; 32], None);
            let mut all = topics(&["robot.registered"]);
            all.from = Some(0);
            let end = relay.store.last_position().await.unwrap();
            live.subscribe(&all, || end).unwrap();
            let store = relay.store.clone();
            listeners.push(tokio::spawn(async move {
                let mut told = Vec::new();
                while told.len() < ROBOTS as usize {
                    for todo in next(&live).await {
                        match todo {
                            Todo::Say(_) => {}
                            Todo::Tell(message, _) => told.push(parsed(&message).sequence),
                            Todo::Read(read) => {
                                let page = store.page(None, read.after, 3).await.unwrap();
                                let page = live.page(&read, page);
                                told.extend(page.iter().map(|message| parsed(message).sequence));
                            }
                        }
                    }
                }
                // What comes after all of them.
                (told, live)
            }));
        }
        relay.robot(&format!("kiwi-{n}")).await;
    }
    for listener in listeners {
        let (told, live) = tokio::time::timeout(PATIENCE, listener)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(told, (1..=ROBOTS).collect::<Vec<_>>());
        let more = tokio::time::timeout(Duration::from_millis(50), live.next(10));
        let more = more.await.into_iter().flatten().flatten();
        let doubles = more.filter(|todo| matches!(todo, Todo::Tell(..))).count();
        assert_eq!(doubles, 0);
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_a_robot_is_known_and_told() {
    let relay = Relay::start().await;
    let live = relay.handle.live();
    let kiwi = RobotId::new("kiwi-01").unwrap();
    let curious = live.watch("ana", [0; 32], None);
    curious
        .subscribe(&topics(&["robot.*.presence"]), || 0)
        .unwrap();
    // Who watches everything watches nobody in particular.
    assert_eq!(live.watchers(&kiwi), Watchers::default());
    let (first, second) = (
        live.watch("ben", [1; 32], None),
        live.watch("ben", [2; 32], None),
    );
    first
        .subscribe(&topics(&["robot.kiwi-01.*"]), || 0)
        .unwrap();
    second
        .subscribe(
            &topics(&["robot.kiwi-01.telemetry", "robot.kiwi-02.*"]),
            || 0,
        )
        .unwrap();
    let watchers = live.watchers(&kiwi);
    assert_eq!(
        (watchers.count, watchers.users),
        (2, [("ben".to_owned(), 2)].into())
    );
    assert!(watchers.since.is_some());
    let hears = async |expected: u64| loop {
        for live in messages(&curious).await {
            assert_eq!(live.message_type, "presence");
            if live.robot_id == kiwi && live.payload["count"] == expected {
                return;
            }
        }
    };
    hears(2).await;
    first.unsubscribe("a").unwrap();
    hears(1).await;
    drop(second);
    hears(0).await;
    assert_eq!(live.watchers(&kiwi), Watchers::default());
    // The relay ends, and so does every listener.
    let end = tokio::spawn(async move { while curious.next(10).await.is_some() {} });
    relay.stop().await;
    tokio::time::timeout(PATIENCE, end).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_responses_are_told() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let live = relay.handle.live().watch("ana", [0; 32], None);
    live.subscribe(&topics(&["command", "response"]), || 0)
        .unwrap();
    let id = uuid::Uuid::new_v4();
    let now = Timestamp::from_ms(clock::now_ms());
    let command = serde_json::json!({
        "id": id, "op": "ping", "issued_at": now, "expires_at": now.plus(Duration::from_secs(60)), "by": "ana",
    });
    let mut requested = registered(0);
    requested.aggregate_id = "kiwi-01".into();
    requested.kind = kind::COMMAND_REQUESTED.into();
    requested.data = command.to_string().into();
    relay.store.submit(Batch {
        events: vec![requested],
        ..Batch::default()
    });
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    client
        .publish(
            &from("kiwi-01", "connection"),
            connection("kiwi-01", 1, "ONLINE"),
            true,
        )
        .await;
    let told = async |kind: &str| loop {
        let told = messages(&live).await;
        if let Some(live) = told.into_iter().find(|live| live.message_type == kind) {
            return live.payload;
        }
    };
    assert_eq!(told("command").await, command);
    let status = serde_json::json!({ "state": "accepted" });
    client
        .publish(
            &from("kiwi-01", &format!("cmd/{id}")),
            envelope("kiwi-01", "response", &status),
            false,
        )
        .await;
    assert_eq!(told("response").await, status);
    relay.stop().await;
}

fn registered(n: u64) -> NewEvent {
    NewEvent {
        aggregate_type: "robot",
        aggregate_id: format!("robot-{n}").into(),
        source: "relay:r1".into(),
        stream: uuid::Uuid::nil(),
        seq: n + 1,
        kind: kind::REGISTERED.into(),
        ts_ms: 7,
        received_ms: 8,
        data: "{}".into(),
        metadata: "{}".into(),
    }
}
