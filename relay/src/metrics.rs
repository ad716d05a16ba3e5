//! What the relay counts, for `/metrics`. Counting is an atomic add; no lock but for a label that is
//! new. Names follow Prometheus: base units, `_total` for counters (added by the encoder).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The kind of a message, as in its envelope.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MessageLabels {
    /// The envelope's type.
    pub kind: &'static str,
}

/// Why something was turned away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    /// The stable slug of the reason.
    pub reason: &'static str,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndLabels {
    /// `successful`, `failed`, `expired`, `lost`.
    pub end: &'static str,
}

/// How an attempt to tell somebody of alerts ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeliveryLabels {
    /// `delivered`, `failed` (it is tried again), `refused`.
    pub result: &'static str,
}

/// What was shed under overload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ShedLabels {
    /// Where: `backlog`, `ingest`, `history`, `events` (those are not acknowledged, and come again) when the relay is
    /// behind; `live` for listeners that are; `clock` are late samples of impossible times.
    pub place: &'static str,
}

/// Every counter of the relay. Made once; parts hold clones of what they count.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Messages that ingest took, by kind.
    pub messages: Family<MessageLabels, Counter>,
    /// Messages, subscriptions and connections that were refused.
    pub refused: Family<RefusalLabels, Counter>,
    /// Messages and samples that were dropped under overload.
    pub shed: Family<ShedLabels, Counter>,
    /// Of these, what the relay itself was too slow for.
    overloaded: AtomicU64,
    /// New events on disk.
    pub events_committed: Counter,
    /// Events that were in the log already.
    pub events_duplicate: Counter,
    /// Samples written to history.
    pub samples_committed: Counter,
    /// Time of one group commit.
    pub commit_seconds: Histogram,
    /// Commits that failed and are tried again.
    pub commit_failures: Counter,
    /// Commands that ended, by how.
    pub commands: Family<EndLabels, Counter>,
    /// Attempts to tell receivers of alerts, by how they ended.
    pub alert_deliveries: Family<DeliveryLabels, Counter>,
    /// Alerts that fire.
    pub alerts_firing: Gauge,
    /// Robots whose link is up.
    pub robots_online: Gauge,
    /// Robots that the relay knows.
    pub robots_known: Gauge,
    /// MQTT clients connected.
    pub connections: Gauge,
    /// Messages that the broker dropped on the way to a subscriber.
    pub broker_dropped: Counter,
    /// Subscribers disconnected because they did not read.
    pub stalled: Counter,
    /// Listeners of the live stream.
    pub live_subscribers: Gauge,
    /// Live messages that waited for a listener for longer than their priority may.
    pub live_late: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let this = Self {
            registry: Mutex::new(Registry::with_prefix("lekiwi")),
            messages: Family::default(),
            refused: Family::default(),
            shed: Family::default(),
            overloaded: AtomicU64::default(),
            events_committed: Counter::default(),
            events_duplicate: Counter::default(),
            samples_committed: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            commit_failures: Counter::default(),
            commands: Family::default(),
            alert_deliveries: Family::default(),
            alerts_firing: Gauge::default(),
            robots_online: Gauge::default(),
            robots_known: Gauge::default(),
            connections: Gauge::default(),
            broker_dropped: Counter::default(),
            stalled: Counter::default(),
            live_subscribers: Gauge::default(),
            live_late: Counter::default(),
        };
        this.with_registry(|r| {
            r.register(
                "messages",
                "Messages taken from robots",
                this.messages.clone(),
            );
            r.register(
                "refused",
                "Messages, subscriptions and connections refused",
                this.refused.clone(),
            );
            r.register(
                "shed",
                "Messages and samples dropped under overload",
                this.shed.clone(),
            );
            r.register(
                "events_committed",
                "New events on disk",
                this.events_committed.clone(),
            );
            r.register(
                "events_duplicate",
                "Events that were in the log already",
                this.events_duplicate.clone(),
            );
            r.register(
                "samples_committed",
                "Telemetry samples written to history",
                this.samples_committed.clone(),
            );
            r.register_with_unit(
                "commit",
                "Time of one group commit",
                Unit::Seconds,
                this.commit_seconds.clone(),
            );
            r.register(
                "commit_failures",
                "Commits that failed and are tried again",
                this.commit_failures.clone(),
            );
            r.register(
                "commands_ended",
                "Commands of robots that came to an end",
                this.commands.clone(),
            );
            r.register(
                "alert_deliveries",
                "Attempts to tell receivers of alerts",
                this.alert_deliveries.clone(),
            );
            r.register(
                "alerts_firing",
                "Alerts that fire",
                this.alerts_firing.clone(),
            );
            r.register(
                "robots_online",
                "Robots whose link is up",
                this.robots_online.clone(),
            );
            r.register(
                "robots_known",
                "Robots that the relay knows",
                this.robots_known.clone(),
            );
            r.register(
                "mqtt_connections",
                "MQTT clients connected",
                this.connections.clone(),
            );
            r.register(
                "mqtt_dropped",
                "Messages the broker dropped on the way to a subscriber",
                this.broker_dropped.clone(),
            );
            r.register(
                "mqtt_stalled",
                "Subscribers disconnected because they did not read",
                this.stalled.clone(),
            );
            r.register(
                "live_subscribers",
                "Listeners of the live stream",
                this.live_subscribers.clone(),
            );
            r.register(
                "live_late",
                "Live messages that waited for a listener for too long",
                this.live_late.clone(),
            );
        });
        this
    }
}

impl Metrics {
    /// Adds another part's metrics, such as those of the HTTP interface.
    pub fn with_registry<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The text that `/metrics` answers.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        self.with_registry(|registry| {
            // Writing into a String cannot fail.
            let _ = prometheus_client::encoding::text::encode(&mut text, registry);
        });
        text
    }

    /// Counts one refusal.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabels { reason }).inc();
    }

    /// Counts `n` things dropped under overload.
    pub fn shed(&self, place: &'static str, n: u64) {
        self.shed.get_or_create(&ShedLabels { place }).inc_by(n);
        if !matches!(place, "live" | "clock") {
            self.overloaded.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// How much was dropped in all because the relay was behind.
    #[must_use]
    pub fn overloaded(&self) -> u64 {
        self.overloaded.load(Ordering::Relaxed)
    }
}
