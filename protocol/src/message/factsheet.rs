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
    /// The hardware profile, which is also the type of H2: `lekiwi`, `xle`, `generic`, …
    pub profile: String,
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
