//! What subscribers on the socket are told. The driver publishes states, emergency stops are published where
//! they are read from the relay; every caller that subscribed gets the line; nobody waits for anybody.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::stops::{Confirmations, Stops, Witness};

/// A line of JSON, without its end.
pub type Line = Arc<str>;

/// Lines that a subscriber may be behind; one that is further behind is dropped.
const BACKLOG: usize = 16;
/// Why a confirmation does not count.
pub(super) const NOT_SUBSCRIBED: &str =
    "expected a caller that has subscribed to control to confirm a stop, got one that has not";

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
pub struct Bus {
    state: broadcast::Sender<Line>,
    control: broadcast::Sender<Line>,
    stops: Stops,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            state: broadcast::Sender::new(BACKLOG),
            control: broadcast::Sender::new(BACKLOG),
            stops: Stops::default(),
        }
    }
}

impl Bus {
    fn topic(&self, topic: Topic) -> &broadcast::Sender<Line> {
        match topic {
            Topic::State => &self.state,
            Topic::Control => &self.control,
        }
    }

    /// Tells all subscribers of `topic`. Never waits. Says how many there are.
    pub fn publish(&self, topic: Topic, line: impl Into<Line>) -> usize {
        self.topic(topic).send(line.into()).unwrap_or(0)
    }

    /// Whether anybody subscribed to `topic`; if not, no line need be made.
    #[must_use]
    pub fn is_heard(&self, topic: Topic) -> bool {
        self.listeners(topic) > 0
    }

    /// How many hear `topic`.
    #[must_use]
    pub fn listeners(&self, topic: Topic) -> usize {
        self.topic(topic).receiver_count()
    }

    /// Stop `id` can be confirmed from now on, by those who hear `control`.
    #[must_use]
    pub fn expect_stopped(&self, id: Uuid) -> Confirmations {
        self.stops.expect(id)
    }

    /// How many of those who hear `control` have confirmed a stop before.
    #[must_use]
    pub fn proven(&self) -> usize {
        self.stops.proven()
    }

    /// Hears these topics from now on.
    #[must_use]
    pub fn subscribe(&self, topics: &[Topic]) -> Subscription {
        let mut subscription = Subscription::default();
        subscription.add(self, topics);
        subscription
    }
}

/// One caller's ears.
#[derive(Debug, Default)]
pub struct Subscription {
    state: Option<broadcast::Receiver<Line>>,
    control: Option<broadcast::Receiver<Line>>,
    witness: Option<Witness>,
}

impl Subscription {
    /// The next line, control first; `None` when the caller has fallen behind, or the agent ends.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Line> {
        tokio::select! {
            biased;
            line = next(&mut self.control) => line,
            line = next(&mut self.state) => line,
        }
    }

    /// This caller has stopped what it drives, as stop `id` told it.
    ///
    /// # Errors
    /// When it hears of no stops, or none of this id waits.
    pub(super) fn confirm(&mut self, id: Uuid) -> Result<(), String> {
        match &mut self.witness {
            Some(witness) => witness.confirm(id),
            None => Err(NOT_SUBSCRIBED.to_owned()),
        }
    }

    /// Hears these as well.
    pub(super) fn add(&mut self, bus: &Bus, topics: &[Topic]) {
        for topic in topics {
            let ear = match topic {
                Topic::State => &mut self.state,
                Topic::Control => &mut self.control,
            };
            ear.get_or_insert_with(|| bus.topic(*topic).subscribe());
        }
        if self.control.is_some() {
            self.witness.get_or_insert_with(|| bus.stops.witness());
        }
    }
}

async fn next(ear: &mut Option<broadcast::Receiver<Line>>) -> Option<Line> {
    match ear {
        Some(ear) => ear.recv().await.ok(),
        None => std::future::pending().await,
    }
}
