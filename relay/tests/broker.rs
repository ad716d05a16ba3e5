//! The embedded broker over real TLS: who may do what, and what the relay makes of it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use lekiwi_protocol::api::{ConnectionKind, ConnectionView};
use lekiwi_relay::metrics::ConsumerLabels;
use rumqttc::v5::ConnectionError;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, PubAckReason, SubscribeReasonCode};
use support::{Client, Relay, connection, envelope, events, from, start_broker, until, will};

fn refused(result: Result<Client, ConnectionError>) -> ConnectReturnCode {
    match result {
        Err(ConnectionError::ConnectionRefused(code)) => code,
        Err(other) => panic!("expected a refusal, got {other}"),
        Ok(_) => panic!("expected a refusal, got a connection"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_robot_speaks_for_itself_and_for_nobody_else() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    let telemetry = envelope(
        "kiwi-01",
        "telemetry",
        &serde_json::json!({ "metrics": { "cpu_percent": 12.5 } }),
    );
    assert_eq!(
        client
            .publish(&from("kiwi-01", "telemetry"), telemetry.clone(), false)
            .await,
        PubAckReason::Success
    );
    until("the figure is in the picture", async || {
        relay
            .view("kiwi-01")
            .is_some_and(|view| view.resources.values().eq([&12.5]))
    })
    .await;

    for topic in [
        from("kiwi-02", "state"),
        "fleet/v1/default/relays/relay-1".into(),
        "fleet/v1/default/robots/kiwi-01/to/estop".into(),
    ] {
        assert_eq!(
            client.publish(&topic, telemetry.clone(), true).await,
            PubAckReason::NotAuthorized,
            "{topic}"
        );
        relay.refusal(&format!("kiwi-01 {topic}: robot kiwi-01 may publish only below its own robots/kiwi-01/from/, not to {topic:?}")).await;
    }
    assert_eq!(
        client.publish("fleet/v2/default/x/y", "{}", false).await,
        PubAckReason::NotAuthorized
    );
    relay
        .refusal("kiwi-01 fleet/v2/default/x/y: expected version v1, got \"v2\"")
        .await;
    assert!(relay.view("kiwi-02").is_none());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_messages_are_refused_one_by_one() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    let topic = from("kiwi-01", "telemetry");
    let huge = " ".repeat(65_537);
    assert_eq!(
        client.publish(&topic, huge, false).await,
        PubAckReason::NotAuthorized
    );
    relay
        .refusal(&format!(
            "kiwi-01 {topic}: expected at most 65536 bytes, got 65537"
        ))
        .await;
    for (payload, reason) in [
        (
            "{".to_owned(),
            "expected a telemetry envelope as JSON: EOF while parsing an object at line 1 column 1",
        ),
        (
            envelope(
                "kiwi-02",
                "telemetry",
                &serde_json::json!({ "metrics": {} }),
            ),
            "expected robot_id kiwi-01, got kiwi-02",
        ),
        (
            envelope(
                "kiwi-01",
                "heartbeat",
                &serde_json::json!({ "metrics": {} }),
            ),
            "expected type telemetry, got heartbeat",
        ),
    ] {
        assert_eq!(
            client.publish(&topic, payload, false).await,
            PubAckReason::Success
        );
        relay.refusal(&format!("kiwi-01 {topic}: {reason}")).await;
    }
    let topic = from("kiwi-01", "events");
    client
        .publish(&topic, events("kiwi-01", 1, 0..=0), false)
        .await;
    relay
        .refusal(&format!(
            "kiwi-01 {topic}: expected ascending event numbers from 1, got 0 after 0"
        ))
        .await;
    client
        .publish(&topic, events("kiwi-01", 1, 1..=101), false)
        .await;
    relay
        .refusal(&format!(
            "kiwi-01 {topic}: expected at most 100 events, got 101"
        ))
        .await;
    let text = relay.metrics.encode();
    assert!(
        text.contains("lekiwi_refused_total{reason=\"malformed\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("lekiwi_refused_total{reason=\"oversized\"} 1"),
        "{text}"
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_end_at_ones_own_topics() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let watcher = relay.consumer("watcher").await;
    let mut robot = relay.connect(&kiwi, "kiwi-01").await;
    let mut consumer = relay.connect(&watcher, "consumer:watcher:1").await;
    for filter in [
        "fleet/v1/default/robots/kiwi-01/to/#",
        "fleet/v1/default/relays/+",
    ] {
        assert!(
            matches!(
                robot.subscribe(filter).await,
                SubscribeReasonCode::Success(_)
            ),
            "{filter}"
        );
    }
    for filter in [
        "#",
        "fleet/v1/default/robots/+/from/#",
        "fleet/v1/default/robots/kiwi-02/to/#",
        "$share/g/fleet/v1/default/relays/+",
    ] {
        assert_eq!(
            robot.subscribe(filter).await,
            SubscribeReasonCode::NotAuthorized,
            "{filter}"
        );
    }
    for filter in [
        "fleet/v1/default/robots/+/from/#",
        "fleet/v1/default/relays/+",
    ] {
        assert!(
            matches!(
                consumer.subscribe(filter).await,
                SubscribeReasonCode::Success(_)
            ),
            "{filter}"
        );
    }
    for filter in [
        "#",
        "fleet/v1/other/robots/+/from/#",
        "fleet/v1/default/robots/+/to/#",
        "fleet/#",
    ] {
        assert_eq!(
            consumer.subscribe(filter).await,
            SubscribeReasonCode::NotAuthorized,
            "{filter}"
        );
    }
    relay.refusal("kiwi-01 fleet/v1/default/robots/kiwi-02/to/#: kiwi-01 may not subscribe to \"fleet/v1/default/robots/kiwi-02/to/#\"").await;
    let topic = from("kiwi-01", "state");
    assert_eq!(
        consumer.publish(&topic, "{}", true).await,
        PubAckReason::NotAuthorized
    );
    relay
        .refusal(&format!(
            "consumer:watcher:1 {topic}: consumer watcher may not publish"
        ))
        .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_one_client_id_and_one_will() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let code = refused(Client::connect(relay.options(&kiwi, "kiwi-02")).await);
    assert_eq!(code, ConnectReturnCode::NotAuthorized);
    relay
        .refusal("kiwi-02 : expected client id kiwi-01, got \"kiwi-02\"")
        .await;

    for (topic, reason) in [
        (
            from("kiwi-02", "connection"),
            "robot kiwi-01 may publish only below its own robots/kiwi-01/from/, not to",
        ),
        (
            from("kiwi-01", "events"),
            "robot kiwi-01 may leave a will only on its own from/connection, not on",
        ),
    ] {
        let mut options = relay.options(&kiwi, "kiwi-01");
        options.set_last_will(will(&topic, connection("kiwi-02", 7, "CONNECTION_BROKEN")));
        assert_eq!(
            refused(Client::connect(options).await),
            ConnectReturnCode::NotAuthorized
        );
        relay
            .refusal(&format!("kiwi-01 : {reason} {topic:?}"))
            .await;
    }
    let watcher = relay.consumer("watcher").await;
    let mut options = relay.options(&watcher, "consumer:watcher");
    options.set_last_will(will(
        &from("kiwi-01", "connection"),
        connection("kiwi-01", 7, "CONNECTION_BROKEN"),
    ));
    assert_eq!(
        refused(Client::connect(options).await),
        ConnectReturnCode::NotAuthorized
    );
    relay
        .refusal("consumer:watcher : consumer watcher may not publish")
        .await;
    assert!(relay.view("kiwi-02").is_none());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_revoked_certificates_stay_outside() {
    let relay = Relay::start().await;
    let forgotten = relay.ca.issue("kiwi-09", "default", "robot", 9);
    assert_eq!(
        refused(Client::connect(relay.options(&forgotten, "kiwi-09")).await),
        ConnectReturnCode::NotAuthorized
    );
    relay
        .refusal("kiwi-09 : expected a certificate that this relay issued, got unknown serial 9")
        .await;
    let foreign = relay.ca.issue("kiwi-01", "other", "robot", 10);
    assert_eq!(
        refused(Client::connect(relay.options(&foreign, "kiwi-01")).await),
        ConnectReturnCode::NotAuthorized
    );
    relay
        .refusal("kiwi-01 : expected a certificate with O=default, got O=\"other\"")
        .await;

    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    let revoked = relay.store.revoke_certificate(&kiwi.serial, 1).await;
    assert_eq!(revoked.unwrap(), [kiwi.serial.as_str()]);
    relay.broker.disconnect("kiwi-01").await;
    tokio::time::timeout(support::PATIENCE, &mut client.events)
        .await
        .expect("the connection ends")
        .unwrap();
    assert_eq!(
        refused(Client::connect(relay.options(&kiwi, "kiwi-01")).await),
        ConnectReturnCode::NotAuthorized
    );
    relay
        .refusal(&format!(
            "kiwi-01 : certificate {} of \"kiwi-01\" was revoked",
            kiwi.serial
        ))
        .await;

    // Another authority's certificate does not even get through TLS.
    let stranger = support::Ca::new().issue("kiwi-01", "default", "robot", 11);
    assert!(!matches!(
        Client::connect(relay.options(&stranger, "kiwi-01")).await,
        Err(ConnectionError::ConnectionRefused(_)) | Ok(_)
    ));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_is_seen_at_once_and_an_old_one_is_not_believed() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let watcher = relay.consumer("watcher").await;
    let topic = from("kiwi-01", "connection");
    let online = async || relay.view("kiwi-01").is_some_and(|view| view.status.online);
    let born = async |session: u128| {
        let mut options = relay.options(&kiwi, "kiwi-01");
        options.set_last_will(will(
            &topic,
            connection("kiwi-01", session, "CONNECTION_BROKEN"),
        ));
        let mut client = Client::connect(options).await.unwrap();
        assert_eq!(
            client
                .publish(&topic, connection("kiwi-01", session, "ONLINE"), true)
                .await,
            PubAckReason::Success
        );
        client
    };
    let first = born(1).await;
    until("online", online).await;
    // The second connection throws the first one out, whose will comes late.
    let second = born(2).await;
    drop(first);
    until("online again", online).await;
    let mut consumer = relay.connect(&watcher, "consumer:watcher").await;
    consumer.subscribe("fleet/v1/default/robots/+/from/#").await;
    until("the broker holds the birth again", async || {
        let text = String::from_utf8(consumer.message().await.payload.to_vec()).unwrap();
        text.contains("ONLINE") && text.contains(&uuid::Uuid::from_u128(2).to_string())
    })
    .await;
    second.vanish();
    until("offline", async || !online().await).await;
    let status = relay.view("kiwi-01").unwrap().status;
    assert_eq!(
        status.connection,
        lekiwi_protocol::message::ConnectionState::ConnectionBroken
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_acknowledged_after_the_commit_and_again_as_duplicates() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    client
        .subscribe("fleet/v1/default/robots/kiwi-01/to/#")
        .await;
    let topic = from("kiwi-01", "events");
    let stream = uuid::Uuid::from_u128(5);
    for expected in [[1, 3], [1, 3]] {
        client
            .client
            .publish(
                &topic,
                rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
                false,
                events("kiwi-01", 5, 1..=3),
            )
            .await
            .unwrap();
        let ack: serde_json::Value =
            serde_json::from_slice(&client.message().await.payload).unwrap();
        assert_eq!(ack["type"], "ack");
        assert_eq!(
            ack["payload"]["acks"][stream.to_string()],
            serde_json::json!([expected])
        );
    }
    let kept = relay
        .store
        .events_of_robot("kiwi-01", 0, 100)
        .await
        .unwrap();
    let seqs: Vec<u64> = kept
        .iter()
        .filter(|e| &*e.event.source == "kiwi-01")
        .map(|e| e.event.seq)
        .collect();
    assert_eq!(seqs, [1, 2, 3]);

    let view = relay.view("kiwi-01");
    let database = relay.dir.path().join("relay.db");
    let (dir, ca) = relay.stop().await;
    let relay = Relay::start_with(dir, ca, &database).await;
    assert_eq!(relay.view("kiwi-01"), view, "the picture comes back");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_are_those_of_the_contract() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let watcher = relay.consumer("watcher").await;
    let mut client = relay.connect(&kiwi, "kiwi-01").await;
    client
        .publish(&from("kiwi-01", "heartbeat"), "{}", true)
        .await;
    client
        .publish(&from("kiwi-01", "reported"), "kept", true)
        .await;
    let mut consumer = relay.connect(&watcher, "consumer:watcher").await;
    consumer.subscribe("fleet/v1/default/robots/+/from/#").await;
    let message = consumer.message().await;
    assert_eq!((&message.payload[..], message.retain), (&b"kept"[..], true));
    consumer.subscribe("fleet/v1/default/relays/+").await;
    let birth: serde_json::Value =
        serde_json::from_slice(&consumer.message().await.payload).unwrap();
    assert_eq!(
        (&birth["relay_id"], &birth["online"]),
        (&"relay-1".into(), &true.into())
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_read_is_disconnected() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let watcher = relay.consumer("watcher").await;
    let mut robot = relay.connect(&kiwi, "kiwi-01").await;
    let mut consumer = relay.connect(&watcher, "consumer:watcher").await;
    assert!(matches!(
        consumer.subscribe("fleet/v1/default/robots/+/from/#").await,
        SubscribeReasonCode::Success(_)
    ));
    // A second one that reads is left alone.
    let reader = relay.consumer("reader").await;
    let mut reading = relay.connect(&reader, "consumer:reader").await;
    reading.subscribe("fleet/v1/default/robots/+/from/#").await;
    // From here on nobody polls the first one's socket: the bytes pile up in the kernel, then in the broker.
    consumer.stop_reading();
    let payload = " ".repeat(60_000);
    let flood = async {
        loop {
            robot
                .publish(&from("kiwi-01", "state"), payload.clone(), false)
                .await;
        }
    };
    let cut = until("the stalled one is gone", async || {
        relay.metrics.stalled.get() == 1 && relay.broker.connections() == 2
    });
    tokio::select! {
        () = flood => {}
        () = cut => {}
    }
    let by = ConsumerLabels { by: "mqtt" };
    assert!(relay.metrics.slow_consumers.get_or_create(&by).get() > 0);
    assert!(!reading.message().await.payload.is_empty());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt_3_1_1_is_served_on_the_same_port() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let mut options = rumqttc::MqttOptions::new("kiwi-01", "localhost", relay.port());
    options.set_transport(rumqttc::Transport::Tls(relay.tls(&kiwi)));
    options.set_keep_alive(Duration::from_secs(15));
    let (client, mut loop_) = rumqttc::AsyncClient::new(options, 10);
    let task = tokio::spawn(async move { while loop_.poll().await.is_ok() {} });
    let heartbeat = envelope(
        "kiwi-01",
        "heartbeat",
        &serde_json::json!({ "session": uuid::Uuid::nil(), "uptime_s": 77 }),
    );
    client
        .publish(
            from("kiwi-01", "heartbeat"),
            rumqttc::QoS::AtLeastOnce,
            false,
            heartbeat,
        )
        .await
        .unwrap();
    until("heard", async || {
        relay
            .view("kiwi-01")
            .is_some_and(|view| view.status.uptime_s == Some(77))
    })
    .await;
    task.abort();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named() {
    let relay = Relay::start().await;
    let address = relay.broker.address().unwrap().to_string();
    let error = start_broker(
        relay.dir.path(),
        &relay.ca,
        &relay.store,
        &relay.metrics,
        &address,
        relay.protect.clone(),
    )
    .await
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen for MQTT on {address}: address in use")
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_either_way_are_counted_and_their_lag_is_measured() {
    let relay = Relay::start().await;
    let kiwi = relay.robot("kiwi-01").await;
    let watcher = relay.consumer("watcher").await;
    let mut consumer = relay.connect(&watcher, "consumer:watcher:1").await;
    consumer.subscribe("fleet/v1/default/robots/+/from/#").await;
    let mut robot = relay.connect(&kiwi, "kiwi-01").await;
    let topic = from("kiwi-01", "heartbeat");
    let heartbeat = serde_json::json!({ "session": uuid::Uuid::nil(), "uptime_s": 1 });
    let unset = envelope("kiwi-01", "heartbeat", &heartbeat);
    let mut set: serde_json::Value = serde_json::from_str(&unset).unwrap();
    set["clock"] = "synced".into();
    for message in [unset, set.to_string(), "{".to_owned()] {
        robot.publish(&topic, message, false).await;
        consumer.message().await;
    }
    robot
        .publish(
            &from("kiwi-01", "events"),
            events("kiwi-01", 5, 1..=3),
            false,
        )
        .await;
    consumer.message().await;
    until("all is counted", async || {
        let text = relay.metrics.encode();
        let has = |line: &str| text.lines().any(|l| l == line);
        // One is of a robot whose clock is not set, and one is no heartbeat. The fourth event is its registration.
        has("lekiwi_heartbeat_lag_seconds_count 1") && has("lekiwi_event_lag_seconds_count 4")
    })
    .await;
    assert_eq!(relay.metrics.robots_registered.get(), 1);
    let mut connected = relay.broker.connected("", 10);
    connected.sort_by(|a, b| a.id.cmp(&b.id));
    let counts = |view: &ConnectionView| (view.id.clone(), view.kind, view.received, view.sent);
    assert_eq!(
        connected.iter().map(counts).collect::<Vec<_>>(),
        [
            (
                "consumer:watcher:1".to_owned(),
                ConnectionKind::Consumer,
                0,
                4
            ),
            ("kiwi-01".to_owned(), ConnectionKind::Robot, 4, 0),
        ]
    );
    assert_eq!(relay.broker.connected("consumer:watcher:1", 10).len(), 1);
    assert_eq!(relay.broker.missing(), None);
    relay.broker.stop_listening();
    until("nobody can connect", async || {
        relay.broker.missing().is_some()
    })
    .await;
    relay.stop().await;
}
