//! What the profile's services, processes, checks and nodes do: in the robot's state, and as events.

use serde::{Deserialize, Serialize};

/// A systemd unit, a process, a check or a node of ROS that the robot's profile names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Service {
    /// The unit, or what the profile calls it.
    pub name: String,
    /// Which of these.
    pub kind: ServiceKind,
    /// What it does.
    pub state: ServiceState,
    /// How often it came back as another run or process, as far as the agent saw since it started.
    #[serde(default)]
    pub restarts: u32,
    /// It changes so often that changes are not told one by one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flapping: bool,
    /// Memory of all its processes; absent where nothing says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// What a [`Service`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// A systemd unit.
    Unit,
    /// A process, known by its command line.
    Process,
    /// A port, page or socket that must answer.
    Check,
    /// A node of ROS.
    #[serde(rename = "ros_node")]
    RosNode,
}

/// What a [`Service`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// It runs; of a check: it answers.
    Active,
    /// A unit without processes that systemd will start again.
    Restarting,
    /// It does not run: stopped or failed; of a check: it does not answer.
    Inactive,
}

/// Data of a [`kind::SERVICE_CHANGED`](super::kind::SERVICE_CHANGED) event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceChanged {
    /// As in [`Service::name`].
    pub name: String,
    /// What it did.
    pub from: ServiceState,
    /// What it does; the same when it was restarted between two looks.
    pub to: ServiceState,
    /// As in [`Service::restarts`].
    pub restarts: u32,
}

/// Data of a [`kind::SERVICE_FLAPPING`](super::kind::SERVICE_FLAPPING) event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceFlapping {
    /// As in [`Service::name`].
    pub name: String,
    /// So many changes …
    pub changes: u32,
    /// … within so many seconds. The next are not told until it is steady.
    pub within_s: u64,
}

/// Data of a [`kind::SERVICE_STEADY`](super::kind::SERVICE_STEADY) event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceSteady {
    /// As in [`Service::name`].
    pub name: String,
    /// What it does, unchanged for a while.
    pub state: ServiceState,
    /// As in [`Service::restarts`].
    pub restarts: u32,
}
