#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use lekiwi_agent_core::lifecycle::FIRST_BACKOFF;
use lekiwi_agent_core::race::Race;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, PingResp};

use super::*;

struct Story {
    start: Instant,
    wire: Wire,
    out: BytesMut,
    came: BytesMut,
}

impl Story {
    /// A session that was accepted with these limits.
    fn begin(properties: Option<ConnAckProperties>) -> Self {
        let (start, mut out) = (Instant::now(), BytesMut::new());
        let will = LastWill::new("t", vec![1], QoS::AtLeastOnce, true, None);
        let wire = Wire::open(start, "kiwi-01".to_owned(), will, &mut out);
        let mut story = Self {
            start,
            wire,
            out,
            came: BytesMut::new(),
        };
        let said = story.said();
        let [Packet::Connect(connect, Some(will), None)] = &said[..] else {
            panic!("expected CONNECT with a will, got {said:?}");
        };
        assert_eq!(
            (connect.keep_alive, connect.clean_start, will.retain),
            (15, true, true)
        );
        let code = ConnectReturnCode::Success;
        let ack = ConnAck {
            session_present: false,
            code,
            properties,
        };
        assert_eq!(
            story.hears(0, &Packet::ConnAck(ack)).unwrap(),
            [Heard::Accepted]
        );
        story
    }

    fn at(&self, s: u64) -> Instant {
        self.start + Duration::from_secs(s)
    }

    fn said(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while !self.out.is_empty() {
            packets.push(Packet::read(&mut self.out, None).unwrap());
        }
        packets
    }

    fn hears(&mut self, s: u64, packet: &Packet) -> Result<Vec<Heard>, SessionError> {
        let now = self.at(s);
        packet.write(&mut self.came, None).unwrap();
        // Byte by byte, as it may come.
        let mut rest = self.came.split();
        let mut all = Vec::new();
        while !rest.is_empty() {
            self.came.unsplit(rest.split_to(1));
            self.wire.heard(now);
            while let Some(heard) = self.wire.next(now, &mut self.came, &mut self.out)? {
                all.push(heard);
            }
        }
        Ok(all)
    }

    fn asks(&mut self, s: u64, request: Request) {
        assert!(self.wire.takes_requests(&self.out));
        let now = self.at(s);
        self.wire.handle_request(now, request, &mut self.out);
    }

    fn publishes(&mut self, delivery: Delivery) {
        let (topic, payload) = ("a/b".to_owned(), vec![7; 3]);
        self.asks(
            0,
            Request::Publish {
                topic,
                payload,
                delivery,
                trace: None,
            },
        );
    }

    fn waits(&mut self, s: u64) -> Result<Vec<Packet>, String> {
        let now = self.at(s);
        let result = self.wire.handle_timeout(now, &mut self.out);
        result
            .map(|()| self.said())
            .map_err(|error| error.to_string())
    }
}

fn ids(packets: &[Packet]) -> Vec<u16> {
    let id = |packet: &Packet| match packet {
        Packet::Publish(publish) => publish.pkid,
        other => panic!("expected PUBLISH, got {other:?}"),
    };
    packets.iter().map(id).collect()
}

#[test]
fn sixteen_messages_are_unanswered_at_most_and_ids_come_free() {
    let mut story = Story::begin(None);
    for _ in 0..16 {
        story.publishes(Delivery::Acknowledged);
        story.publishes_once_if_room();
    }
    assert!(!story.wire.takes_requests(&story.out));
    let sent: Vec<u16> = ids(&story.said())
        .into_iter()
        .filter(|id| *id > 0)
        .collect();
    assert_eq!(sent, (1..=16).collect::<Vec<_>>());
    story
        .hears(1, &Packet::PubAck(PubAck::new(7, None)))
        .unwrap();
    // Those that were never asked for change nothing.
    for id in [0, 7, 99] {
        story
            .hears(1, &Packet::PubAck(PubAck::new(id, None)))
            .unwrap();
    }
    story.publishes(Delivery::Retained);
    assert_eq!(ids(&story.said()), [7]);
    assert!(!story.wire.takes_requests(&story.out));
}

impl Story {
    fn publishes_once_if_room(&mut self) {
        if self.wire.takes_requests(&self.out) {
            self.publishes(Delivery::Once);
        }
    }
}

#[test]
fn the_brokers_limits_hold() {
    let mut story = Story::begin(Some(ConnAckProperties {
        receive_max: Some(2),
        server_keep_alive: Some(5),
        max_packet_size: Some(20),
        ..limits()
    }));
    story.publishes(Delivery::Acknowledged);
    story.publishes(Delivery::Acknowledged);
    assert!(!story.wire.takes_requests(&story.out));
    story.said();
    assert!(matches!(story.waits(5).unwrap()[..], [Packet::PingReq(_)]));
    story
        .hears(5, &Packet::PubAck(PubAck::new(1, None)))
        .unwrap();
    let (topic, payload) = ("a".to_owned(), vec![0; 30]);
    let delivery = Delivery::Acknowledged;
    story.asks(
        6,
        Request::Publish {
            topic,
            payload,
            delivery,
            trace: None,
        },
    );
    assert_eq!(story.said(), [], "it is dropped, and its id is free again");
    story.publishes(Delivery::Acknowledged);
    assert_eq!(ids(&story.said()), [1]);
}

fn limits() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

#[test]
fn silence_is_asked_about_and_ends_within_25_seconds() {
    let mut story = Story::begin(None);
    assert_eq!(story.waits(14), Ok(vec![]));
    assert!(matches!(story.waits(15).unwrap()[..], [Packet::PingReq(_)]));
    story.hears(16, &Packet::PingResp(PingResp)).unwrap();
    assert_eq!(
        story.wire.poll_timeout(),
        story.at(30),
        "15 s after the ping"
    );
    // Talking alone does not keep it alive.
    story.asks(20, Request::Subscribe("to/#".to_owned()));
    story.said();
    assert!(matches!(story.waits(31).unwrap()[..], [Packet::PingReq(_)]));
    assert_eq!(story.waits(40), Ok(vec![]));
    story.wire.progressed(story.at(40));
    assert_eq!(story.waits(49), Ok(vec![]));
    assert_eq!(
        story.waits(50),
        Err("expected an answer to a ping within 10 s".to_owned())
    );
}

/// The worst that one way can do (H10): it falls silent right after it was heard, the first backoff is the longest, it
/// takes TCP again without a word, and the next way needs a second of a bad network for TLS and MQTT.
#[test]
fn a_robot_on_a_silent_way_is_on_the_next_within_30_seconds() {
    let mut story = Story::begin(None);
    let over = (0..60).find(|s| story.waits(*s).is_err()).unwrap();
    let begins = story.at(over) + FIRST_BACKOFF;
    let mut race = Race::new(2);
    assert_eq!(race.poll_begin(begins), Some(0));
    let next = race.poll_timeout().unwrap();
    assert_eq!(race.poll_begin(next), Some(1));
    let there = next + Duration::from_secs(1);
    assert!(there < story.at(30), "{:?}", there - story.start);
}

#[test]
fn a_probe_is_less_patient_and_one_that_slept_asks_again() {
    let mut story = Story::begin(None);
    assert!(matches!(story.waits(15).unwrap()[..], [Packet::PingReq(_)]));
    story.asks(16, Request::Probe);
    assert_eq!(story.said(), [], "one ping is enough");
    assert_eq!(story.wire.poll_timeout(), story.at(22));
    // Stopped for ten minutes.
    assert!(matches!(
        story.waits(622).unwrap()[..],
        [Packet::PingReq(_)]
    ));
    story.hears(623, &Packet::PingResp(PingResp)).unwrap();
    story.asks(624, Request::Probe);
    story.said();
    assert_eq!(
        story.waits(630),
        Err("expected an answer to a ping within 6 s".to_owned())
    );
}

#[test]
fn messages_come_whole_and_what_is_no_mqtt_is_said() {
    let mut story = Story::begin(None);
    let message = |qos, id| {
        let mut publish = Publish::new("to/ack", qos, vec![1, 2], None);
        publish.pkid = id;
        Packet::Publish(publish)
    };
    let heard = [Heard::Message {
        topic: "to/ack".to_owned(),
        payload: vec![1, 2],
    }];
    assert_eq!(story.hears(1, &message(QoS::AtMostOnce, 0)).unwrap(), heard);
    assert_eq!(story.said(), []);
    assert_eq!(
        story.hears(1, &message(QoS::AtLeastOnce, 9)).unwrap(),
        heard
    );
    assert_eq!(story.said(), [Packet::PubAck(PubAck::new(9, None))]);
    let error = story.hears(1, &message(QoS::ExactlyOnce, 9)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected QoS 0 from the broker, got another packet"
    );

    for goodbye in [&[0xE0, 2, 0x8E, 0][..], &[0xE0, 1, 0x8E]] {
        let mut story = Story::begin(None);
        story.came.extend_from_slice(goodbye);
        let now = story.at(1);
        let (came, out) = (&mut story.came, &mut story.out);
        assert_eq!(
            story.wire.next(now, came, out).unwrap_err().to_string(),
            "expected the broker to stay, but it left: SessionTakenOver"
        );
    }

    let mut story = Story::begin(None);
    story.came.extend_from_slice(&[0, 0]);
    let now = story.at(2);
    let (came, out) = (&mut story.came, &mut story.out);
    let error = story.wire.next(now, came, out).unwrap_err();
    assert_eq!(
        crate::driver::chain(&error),
        "expected MQTT 5 from the broker: Invalid packet type = 0"
    );
}

#[test]
fn a_refusal_is_one() {
    let (now, mut out, mut came) = (Instant::now(), BytesMut::new(), BytesMut::new());
    let will = LastWill::new("t", vec![], QoS::AtLeastOnce, true, None);
    let mut wire = Wire::open(now, "kiwi-01".to_owned(), will, &mut out);
    let ack = ConnAck {
        session_present: false,
        code: ConnectReturnCode::NotAuthorized,
        properties: None,
    };
    Packet::ConnAck(ack).write(&mut came, None).unwrap();
    let error = wire.next(now, &mut came, &mut out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected the broker to take this robot, got NotAuthorized"
    );
    let mut wire = Wire {
        accepted: false,
        ..wire
    };
    Packet::PingResp(PingResp).write(&mut came, None).unwrap();
    let error = wire.next(now, &mut came, &mut out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected CONNACK from the broker, got another packet"
    );
}
