//! Without the feature `ros2` there is none of these.

use std::time::Instant;

use lekiwi_agent_core::ros::Commander;

use super::RosError;

/// What the variant for ROS 2 sees; here there is none.
#[derive(Debug)]
pub enum Ros {}

impl Ros {
    /// Takes part in the domain `domain`.
    ///
    /// # Errors
    /// Always, in this build.
    pub fn open(_domain: u16, _topics: &[String]) -> Result<Self, RosError> {
        Err(RosError::Absent)
    }

    /// Whether this is what is looked for.
    #[must_use]
    pub fn is_of(&self, _domain: u16, _topics: &[String]) -> bool {
        match *self {}
    }

    /// Which domain it is.
    #[must_use]
    pub fn domain(&self) -> u16 {
        match *self {}
    }

    /// Nodes came or went.
    pub async fn changed(&self) {
        match *self {}
    }

    /// Whether all nodes that there are had time to be found.
    #[must_use]
    pub fn is_settled(&self, _now: Instant) -> bool {
        match *self {}
    }

    /// Whether there is a node that a profile calls `wanted`.
    #[must_use]
    pub fn has_node(&self, _wanted: &str) -> bool {
        match *self {}
    }

    /// Who writes commands, and how many since the last call.
    #[must_use]
    pub fn take_commanders(&self) -> Vec<Commander> {
        match *self {}
    }
}
