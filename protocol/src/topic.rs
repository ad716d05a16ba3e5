//! Every MQTT topic of the contract. Parsing and printing are inverse (property-tested), and nothing
//! else in the workspace spells a topic out.
//!
//! Directions are subtrees, so a robot needs one subscription and one access rule each way:
//! it writes `robots/{id}/from/#` and reads `robots/{id}/to/#`.
//!
//! ```
//! use lekiwi_protocol::{FromRobot, Root, Topic};
//!
//! let topic = Topic::parse("fleet/v1/default/robots/kiwi-01/from/heartbeat")?;
//! assert_eq!(topic.robot().map(|id| id.as_str()), Some("kiwi-01"));
//! assert_eq!(topic.to_string(), "fleet/v1/default/robots/kiwi-01/from/heartbeat");
//!
//! let root = Root::default();
//! assert_eq!(root.robot_inbox(&"kiwi-01".parse()?), "fleet/v1/default/robots/kiwi-01/to/#");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::sync::Arc;

use crate::id::{NameError, Org, RelayId, RobotId};

/// The major version this crate speaks, the second level of every topic.
pub const VERSION: &str = "v1";

/// The configurable start of every topic: `{prefix}/v1/{org}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Root {
    prefix: Arc<str>,
    org: Org,
}

impl Default for Root {
    fn default() -> Self {
        Self {
            prefix: "fleet".into(),
            org: Org::default(),
        }
    }
}

impl Root {
    /// The default prefix `fleet` with another organisation.
    #[must_use]
    pub fn of(org: Org) -> Self {
        Self {
            org,
            ..Self::default()
        }
    }

    /// A root with its own prefix.
    ///
    /// # Errors
    /// When `prefix` is not a single level of the characters an [`Org`] may have.
    pub fn with_prefix(prefix: &str, org: Org) -> Result<Self, NameError> {
        // The prefix follows the rule of organisations: one level, no wildcard, printable.
        Org::new(prefix)?;
        Ok(Self {
            prefix: prefix.into(),
            org,
        })
    }

    /// The first level of every topic.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The organisation.
    #[must_use]
    pub fn org(&self) -> &Org {
        &self.org
    }

    /// A topic that `robot` publishes.
    #[must_use]
    pub fn from_robot(&self, robot: &RobotId, from: FromRobot) -> Topic {
        Topic {
            root: self.clone(),
            path: Path::From(robot.clone(), from),
        }
    }

    /// A topic that `robot` reads.
    #[must_use]
    pub fn to_robot(&self, robot: &RobotId, to: ToRobot) -> Topic {
        Topic {
            root: self.clone(),
            path: Path::To(robot.clone(), to),
        }
    }

    /// Where `relay` announces its birth and death.
    #[must_use]
    pub fn relay(&self, relay: &RelayId) -> Topic {
        Topic {
            root: self.clone(),
            path: Path::Relay(relay.clone()),
        }
    }

    /// Where the relay says that `alert` is firing.
    #[must_use]
    pub fn alert(&self, alert: Name) -> Topic {
        Topic {
            root: self.clone(),
            path: Path::Alert(alert),
        }
    }

    /// The filter of a robot's one subscription.
    #[must_use]
    pub fn robot_inbox(&self, robot: &RobotId) -> String {
        format!("{self}/robots/{robot}/to/#")
    }

    /// The filter of everything that robots say.
    #[must_use]
    pub fn all_robots(&self) -> String {
        format!("{self}/robots/+/from/#")
    }

    /// The filter of what all robots say on one level below `from/`, such as `events` or `cmd/+`.
    #[must_use]
    pub fn all_robots_from(&self, level: &str) -> String {
        format!("{self}/robots/+/from/{level}")
    }

    /// The filter of all relays' births and deaths.
    #[must_use]
    pub fn all_relays(&self) -> String {
        format!("{self}/relays/+")
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{VERSION}/{}", self.prefix, self.org)
    }
}

/// One topic of the contract.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic {
    /// Prefix and organisation.
    pub root: Root,
    /// What lies below it.
    pub path: Path,
}

/// What lies below the [`Root`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Path {
    /// `relays/{relay_id}`, retained: birth and death of a relay. Only relays write.
    Relay(RelayId),
    /// `robots/{id}/from/…`: robot → fleet.
    From(RobotId, FromRobot),
    /// `robots/{id}/to/…`: relay → robot, all QoS 0.
    To(RobotId, ToRobot),
    /// `tasks/{task_id}`, retained: a task's state, for consumers.
    Task(Name),
    /// `alerts/{alert_id}`, retained while it is firing: for consumers. Only relays write.
    Alert(Name),
}

/// What a robot publishes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FromRobot {
    /// Retained ONLINE, OFFLINE or, by the will, `CONNECTION_BROKEN`.
    Connection,
    /// Retained hardware, profile, capabilities and versions.
    Factsheet,
    /// Retained last reported state.
    State,
    /// QoS 0, every 30 s.
    Heartbeat,
    /// QoS 0, debounced changes.
    Telemetry,
    /// QoS 1, late samples after an outage; into history only.
    Backlog,
    /// QoS 1, numbered; kept by the robot until acknowledged.
    Events,
    /// QoS 1, the progress of command `cmd_id`.
    Command(Name),
    /// Retained configuration twin.
    Reported,
    /// QoS 1, the robot asks `op` under `req_id`.
    Request(Name, Name),
    /// QoS 0, clocks the relay's control mailbox.
    ControlAck,
}

/// What a robot reads. All QoS 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ToRobot {
    /// Command `op` with id `cmd_id`, resent until accepted.
    Command(Name, Name),
    /// Acknowledged event ranges.
    Ack,
    /// Whether the robot takes part.
    Registration,
    /// A teleoperation frame.
    Control,
    /// Emergency stop.
    Estop,
    /// The desired configuration.
    Desired,
    /// The answer to request `req_id`.
    Response(Name),
    /// WebRTC signalling.
    Signal,
}

/// One free topic level: a command, request or task id, or an operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks one level.
    ///
    /// # Errors
    /// When it is empty, longer than 128 bytes, or has another character than `A-Za-z0-9._:-`.
    pub fn new(level: &str) -> Result<Self, TopicError> {
        let fits = !level.is_empty()
            && level.len() <= 128
            && level
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
        if fits {
            Ok(Self(level.into()))
        } else {
            Err(TopicError::Level(cut(level)))
        }
    }

    /// The level as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<uuid::Uuid> for Name {
    fn from(id: uuid::Uuid) -> Self {
        // Hex digits and hyphens are allowed in a level.
        Self(id.to_string().into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a topic is not one of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not `{prefix}/v1/{org}/…`, or nothing that the contract has below it.
    #[error(
        "expected a topic of the contract such as fleet/v1/default/robots/kiwi-01/from/state, got {0:?}"
    )]
    Unknown(String),
    /// Another major version.
    #[error("expected version {VERSION}, got {0:?}")]
    Version(String),
    /// A robot, relay or organisation that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An id level with characters that ids do not have.
    #[error("expected a topic level of 1 to 128 letters, digits, '.', '_', ':' and '-', got {0:?}")]
    Level(String),
}

fn cut(text: &str) -> String {
    text.chars().take(120).collect()
}

impl Topic {
    /// Parses a topic name (not a filter).
    ///
    /// # Errors
    /// When it is none of the contract; the error says what was expected.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let unknown = || TopicError::Unknown(cut(text));
        let mut levels = text.splitn(4, '/');
        let (Some(prefix), Some(version), Some(org), Some(rest)) =
            (levels.next(), levels.next(), levels.next(), levels.next())
        else {
            return Err(unknown());
        };
        if version != VERSION {
            return Err(TopicError::Version(cut(version)));
        }
        let root = Root::with_prefix(prefix, Org::new(org)?)?;
        let path = match rest.split_once('/').ok_or_else(unknown)? {
            ("relays", id) => Path::Relay(RelayId::new(id)?),
            ("tasks", id) => Path::Task(Name::new(id)?),
            ("alerts", id) => Path::Alert(Name::new(id)?),
            ("robots", rest) => {
                let (id, rest) = rest.split_once('/').ok_or_else(unknown)?;
                let robot = RobotId::new(id)?;
                match rest.split_once('/').ok_or_else(unknown)? {
                    ("from", rest) => {
                        Path::From(robot, FromRobot::parse(rest)?.ok_or_else(unknown)?)
                    }
                    ("to", rest) => Path::To(robot, ToRobot::parse(rest)?.ok_or_else(unknown)?),
                    _ => return Err(unknown()),
                }
            }
            _ => return Err(unknown()),
        };
        Ok(Self { root, path })
    }

    /// The robot whose topic this is.
    #[must_use]
    pub fn robot(&self) -> Option<&RobotId> {
        match &self.path {
            Path::From(robot, _) | Path::To(robot, _) => Some(robot),
            Path::Relay(_) | Path::Task(_) | Path::Alert(_) => None,
        }
    }

    /// Whether brokers keep the last message of this topic for later subscribers.
    #[must_use]
    pub fn is_retained(&self) -> bool {
        match &self.path {
            Path::Relay(_) | Path::Task(_) | Path::Alert(_) => true,
            Path::From(_, from) => from.is_retained(),
            Path::To(..) => false,
        }
    }
}

impl FromRobot {
    fn parse(rest: &str) -> Result<Option<Self>, TopicError> {
        Ok(Some(match rest {
            "connection" => Self::Connection,
            "factsheet" => Self::Factsheet,
            "state" => Self::State,
            "heartbeat" => Self::Heartbeat,
            "telemetry" => Self::Telemetry,
            "backlog" => Self::Backlog,
            "events" => Self::Events,
            "reported" => Self::Reported,
            "control_ack" => Self::ControlAck,
            _ => match rest.split_once('/') {
                Some(("cmd", id)) => Self::Command(Name::new(id)?),
                Some(("req", rest)) => match rest.split_once('/') {
                    Some((op, id)) => Self::Request(Name::new(op)?, Name::new(id)?),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            },
        }))
    }

    /// Whether brokers keep the last message.
    #[must_use]
    pub fn is_retained(&self) -> bool {
        matches!(
            self,
            Self::Connection | Self::Factsheet | Self::State | Self::Reported
        )
    }
}

impl ToRobot {
    fn parse(rest: &str) -> Result<Option<Self>, TopicError> {
        Ok(Some(match rest {
            "ack" => Self::Ack,
            "registration" => Self::Registration,
            "control" => Self::Control,
            "estop" => Self::Estop,
            "desired" => Self::Desired,
            "signal" => Self::Signal,
            _ => match rest.split_once('/') {
                Some(("res", id)) => Self::Response(Name::new(id)?),
                Some(("cmd", rest)) => match rest.split_once('/') {
                    Some((op, id)) => Self::Command(Name::new(op)?, Name::new(id)?),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            },
        }))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = &self.root;
        match &self.path {
            Path::Relay(id) => write!(f, "{root}/relays/{id}"),
            Path::Task(id) => write!(f, "{root}/tasks/{id}"),
            Path::Alert(id) => write!(f, "{root}/alerts/{id}"),
            Path::From(robot, from) => write!(f, "{root}/robots/{robot}/from/{from}"),
            Path::To(robot, to) => write!(f, "{root}/robots/{robot}/to/{to}"),
        }
    }
}

impl fmt::Display for FromRobot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "connection",
            Self::Factsheet => "factsheet",
            Self::State => "state",
            Self::Heartbeat => "heartbeat",
            Self::Telemetry => "telemetry",
            Self::Backlog => "backlog",
            Self::Events => "events",
            Self::Reported => "reported",
            Self::ControlAck => "control_ack",
            Self::Command(id) => return write!(f, "cmd/{id}"),
            Self::Request(op, id) => return write!(f, "req/{op}/{id}"),
        })
    }
}

impl fmt::Display for ToRobot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ack => "ack",
            Self::Registration => "registration",
            Self::Control => "control",
            Self::Estop => "estop",
            Self::Desired => "desired",
            Self::Signal => "signal",
            Self::Command(op, id) => return write!(f, "cmd/{op}/{id}"),
            Self::Response(id) => return write!(f, "res/{id}"),
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        Topic::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn says_what_was_expected() {
        let unknown = |t: &str| {
            format!(
                "expected a topic of the contract such as fleet/v1/default/robots/kiwi-01/from/state, got {t:?}"
            )
        };
        for text in [
            "",
            "fleet",
            "fleet/v1/default",
            "fleet/v1/default/robots/a",
            "fleet/v1/default/robots/a/from",
            "fleet/v1/default/robots/a/from/nonsense",
            "fleet/v1/default/robots/a/from/state/extra",
            "fleet/v1/default/robots/a/sideways/state",
            "fleet/v1/default/robots/a/to/cmd/reboot",
            "fleet/v1/default/people/a",
        ] {
            assert_eq!(error(text), unknown(text));
        }
        assert_eq!(
            error("fleet/v2/default/robots/a/from/state"),
            "expected version v1, got \"v2\""
        );
        assert_eq!(
            error("fleet/v1/default/robots/+/from/state"),
            "expected a robot id: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"+\""
        );
        assert_eq!(
            error("fleet/v1/default/robots/a/from/cmd/#"),
            "expected a topic level of 1 to 128 letters, digits, '.', '_', ':' and '-', got \"#\""
        );
        assert_eq!(
            error("fleet/v1/default/robots/a/from/cmd/x/y"),
            "expected a topic level of 1 to 128 letters, digits, '.', '_', ':' and '-', got \"x/y\""
        );
    }

    fn label() -> impl Strategy<Value = String> {
        "[a-z0-9][a-z0-9-]{0,62}"
    }

    fn name() -> impl Strategy<Value = Name> {
        "[A-Za-z0-9._:-]{1,128}".prop_map(|s| Name::new(&s).unwrap())
    }

    fn path() -> impl Strategy<Value = Path> {
        let robot = || label().prop_map(|s| RobotId::new(&s).unwrap());
        let from = prop_oneof![
            Just(FromRobot::Connection),
            Just(FromRobot::Factsheet),
            Just(FromRobot::State),
            Just(FromRobot::Heartbeat),
            Just(FromRobot::Telemetry),
            Just(FromRobot::Backlog),
            Just(FromRobot::Events),
            Just(FromRobot::Reported),
            Just(FromRobot::ControlAck),
            name().prop_map(FromRobot::Command),
            (name(), name()).prop_map(|(op, id)| FromRobot::Request(op, id)),
        ];
        let to = prop_oneof![
            Just(ToRobot::Ack),
            Just(ToRobot::Registration),
            Just(ToRobot::Control),
            Just(ToRobot::Estop),
            Just(ToRobot::Desired),
            Just(ToRobot::Signal),
            name().prop_map(ToRobot::Response),
            (name(), name()).prop_map(|(op, id)| ToRobot::Command(op, id)),
        ];
        prop_oneof![
            (robot(), from).prop_map(|(robot, from)| Path::From(robot, from)),
            (robot(), to).prop_map(|(robot, to)| Path::To(robot, to)),
            label().prop_map(|id| Path::Relay(RelayId::new(&id).unwrap())),
            name().prop_map(Path::Task),
            name().prop_map(Path::Alert),
        ]
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(prefix in label(), org in label(), path in path()) {
            let root = Root::with_prefix(&prefix, Org::new(&org).unwrap()).unwrap();
            let topic = Topic { root, path };
            prop_assert_eq!(Topic::parse(&topic.to_string()).unwrap(), topic);
        }

        #[test]
        fn what_parses_prints_the_same(text in "(fleet|x)/v1/[a-z/+#]{0,8}(/?(robots|relays|tasks)/[a-z0-9+#]{0,3}/(from|to)/(state|ack|registration|cmd|req|res)(/[a-z#+]{0,3}){0,3})?") {
            if let Ok(topic) = Topic::parse(&text) {
                prop_assert_eq!(topic.to_string(), text);
            }
        }

        #[test]
        fn never_panics(text in ".{0,200}") {
            let _ = Topic::parse(&text);
        }
    }
}
