//! The robot's last reported state (H2), retained.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::telemetry::Metrics;
use crate::timestamp::Timestamp;

/// `from/state`, retained: sent after each connect and when something but telemetry changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct State {
    /// The session of the last birth.
    pub session: Uuid,
    /// What the robot does.
    pub activity: Activity,
    /// Who is in charge of it, in the words of VDA5050.
    pub operating_mode: OperatingMode,
    /// Who drives it.
    pub teleoperation: Teleoperation,
    /// Where it is on the network.
    pub network: Network,
    /// What runs on it.
    pub deployment: Deployment,
    /// Every metric's newest value.
    pub resources: Metrics,
    /// Seconds since the robot booted.
    pub uptime_s: u64,
    /// Whether the robot's own software is there and works; absent until the robot is registered under a
    /// profile that it has a file of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<RobotHealth>,
}

/// Whether what the robot's profile asks for is there and works.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RobotHealth {
    /// The setup is done, and every service and check of the profile passes.
    pub healthy: bool,
    /// How far the robot's own software is installed.
    pub setup: SetupStatus,
    /// Services and checks that do not pass, in the profile's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<Failing>,
}

/// Where the installation of the robot's own software stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SetupStatus {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Everything is installed, or there is nothing to install.
    Done,
    /// A step failed; it is tried again.
    Failed,
}

impl SetupStatus {
    /// The status as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for SetupStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A service or check that does not pass.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failing {
    /// The unit, or the check's name.
    pub name: String,
    /// What was expected and what came.
    pub reason: String,
}

/// What a robot does, beside the state of its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Nothing that must not be disturbed.
    #[default]
    Idle,
    /// A person drives it.
    Teleoperated,
    /// Software is being installed.
    Deploying,
}

/// VDA5050 operating modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OperatingMode {
    /// Just started.
    Startup,
    /// The robot decides.
    #[default]
    Automatic,
    /// The robot decides within limits that a person sets.
    Semiautomatic,
    /// A person stepped in.
    Intervened,
    /// A person drives.
    Manual,
    /// Under maintenance.
    Service,
    /// Being taught.
    TeachIn,
}

/// Who drives the robot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Teleoperation {
    /// Whether somebody drives it now.
    pub active: bool,
    /// Who; absent while nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_id: Option<String>,
    /// Since when, by the robot's clock; absent while nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub session_start: Option<Timestamp>,
    /// Pictures and observations that somebody reads, driver or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub video_streams: Vec<String>,
    /// Two operators command at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contention: bool,
}

/// Where the robot is on the network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Network {
    /// Host name.
    pub hostname: String,
    /// Hardware address of the interface that has the default route, lower case with colons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// Global addresses of all interfaces.
    #[serde(default)]
    pub ip_addresses: Vec<String>,
}

/// What runs on the robot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deployment {
    /// `PRETTY_NAME` of os-release.
    pub os_version: String,
    /// The agent's version.
    pub agent_version: String,
}
