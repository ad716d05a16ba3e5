//! What operators desire, over what the file says. Pure.

use lekiwi_agent_core::twin::Layer;
use lekiwi_protocol::yaml;
use serde::Deserialize;

use super::{Config, ConfigError, Environment, checked, raw};

/// The keys that can be desired: those that can change while the agent runs, and are no path.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    heartbeat_s: Option<u64>,
    log: Option<String>,
    #[serde(default)]
    telemetry: raw::Telemetry,
    #[serde(default)]
    traces: raw::Traces,
}

impl Settings {
    fn overlay(self, raw: &mut raw::Config) {
        raw.heartbeat_s = self.heartbeat_s.or(raw.heartbeat_s);
        raw.log = self.log.or_else(|| raw.log.take());
        raw.telemetry.sample_s = self.telemetry.sample_s.or(raw.telemetry.sample_s);
        raw.traces.sample = self.traces.sample.or(raw.traces.sample);
        for (key, rule) in self.telemetry.metrics {
            let file = raw.telemetry.metrics.entry(key).or_default();
            *file = checked::over(rule, *file);
        }
    }
}

/// The configuration of a text that is right by itself, with what operators desire over it.
pub(super) fn over(
    text: &str,
    origin: &str,
    Layer { version, settings }: &Layer,
    environment: &Environment,
    hostname: &str,
) -> Result<Config, ConfigError> {
    let desired = format!("the desired configuration {version}");
    // JSON is YAML, so that the same keys are refused in the same words. Maps with texts as keys become JSON.
    let json = serde_json::to_string(settings).unwrap_or_default();
    let settings: Settings = yaml::parse(&json, &desired)?;
    let mut raw: raw::Config = yaml::parse(text, origin)?;
    settings.overlay(&mut raw);
    environment.apply(&mut raw)?;
    checked::check(raw, &desired, environment, hostname)
}
