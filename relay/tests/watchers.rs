//! Many who watch, in a process of their own, since their memory is measured.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use lekiwi_protocol::api::Subscribe;
use lekiwi_protocol::message::kind;
use lekiwi_relay::live::{Form, Todo, Watcher, form};
use lekiwi_relay::store::Batch;
use lekiwi_relay::store::records::NewEvent;
use support::{Relay, envelope, from, next};

fn topics(topic: &str) -> Subscribe {
    Subscribe {
        id: "a".to_owned(),
        topics: vec![topic.to_owned()],
        ..Subscribe::default()
    }
}

/// How many messages are told next.
async fn messages(watcher: &Watcher) -> u64 {
    let told = next(watcher).await;
    told.iter()
        .filter(|todo| matches!(todo, Todo::Tell(..)))
        .count() as u64
}

/// Kilobytes of memory that this process has in use.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watch_one_robot_and_one_watches_ten_thousand() {
    const MANY: u64 = 10_000;
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    let before = resident_kb();
    let mut watchers = Vec::new();
    for _ in 0..MANY {
        let watcher = relay.handle.live().watch("ana", [0; 32], None);
        watcher.subscribe(&topics("robot.kiwi-01.*"), || 0).unwrap();
        next(&watcher).await;
        watchers.push(watcher);
    }
    let each = (resident_kb() - before) * 1024 / MANY;
    // What the gateway keeps; the connection itself is not counted here.
    assert!(
        each < 4_096,
        "expected an idle watcher to take less than 4,096 bytes, got {each}"
    );
    let all = relay.handle.live().watch("ben", [1; 32], None);
    all.subscribe(&topics("heartbeat"), || 0).unwrap();
    next(&all).await;
    let heartbeat = serde_json::json!({ "session": uuid::Uuid::nil(), "uptime_s": 7 });
    client
        .publish(
            &from("kiwi-01", "heartbeat"),
            envelope("kiwi-01", "heartbeat", &heartbeat),
            false,
        )
        .await;
    let mut shared = None;
    for watcher in &watchers {
        let told = next(watcher).await;
        // Of a machine that is busy, it may be told that it reads slowly.
        let mut told = told.iter().filter_map(|todo| match todo {
            Todo::Tell(message, _) => Some(message),
            _ => None,
        });
        let message = told.next().expect("the heartbeat");
        assert!(told.next().is_none(), "one message");
        // One message for all, serialised once.
        let first = shared.get_or_insert_with(|| form(message, Form::Sse));
        assert_eq!(first.as_ptr(), form(message, Form::Sse).as_ptr());
    }
    assert_eq!(messages(&all).await, 1);
    // Robots that register one after the other, and one who watches them all.
    all.subscribe(&topics("robot.registered"), || 0).unwrap();
    relay.store.submit(Batch {
        events: (0..MANY).map(registered).collect(),
        ..Batch::default()
    });
    let mut heard = 0;
    while heard < MANY {
        heard += messages(&all).await;
    }
    // Of the others none was woken.
    let nothing = tokio::time::timeout(Duration::from_millis(50), watchers[0].next(1));
    assert!(nothing.await.is_err());
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
