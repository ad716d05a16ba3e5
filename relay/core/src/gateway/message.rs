//! Messages as the gateway handles them, whatever they consist of, and how those of one robot and type become one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::Summary;
use lekiwi_protocol::message::{Metrics, Priority};
use lekiwi_protocol::{MetricName, RobotId};

/// What the gateway must know of a message's content. The rest is the driver's.
pub trait Content: Sized {
    /// The metrics, if it is telemetry: of it newer values replace older ones metric by metric, while anything
    /// else is replaced as a whole.
    fn metrics(&self) -> Option<&Metrics>;

    /// Telemetry of many messages as one; `self` is the newest of them.
    fn merged(&self, metrics: Metrics, aggregates: Option<BTreeMap<MetricName, Summary>>) -> Self;

    /// About how much memory it takes, bytes.
    fn weight(&self) -> usize;
}

/// A message to all who want it.
#[derive(Debug)]
pub struct Message<C> {
    /// Whose.
    pub robot: RobotId,
    /// Its type.
    pub kind: Arc<str>,
    /// How urgent.
    pub priority: Priority,
    /// Its place in the event log; only events have one.
    pub position: Option<u64>,
    /// Whether a newer one of the same robot and type says all that it says.
    pub picture: bool,
    /// What it says.
    pub content: C,
}

/// How long a message may wait for a client that reads: one that waited longer shows a slow client.
#[must_use]
pub fn deadline(priority: Priority) -> Duration {
    match priority {
        Priority::Critical => Duration::from_millis(100),
        Priority::High => Duration::from_millis(500),
        Priority::Normal => Duration::from_secs(5),
        Priority::Low => Duration::from_secs(30),
    }
}

/// Of which picture: the robot and the type.
pub(super) type PictureKey = (RobotId, Arc<str>);

impl<C: Content> Message<C> {
    pub(super) fn key(&self) -> PictureKey {
        (self.robot.clone(), self.kind.clone())
    }

    /// About how much memory it takes in a queue.
    pub(super) fn weight(&self) -> usize {
        OVERHEAD + self.content.weight()
    }
}

/// Of a message beside its content.
const OVERHEAD: usize = 128;
/// Of a metric: its name, its value and their place in a map.
const METRIC: usize = 64;

/// Pictures of one robot and type on their way to becoming one.
#[derive(Debug)]
pub(super) struct Held<C> {
    newest: Arc<Message<C>>,
    /// The newest value of each metric, once there are values of more than one message.
    metrics: Option<Metrics>,
    aggregates: Option<BTreeMap<MetricName, Summary>>,
    /// When the first of them came.
    pub(super) since: Duration,
}

impl<C: Content> Held<C> {
    pub(super) fn new(now: Duration, message: Arc<Message<C>>, aggregate: bool) -> Self {
        let aggregates = message
            .content
            .metrics()
            .filter(|_| aggregate)
            .map(|metrics| {
                let of = |(name, value): (&MetricName, &f64)| (name.clone(), Summary::of(*value));
                metrics.iter().map(of).collect()
            });
        Self {
            newest: message,
            metrics: None,
            aggregates,
            since: now,
        }
    }

    /// A newer one.
    pub(super) fn add(&mut self, message: Arc<Message<C>>) {
        if let Some(newer) = message.content.metrics() {
            let older = self.newest.content.metrics();
            let metrics = self
                .metrics
                .get_or_insert_with(|| older.cloned().unwrap_or_default());
            for (name, value) in newer {
                metrics.insert(name.clone(), *value);
            }
            if let Some(aggregates) = &mut self.aggregates {
                for (name, value) in newer {
                    let so_far = aggregates.get(name).copied();
                    let with = so_far.map_or_else(|| Summary::of(*value), |a| a.with(*value));
                    aggregates.insert(name.clone(), with);
                }
            }
        }
        self.newest = message;
    }

    pub(super) fn weight(&self) -> usize {
        self.newest.weight() + METRIC * self.metrics.as_ref().map_or(0, BTreeMap::len)
    }

    /// The one that they became.
    pub(super) fn release(self) -> Arc<Message<C>> {
        let newest = self.newest;
        let metrics = match (self.metrics, &self.aggregates) {
            (Some(metrics), _) => metrics,
            (None, Some(_)) => newest.content.metrics().cloned().unwrap_or_default(),
            // The one that everybody gets.
            (None, None) => return newest,
        };
        Arc::new(Message {
            robot: newest.robot.clone(),
            kind: newest.kind.clone(),
            priority: newest.priority,
            position: newest.position,
            picture: newest.picture,
            content: newest.content.merged(metrics, self.aggregates),
        })
    }
}
