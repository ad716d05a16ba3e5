//! What of ROS 2 is looked at. Only the agent's variant with the feature `ros2` does; every other reads these
//! keys, and says that it does not.

use serde::Deserialize;

use super::check::{Complaint, below, complain};
use super::{Profile, Teleop};
use crate::limits::MAX_ROS_TOPICS;

/// The greatest domain whose ports exist; of those above 101, some are in the range of ports that Linux gives
/// away by itself.
const MAX_DOMAIN_ID: u16 = 232;

/// ROS 2 on the robot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ros {
    /// `ROS_DOMAIN_ID` of the robot's nodes, 0 to 232.
    #[serde(default)]
    pub domain_id: u16,
    /// Nodes that are watched, each must be there in a healthy robot: `/arm/driver`, or `driver` in any namespace.
    #[serde(default)]
    pub nodes: Vec<String>,
}

/// Nav2's nodes that write velocities.
pub(super) fn autonomous_nodes() -> Vec<String> {
    let names = [
        "controller_server",
        "velocity_smoother",
        "collision_monitor",
        "behavior_server",
        "docking_server",
    ];
    names.map(str::to_owned).into()
}

/// Nodes that hand on what their clients say.
pub(super) fn bridge_nodes() -> Vec<String> {
    ["rosbridge_websocket", "foxglove_bridge"]
        .map(str::to_owned)
        .into()
}

/// Whether the node `full`, such as `/arm/driver`, is the one that a profile names: the same, or without a slash
/// at its beginning the same name in any namespace.
#[must_use]
pub fn is_node(full: &str, wanted: &str) -> bool {
    full == wanted || (!wanted.starts_with('/') && full.rsplit('/').next() == Some(wanted))
}

impl Ros {
    pub(super) fn rules(&self) -> Result<(), Complaint> {
        if self.domain_id > MAX_DOMAIN_ID {
            return complain(
                "domain_id",
                format!("expected 0 to {MAX_DOMAIN_ID}, got {}", self.domain_id),
            );
        }
        names("nodes", &self.nodes)
    }
}

impl Teleop {
    /// What the keys about ROS may say.
    pub(super) fn ros_rules(&self) -> Result<(), Complaint> {
        let count = self.ros_topics.len();
        if count > MAX_ROS_TOPICS {
            return complain(
                "ros_topics",
                format!("expected at most {MAX_ROS_TOPICS} topics, got {count}"),
            );
        }
        for (index, topic) in self.ros_topics.iter().enumerate() {
            if !topic.starts_with('/') || !is_name(topic) {
                return complain(
                    format!("ros_topics[{index}]"),
                    format!("expected a topic such as /cmd_vel, got {topic:?}"),
                );
            }
        }
        names("autonomous_nodes", &self.autonomous_nodes)?;
        names("bridge_nodes", &self.bridge_nodes)
    }
}

impl Profile {
    /// Whether anything of ROS is to be looked at.
    #[must_use]
    pub fn names_ros(&self) -> bool {
        !self.ros.nodes.is_empty() || !self.teleop.ros_topics.is_empty()
    }
}

fn names(key: &str, names: &[String]) -> Result<(), Complaint> {
    for (index, name) in names.iter().enumerate() {
        if !is_name(name) {
            let reason = format!("expected a node such as /arm/driver or driver, got {name:?}");
            return Err(below(&format!("{key}[{index}]"))((String::new(), reason)));
        }
    }
    Ok(())
}

/// ROS's rules for names: parts of letters, digits and underscores, none of which begins with a digit.
fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && part.starts_with(|c: char| !c.is_ascii_digit())
    };
    name.len() <= 255 && name.strip_prefix('/').unwrap_or(name).split('/').all(part)
}
