//! What robots and consumers may rely on from whichever broker the fleet has: the same tests against the relay's own one
//! and against a real Mosquitto with the configuration of `deploy/mosquitto`. Where the two differ, `either` says
//! how, and `docs/broker.md` why.
#![expect(clippy::unwrap_used, reason = "tests")]

#[expect(dead_code, reason = "another test program starts it again")]
#[path = "support/mosquitto.rs"]
mod mosquitto;
#[path = "support/port.rs"]
mod port;
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lekiwi_protocol::Root;
use lekiwi_protocol::access::{Principal, Reads};
use rumqttc::TlsConfiguration;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Packet, PubAckReason, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, MqttOptions};
use support::{Ca, Client, Identity, Relay, connection, from, until, will};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A broker, and who may come to it.
enum Broker {
    Embedded(Box<Relay>),
    Mosquitto(Box<Mosquitto>),
}

struct Mosquitto {
    ca: Ca,
    program: mosquitto::Mosquitto,
    next_serial: AtomicU64,
}

impl Mosquitto {
    fn start() -> Self {
        let ca = Ca::new();
        let folder = tempfile::tempdir().unwrap();
        let server = ca.issue("localhost", "default", "server", 1);
        for (name, text) in [
            ("ca.pem", &ca.pem),
            ("server.pem", &server.cert_pem),
            ("server.key", &server.key_pem),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        // Each consumer is in the file by name: a second one like the first.
        let second = |access: String| {
            let one = &access[access.find("user consumer:analytics").unwrap()..];
            format!("{access}\n{}", one.replace("analytics", "second"))
        };
        let program = mosquitto::Mosquitto::start(folder, port::free(), "", second);
        Self {
            ca,
            program,
            next_serial: AtomicU64::new(100),
        }
    }
}

impl Broker {
    async fn both() -> [Self; 2] {
        [
            Self::Embedded(Box::new(Relay::start().await)),
            Self::Mosquitto(Box::new(Mosquitto::start())),
        ]
    }

    /// What is so with the one and with the other.
    fn either<T>(&self, embedded: T, mosquitto: T) -> T {
        match self {
            Self::Embedded(_) => embedded,
            Self::Mosquitto(_) => mosquitto,
        }
    }

    async fn robot(&self, id: &str) -> Identity {
        match self {
            Self::Embedded(relay) => relay.robot(id).await,
            Self::Mosquitto(mosquitto) => {
                let serial = mosquitto.next_serial.fetch_add(1, Ordering::Relaxed);
                mosquitto.ca.issue(id, "default", "robot", serial)
            }
        }
    }

    async fn consumer(&self, name: &str) -> Client {
        let id = format!("consumer:{name}");
        let identity = match self {
            Self::Embedded(relay) => relay.consumer(name).await,
            Self::Mosquitto(mosquitto) => {
                let serial = mosquitto.next_serial.fetch_add(1, Ordering::Relaxed);
                mosquitto.ca.issue(&id, "default", "consumer", serial)
            }
        };
        self.connect(&identity, &id).await
    }

    fn options(&self, identity: &Identity, client_id: &str) -> MqttOptions {
        match self {
            Self::Embedded(relay) => relay.options(identity, client_id),
            Self::Mosquitto(mosquitto) => {
                mosquitto
                    .ca
                    .options(mosquitto.program.port, identity, client_id)
            }
        }
    }

    async fn connect(&self, identity: &Identity, client_id: &str) -> Client {
        let options = self.options(identity, client_id);
        Client::connect(options).await.unwrap()
    }

    /// Sends `bytes` as they are, and waits until the broker ends the connection.
    async fn is_hung_up_on(&self, identity: &Identity, bytes: &[u8]) -> bool {
        let (ca, port) = match self {
            Self::Embedded(relay) => (&relay.ca, relay.port()),
            Self::Mosquitto(mosquitto) => (&mosquitto.ca, mosquitto.program.port),
        };
        let TlsConfiguration::Rustls(tls) = ca.tls(identity) else {
            unreachable!("the tests' clients have rustls")
        };
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let tls = tokio_rustls::TlsConnector::from(tls);
        let mut stream = tls.connect(name, tcp).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        // By an end of the stream or by a reset.
        let mut said = Vec::new();
        let end = stream.read_to_end(&mut said);
        // Before the broker would end a silent connection anyway: after 15 s, and with a session after 22.5 s.
        tokio::time::timeout(Duration::from_secs(10), end)
            .await
            .is_ok()
    }

    async fn stop(self) {
        if let Self::Embedded(relay) = self {
            relay.stop().await;
        }
    }
}

/// Connects, and gives what the broker says of the session.
async fn greeted(options: MqttOptions) -> ConnAck {
    let (_client, mut events) = AsyncClient::new(options, 10);
    loop {
        if let Event::Incoming(Packet::ConnAck(ack)) = events.poll().await.unwrap() {
            return ack;
        }
    }
}

async fn next(consumer: &mut Client) -> (String, String) {
    let message = consumer.message().await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&message.topic), text(&message.payload))
}

const EVERYTHING: &str = "fleet/v1/default/robots/+/from/#";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_robot_speaks_for_itself_only() {
    for broker in Broker::both().await {
        let kiwi = broker.robot("kiwi-01").await;
        let mut robot = broker.connect(&kiwi, "kiwi-01").await;
        let mut consumer = broker.consumer("analytics").await;
        let granted = consumer.subscribe(EVERYTHING).await;
        assert!(matches!(granted, SubscribeReasonCode::Success(_)));
        for topic in [from("kiwi-02", "state"), "fleet/v1/default/relays/r".into()] {
            let answer = robot.publish(&topic, "forged", false).await;
            assert_eq!(answer, PubAckReason::NotAuthorized, "{topic}");
        }
        robot.publish(&from("kiwi-01", "state"), "own", false).await;
        let own = (from("kiwi-01", "state"), "own".to_owned());
        assert_eq!(next(&mut consumer).await, own);
        // Whoever only reads does not write.
        let answer = consumer.publish(&own.0, "forged", false).await;
        assert_eq!(answer, PubAckReason::NotAuthorized);
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_for_somebody_does_not_reach_them() {
    for broker in Broker::both().await {
        let (kiwi, other) = (broker.robot("kiwi-01").await, broker.robot("kiwi-02").await);
        let mut robot = broker.connect(&kiwi, "kiwi-01").await;
        let mut spy = broker.connect(&other, "kiwi-02").await;
        let denied = spy.subscribe(EVERYTHING).await;
        // Mosquitto takes every subscription, and judges each message.
        let expected = broker.either(
            SubscribeReasonCode::NotAuthorized,
            SubscribeReasonCode::Success(QoS::AtLeastOnce),
        );
        assert_eq!(denied, expected);
        let mut consumer = broker.consumer("analytics").await;
        consumer.subscribe(EVERYTHING).await;
        robot
            .publish(&from("kiwi-01", "state"), "secret", false)
            .await;
        assert_eq!(next(&mut consumer).await.1, "secret");
        // An answer to the spy that comes after the message was handed out.
        spy.publish(&from("kiwi-02", "state"), "mine", false).await;
        assert!(spy.heard().is_empty());
        broker.stop().await;
    }
}

/// `consumer:wall` of `deploy/mosquitto/acl`, and the same of the embedded broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_hears_what_it_was_made_for() {
    for broker in Broker::both().await {
        if let Broker::Embedded(relay) = &broker {
            let filters = ["robots/kiwi-01/from/state", "alerts/+"].map(str::to_owned);
            let reads = Reads::parse(&filters).unwrap();
            let wall = "wall".parse().unwrap();
            relay.store.set_reads(wall, reads).await.unwrap();
        }
        let (kiwi, other) = (broker.robot("kiwi-01").await, broker.robot("kiwi-02").await);
        let mut robot = broker.connect(&kiwi, "kiwi-01").await;
        let mut second = broker.connect(&other, "kiwi-02").await;
        let mut wall = broker.consumer("wall").await;
        let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        let denied = broker.either(SubscribeReasonCode::NotAuthorized, granted);
        for filter in [EVERYTHING, "fleet/v1/default/tasks/+"] {
            assert_eq!(wall.subscribe(filter).await, denied, "{filter}");
        }
        let own = from("kiwi-01", "state");
        assert_eq!(wall.subscribe(&own).await, granted);
        assert_eq!(wall.subscribe("fleet/v1/default/alerts/+").await, granted);
        second
            .publish(&from("kiwi-02", "state"), "not this", false)
            .await;
        robot
            .publish(&from("kiwi-01", "events"), "nor this", false)
            .await;
        robot.publish(&own, "this", false).await;
        assert_eq!(next(&mut wall).await, (own.clone(), "this".to_owned()));
        let refused = wall.publish(&own, "{}", false).await;
        assert_eq!(refused, PubAckReason::NotAuthorized);
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_is_told_and_only_for_oneself() {
    for broker in Broker::both().await {
        let kiwi = broker.robot("kiwi-01").await;
        let mut consumer = broker.consumer("analytics").await;
        consumer.subscribe(EVERYTHING).await;
        let last = connection("kiwi-01", 7, "CONNECTION_BROKEN");
        let mut options = broker.options(&kiwi, "kiwi-01");
        options.set_last_will(will(&from("kiwi-01", "connection"), last.clone()));
        Client::connect(options).await.unwrap().vanish();
        assert_eq!(next(&mut consumer).await.1, last);

        // A will for another: the embedded broker does not let it in, Mosquitto does not tell it.
        let mut options = broker.options(&kiwi, "kiwi-01");
        options.set_last_will(will(&from("kiwi-02", "connection"), last));
        match (Client::connect(options).await, &broker) {
            (Err(ConnectionError::ConnectionRefused(code)), Broker::Embedded(_)) => {
                assert_eq!(code, ConnectReturnCode::NotAuthorized);
            }
            (Ok(client), Broker::Mosquitto(_)) => client.vanish(),
            _ => panic!("expected what docs/broker.md says"),
        }
        // Its successor comes after its end.
        let mut robot = broker.connect(&kiwi, "kiwi-01").await;
        robot
            .publish(&from("kiwi-01", "state"), "alive", false)
            .await;
        assert_eq!(next(&mut consumer).await.1, "alive");
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_is_kept_for_who_comes_later() {
    for broker in Broker::both().await {
        let kiwi = broker.robot("kiwi-01").await;
        let mut robot = broker.connect(&kiwi, "kiwi-01").await;
        let (state, heartbeat) = (from("kiwi-01", "state"), from("kiwi-01", "heartbeat"));
        robot.publish(&state, "first", true).await;
        robot.publish(&state, "second", true).await;
        robot.publish(&heartbeat, "old", true).await;
        let mut consumer = broker.consumer("analytics").await;
        consumer.subscribe(&state).await;
        let message = consumer.message().await;
        assert_eq!(
            (&message.payload[..], message.retain),
            (&b"second"[..], true)
        );
        // Heartbeats are kept by Mosquitto alone, if a robot wants it; ours never do.
        consumer.subscribe(&heartbeat).await;
        robot.publish(&heartbeat, "live", false).await;
        let (_, first) = next(&mut consumer).await;
        assert_eq!(first, broker.either("live", "old"));
        // An empty one clears.
        robot.publish(&state, "", true).await;
        let mut late = broker.consumer("second").await;
        late.subscribe(&state).await;
        robot.publish(&state, "third", false).await;
        assert_eq!(next(&mut late).await.1, "third");
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_lasts_as_long_as_the_broker_says() {
    for broker in Broker::both().await {
        let kiwi = broker.robot("kiwi-01").await;
        let reader = broker.robot("kiwi-02").await;
        let asked = || {
            let mut options = broker.options(&reader, "kiwi-02");
            options.set_clean_start(false);
            options.set_session_expiry_interval(Some(60));
            options
        };
        let ack = greeted(asked()).await;
        assert!(!ack.session_present);
        // No robot needs a session: the outbox sends again what has no acknowledgement.
        let lasts = ack.properties.and_then(|said| said.session_expiry_interval);
        assert_eq!(lasts, broker.either(Some(1), None));
        if let Broker::Mosquitto(_) = broker {
            let mut away = Client::connect(asked()).await.unwrap();
            away.subscribe("fleet/v1/default/robots/kiwi-02/from/#")
                .await;
            let robot = broker.connect(&kiwi, "kiwi-01").await;
            drop((away, robot));
            assert!(greeted(asked()).await.session_present);
        }
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_message_ends_with_its_expiry() {
    for broker in Broker::both().await {
        let kiwi = broker.robot("kiwi-01").await;
        let mut robot = broker.connect(&kiwi, "kiwi-01").await;
        let (state, reported) = (from("kiwi-01", "state"), from("kiwi-01", "reported"));
        let properties = PublishProperties {
            message_expiry_interval: Some(1),
            ..PublishProperties::default()
        };
        let sent = robot.client.publish_with_properties(
            &state,
            QoS::AtLeastOnce,
            true,
            "expires",
            properties,
        );
        sent.await.unwrap();
        robot.publish(&reported, "stays", true).await;
        tokio::time::sleep(Duration::from_millis(2_500)).await; // longer than it lasts
        let mut consumer = broker.consumer("analytics").await;
        consumer.subscribe(&state).await;
        consumer.subscribe(&reported).await;
        assert_eq!(next(&mut consumer).await.1, "stays");
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shares_a_subscription_shares_its_messages() {
    const SHARED: &str = "$share/group/fleet/v1/default/robots/+/from/#";
    for broker in Broker::both().await {
        let mut one = broker.consumer("analytics").await;
        let granted = one.subscribe(SHARED).await;
        if let Broker::Embedded(_) = broker {
            // Behind it there is one relay, and consumers each want everything.
            assert_eq!(granted, SubscribeReasonCode::NotAuthorized);
            broker.stop().await;
            continue;
        }
        let mut two = broker.consumer("second").await;
        assert!(matches!(
            two.subscribe(SHARED).await,
            SubscribeReasonCode::Success(_)
        ));
        let kiwi = broker.robot("kiwi-01").await;
        let mut robot = broker.connect(&kiwi, "kiwi-01").await;
        for number in 0..20 {
            let text = number.to_string();
            robot.publish(&from("kiwi-01", "state"), text, false).await;
        }
        let mut all = Vec::new();
        until("each message came to one of them", async || {
            all.extend(one.heard());
            all.extend(two.heard());
            all.len() >= 20
        })
        .await;
        let mut numbers: Vec<u8> = all
            .iter()
            .map(|message| {
                std::str::from_utf8(&message.payload)
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_breaks_the_protocol_is_hung_up_on_and_others_are_served() {
    fn connect(protocol: &[u8], flags: u8) -> Vec<u8> {
        let body = [protocol, &[flags, 0, 15, 0, 0, 7], b"kiwi-01"].concat();
        [&[0x10, body.len() as u8], &body[..]].concat()
    }
    let good = connect(b"\0\x04MQTT\x05", 2);
    let after = |packet: &[u8]| [&good[..], packet].concat();
    let cases: [(&str, Vec<u8>); 12] = [
        ("a message first", b"\x30\x03\0\x01a".to_vec()),
        ("a reserved type", b"\0\0".to_vec()),
        (
            "a length of five bytes",
            b"\x10\xff\xff\xff\xff\xff".to_vec(),
        ),
        ("a reserved flag", connect(b"\0\x04MQTT\x05", 3)),
        ("another protocol", connect(b"\0\x04MQTX\x05", 2)),
        ("version 9", connect(b"\0\x04MQTT\x09", 2)),
        ("a second CONNECT", after(&good)),
        ("QoS 3", after(b"\x36\x05\0\x01a\0\x01")),
        (
            "SUBSCRIBE with wrong flags",
            after(b"\x80\x07\0\x01\0\0\x01a\0"),
        ),
        ("SUBSCRIBE to nothing", after(b"\x82\x03\0\x01\0")),
        ("a topic that is not UTF-8", after(b"\x30\x04\0\x01\xff\0")),
        ("a topic beyond its packet", after(b"\x30\x03\0\x09a")),
    ];
    for broker in Broker::both().await {
        let kiwi = broker.robot("kiwi-01").await;
        for (what, bytes) in &cases {
            assert!(broker.is_hung_up_on(&kiwi, bytes).await, "{what}");
        }
        let mut consumer = broker.consumer("analytics").await;
        consumer.subscribe(EVERYTHING).await;
        let mut robot = broker.connect(&kiwi, "kiwi-01").await;
        robot
            .publish(&from("kiwi-01", "state"), "well", false)
            .await;
        assert_eq!(next(&mut consumer).await.1, "well");
        broker.stop().await;
    }
}

/// What the code says that each may publish is what Mosquitto lets it publish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_rules_are_those_of_the_contract() {
    let mosquitto = Mosquitto::start();
    let root = Root::default();
    let others = [
        "fleet/v1/default/relays/relay-1",
        "fleet/v1/default/relays/relay-2",
        "fleet/v1/default/alerts/hot:kiwi-01:1",
        "fleet/v1/default/tasks/t1",
        "fleet/v1/other/robots/kiwi-01/from/connection",
    ];
    let robots = ["kiwi-01", "kiwi-02"].into_iter().flat_map(|robot| {
        let topics = [
            "from/connection",
            "from/state",
            "from/events",
            "from/cmd/1",
            "to/ack",
            "to/estop",
            "to/cmd/ping/1",
        ];
        topics.map(|topic| format!("fleet/v1/default/robots/{robot}/{topic}"))
    });
    let topics: Vec<String> = others
        .map(str::to_owned)
        .into_iter()
        .chain(robots)
        .collect();
    for (principal, unit) in [
        (Principal::Robot("kiwi-01".parse().unwrap()), "robot"),
        (
            Principal::Consumer("analytics".parse().unwrap(), Reads::default()),
            "consumer",
        ),
        (Principal::Relay("relay-1".parse().unwrap()), "relay"),
    ] {
        let name = principal.common_name();
        let serial = mosquitto.next_serial.fetch_add(1, Ordering::Relaxed);
        let identity = mosquitto.ca.issue(&name, "default", unit, serial);
        let options = mosquitto
            .ca
            .options(mosquitto.program.port, &identity, &name);
        let mut client = Client::connect(options).await.unwrap();
        for topic in &topics {
            let answer = client.publish(topic, "{}", false).await;
            assert_eq!(
                answer != PubAckReason::NotAuthorized,
                principal.may_publish(&root, topic).is_ok(),
                "{name} to {topic}: {answer:?}"
            );
        }
    }
}
