//! What every message between robots and relays is wrapped in.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::RobotId;
use crate::limits::MAX_PAYLOAD_BYTES;
use crate::timestamp::Timestamp;
use crate::topic::{FromRobot, ToRobot};

/// A message: who, when, which number, what.
///
/// Unknown fields are ignored. Presence never relies on `timestamp`: a robot's clock may be wrong, and
/// says so by [`Clock::Unsynced`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Envelope<P> {
    /// What `payload` is. Follows the topic.
    #[serde(rename = "type")]
    pub message_type: MessageType,
    /// The robot that speaks, or that is spoken to.
    pub robot_id: RobotId,
    /// When it was said, by the sender's clock.
    pub timestamp: Timestamp,
    /// The sender's count of messages in this session, from 0. Not the event number.
    pub sequence: u64,
    /// Whether the sender's clock was set from the network.
    #[serde(default)]
    pub clock: Clock,
    /// The message itself.
    pub payload: P,
}

/// The kinds of message that have an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// [`crate::message::Connection`]
    Connection,
    /// [`crate::message::Factsheet`]
    Factsheet,
    /// [`crate::message::State`]
    State,
    /// [`crate::message::Heartbeat`]
    Heartbeat,
    /// [`crate::message::Telemetry`]
    Telemetry,
    /// [`crate::message::EventBatch`]
    Events,
    /// [`crate::message::Backlog`]
    Backlog,
    /// [`crate::message::Ack`]
    Ack,
    /// [`crate::message::Registration`]
    Registration,
    /// [`crate::message::Command`]
    Command,
    /// [`crate::message::CommandStatus`]
    Response,
    /// [`crate::message::Desired`]
    Desired,
    /// [`crate::message::Reported`]
    Reported,
}

impl MessageType {
    /// The type that belongs on a robot's topic; `None` where this version has no message for it.
    #[must_use]
    pub fn of_topic(from: &FromRobot) -> Option<Self> {
        Some(match from {
            FromRobot::Connection => Self::Connection,
            FromRobot::Factsheet => Self::Factsheet,
            FromRobot::State => Self::State,
            FromRobot::Heartbeat => Self::Heartbeat,
            FromRobot::Telemetry => Self::Telemetry,
            FromRobot::Events => Self::Events,
            FromRobot::Backlog => Self::Backlog,
            FromRobot::Command(_) => Self::Response,
            FromRobot::Reported => Self::Reported,
            FromRobot::Request(..) | FromRobot::ControlAck => return None,
        })
    }

    /// The type that belongs on a topic to a robot; `None` where this version has no message for it.
    #[must_use]
    pub fn of_inbox(to: &ToRobot) -> Option<Self> {
        match to {
            ToRobot::Ack => Some(Self::Ack),
            ToRobot::Registration => Some(Self::Registration),
            ToRobot::Command(..) | ToRobot::Estop => Some(Self::Command),
            ToRobot::Desired => Some(Self::Desired),
            ToRobot::Control | ToRobot::Response(_) | ToRobot::Signal => None,
        }
    }

    /// The type as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Factsheet => "factsheet",
            Self::State => "state",
            Self::Heartbeat => "heartbeat",
            Self::Telemetry => "telemetry",
            Self::Events => "events",
            Self::Backlog => "backlog",
            Self::Ack => "ack",
            Self::Registration => "registration",
            Self::Command => "command",
            Self::Response => "response",
            Self::Desired => "desired",
            Self::Reported => "reported",
        }
    }
}

impl std::fmt::Display for MessageType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the sender's clock can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Set from the network.
    Synced,
    /// Not known to be right: a Pi has no clock at boot.
    #[default]
    Unsynced,
}

/// Why a payload is no message of this contract.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Larger than the contract allows.
    #[error("expected at most {MAX_PAYLOAD_BYTES} bytes, got {0}")]
    Oversized(usize),
    /// Not JSON, or not this envelope.
    #[error("expected a {expected} envelope as JSON")]
    Malformed {
        /// The type that the topic asks for.
        expected: MessageType,
        /// Where and why parsing stopped.
        #[source]
        source: serde_json::Error,
    },
    /// The type does not fit the topic.
    #[error("expected type {expected}, got {actual}")]
    Type {
        /// The type that the topic asks for.
        expected: MessageType,
        /// The type in the envelope.
        actual: MessageType,
    },
    /// The envelope speaks for another robot than the topic.
    #[error("expected robot_id {expected}, got {actual}")]
    Robot {
        /// The robot of the topic.
        expected: RobotId,
        /// The robot in the envelope.
        actual: RobotId,
    },
}

impl<P> Envelope<P> {
    /// Parses the payload of a message whose topic says `expected` and `robot`.
    ///
    /// # Errors
    /// When it is too large, not JSON, of another type, or speaks for another robot.
    pub fn parse(
        expected: MessageType,
        robot: &RobotId,
        payload: &[u8],
    ) -> Result<Self, EnvelopeError>
    where
        P: DeserializeOwned,
    {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(EnvelopeError::Oversized(payload.len()));
        }
        let envelope: Self = serde_json::from_slice(payload)
            .map_err(|source| EnvelopeError::Malformed { expected, source })?;
        if envelope.message_type != expected {
            return Err(EnvelopeError::Type {
                expected,
                actual: envelope.message_type,
            });
        }
        if envelope.robot_id != *robot {
            return Err(EnvelopeError::Robot {
                expected: robot.clone(),
                actual: envelope.robot_id,
            });
        }
        Ok(envelope)
    }

    /// The JSON that goes on the wire.
    ///
    /// # Panics
    /// Never for the messages of this crate: all their map keys are strings.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8>
    where
        P: Serialize,
    {
        #[expect(
            clippy::expect_used,
            reason = "messages have string keys only, so they always serialise"
        )]
        serde_json::to_vec(self).expect("a message is always JSON")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::message::Heartbeat;

    fn parse(payload: &str) -> Result<Envelope<Heartbeat>, String> {
        Envelope::parse(
            MessageType::Heartbeat,
            &"kiwi-01".parse().unwrap(),
            payload.as_bytes(),
        )
        .map_err(|error| {
            let source = std::error::Error::source(&error)
                .map(|s| format!(": {s}"))
                .unwrap_or_default();
            format!("{error}{source}")
        })
    }

    #[test]
    fn unknown_fields_are_ignored_and_a_missing_clock_is_unsynced() {
        let envelope = parse(
            r#"{"type":"heartbeat","robot_id":"kiwi-01","timestamp":"2026-11-21T03:52:00.000Z","sequence":3,"new":1,
                "payload":{"session":"67e55044-10b1-426f-9247-bb680e5fe0c8","uptime_s":5,"later":[]}}"#,
        )
        .unwrap();
        assert_eq!(envelope.payload.uptime_s, 5);
        assert_eq!(envelope.clock, Clock::Unsynced);
    }

    #[test]
    fn bad_envelopes_say_what_was_expected() {
        let body = |kind: &str, robot: &str| {
            format!(
                r#"{{"type":"{kind}","robot_id":"{robot}","timestamp":"2026-11-21T03:52:00.000Z","sequence":3,
                    "payload":{{"session":"67e55044-10b1-426f-9247-bb680e5fe0c8","uptime_s":5}}}}"#
            )
        };
        assert_eq!(
            parse(&body("state", "kiwi-01")).unwrap_err(),
            "expected type heartbeat, got state"
        );
        assert_eq!(
            parse(&body("heartbeat", "kiwi-02")).unwrap_err(),
            "expected robot_id kiwi-01, got kiwi-02"
        );
        assert_eq!(
            parse("{").unwrap_err(),
            "expected a heartbeat envelope as JSON: EOF while parsing an object at line 1 column 1"
        );
        assert_eq!(
            parse(&" ".repeat(65_537)).unwrap_err(),
            "expected at most 65536 bytes, got 65537"
        );
        let deep = "[".repeat(60_000);
        assert_eq!(
            parse(&format!(r#"{{"x":{deep}"#)).unwrap_err(),
            "expected a heartbeat envelope as JSON: EOF while parsing a list at line 1 column 60005"
        );
    }
}
