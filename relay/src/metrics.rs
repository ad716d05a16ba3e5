//! What the relay counts, for `/metrics`. Counting is an atomic add; no lock but for a label that is
//! new, and a short one for histograms. Names follow Prometheus: base units, `_total` for counters (added by the
//! encoder). `docs/observability.md` explains each.
//!
//! Invariant: labels have few values, all written in the program: never a robot, a person or an address.

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

/// What the store was slow with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabels {
    /// `read` or `write`.
    pub work: &'static str,
}

/// Who was slow to take what it is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConsumerLabels {
    /// `live` or `mqtt`.
    pub by: &'static str,
}

/// A request of the HTTP interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `GET` (`HEAD` included), `POST` and so on; `other` where there is no such route.
    pub method: &'static str,
    /// The route's template; `other` where there is none.
    pub route: &'static str,
    /// The status' class, as `2xx`.
    pub status: &'static str,
}

/// Whose certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HolderLabels {
    /// `robots`, the one of them that ends first; `server`, the relay's own; `authority`.
    pub of: &'static str,
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
    /// Reads and writes of the store that took half a second and longer.
    pub slow_store: Family<StoreLabels, Counter>,
    /// How often a consumer was found to be behind.
    pub slow_consumers: Family<ConsumerLabels, Counter>,
    /// Commands that ended, by how.
    pub commands: Family<EndLabels, Counter>,
    /// Attempts to tell receivers of alerts, by how they ended.
    pub alert_deliveries: Family<DeliveryLabels, Counter>,
    /// Alerts that fire.
    pub alerts_firing: Gauge,
    /// Robots whose link is up. This and the numbers of robots below are counted when somebody asks.
    pub robots_online: Gauge,
    /// Of these, the silent ones.
    pub robots_stale: Gauge,
    /// Robots that the relay knows.
    pub robots_known: Gauge,
    /// Robots that got a certificate.
    pub robots_registered: Counter,
    /// Robots that somebody drives.
    pub teleoperation_sessions: Gauge,
    /// For how long certificates are still good, seconds. This and the next are looked at when somebody asks.
    pub certificate_left: Family<HolderLabels, Gauge>,
    /// Robots whose certificate has less than a sixth of its life left.
    pub robots_certificate_ending: Gauge,
    /// From a heartbeat, by the clock of robots that have it set, to here.
    pub heartbeat_lag: Histogram,
    /// From the receipt of an event to its place in the log and in the picture.
    pub event_lag: Histogram,
    /// Whether the broker is there: 1 or 0.
    pub broker_up: Gauge,
    /// Whether this relay leads those on its log: 1 or 0.
    pub leads: Gauge,
    /// MQTT clients connected.
    pub connections: Gauge,
    /// MQTT clients that connected, ever.
    pub connected: Counter,
    /// Messages that the broker gave to a client.
    pub delivered: Counter,
    /// Messages that the broker dropped on the way to a subscriber.
    pub broker_dropped: Counter,
    /// Subscribers disconnected because they did not read.
    pub stalled: Counter,
    /// Listeners of the live stream.
    pub live_subscribers: Gauge,
    /// Live messages that were told.
    pub live_told: Counter,
    /// Live messages that waited for a listener for longer than their priority may.
    pub live_late: Counter,
    /// From a request's headers to those of its answer.
    pub requests: Family<RequestLabels, Histogram, fn() -> Histogram>,
    /// Spans that the collector took.
    pub spans_exported: Counter,
    /// Spans that found no room, or that it did not take.
    pub spans_dropped: Counter,
    /// Memory that the process has, bytes.
    pub resident_memory: Gauge,
    /// When the process started, seconds since the epoch.
    pub start_time: Gauge,
}

/// 0.25 ms to 8 s.
fn work_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}

/// 1 ms to 2 min.
fn lag_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
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
            commit_seconds: work_seconds(),
            commit_failures: Counter::default(),
            slow_store: Family::default(),
            slow_consumers: Family::default(),
            commands: Family::default(),
            alert_deliveries: Family::default(),
            alerts_firing: Gauge::default(),
            robots_online: Gauge::default(),
            robots_stale: Gauge::default(),
            robots_known: Gauge::default(),
            robots_registered: Counter::default(),
            teleoperation_sessions: Gauge::default(),
            certificate_left: Family::default(),
            robots_certificate_ending: Gauge::default(),
            heartbeat_lag: lag_seconds(),
            event_lag: lag_seconds(),
            broker_up: Gauge::default(),
            leads: Gauge::default(),
            connections: Gauge::default(),
            connected: Counter::default(),
            delivered: Counter::default(),
            broker_dropped: Counter::default(),
            stalled: Counter::default(),
            live_subscribers: Gauge::default(),
            live_told: Counter::default(),
            live_late: Counter::default(),
            requests: Family::new_with_constructor(work_seconds),
            spans_exported: Counter::default(),
            spans_dropped: Counter::default(),
            resident_memory: Gauge::default(),
            start_time: Gauge::default(),
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
                "store_slow",
                "Reads and writes of the store that took half a second and longer",
                this.slow_store.clone(),
            );
            r.register(
                "consumers_slow",
                "How often a consumer was found to be behind",
                this.slow_consumers.clone(),
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
                "robots_stale",
                "Robots whose link is up and that are silent",
                this.robots_stale.clone(),
            );
            r.register(
                "robots_registered",
                "Robots that got a certificate",
                this.robots_registered.clone(),
            );
            r.register(
                "teleoperation_sessions",
                "Robots that somebody drives",
                this.teleoperation_sessions.clone(),
            );
            r.register_with_unit(
                "certificate_left",
                "Time until the end of certificates, of robots the one that ends first",
                Unit::Seconds,
                this.certificate_left.clone(),
            );
            r.register(
                "robots_certificate_ending",
                "Robots whose certificate has less than a sixth of its life left",
                this.robots_certificate_ending.clone(),
            );
            r.register_with_unit(
                "heartbeat_lag",
                "Time from a heartbeat, by the clock of robots that have it set, to the relay",
                Unit::Seconds,
                this.heartbeat_lag.clone(),
            );
            r.register_with_unit(
                "event_lag",
                "Time from the receipt of an event to its place in the log and in the picture",
                Unit::Seconds,
                this.event_lag.clone(),
            );
            r.register(
                "broker_up",
                "Whether the broker is there",
                this.broker_up.clone(),
            );
            r.register(
                "leads",
                "Whether this relay leads those on its log",
                this.leads.clone(),
            );
            r.register(
                "mqtt_connected",
                "MQTT clients that connected",
                this.connected.clone(),
            );
            r.register(
                "mqtt_delivered",
                "Messages the broker gave to a client",
                this.delivered.clone(),
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
            r.register("live_told", "Live messages told", this.live_told.clone());
            r.register(
                "live_late",
                "Live messages that waited for a listener for too long",
                this.live_late.clone(),
            );
            r.register_with_unit(
                "http_request_duration",
                "Time from a request to the headers of its answer",
                Unit::Seconds,
                this.requests.clone(),
            );
            r.register(
                "spans_exported",
                "Spans of traces that the collector took",
                this.spans_exported.clone(),
            );
            r.register(
                "spans_dropped",
                "Spans that found no room or were not taken",
                this.spans_dropped.clone(),
            );
            r.register_with_unit(
                "process_resident_memory",
                "Memory of the process",
                Unit::Bytes,
                this.resident_memory.clone(),
            );
            r.register_with_unit(
                "process_start_time",
                "When the process started, since the epoch",
                Unit::Seconds,
                this.start_time.clone(),
            );
        });
        this.begin();
        this
    }
}

impl Metrics {
    /// Counts from zero what has been seen never, so that the first of a kind is an increase.
    fn begin(&self) {
        for kind in [
            "connection",
            "factsheet",
            "state",
            "heartbeat",
            "telemetry",
            "events",
            "backlog",
            "response",
            "reported",
        ] {
            self.messages
                .get_or_create(&MessageLabels { kind })
                .inc_by(0);
        }
        for reason in [
            "certificate",
            "client-id",
            "publish",
            "subscribe",
            "will",
            "topic",
            "oversized",
            "malformed",
            "events",
            "version",
            "full",
            "address-full",
            "banned",
            "rate",
        ] {
            self.refused
                .get_or_create(&RefusalLabels { reason })
                .inc_by(0);
        }
        for place in [
            "ingest", "backlog", "history", "events", "live", "clock", "broker",
        ] {
            self.shed.get_or_create(&ShedLabels { place }).inc_by(0);
        }
        for end in ["successful", "failed", "expired", "lost"] {
            self.commands.get_or_create(&EndLabels { end }).inc_by(0);
        }
        for work in ["read", "write"] {
            self.slow_store
                .get_or_create(&StoreLabels { work })
                .inc_by(0);
        }
        for by in ["live", "mqtt"] {
            self.slow_consumers
                .get_or_create(&ConsumerLabels { by })
                .inc_by(0);
        }
        for result in ["delivered", "failed", "refused"] {
            self.alert_deliveries
                .get_or_create(&DeliveryLabels { result })
                .inc_by(0);
        }
    }

    /// Adds another part's metrics, such as those of the HTTP interface.
    pub fn with_registry<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The text that `/metrics` answers, as OpenMetrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        self.with_registry(|registry| {
            // Writing into a String cannot fail.
            let _ = prometheus_client::encoding::text::encode(&mut text, registry);
        });
        text
    }

    /// The same in Prometheus' own format, for those who do not ask for OpenMetrics: there counters are described
    /// under their whole name, and neither units nor the end are said.
    #[must_use]
    pub fn encode_plain(&self) -> String {
        let mut text = String::new();
        let mut help = "";
        let open = self.encode();
        for line in open.lines() {
            let words = line
                .strip_prefix("# ")
                .and_then(|rest| rest.split_once(' '));
            match words {
                Some(("HELP", rest)) => help = rest,
                Some(("TYPE", rest)) => {
                    let total = if rest.ends_with(" counter") {
                        "_total"
                    } else {
                        ""
                    };
                    if let (Some((name, kind)), Some((_, help))) =
                        (rest.split_once(' '), help.split_once(' '))
                    {
                        text +=
                            &format!("# HELP {name}{total} {help}\n# TYPE {name}{total} {kind}\n");
                    }
                }
                Some(("UNIT", _)) => {}
                _ if line == "# EOF" => {}
                _ => {
                    text += line;
                    text.push('\n');
                }
            }
        }
        text
    }

    /// Counts one refusal.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabels { reason }).inc();
    }

    /// Counts a consumer that was found to be behind.
    pub fn slow_consumer(&self, by: &'static str) {
        self.slow_consumers
            .get_or_create(&ConsumerLabels { by })
            .inc();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_describe_the_same_numbers() {
        let metrics = Metrics::default();
        metrics.refuse("malformed");
        let (open, plain) = (metrics.encode(), metrics.encode_plain());
        for text in [&open, &plain] {
            assert!(
                text.contains("\nlekiwi_refused_total{reason=\"malformed\"} 1\n"),
                "{text}"
            );
        }
        assert!(
            open.contains("# TYPE lekiwi_refused counter\n") && open.ends_with("# EOF\n"),
            "{open}"
        );
        let described = "# HELP lekiwi_refused_total Messages, subscriptions and connections refused.\n\
                         # TYPE lekiwi_refused_total counter\nlekiwi_refused_total{";
        assert!(plain.contains(described), "{plain}");
        assert!(
            !plain.contains("# UNIT") && !plain.contains("# EOF"),
            "{plain}"
        );
    }
}
