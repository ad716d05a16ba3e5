//! Limits of the broker, with real clients: whoever takes too much is refused, and nobody else notices.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use lekiwi_relay_core::protect::Limits;
use rumqttc::v5::ConnectionError;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, PubAckReason};
use support::{Client, Identity, PATIENCE, Relay, envelope, events, from, until};

fn telemetry(robot: &str) -> String {
    let metrics = serde_json::json!({ "metrics": { "cpu_percent": 12.5 } });
    envelope(robot, "telemetry", &metrics)
}

async fn attempt(
    relay: &Relay,
    identity: &Identity,
    id: &str,
) -> Result<Client, ConnectReturnCode> {
    match Client::connect(relay.options(identity, id)).await {
        Ok(client) => Ok(client),
        Err(ConnectionError::ConnectionRefused(code)) => Err(code),
        Err(other) => panic!("expected an answer, got {other}"),
    }
}

/// Comes back until it is let in.
async fn insist(relay: &Relay, identity: &Identity, id: &str) -> Client {
    let attempts = async {
        loop {
            match attempt(relay, identity, id).await {
                Ok(client) => return client,
                Err(code) => assert_eq!(code, ConnectReturnCode::ServerUnavailable),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, attempts).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_connections_is_let_in_as_far_as_there_is_room() {
    let relay = Relay::start_limited(Limits {
        connections_per_address: 4,
        ..Limits::default()
    })
    .await;
    let watcher = relay.consumer("watcher").await;
    let names: Vec<String> = (0..20).map(|n| format!("consumer:watcher:{n}")).collect();
    let storm = names.iter().map(|name| attempt(&relay, &watcher, name));
    let (mut inside, mut refused) = (Vec::new(), 0);
    for outcome in futures_util::future::join_all(storm).await {
        match outcome {
            Ok(client) => inside.push(client),
            Err(code) => {
                assert_eq!(
                    code,
                    ConnectReturnCode::ServerUnavailable,
                    "it comes back later"
                );
                refused += 1;
            }
        }
    }
    assert_eq!((inside.len(), refused), (4, 16));
    let counted = relay.metrics.encode();
    assert!(
        counted.contains("lekiwi_refused_total{reason=\"address-full\"} 16"),
        "{counted}"
    );

    // A place that is given back is the next one's, however the client went.
    let kiwi = relay.robot("kiwi-01").await;
    inside.pop().unwrap().vanish();
    let mut robot = insist(&relay, &kiwi, "kiwi-01").await;
    let answer = robot
        .publish(&from("kiwi-01", "telemetry"), telemetry("kiwi-01"), false)
        .await;
    assert_eq!(answer, PubAckReason::Success);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_robot_that_floods_is_sent_away_and_its_neighbour_is_heard() {
    let relay = Relay::start_limited(Limits {
        messages_per_s: 10,
        ..Limits::default()
    })
    .await;
    let (kiwi, other) = (relay.robot("kiwi-01").await, relay.robot("kiwi-02").await);
    let flooding = relay.connect(&kiwi, "kiwi-01").await;
    let mut neighbour = relay.connect(&other, "kiwi-02").await;
    let topic = from("kiwi-01", "telemetry");
    for _ in 0..1_000 {
        // It ends in the middle of it.
        let sent = flooding
            .client
            .publish(&topic, QoS::AtMostOnce, false, telemetry("kiwi-01"));
        if sent.await.is_err() {
            break;
        }
    }
    until("the flood ends", async || flooding.events.is_finished()).await;
    let bans = relay.protect.bans();
    assert_eq!(bans.len(), 1, "{bans:?}");
    assert_eq!(
        (&*bans[0].who, &*bans[0].reason, bans[0].count),
        ("kiwi-01", "messages", 1)
    );
    let refused = attempt(&relay, &kiwi, "kiwi-01").await.err();
    assert_eq!(refused, Some(ConnectReturnCode::ServerUnavailable));

    let answer = neighbour
        .publish(&from("kiwi-02", "telemetry"), telemetry("kiwi-02"), false)
        .await;
    assert_eq!(answer, PubAckReason::Success);
    assert!(!relay.protect.lift("kiwi-02"));
    assert!(relay.protect.lift("kiwi-01"));
    relay.connect(&kiwi, "kiwi-01").await;
    relay.stop().await;
}

/// What is not taken is not acknowledged, so that the robot says it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_beyond_the_limit_are_not_lost() {
    let relay = Relay::start_limited(Limits {
        messages_per_s: 2,
        ..Limits::default()
    })
    .await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut robot = relay.connect(&kiwi, "kiwi-01").await;
    let topic = from("kiwi-01", "events");
    let mut refused = Vec::new();
    for seq in 1..=30 {
        let answer = robot
            .publish(&topic, events("kiwi-01", 7, seq..=seq), false)
            .await;
        if answer != PubAckReason::Success {
            refused.push(seq);
        }
    }
    assert!(!refused.is_empty(), "more than twenty at once");
    let again = async {
        while let Some(seq) = refused.first() {
            let event = events("kiwi-01", 7, *seq..=*seq);
            if robot.publish(&topic, event, false).await == PubAckReason::Success {
                refused.remove(0);
            }
            // Faster than that it would be banned, in time.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    until("all of them are in the log", async || {
        let events = relay
            .store
            .events_of_robot("kiwi-01", 0, 1_000)
            .await
            .unwrap();
        events
            .iter()
            .filter(|stored| &*stored.event.source == "kiwi-01")
            .count()
            == 30
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_stops_lets_go_of_everybody_in_time() {
    let relay = Relay::start().await;
    let watcher = relay.consumer("watcher").await;
    let mut clients = Vec::new();
    for n in 0..10 {
        let id = format!("consumer:watcher:{n}");
        clients.push(relay.connect(&watcher, &id).await);
    }
    // One that does not read either.
    clients[0].stop_reading();
    let stopped = tokio::time::timeout(PATIENCE, relay.broker.stop()).await;
    assert!(stopped.is_ok());
    assert_eq!(relay.broker.connections(), 0);
    for client in &mut clients[1..] {
        let end = tokio::time::timeout(PATIENCE, &mut client.events).await;
        assert!(matches!(end, Ok(Ok(_))), "{end:?}");
    }
    relay.stop().await;
}

/// It comes again and again, as from a robot that cannot know better: each is refused by itself, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisonous_message_is_refused_each_time_and_harms_nothing() {
    let relay = Relay::start_limited(Limits::default()).await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut robot = relay.connect(&kiwi, "kiwi-01").await;
    let poison = [
        (
            from("kiwi-01", "events"),
            format!("{}{}", "[".repeat(30_000), "]".repeat(30_000)),
        ),
        (from("kiwi-01", "telemetry"), "\u{0}".repeat(1_000)),
        (
            from("kiwi-01", "state"),
            envelope("kiwi-01", "state", &serde_json::json!(7)),
        ),
    ];
    for (topic, payload) in poison.iter().cycle().take(300) {
        let answer = robot.publish(topic, payload.clone(), false).await;
        assert_eq!(
            answer,
            PubAckReason::Success,
            "it is the broker's to carry, and ingest's to refuse"
        );
    }
    until("each is counted", async || {
        let line = "lekiwi_refused_total{reason=\"malformed\"} 300";
        relay.metrics.encode().contains(line)
    })
    .await;
    assert_eq!(relay.protect.bans(), []);
    robot
        .publish(&from("kiwi-01", "telemetry"), telemetry("kiwi-01"), false)
        .await;
    until("what is fine is taken", async || {
        relay
            .view("kiwi-01")
            .is_some_and(|view| view.resources.values().eq([&12.5]))
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_is_said_once_in_the_log() {
    let relay = Relay::start().await;
    assert_eq!(relay.handle.shedding(), None);
    relay.metrics.shed("live", 3);
    relay.metrics.shed("history", 5);
    until("it is noticed", async || relay.handle.shedding() == Some(5)).await;
    relay.metrics.shed("ingest", 2);
    until("it is counted", async || relay.handle.shedding() == Some(7)).await;
    let said = async || {
        let events = relay.store.events(0, 1_000).await.unwrap();
        let of_relay = events
            .into_iter()
            .filter(|stored| stored.event.aggregate_type == "relay");
        of_relay
            .map(|stored| (stored.event.aggregate_id, stored.event.kind))
            .collect::<Vec<_>>()
    };
    let begun = ("relay-1".into(), "relay.overloaded".into());
    until("it is in the log", async || said().await == [begun.clone()]).await;
    until("it is over", async || relay.handle.shedding().is_none()).await;
    let over = ("relay-1".into(), "relay.relieved".into());
    until("that is in the log", async || {
        said().await == [begun.clone(), over.clone()]
    })
    .await;
    relay.stop().await;
}

/// Fifty robots with the largest picture there may be: whoever subscribes gets it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_giant_retained_set_reaches_who_subscribes_and_holds_up_nobody() {
    const ROBOTS: usize = 50;
    let relay = Relay::start().await;
    let names: Vec<String> = (0..ROBOTS).map(|n| format!("kiwi-{n:02}")).collect();
    let mut robots = Vec::new();
    for name in &names {
        let identity = relay.robot(name).await;
        let mut robot = relay.connect(&identity, name).await;
        let padded = format!("{}{}", telemetry(name), " ".repeat(60_000));
        assert_eq!(
            robot.publish(&from(name, "state"), padded, true).await,
            PubAckReason::Success
        );
        robots.push(robot);
    }
    let watcher = relay.consumer("watcher").await;
    let mut consumer = relay.connect(&watcher, "consumer:watcher").await;
    consumer
        .subscribe("fleet/v1/default/robots/+/from/state")
        .await;
    let mut heard = std::collections::BTreeSet::new();
    let all = async {
        while heard.len() < ROBOTS {
            let message = consumer.message().await;
            assert!(message.payload.len() > 60_000);
            heard.insert(message.topic);
        }
    };
    let spoken = async {
        let telemetry = telemetry("kiwi-00");
        robots[0]
            .publish(&from("kiwi-00", "telemetry"), telemetry, false)
            .await
    };
    let ((), answer) = tokio::time::timeout(PATIENCE, async { tokio::join!(all, spoken) })
        .await
        .unwrap();
    assert_eq!(answer, PubAckReason::Success);
    relay.stop().await;
}
