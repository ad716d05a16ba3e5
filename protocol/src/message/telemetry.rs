//! Numbers that change: a picture, not a ledger. The newest value wins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::MetricName;
use crate::limits::MAX_METRICS;

/// Metric values by name; each name carries its unit.
pub type Metrics = BTreeMap<MetricName, f64>;

/// `from/telemetry`, QoS 0: the metrics that moved since the last message, all that are due in one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Telemetry {
    /// The changed metrics. At most [`MAX_METRICS`].
    pub metrics: Metrics,
}

/// Why a telemetry message is refused although it parses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected at most {MAX_METRICS} metrics, got {0}")]
pub struct TelemetryError(usize);

impl Telemetry {
    /// Checks what the type cannot say.
    ///
    /// # Errors
    /// When there are too many metrics.
    pub fn check(&self) -> Result<(), TelemetryError> {
        check(&self.metrics)
    }
}

/// Whether there are not too many metrics.
pub(super) fn check(metrics: &Metrics) -> Result<(), TelemetryError> {
    if metrics.len() > MAX_METRICS {
        return Err(TelemetryError(metrics.len()));
    }
    Ok(())
}
