//! What reads bytes of strangers, one function each. `cargo xtask fuzz` lets libFuzzer look for bytes that break one;
//! `tests/seeds.rs` tries those that are checked in. Pure.

use lekiwi_protocol::discovery::{dhcp, packet::Packet};
use lekiwi_protocol::message::{
    Ack, Backlog, Command, Connection, Desired, EventBatch, Factsheet, Heartbeat, Reported, State,
    Telemetry,
};
use lekiwi_protocol::profile::Profile;
use lekiwi_protocol::{MessageType, RobotId, Topic, api};
use lekiwi_relay_core::gateway::{Kinds, Pattern, parse_json};
use lekiwi_relay_core::history::block::{pack_samples, unpack_rollups, unpack_samples};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A name, and what is tried on the bytes; it panics where they break something.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("topic", topic),
    ("message", message),
    ("request", request),
    ("discovery", discovery),
    ("profile", profile),
    ("watcher", watcher),
    ("history", history),
];

fn topic(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(topic) = Topic::parse(text) {
        assert_eq!(topic.to_string(), text);
    }
}

/// What is read is written, and read as the same again.
fn json<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(first) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let text = serde_json::to_vec(&first).expect("what was read can be written");
    let again = serde_json::from_slice(&text);
    assert_eq!(first, again.expect("what was written can be read"));
}

fn message(bytes: &[u8]) {
    type Envelope<P> = lekiwi_protocol::Envelope<P>;
    json::<Envelope<Ack>>(bytes);
    json::<Envelope<Backlog>>(bytes);
    json::<Envelope<Command>>(bytes);
    json::<Envelope<Connection>>(bytes);
    json::<Envelope<Desired>>(bytes);
    json::<Envelope<EventBatch>>(bytes);
    json::<Envelope<Factsheet>>(bytes);
    json::<Envelope<Heartbeat>>(bytes);
    json::<Envelope<Reported>>(bytes);
    json::<Envelope<State>>(bytes);
    json::<Envelope<Telemetry>>(bytes);
    let robot = RobotId::new("kiwi-01").expect("an id");
    let read = Envelope::<Telemetry>::parse(MessageType::Telemetry, &robot, bytes);
    if let Ok(read) = read {
        assert_eq!(read.robot_id, robot);
    }
}

fn request(bytes: &[u8]) {
    json::<lekiwi_protocol::alert::Rule>(bytes);
    json::<api::Approval>(bytes);
    json::<api::CommandRequest>(bytes);
    json::<api::ConfigurationRequest>(bytes);
    json::<api::ConsumerRequest>(bytes);
    json::<api::SilenceRequest>(bytes);
    json::<api::TokenRequest>(bytes);
    if let Ok(rule) = serde_json::from_slice::<lekiwi_protocol::alert::Rule>(bytes) {
        let _ = rule.check();
    }
}

fn discovery(bytes: &[u8]) {
    let _ = Packet::parse(bytes);
    let _ = dhcp::Asked::read(bytes);
}

fn profile(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Profile::parse(text, "a stranger");
    }
}

fn watcher(bytes: &[u8]) {
    let _ = parse_json(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (Pattern::parse(text), Kinds::parse(text));
    }
}

fn history(bytes: &[u8]) {
    if let Ok(samples) = unpack_samples(0, bytes) {
        let again = unpack_samples(0, &pack_samples(0, &samples)).expect("what was packed");
        assert_eq!(samples.len(), again.len());
    }
    let _ = unpack_rollups(0, 60_000, bytes);
}
