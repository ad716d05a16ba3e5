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
        if self.metrics.len() > MAX_METRICS {
            return Err(TelemetryError(self.metrics.len()));
        }
        Ok(())
    }
}

/// Names of the metrics that robots have.
pub mod metric {
    /// Busy share of all cores, 0 to 100.
    pub const CPU_PERCENT: &str = "cpu_percent";
    /// Used share of memory, 0 to 100.
    pub const MEMORY_PERCENT: &str = "memory_percent";
    /// Used share of the root file system, 0 to 100.
    pub const DISK_PERCENT: &str = "disk_percent";
    /// Hottest thermal zone, °C.
    pub const TEMPERATURE_C: &str = "temperature_c";
    /// Received on all interfaces but loopback, bytes/s.
    pub const NET_RX_BYTES_PER_S: &str = "net_rx_bytes_per_s";
    /// Sent on all interfaces but loopback, bytes/s.
    pub const NET_TX_BYTES_PER_S: &str = "net_tx_bytes_per_s";
    /// Seconds since boot.
    pub const UPTIME_S: &str = "uptime_s";
    /// Charge of the battery, 0 to 100.
    pub const BATTERY_PERCENT: &str = "battery_percent";
    /// Its voltage.
    pub const BATTERY_V: &str = "battery_v";
    /// Whether it is being charged: 1 or 0.
    pub const BATTERY_CHARGING: &str = "battery_charging";
    /// What the names of metrics that local programs report by themselves begin with.
    pub const CUSTOM: &str = "custom.";
    /// Those that every robot has.
    pub const ALL: [&str; 7] = [
        CPU_PERCENT,
        MEMORY_PERCENT,
        DISK_PERCENT,
        TEMPERATURE_C,
        NET_RX_BYTES_PER_S,
        NET_TX_BYTES_PER_S,
        UPTIME_S,
    ];
}
