//! What was found on the local network. Everything in it comes from whoever is there: nothing is proved.

use serde::{Deserialize, Serialize};

use crate::id::RobotId;
use crate::timestamp::Timestamp;

/// `GET /api/v1/discovered`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Discovered {
    /// Robots that say they are there, by id.
    pub robots: Vec<DiscoveredRobot>,
    /// Whether the relay hears robots.
    pub mdns: Watch,
    /// Machines that asked for an address, the newest last.
    pub seen_by_dhcp: Vec<SeenByDhcp>,
    /// Whether the relay hears them.
    pub dhcp: Watch,
}

/// Whether the relay listens for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Watch {
    /// Whether it does.
    pub on: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A robot as it says of itself on the local network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiscoveredRobot {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: RobotId,
    /// Its hardware profile.
    #[serde(rename = "type")]
    pub robot_type: String,
    /// Its board's serial number; empty when it has none.
    pub serial: String,
    /// The version of its agent.
    pub agent_version: String,
    /// Where it is.
    pub addresses: Vec<String>,
    /// Its Ethernet address, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// Whether it says that it holds a certificate of some relay.
    pub says_registered: bool,
    /// Whether the relay knows a robot of this id; absent when no relay was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<bool>,
    /// Whether another machine says that it is this robot.
    pub conflict: bool,
    /// When it was last heard.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub last_heard: Timestamp,
}

/// A machine that asked for an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SeenByDhcp {
    /// Its Ethernet address.
    pub mac_address: String,
    /// What it calls itself; empty when it does not say.
    pub host_name: String,
    /// The address that it asked for, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<String>,
    /// Whether the makers of the Raspberry Pi gave it its Ethernet address.
    pub raspberry_pi: bool,
    /// When it last asked.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub seen: Timestamp,
}
