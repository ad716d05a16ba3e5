//! What subscribers on the socket are told. The driver publishes, every caller that subscribed gets the
//! line; nobody waits for anybody.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// A line of JSON, without its end.
pub type Line = Arc<str>;

/// Lines that a subscriber may be behind; one that is further behind is dropped.
const BACKLOG: usize = 16;

/// What can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// The robot's state: now, and whenever something but telemetry changed.
    State,
    /// What the robot is told to do at once, such as an emergency stop.
    Control,
}

impl Topic {
    /// As it is spelled.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Control => "control",
        }
    }
}

/// Carries lines to all subscribers. Clones are the same bus.
#[derive(Debug, Clone)]
pub struct Bus(broadcast::Sender<(Topic, Line)>);

impl Default for Bus {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

impl Bus {
    /// Tells all subscribers of `topic`. Never waits. Says how many callers subscribed to anything.
    pub fn publish(&self, topic: Topic, line: impl Into<Line>) -> usize {
        self.0.send((topic, line.into())).unwrap_or(0)
    }

    /// Whether anybody subscribed to anything; if not, no line need be made.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(super) fn subscribe(&self, topics: Vec<Topic>) -> Subscription {
        Subscription {
            receiver: self.0.subscribe(),
            topics,
        }
    }
}

/// One caller's ears.
pub(super) struct Subscription {
    receiver: broadcast::Receiver<(Topic, Line)>,
    topics: Vec<Topic>,
}

impl Subscription {
    /// The next line; `None` when the caller has fallen behind, or the agent ends. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Line> {
        loop {
            match self.receiver.recv().await {
                Ok((topic, line)) if self.topics.contains(&topic) => return Some(line),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    pub(super) fn add(&mut self, topics: &[Topic]) {
        for topic in topics {
            if !self.topics.contains(topic) {
                self.topics.push(*topic);
            }
        }
    }
}
