//! How long things took on their way here, for `/metrics`. Pure.

use lekiwi_protocol::message::{Heartbeat, kind};
use lekiwi_protocol::{Clock, Envelope, Timestamp};

use crate::metrics::Metrics;
use crate::store::records::{OWN_SOURCE, StoredEvent};

/// A heartbeat came. Robots whose clock is not set have nothing to compare with.
pub(super) fn heartbeat(metrics: &Metrics, envelope: &Envelope<Heartbeat>, now_ms: u64) {
    if envelope.clock == Clock::Synced {
        let lag = Timestamp::from_ms(now_ms).since(envelope.timestamp);
        metrics.heartbeat_lag.observe(lag.as_secs_f64());
    }
}

/// Events are in the log and in the picture.
pub(super) fn events(metrics: &Metrics, events: &[StoredEvent], now_ms: u64) {
    for StoredEvent { event, .. } in events {
        let lag_ms = now_ms.saturating_sub(event.received_ms);
        metrics.event_lag.observe(lag_ms as f64 / 1_000.0);
        if &*event.kind == kind::REGISTERED && event.source.starts_with(OWN_SOURCE) {
            metrics.robots_registered.inc();
        }
    }
}
