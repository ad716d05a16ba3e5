//! The live stream: what ingest has just learnt, for everybody who watches. Messages are serialised
//! once, and travel in batches. Bounded: a listener that is too slow loses the oldest batches and is
//! told how many messages they held. `ingest` sends; SSE and WebSocket handlers listen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lekiwi_protocol::api::EventRecord;
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::LivePayload;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::metrics::Metrics;
use crate::store::records::StoredEvent;

/// Batches that a listener may be behind.
const BACKLOG: usize = 1_024;

/// One message of the live stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveMessage {
    /// `telemetry`, `connection`, …, or an event's type such as `robot.connected`.
    pub kind: Arc<str>,
    /// Whose.
    pub robot: RobotId,
    /// The whole [`lekiwi_protocol::api::Live`], JSON.
    pub json: Arc<str>,
}

/// Messages that were learnt together.
#[derive(Debug)]
pub struct LiveBatch {
    /// Number of the first message since the relay started.
    first: u64,
    /// The messages, in order.
    pub messages: Vec<LiveMessage>,
}

/// The sending end; cheap to clone.
#[derive(Debug, Clone)]
pub struct Live {
    sender: broadcast::Sender<Arc<LiveBatch>>,
    /// The number of the next message; moved on before a batch is sent.
    next: Arc<AtomicU64>,
    subscribers: Gauge,
}

/// A listener.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<LiveBatch>>,
    /// The number of the next message, were none lost.
    expected: u64,
    subscribers: Gauge,
}

/// What a listener gets.
#[derive(Debug, Clone)]
pub struct Received {
    /// Messages that were lost just before these, because the listener was too slow.
    pub dropped: u64,
    /// The messages.
    pub batch: Arc<LiveBatch>,
}

impl Live {
    /// A stream without listeners.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            sender: broadcast::Sender::new(BACKLOG),
            next: Arc::default(),
            subscribers: metrics.live_subscribers.clone(),
        }
    }

    /// Listens from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.subscribers.inc();
        Subscription {
            receiver: self.sender.subscribe(),
            // Read second: a batch sent in between is received, and its number is lower.
            expected: self.next.load(Ordering::SeqCst),
            subscribers: self.subscribers.clone(),
        }
    }

    fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }
}

impl Subscription {
    /// The next batch; `None` when the relay stops.
    pub async fn next(&mut self) -> Option<Received> {
        loop {
            match self.receiver.recv().await {
                Ok(batch) => {
                    let dropped = batch.first.saturating_sub(self.expected);
                    self.expected = batch.first + batch.messages.len() as u64;
                    return Some(Received { dropped, batch });
                }
                // The next batch's number says how many messages that were.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscribers.dec();
    }
}

/// Collects what one turn of ingest learnt, then sends it. Costs nothing while nobody listens.
#[derive(Debug)]
pub(crate) struct Collector {
    live: Live,
    messages: Vec<LiveMessage>,
}

#[derive(Serialize)]
struct Wire<'a, P> {
    #[serde(rename = "type")]
    message_type: &'a str,
    robot_id: &'a RobotId,
    timestamp: Timestamp,
    sequence: u64,
    payload: &'a P,
}

impl Collector {
    pub(crate) fn new(live: Live) -> Self {
        Self {
            live,
            messages: Vec::new(),
        }
    }

    pub(crate) fn message(
        &mut self,
        now: Timestamp,
        robot: RobotId,
        sequence: u64,
        payload: &LivePayload,
    ) {
        match payload {
            LivePayload::Connection(payload) => {
                self.push("connection", now, robot, sequence, payload)
            }
            LivePayload::Factsheet(payload) => {
                self.push("factsheet", now, robot, sequence, payload)
            }
            LivePayload::State(payload) => self.push("state", now, robot, sequence, payload),
            LivePayload::Heartbeat(payload) => {
                self.push("heartbeat", now, robot, sequence, payload)
            }
            LivePayload::Telemetry(metrics) => {
                #[derive(Serialize)]
                struct Telemetry<'a> {
                    metrics: &'a lekiwi_protocol::message::Metrics,
                }
                self.push("telemetry", now, robot, sequence, &Telemetry { metrics });
            }
        }
    }

    pub(crate) fn event(&mut self, robot: RobotId, event: &StoredEvent) {
        if self.live.is_watched() {
            let record: EventRecord = event.record();
            let received = Timestamp::from_ms(event.event.received_ms);
            self.push(&event.event.kind, received, robot, event.position, &record);
        }
    }

    fn push<P: Serialize>(
        &mut self,
        kind: &str,
        timestamp: Timestamp,
        robot: RobotId,
        sequence: u64,
        payload: &P,
    ) {
        if !self.live.is_watched() {
            return;
        }
        let wire = Wire {
            message_type: kind,
            robot_id: &robot,
            timestamp,
            sequence,
            payload,
        };
        // Messages of the contract have string keys only, so this never fails.
        if let Ok(json) = serde_json::to_string(&wire) {
            self.messages.push(LiveMessage {
                kind: kind.into(),
                robot,
                json: json.into(),
            });
        }
    }

    /// Sends what was collected.
    pub(crate) fn flush(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let messages = std::mem::take(&mut self.messages);
        let first = self
            .live
            .next
            .fetch_add(messages.len() as u64, Ordering::SeqCst);
        // Nobody listens any more: fine.
        let _ = self
            .live
            .sender
            .send(Arc::new(LiveBatch { first, messages }));
    }
}
