//! Teleoperation as the events `teleoperation.*` tell it: who drives the robot, by what that was recognised,
//! and how it ended.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Data of `teleoperation.started`, `.stopped`, `.operator_changed` and `.observing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TeleoperationEvent {
    /// Random, the same in all events of a session.
    pub session: Uuid,
    /// Who drives; of `observing` who looks on.
    pub operator: Operator,
    /// Who drove until then; only in `operator_changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Operator>,
    /// The hardware profile whose signatures were looked for.
    pub profile: String,
    /// How sure that is, 0 to 1; in `stopped` at the last command.
    pub confidence: f64,
    /// Two operators command at once; in `stopped`, at some time of the session.
    pub contention: bool,
    /// What it was recognised by; in `stopped` at the last command.
    pub evidence: Evidence,
    /// How it ended; only in `stopped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// Who drives a robot, as far as that can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Operator {
    /// An address, a user's name, a ROS node's name, or `local`.
    pub id: String,
    /// Which of these.
    pub kind: OperatorKind,
    /// Whether it is a person.
    pub source_kind: SourceKind,
}

/// What an operator's id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperatorKind {
    /// The address that commands come from.
    Ip,
    /// A user, as a program on the robot reports.
    User,
    /// A node of ROS.
    RosNode,
    /// Somebody or something at the robot itself.
    Local,
}

/// Where commands come from. A rate of commands proves no person: policies run at 30 Hz too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A person.
    Human,
    /// Nobody said.
    #[default]
    Unknown,
    /// A program that decides by itself.
    Policy,
}

/// What each indicator showed. An absent one showed nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Evidence {
    /// Commands on a control port, or reported by a program on the robot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlEvidence>,
    /// Gamepads and keyboards at the robot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_input: Option<LocalInputEvidence>,
    /// Pictures or observations that are being read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoEvidence>,
    /// How long the operator has been connected, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present_ms: Option<u64>,
    /// Of the connection, for people; decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyEvidence>,
}

/// Commands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ControlEvidence {
    /// 1 for 5/s and more, 0.5 for slower but steady ones.
    pub score: f64,
    /// TCP segments with commands, over the last two seconds.
    pub commands_per_s: f64,
    /// Since the last one, ms.
    pub silent_ms: u64,
    /// What they came through, in the profile's words; `reported` where a program says so.
    pub what: String,
}

/// Gamepads and keyboards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LocalInputEvidence {
    /// Keys and sticks that moved in the last two seconds. What was pressed is never read out.
    pub moves: u32,
}

/// Who reads pictures or observations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VideoEvidence {
    /// The streams: paths of the media server, else the profile's words for the port.
    pub streams: Vec<String>,
}

/// Passive figures of the kernel for a connection to the operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LatencyEvidence {
    /// The least round trip seen: the floor, ms.
    pub min_rtt_ms: f64,
    /// The smoothed round trip: an upper bound, ms.
    pub rtt_ms: f64,
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ended {
    /// Why.
    pub reason: StopReason,
    /// From the first to the last command, ms.
    pub duration_ms: u64,
    /// Longest silence between two commands, ms, to half a second.
    pub longest_gap_ms: u64,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// No command for 10 s; for 30 s where they were sparse, or came from devices at the robot.
    Silence,
    /// All connections that commands came through were closed, and stayed so for 3 s.
    Closed,
    /// The agent, or the detection, was stopped.
    NotWatched,
}

impl StopReason {
    /// The reason as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Closed => "closed",
            Self::NotWatched => "not_watched",
        }
    }
}
