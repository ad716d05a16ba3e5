//! What a robot is, as opposed to how it is.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The profile of a robot whose hardware matches none.
pub const UNKNOWN_PROFILE: &str = "unknown";

/// `from/factsheet`, retained: sent after each connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Factsheet {
    /// Made once by the robot, kept for its life.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub uuid: Uuid,
    /// The hardware profile, which is also the type of H2: `lekiwi`, `xle`, `generic`, …; `unknown` when
    /// detection found none.
    pub profile: String,
    /// How the profile was found; absent from agents that cannot say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identification: Option<Identification>,
    /// The machine.
    pub hardware: Hardware,
    /// The agent's version.
    pub agent_version: String,
    /// Target triple the agent was built for.
    pub agent_target: String,
    /// Optional parts that this agent has, sorted.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The kernel's id of this boot: another one means the robot was restarted.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub boot_id: Uuid,
}

/// The machine a robot is made of. Empty where the machine does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Hardware {
    /// Board serial number.
    pub serial: String,
    /// Board model.
    pub model: String,
    /// Board revision code, hex on a Pi.
    pub revision: String,
    /// CPU architecture as the kernel names it.
    #[serde(default)]
    pub architecture: String,
    /// Number of CPU cores.
    #[serde(default)]
    pub cores: u32,
    /// Memory in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
}

/// How a robot's profile was found. The texts are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Identification {
    /// The profile, or `unknown`.
    pub profile: String,
    /// Where it comes from.
    pub how: Identified,
    /// What of the profile was found.
    #[serde(default)]
    pub matched: Vec<String>,
    /// What was found otherwise than expected; of an `unknown` robot why it is.
    #[serde(default)]
    pub differing: Vec<String>,
    /// The profile that is the next nearest, of an `unknown` robot the nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<RunnerUp>,
}

/// Where a profile comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Identified {
    /// From the hardware, at this start.
    Detected,
    /// From the configuration.
    Configured,
    /// From the hardware, at an earlier start on the same board.
    Remembered,
}

/// A profile that was not chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunnerUp {
    /// Which.
    pub profile: String,
    /// What the robot lacks or has otherwise.
    pub differing: Vec<String>,
}
