//! What live messages say, and the forms in which they travel. Each form is made once, by the first client that
//! needs it, and shared by all: of 10,000 watchers none serialises or compresses by itself.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use lekiwi_protocol::api::{RelayMessage, Summary, Watchers};
use lekiwi_protocol::message::{Command, CommandStatus, Metrics, Op, Priority};
use lekiwi_protocol::{MetricName, RobotId, Timestamp};
use lekiwi_relay_core::LivePayload;
use lekiwi_relay_core::gateway::{self, PRESENCE};
use serde::Serialize;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::store::records::StoredEvent;

/// A live message.
pub type Message = gateway::Message<Content>;

/// Below this, compression is not worth its while.
const COMPRESS_FROM: usize = 160;

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An event of a stream of Server-Sent Events.
    Sse,
    /// A WebSocket frame with JSON.
    Json {
        /// Whether permessage-deflate was agreed on.
        deflate: bool,
    },
    /// A WebSocket frame with CBOR.
    Cbor {
        /// Whether permessage-deflate was agreed on.
        deflate: bool,
    },
}

impl Form {
    fn slot(self) -> usize {
        match self {
            Self::Sse => 0,
            Self::Json { deflate } => 1 + usize::from(deflate),
            Self::Cbor { deflate } => 3 + usize::from(deflate),
        }
    }
}

/// What a message says.
#[derive(Debug)]
pub enum Payload {
    /// What a robot is or measures.
    Picture(LivePayload),
    /// Telemetry of a span of time.
    Aggregated {
        /// The newest values.
        metrics: Metrics,
        /// What became of each metric.
        aggregates: BTreeMap<MetricName, Summary>,
    },
    /// An event of the log.
    Event(Box<StoredEvent>),
    /// What a robot is told to do.
    Command(Box<Command>),
    /// What it says of that.
    Response(Box<CommandStatus>),
    /// Who watches a robot.
    Presence(Watchers),
}

/// A payload with its envelope's numbers, and the forms that were made of it.
#[derive(Debug)]
pub struct Content {
    payload: Payload,
    sequence: u64,
    timestamp: Timestamp,
    forms: [OnceLock<Bytes>; 5],
}

impl gateway::Content for Content {
    fn metrics(&self) -> Option<&Metrics> {
        match &self.payload {
            Payload::Picture(LivePayload::Telemetry(metrics))
            | Payload::Aggregated { metrics, .. } => Some(metrics),
            _ => None,
        }
    }

    fn merged(&self, metrics: Metrics, aggregates: Option<BTreeMap<MetricName, Summary>>) -> Self {
        let payload = match aggregates {
            Some(aggregates) => Payload::Aggregated {
                metrics,
                aggregates,
            },
            None => Payload::Picture(LivePayload::Telemetry(metrics)),
        };
        Self::new(payload, self.sequence, self.timestamp)
    }

    fn weight(&self) -> usize {
        /// A robot's state or factsheet, as JSON of real ones.
        const WHOLE: usize = 3_000;
        /// A metric.
        const METRIC: usize = 64;
        match &self.payload {
            Payload::Picture(LivePayload::Telemetry(metrics)) => METRIC * metrics.len(),
            Payload::Aggregated { metrics, .. } => 2 * METRIC * metrics.len(),
            Payload::Picture(LivePayload::State(_) | LivePayload::Factsheet(_)) => WHOLE,
            Payload::Picture(_) | Payload::Presence(_) => METRIC,
            Payload::Event(event) => event.event.data.len() + event.event.metadata.len(),
            Payload::Command(_) | Payload::Response(_) => WHOLE,
        }
    }
}

impl Content {
    fn new(payload: Payload, sequence: u64, timestamp: Timestamp) -> Self {
        Self {
            payload,
            sequence,
            timestamp,
            forms: Default::default(),
        }
    }

    /// The event of the log that it tells of, if it does.
    pub(super) fn event(&self) -> Option<&StoredEvent> {
        match &self.payload {
            Payload::Event(event) => Some(event),
            _ => None,
        }
    }
}

/// What a robot is or measures, as a message.
pub(super) fn picture(
    now: Timestamp,
    robot: RobotId,
    sequence: u64,
    payload: LivePayload,
) -> Message {
    let kind = match &payload {
        LivePayload::Connection(_) => "connection",
        LivePayload::Factsheet(_) => "factsheet",
        LivePayload::State(_) => "state",
        LivePayload::Heartbeat(_) => "heartbeat",
        LivePayload::Telemetry(_) => "telemetry",
    };
    Message {
        robot,
        kind: kind.into(),
        priority: Priority::Normal,
        position: None,
        picture: true,
        content: Content::new(Payload::Picture(payload), sequence, now),
    }
}

/// An event of the log, as a message.
pub(super) fn event(robot: RobotId, stored: StoredEvent) -> Message {
    let (position, received) = (stored.position, stored.event.received_ms);
    let kind = stored.event.kind.clone();
    Message {
        robot,
        priority: Priority::of(&kind),
        kind,
        position: Some(position),
        picture: false,
        content: Content::new(
            Payload::Event(Box::new(stored)),
            position,
            Timestamp::from_ms(received),
        ),
    }
}

/// What a robot is told to do, as a message.
pub(super) fn command(now: Timestamp, robot: RobotId, command: Command) -> Message {
    let priority = if command.op == Op::Estop {
        Priority::Critical
    } else {
        Priority::High
    };
    Message {
        robot,
        kind: "command".into(),
        priority,
        position: None,
        picture: false,
        content: Content::new(Payload::Command(Box::new(command)), 0, now),
    }
}

/// What a robot says of a command, as a message.
pub(super) fn response(
    now: Timestamp,
    robot: RobotId,
    sequence: u64,
    status: CommandStatus,
) -> Message {
    Message {
        robot,
        kind: "response".into(),
        priority: Priority::High,
        position: None,
        picture: false,
        content: Content::new(Payload::Response(Box::new(status)), sequence, now),
    }
}

/// Who watches a robot, as a message.
pub(super) fn presence(
    now: Timestamp,
    robot: RobotId,
    sequence: u64,
    watchers: Watchers,
) -> Message {
    Message {
        robot,
        kind: PRESENCE.into(),
        priority: Priority::Normal,
        position: None,
        picture: true,
        content: Content::new(Payload::Presence(watchers), sequence, now),
    }
}

/// The envelope of H4.
#[derive(Serialize)]
struct Wire<'a, P> {
    #[serde(rename = "type")]
    message_type: &'a str,
    robot_id: &'a RobotId,
    timestamp: Timestamp,
    sequence: u64,
    payload: &'a P,
}

/// A message in a form, made at most once.
#[must_use]
pub fn form(message: &Arc<Message>, form: Form) -> Bytes {
    let made = message.content.forms.get(form.slot());
    made.map(|made| made.get_or_init(|| make(message, form)).clone())
        .unwrap_or_default()
}

/// What only one client is told, in its form.
#[must_use]
pub fn said(message: &RelayMessage, form: Form) -> Bytes {
    let json = serialize(message);
    let name = match message {
        RelayMessage::Subscribed { .. } => "subscribed",
        RelayMessage::Replayed { .. } => "replayed",
        RelayMessage::Bookmark { .. } => "bookmark",
        RelayMessage::Unsubscribed { .. } => "unsubscribed",
        RelayMessage::Pong { .. } => "pong",
        RelayMessage::Error { .. } => "error",
        RelayMessage::Lagged(_) => "lagged",
        RelayMessage::Slowed { .. } => "slowed",
        RelayMessage::Resumed { .. } => "resumed",
    };
    dress(json, form, name)
}

fn make(message: &Message, form: Form) -> Bytes {
    #[derive(Serialize)]
    struct Telemetry<'a> {
        metrics: &'a Metrics,
        #[serde(skip_serializing_if = "Option::is_none")]
        aggregates: Option<&'a BTreeMap<MetricName, Summary>>,
    }
    let json = match &message.content.payload {
        Payload::Picture(LivePayload::Connection(payload)) => wire(message, payload),
        Payload::Picture(LivePayload::Factsheet(payload)) => wire(message, payload),
        Payload::Picture(LivePayload::State(payload)) => wire(message, payload),
        Payload::Picture(LivePayload::Heartbeat(payload)) => wire(message, payload),
        Payload::Picture(LivePayload::Telemetry(metrics)) => {
            let aggregates = None;
            wire(
                message,
                &Telemetry {
                    metrics,
                    aggregates,
                },
            )
        }
        Payload::Aggregated {
            metrics,
            aggregates,
        } => {
            let aggregates = Some(aggregates);
            wire(
                message,
                &Telemetry {
                    metrics,
                    aggregates,
                },
            )
        }
        Payload::Event(event) => wire(message, &event.record()),
        Payload::Command(command) => wire(message, command),
        Payload::Response(status) => wire(message, status),
        Payload::Presence(watchers) => wire(message, watchers),
    };
    dress(json, form, &message.kind)
}

fn wire<P: Serialize>(message: &Message, payload: &P) -> Vec<u8> {
    serialize(&Wire {
        message_type: &message.kind,
        robot_id: &message.robot,
        timestamp: message.content.timestamp,
        sequence: message.content.sequence,
        payload,
    })
}

fn serialize(value: &impl Serialize) -> Vec<u8> {
    // Messages of the contract have string keys only, so this never fails.
    serde_json::to_vec(value).unwrap_or_default()
}

fn dress(json: Vec<u8>, form: Form, name: &str) -> Bytes {
    match form {
        Form::Sse => sse(&json, name),
        Form::Json { deflate } => frame(OpCode::Data(Data::Text), &json, deflate),
        Form::Cbor { deflate } => frame(OpCode::Data(Data::Binary), &cbor(&json), deflate),
    }
}

/// The same structure as the JSON has, so that both are one contract.
fn cbor(json: &[u8]) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let mut bytes = Vec::with_capacity(json.len());
    // Into memory, of what JSON can say: never fails.
    let _ = ciborium::into_writer(&value, &mut bytes);
    bytes
}

/// Where a client goes on that lost its connection, before an event of the log. It is the client's own: what was told
/// to it so far decides.
#[must_use]
pub fn sse_id(position: u64) -> Bytes {
    format!("id: {position}\n").into()
}

fn sse(json: &[u8], name: &str) -> Bytes {
    let mut text = Vec::with_capacity(json.len() + name.len() + 24);
    // A robot may name its event as it likes; a line's end would forge another one.
    if !name.contains(char::is_control) {
        text.extend_from_slice(b"event: ");
        text.extend_from_slice(name.as_bytes());
        text.push(b'\n');
    }
    text.extend_from_slice(b"data: ");
    // JSON has no line ends of its own.
    text.extend_from_slice(json);
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// A whole WebSocket frame of the server's side.
#[must_use]
pub fn frame(opcode: OpCode, payload: &[u8], deflate: bool) -> Bytes {
    let compressed = (deflate && payload.len() >= COMPRESS_FROM).then(|| compress(payload));
    let compressed = compressed.filter(|shorter| shorter.len() < payload.len());
    let header = FrameHeader {
        opcode,
        is_final: true,
        rsv1: compressed.is_some(),
        mask: None,
        ..FrameHeader::default()
    };
    let payload = compressed.as_deref().unwrap_or(payload);
    let length = payload.len() as u64;
    let mut bytes = Vec::with_capacity(header.len(length) + payload.len());
    // Into memory: never fails.
    let _ = header.format(length, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes.into()
}

thread_local! {
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::default(), false));
}

/// As RFC 7692 has it, each message by itself: the same bytes for everybody, and no memory for any client.
fn compress(payload: &[u8]) -> Vec<u8> {
    const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
    DEFLATE.with_borrow_mut(|deflate| {
        deflate.reset();
        // Deflate never adds more than this.
        let mut bytes = Vec::with_capacity(payload.len() + payload.len() / 1_000 + 64);
        match deflate.compress_vec(payload, &mut bytes, FlushCompress::Sync) {
            Ok(_) if bytes.ends_with(&TAIL) => bytes.truncate(bytes.len() - TAIL.len()),
            // Not all of it fitted: it goes as it is.
            Ok(_) | Err(_) => return payload.to_vec(),
        }
        bytes
    })
}
