//! What is in the protocol and in the cores. Pure.

use lekiwi_agent_core::trust::{Record, Trust};
use lekiwi_agent_core::{feetech, pattern, teleop::diag};
use lekiwi_protocol::discovery::{dhcp, packet::Packet};
use lekiwi_protocol::message::{
    Ack, Backlog, Command, Connection, Desired, EventBatch, Factsheet, Heartbeat, Reported, State,
    Telemetry,
};
use lekiwi_protocol::profile::Profile;
use lekiwi_protocol::signed::minisign::{PublicKey, Signature};
use lekiwi_protocol::signed::{Artefacts, Document, Proof, Signed};
use lekiwi_protocol::trace::TraceParent;
use lekiwi_protocol::{Envelope, MessageType, RobotId, Timestamp, Topic, api};
use lekiwi_relay_core::gateway::{Kinds, Pattern, parse_json};
use lekiwi_relay_core::history::block::{pack_samples, unpack_rollups, unpack_samples};
use lekiwi_relay_core::{Fleet, Input, Picture, Policy};
use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// All of them.
pub const TARGETS: &[crate::Target] = &[
    ("topic", topic),
    ("trace", trace),
    ("message", message),
    ("request", request),
    ("discovery", discovery),
    ("profile", profile),
    ("watcher", watcher),
    ("history", history),
    ("fleet", fleet),
    ("device", device),
    ("signed", signed),
];

fn topic(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(topic) = Topic::parse(text) {
        assert_eq!(topic.to_string(), text);
    }
}

/// Which trace a message or a request says that it belongs to.
fn trace(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Some(read) = TraceParent::parse(text) else {
        return;
    };
    let written = read.to_string();
    assert_eq!(TraceParent::parse(&written), Some(read));
    // All but the version, and flags that mean nothing yet.
    assert_eq!(text[3..53], written[3..53]);
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
    json::<api::Problem>(bytes);
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

/// A robot's messages, a line each, as the picture that the relay makes of them and keeps.
fn fleet(bytes: &[u8]) {
    let robot = RobotId::new("kiwi-01").expect("an id");
    let mut fleet = Fleet::new(Policy::default());
    for (second, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let now = Timestamp::from_ms(second * 1_000);
        fleet.handle_timeout(now);
        if let Some(input) = heard_of(&robot, line) {
            fleet.handle(now, input);
        }
        while fleet.poll_output().is_some() {}
    }
    for picture in fleet.take_changed() {
        let text = serde_json::to_string(&picture).expect("a picture can be written");
        let again = Picture::from_json(&text).expect("what was written can be read");
        assert_eq!(picture, again);
        let mut restored = Fleet::new(Policy::default());
        restored.restore(again, 1);
        assert!(restored.view(&robot).is_some());
    }
}

fn heard_of(robot: &RobotId, line: &[u8]) -> Option<Input> {
    fn read<P: DeserializeOwned>(
        of: MessageType,
        robot: &RobotId,
        line: &[u8],
    ) -> Option<Envelope<P>> {
        Envelope::parse(of, robot, line).ok()
    }
    let connection = || read(MessageType::Connection, robot, line).map(Input::Connection);
    let sheet =
        || read(MessageType::Factsheet, robot, line).map(|it| Input::Factsheet(Box::new(it)));
    let state = || read(MessageType::State, robot, line).map(|it| Input::State(Box::new(it)));
    let heartbeat = || read(MessageType::Heartbeat, robot, line).map(Input::Heartbeat);
    let telemetry = || read(MessageType::Telemetry, robot, line).map(Input::Telemetry);
    let reported = || {
        let read: Envelope<Reported> = read(MessageType::Reported, robot, line)?;
        Some(Input::Reported {
            robot: robot.clone(),
            reported: read.payload,
        })
    };
    connection()
        .or_else(sheet)
        .or_else(state)
        .or_else(heartbeat)
        .or_else(telemetry)
        .or_else(reported)
}

/// What servos say on their bus, what the kernel says of connections, and command lines of processes.
fn device(bytes: &[u8]) {
    // Longer than any answer: what is no frame is dropped byte by byte.
    let bytes = &bytes[..bytes.len().min(4096)];
    let (frames, garbage) = heard(&[bytes]);
    let singly: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(heard(&singly), (frames.clone(), garbage));
    let mut known = 0;
    for frame in &frames {
        let written = feetech::frame(frame.id, frame.code, &frame.parameters);
        assert!(bytes.windows(written.len()).any(|window| window == written));
        known += written.len();
    }
    assert_eq!(known + garbage, bytes.len());
    for answer in diag::answers(bytes) {
        if let diag::Answer::Open(id, connection) = answer {
            assert_eq!(id.cookie(), connection.id);
            assert_eq!(diag::lookup(&id).len(), 72);
        }
    }
    let (pattern, line) = bytes.split_at(bytes.len() / 4);
    if let Ok(pattern) = std::str::from_utf8(pattern)
        && pattern::matches(pattern, line)
    {
        assert!(pattern::matches(&format!("*{pattern}*"), line));
    }
}

/// The frames of bytes that come in these pieces, and how many of these belong to none.
fn heard(pieces: &[&[u8]]) -> (Vec<feetech::Frame>, usize) {
    let mut decoder = feetech::Decoder::default();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        frames.extend(std::iter::from_fn(|| decoder.next_frame()));
    }
    (frames, decoder.take_garbage())
}

/// Cryptography that believes every signature, so that what is behind it is reached.
#[derive(Debug)]
struct Gullible;

impl SignatureVerificationAlgorithm for Gullible {
    fn verify_signature(&self, _: &[u8], _: &[u8], _: &[u8]) -> Result<(), InvalidSignature> {
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }
}

/// A key, a signature, and, a line each, what is pinned, a proof, and the settings that go with it.
fn signed(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(key) = PublicKey::from_file(text) {
        assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
    }
    let _ = (Signature::parse(text), Artefacts::parse(text));
    json::<Proof>(bytes);
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default();
    let (pinned, proof, settings) = (line(), line(), line());
    let Ok(pinned) = serde_json::from_str::<Vec<Signed>>(pinned) else {
        return;
    };
    let Ok((mut trust, _)) = Trust::open(&pinned, Record::default(), &Gullible) else {
        return;
    };
    let Ok(proof) = serde_json::from_str::<Proof>(proof) else {
        return;
    };
    let now = Timestamp::from_ms(1_767_225_600_000);
    let desired = Desired {
        version: 1,
        settings: serde_json::from_str(settings).unwrap_or_default(),
        confirm_within_s: 60,
        confirmed: false,
        issued_at: now,
        by: String::new(),
        proof: Some(proof.clone()),
    };
    let robot = RobotId::new("kiwi-01").expect("an id");
    let before = trust.root().version;
    let outcome = trust.configuration(now, &robot, &desired, &Gullible);
    assert!(trust.root().version >= before);
    let _ = trust.artefacts(now, &proof, &Gullible);
    // What is kept is read again as it was, and what was taken is taken again.
    let kept = serde_json::to_vec(trust.record()).expect("a record can be written");
    let kept = serde_json::from_slice(&kept).expect("what was written can be read");
    let again = Trust::open(&pinned, kept, &Gullible);
    let (mut again, dropped) = again.expect("what was pinned is pinned");
    assert_eq!((&again, dropped), (&trust, None));
    if outcome.is_ok() {
        let repeated = again.configuration(now, &robot, &desired, &Gullible);
        assert_eq!(repeated, Ok(()));
    }
}
