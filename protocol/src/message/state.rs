//! The robot's last reported state (H2), retained.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::service::Service;
use super::telemetry::Metrics;
use crate::timestamp::Timestamp;

/// `from/state`, retained: sent after each connect and when something but telemetry changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct State {
    /// The session of the last birth.
    pub session: Uuid,
    /// What older systems on this robot call it, such as `k1_001`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
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
    /// What the profile's services, processes and checks do, in the profile's order; empty for the same
    /// time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// What happens to the battery, where there is one; to the emptiest of several. Its charge is among the
    /// resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub battery: Option<BatteryStatus>,
    /// What the board's firmware complains of; absent from boards that do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttling: Option<Throttling>,
    /// Whether the clock is set from the network; absent from agents that cannot say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<TimeSync>,
}

/// What happens to a battery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BatteryStatus {
    /// Nobody says.
    #[default]
    Unknown,
    /// It is being charged.
    Charging,
    /// It feeds the robot.
    Discharging,
    /// Neither, though a supply is there.
    NotCharging,
    /// It is full.
    Full,
}

/// What a Pi's firmware holds back or complains of, in the words of `vcgencmd get_throttled`. Absent is
/// what the kernel in use does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Throttling {
    /// The supply is too weak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_voltage: Option<Flag>,
    /// The cores may not run at their highest frequency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_capped: Option<Flag>,
    /// The cores are slowed down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<Flag>,
    /// The soft temperature limit is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_temperature_limit: Option<Flag>,
}

/// Whether something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Flag {
    /// It is, or was within the last minute.
    pub now: bool,
    /// It was so since the board was started, as far as firmware or agent saw.
    pub since_boot: bool,
}

/// Whether the clock is set from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TimeSync {
    /// It was, since boot.
    pub synchronized: bool,
    /// When it was last, by the robot's clock; absent when it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub synchronized_at: Option<Timestamp>,
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
    /// The interfaces that are hardware, by name, at most [`crate::limits::MAX_INTERFACES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
}

/// A network interface that is hardware.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Interface {
    /// Its name, such as `wlan0`.
    pub name: String,
    /// Hardware address, lower case with colons.
    pub mac_address: String,
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
    /// The installed packages in short; absent until they were counted, and where there is no dpkg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_packages: Option<InstalledPackages>,
}

/// The installed packages, as `lekiwi-agent packages --json` prints them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PackageList {
    /// All of them in short.
    pub installed: InstalledPackages,
    /// A line `NAME ARCHITECTURE VERSION` each, in dpkg's order.
    pub packages: Vec<String>,
}

/// The installed packages in short: the digest is the same on two robots that have the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstalledPackages {
    /// How many.
    pub count: u32,
    /// `sha256:` and 64 hex digits, over a line `NAME ARCHITECTURE VERSION` a package.
    pub digest: String,
}
