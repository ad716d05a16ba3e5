//! The file as written. Everything is optional here; [`super::checked`] knows defaults and limits.

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) version: Option<u32>,
    pub(super) robot_id: Option<String>,
    pub(super) org: Option<String>,
    pub(super) profile: Option<String>,
    #[serde(default)]
    pub(super) relay: Relay,
    #[serde(default)]
    pub(super) enrolment: Enrolment,
    pub(super) state_dir: Option<String>,
    pub(super) socket: Option<String>,
    pub(super) heartbeat_s: Option<u64>,
    #[serde(default)]
    pub(super) telemetry: Telemetry,
    #[serde(default)]
    pub(super) discovery: Discovery,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Discovery {
    pub(super) mdns: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Relay {
    pub(super) https: Option<String>,
    pub(super) mqtt: Option<String>,
    pub(super) ca_fingerprint: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Enrolment {
    pub(super) token_file: Option<String>,
    pub(super) remove_token: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Telemetry {
    pub(super) sample_s: Option<u64>,
    #[serde(default)]
    pub(super) metrics: Metrics,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) cpu_percent: Option<Metric>,
    pub(super) memory_percent: Option<Metric>,
    pub(super) disk_percent: Option<Metric>,
    pub(super) temperature_c: Option<Metric>,
    pub(super) net_rx_bytes_per_s: Option<Metric>,
    pub(super) net_tx_bytes_per_s: Option<Metric>,
    pub(super) uptime_s: Option<Metric>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metric {
    pub(super) deadband: Option<f64>,
    pub(super) min_interval_s: Option<u64>,
    pub(super) keep_alive_s: Option<u64>,
    pub(super) alert_above: Option<f64>,
    pub(super) alert_clear: Option<f64>,
}
