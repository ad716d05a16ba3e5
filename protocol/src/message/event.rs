//! What must not be lost: numbered, kept by the robot until acknowledged.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ack::SeqRange;
use crate::timestamp::Timestamp;

/// `from/events`, QoS 1: events of one stream in ascending `seq`, at most
/// [`crate::limits::MAX_EVENTS_PER_MESSAGE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventBatch {
    /// The stream that the numbers count in. New whenever durable numbering cannot be trusted (lost
    /// database, memory mode).
    pub stream: Uuid,
    /// Which stream of this robot it is, counted from 1: streams sort by it.
    pub ordinal: u32,
    /// The events.
    pub events: Vec<Event>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Number within the stream, from 1, without holes.
    pub seq: u64,
    /// What happened, dotted: see [`kind`].
    #[serde(rename = "type")]
    pub kind: String,
    /// When, by the robot's clock.
    pub timestamp: Timestamp,
    /// Details, by type.
    #[serde(default)]
    pub data: serde_json::Value,
}

/// Data of an [`kind::DROPPED`] event: the robot had to give these up. Kept as a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Dropped {
    /// The stream they were of.
    pub stream: Uuid,
    /// First dropped number.
    pub from: u64,
    /// Last dropped number; 2^53 - 1 where nobody knows it: whatever of the stream the relay does not have,
    /// and the data says a `reason`.
    pub to: u64,
    /// Which ones of these, ascending and disjoint; all of them when absent. Events of a higher priority
    /// in between were kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<SeqRange>,
}

impl Dropped {
    /// The numbers that it speaks of.
    #[must_use]
    pub fn covers(&self, seq: u64) -> bool {
        let within = |[from, to]: &SeqRange| (*from..=*to).contains(&seq);
        within(&[self.from, self.to]) && (self.ranges.is_empty() || self.ranges.iter().any(within))
    }
}

/// The event types, as the wire spells them.
pub mod kind {
    /// The robot got its certificate. By the relay.
    pub const REGISTERED: &str = "robot.registered";
    /// The robot may say who it is, and is heard by nobody else until approved. By the relay.
    pub const QUARANTINED: &str = "robot.quarantined";
    /// A person let the robot in. By the relay.
    pub const APPROVED: &str = "robot.approved";
    /// A person turned the robot away; its certificate is revoked. By the relay.
    pub const REJECTED: &str = "robot.rejected";
    /// The robot came back with a new key; the old certificate is revoked. By the relay.
    pub const REFLASHED: &str = "robot.reflashed";
    /// The robot uses its renewed certificate, and the one before counts no more: `old_serial`, `certificate_serial`,
    /// `not_after`. By the relay.
    pub const RENEWED: &str = "robot.renewed";
    /// Somebody took certificates of the robot back: `serials`, `by`. By the relay.
    pub const REVOKED: &str = "robot.revoked";
    /// The robot came back with another board. By the relay.
    pub const HARDWARE_CHANGED: &str = "robot.hardware_changed";
    /// The robot came online. By the relay.
    pub const CONNECTED: &str = "robot.connected";
    /// The robot went, with or without goodbye. By the relay.
    pub const DISCONNECTED: &str = "robot.disconnected";
    /// Silent for longer than [`crate::limits::STALE_AFTER`], yet connected. By the relay.
    pub const STALE: &str = "robot.stale";
    /// The machine was restarted. By the robot.
    pub const REBOOTED: &str = "robot.rebooted";
    /// The agent started. By the robot.
    pub const AGENT_STARTED: &str = "agent.started";
    /// The agent was asked to stop. By the robot.
    pub const AGENT_STOPPED: &str = "agent.stopped";
    /// A metric crossed its alert threshold. By the robot.
    pub const RESOURCE_ALERT: &str = "health.resource_alert";
    /// A metric came back from beyond its alert threshold, or is not measured any more. By the robot.
    pub const RESOURCE_RECOVERED: &str = "health.resource_recovered";
    /// The temperature crossed its alert threshold. By the robot.
    pub const TEMPERATURE_WARNING: &str = "health.temperature_warning";
    /// Every service and check of the profile passes, the setup being done. By the robot.
    pub const HEALTHY: &str = "health.healthy";
    /// Some do not: `failing` in the data says which. By the robot.
    pub const UNHEALTHY: &str = "health.unhealthy";
    /// A service, process or check of the profile changed: see [`super::ServiceChanged`]. By the robot.
    pub const SERVICE_CHANGED: &str = "service.changed";
    /// One changes too often to tell each: see [`super::ServiceFlapping`]. By the robot.
    pub const SERVICE_FLAPPING: &str = "service.flapping";
    /// It has stopped doing that: see [`super::ServiceSteady`]. By the robot.
    pub const SERVICE_STEADY: &str = "service.steady";
    /// The installation of the robot's own software began, or goes on after a restart. By the robot.
    pub const SETUP_STARTED: &str = "setup.started";
    /// It begins with a step: `step`, `percent`. By the robot.
    pub const SETUP_PROGRESS: &str = "setup.progress";
    /// All of it is there. By the robot.
    pub const SETUP_COMPLETED: &str = "setup.completed";
    /// A step failed and is tried again: `step`, `reason`, `retry_in_s`. By the robot.
    pub const SETUP_FAILED: &str = "setup.failed";
    /// Somebody began to drive the robot: see [`super::TeleoperationEvent`]. By the robot.
    pub const TELEOPERATION_STARTED: &str = "teleoperation.started";
    /// Nobody drives it any more: see [`super::TeleoperationEvent`]. By the robot.
    pub const TELEOPERATION_STOPPED: &str = "teleoperation.stopped";
    /// Somebody else drives it: see [`super::TeleoperationEvent`]. By the robot.
    pub const OPERATOR_CHANGED: &str = "teleoperation.operator_changed";
    /// Somebody looks on, and does not drive: see [`super::TeleoperationEvent`]. By the robot.
    pub const OBSERVING: &str = "teleoperation.observing";
    /// The robot's clock was set: `by_s` forward, or back when negative; `clock` says whether by the network.
    /// Earlier events of this boot were stamped by the wrong one. By the robot.
    pub const CLOCK_STEPPED: &str = "clock.stepped";
    /// The machine slept: `for_s`. By the robot.
    pub const RESUMED: &str = "robot.resumed";
    /// An older system's agent on this robot said something new: mode, status, task. By the robot.
    pub const LEGACY_CHANGED: &str = "legacy.changed";
    /// Somebody asked for something: the data is the [`super::Command`]. By the relay.
    pub const COMMAND_REQUESTED: &str = "command.requested";
    /// The robot has it on its disk: `id`, `op`. By the relay.
    pub const COMMAND_ACCEPTED: &str = "command.accepted";
    /// It has begun: `id`, `op`. By the relay.
    pub const COMMAND_RUNNING: &str = "command.running";
    /// It is done: `id`, `op`, `result`. By the relay.
    pub const COMMAND_SUCCESSFUL: &str = "command.successful";
    /// It is not done, or it is not known whether it is: `id`, `op`, `reason`. By the relay.
    pub const COMMAND_FAILED: &str = "command.failed";
    /// Somebody looked at a robot's logs: `id`, `by`. By the relay.
    pub const LOGS_DOWNLOADED: &str = "logs.downloaded";
    /// A robot's logs made room for newer ones: `id`, `bytes`. By the relay.
    pub const LOGS_DROPPED: &str = "logs.dropped";
    /// Somebody wants another configuration: the data is the [`super::Desired`]. By the relay.
    pub const CONFIGURATION_DESIRED: &str = "configuration.desired";
    /// The robot has it, for good: `version`, `digest`. By the relay.
    pub const CONFIGURATION_APPLIED: &str = "configuration.applied";
    /// The robot refuses it: `version`, `digest`, `reason`. By the relay.
    pub const CONFIGURATION_REJECTED: &str = "configuration.rejected";
    /// The robot tried it and has the one before again: `version`, `digest`, `reason`. By the relay.
    pub const CONFIGURATION_ROLLED_BACK: &str = "configuration.rolled_back";
    /// Somebody made or changed a rule: the data is the [`crate::alert::Rule`], and `by`. By the relay.
    pub const ALERT_RULE_SET: &str = "alert_rule.set";
    /// Somebody took a rule away: `by`. By the relay.
    pub const ALERT_RULE_REMOVED: &str = "alert_rule.removed";
    /// A rule holds for a robot: the data is the [`crate::alert::Alert`]. By the relay.
    pub const ALERT_FIRING: &str = "alert.firing";
    /// It holds no more: `rule`, `robot_id`, `resolution` where somebody ended it. By the relay.
    pub const ALERT_RESOLVED: &str = "alert.resolved";
    /// Somebody looks after it: `rule`, `robot_id`, `by`, `comment`. By the relay.
    pub const ALERT_ACKNOWLEDGED: &str = "alert.acknowledged";
    /// Somebody wants to hear nothing of some alerts: the data is the [`crate::alert::Silence`]. By the relay.
    pub const ALERT_SILENCED: &str = "alert.silenced";
    /// Somebody does again: `id`, `by`. By the relay.
    pub const ALERT_UNSILENCED: &str = "alert.unsilenced";
    /// A receiver was told: `receiver`, `firing` and `resolved`, ids of alerts, `repeats`. By the relay.
    pub const ALERT_NOTIFIED: &str = "alert.notified";
    /// It could not be told, and is not before the next repetition: as notified, and `reason`. By the relay.
    pub const ALERT_UNDELIVERED: &str = "alert.undelivered";
    /// An emergency stop came: `id`, `by`, `listeners` that were told, `action` that began. By the robot.
    pub const ESTOP_RECEIVED: &str = "estop.received";
    /// All that a stop began has ended: `id`, `listeners` that were told, how many of them `confirmed` within a
    /// second, and `reason` where it may not have stopped the robot. By the robot.
    pub const ESTOP_DONE: &str = "estop.done";
    /// The relay has more to do than it can, and gives up what is least urgent. By the relay, of itself.
    pub const OVERLOADED: &str = "relay.overloaded";
    /// It gives up nothing any more: `shed` messages and samples it did, in `lasted_s` seconds. By the relay, of itself.
    pub const RELIEVED: &str = "relay.relieved";
    /// Events were given up: see [`super::Dropped`]. By the robot.
    pub const DROPPED: &str = "events.dropped";
    /// Late telemetry was thinned out or grew too old: see [`super::Thinned`]. By the robot.
    pub const THINNED: &str = "telemetry.thinned";
}
