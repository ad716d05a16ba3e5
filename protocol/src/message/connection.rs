//! Presence: birth, goodbye, death, and the pulse between.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// `from/connection`, retained. The robot publishes ONLINE after each connect and OFFLINE before a clean
/// disconnect; its will says `CONNECTION_BROKEN`. States as in VDA5050.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Connection {
    /// Random for each connection, the same in its birth, its goodbye and its will: a death whose session
    /// is not the last birth's is of an older connection, and is discarded.
    pub session: Uuid,
    /// Which of the three.
    pub state: ConnectionState,
}

/// State of a robot's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConnectionState {
    /// Connected.
    Online,
    /// Said goodbye.
    Offline,
    /// Went without a goodbye.
    ConnectionBroken,
}

/// `from/heartbeat`, QoS 0, every [`crate::limits::HEARTBEAT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Heartbeat {
    /// The session of the last birth.
    pub session: Uuid,
    /// Seconds since the robot booted.
    pub uptime_s: u64,
}
