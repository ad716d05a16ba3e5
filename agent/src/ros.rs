//! What the robot's nodes of ROS 2 are, and what they command: for the looks at the profile's nodes, and for
//! [`crate::teleop`]. Only the variant with the feature `ros2` takes part in DDS; every other build has none of
//! it, and says so where a profile asks for it.

#[cfg(not(feature = "ros2"))]
mod absent;
#[cfg(feature = "ros2")]
mod dds;

use std::io;
use std::sync::{Arc, Weak};

use lekiwi_protocol::profile::Profile;

use crate::driver::chain;
#[cfg(not(feature = "ros2"))]
pub use absent::Ros;
#[cfg(feature = "ros2")]
pub use dds::Ros;

/// Why ROS 2 is not looked at.
#[derive(Debug, thiserror::Error)]
pub enum RosError {
    /// This program is not the variant for it.
    #[error("expected the variant lekiwi-agent-ros2 to look at ROS 2, this is lekiwi-agent")]
    Absent,
    /// The machine gives no thread, or no way to wake it.
    #[error("expected a thread for ROS 2")]
    Thread(#[source] io::Error),
}

/// The one participant of this process, shared by all who look at the same domain and topics, and gone with the
/// last of them.
#[derive(Debug, Default)]
pub struct Slot {
    shared: Weak<Ros>,
    complaint: Option<String>,
}

impl Slot {
    /// What `profile` asks for; `None` when it asks for nothing, and with a line in the log when it cannot be had.
    pub fn open(&mut self, profile: &Profile) -> Option<Arc<Ros>> {
        if !profile.names_ros() {
            return None;
        }
        let (domain, topics) = (profile.ros.domain_id, &profile.teleop.ros_topics);
        if let Some(ros) = self
            .shared
            .upgrade()
            .filter(|ros| ros.is_of(domain, topics))
        {
            return Some(ros);
        }
        match Ros::open(domain, topics) {
            Ok(ros) => {
                let ros = Arc::new(ros);
                self.shared = Arc::downgrade(&ros);
                Some(ros)
            }
            Err(error) => {
                let text = format!("ROS 2 of the profile {}: {}", profile.name, chain(&error));
                if self.complaint.as_ref() != Some(&text) {
                    log::warn!("{text}");
                    self.complaint = Some(text);
                }
                None
            }
        }
    }
}
