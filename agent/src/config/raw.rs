//! The file as written. Everything is optional here; [`super::checked`] knows defaults and limits.

use lekiwi_protocol::profile::MetricRules;
use lekiwi_protocol::trace::Sample;
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) version: Option<u32>,
    pub(super) robot_id: Option<String>,
    pub(super) org: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) profiles_dir: Option<String>,
    #[serde(default)]
    pub(super) hardware: Hardware,
    #[serde(default)]
    pub(super) relay: Relay,
    #[serde(default)]
    pub(super) enrolment: Enrolment,
    #[serde(default)]
    pub(super) identity: Identity,
    pub(super) trust_file: Option<String>,
    pub(super) state_dir: Option<String>,
    pub(super) socket: Option<String>,
    pub(super) heartbeat_s: Option<u64>,
    pub(super) log: Option<String>,
    #[serde(default)]
    pub(super) telemetry: Telemetry,
    #[serde(default)]
    pub(super) traces: Traces,
    #[serde(default)]
    pub(super) discovery: Discovery,
    pub(super) migration: Option<Migration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Migration {
    pub(super) listen: Option<String>,
    pub(super) mirror: Option<String>,
    pub(super) api_key_file: Option<String>,
    pub(super) auth: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Traces {
    pub(super) sample: Option<Sample>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Discovery {
    pub(super) mdns: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hardware {
    pub(super) root: Option<String>,
    pub(super) servo_ports: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Relay {
    pub(super) https: Option<String>,
    pub(super) mqtt: Option<String>,
    pub(super) endpoints: Option<Vec<Endpoint>>,
    pub(super) last_resort: Option<bool>,
    pub(super) fail_back_s: Option<u64>,
    pub(super) proxy: Option<String>,
    pub(super) ca_fingerprint: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    pub(super) mqtt: Option<String>,
    pub(super) preference: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Enrolment {
    pub(super) token_file: Option<String>,
    pub(super) remove_token: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    pub(super) signer: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Telemetry {
    pub(super) sample_s: Option<u64>,
    #[serde(default)]
    pub(super) metrics: MetricRules,
}
