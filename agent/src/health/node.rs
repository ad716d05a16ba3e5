//! Whether a node of ROS is there.

use std::sync::Arc;
use std::time::Instant;

use lekiwi_agent_core::services::Sight;
use lekiwi_protocol::message::ServiceState;
use lekiwi_protocol::profile::Profile;
use tokio::sync::mpsc::Sender;

use super::{Found, Look, Watched};
use crate::ros::{self, Ros};

/// A node that the profile names.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) name: String,
    ros: Arc<Ros>,
}

/// The nodes of `profile`; none where this program cannot see them.
pub(super) fn all(profile: &Profile, ros: &mut ros::Slot) -> Vec<Node> {
    if profile.ros.nodes.is_empty() {
        return Vec::new();
    }
    let Some(ros) = ros.open(profile) else {
        return Vec::new();
    };
    let node = |name: &String| Node {
        name: name.clone(),
        ros: Arc::clone(&ros),
    };
    profile.ros.nodes.iter().map(node).collect()
}

/// Says at once when a node among `watched` comes or goes, until nobody hears it.
pub(super) fn follow<'a>(watched: impl IntoIterator<Item = &'a Watched>, sender: &Sender<Found>) {
    let watched = watched.into_iter().enumerate();
    let mut nodes: Vec<(usize, Node, bool)> = watched
        .filter_map(|(index, watched)| match watched {
            Watched::Node(node) => Some((index, node.clone(), false)),
            _ => None,
        })
        .collect();
    let Some(ros) = nodes.first().map(|(_, node, _)| Arc::clone(&node.ros)) else {
        return;
    };
    let sender = sender.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = ros.changed() => {}
                () = sender.closed() => return,
            }
            for (index, node, was) in &mut nodes {
                let result = node.result();
                if result.is_ok() != std::mem::replace(was, result.is_ok()) {
                    // Whoever does not hear it has ended.
                    let _ = sender.send((*index, result)).await;
                }
            }
        }
    });
}

impl Node {
    /// Looks for it; `None` while it may not have been found yet.
    pub(super) fn look(&self, now: Instant) -> Option<Look> {
        let result = self.result();
        if result.is_err() && !self.ros.is_settled(now) {
            return None;
        }
        let state = match result {
            Ok(()) => ServiceState::Active,
            Err(_) => ServiceState::Inactive,
        };
        let restarted = false;
        Some((Sight { state, restarted }, result))
    }

    fn result(&self) -> Result<(), String> {
        match self.ros.has_node(&self.name) {
            true => Ok(()),
            false => Err(format!(
                "expected the node {} in the domain {}, found none",
                self.name,
                self.ros.domain()
            )),
        }
    }
}
