//! Which settings can be wanted of a robot, and which values they can have. The relay asks before it makes a version
//! of them; what they mean together with the robot's own file and profile, only the robot can say. Pure.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::configuration::Settings;
use super::metric;
use crate::limits::{HEARTBEAT_S, METRIC_S, SAMPLE_S};
use crate::trace::Sample;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// A key that there is not, or a value that it cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: expected {expected}, got {got}")]
pub struct SettingError {
    /// Where, from `settings` on.
    pub path: String,
    /// What there could be.
    pub expected: String,
    /// What is there, cut to what a person reads.
    pub got: String,
}

/// Checks keys, types and ranges.
///
/// # Errors
/// At the first key or value that no robot takes.
pub fn check_settings(settings: &Settings) -> Result<(), SettingError> {
    for (key, value) in settings {
        let at = At("settings").below(key);
        match key.as_str() {
            "heartbeat_s" => at.whole(value, &HEARTBEAT_S)?,
            "log" => at.level(value)?,
            "telemetry" => telemetry(&at, value)?,
            "traces" => traces(&at, value)?,
            _ => return Err(At("settings").unknown(key, "heartbeat_s, log, telemetry, traces")),
        }
    }
    Ok(())
}

fn telemetry(at: &At<impl AsRef<str>>, value: &Value) -> Result<(), SettingError> {
    at.each(value, |key, value, below| match key {
        "sample_s" => below.whole(value, &SAMPLE_S),
        "metrics" => below.each(value, |key, value, below| match metric::key_of(key) {
            Some(_) => rule(&below, value),
            None => Err(at.below("metrics").unknown(key, &metric::KEYS.join(", "))),
        }),
        _ => Err(at.unknown(key, "sample_s, metrics")),
    })
}

fn traces(at: &At<impl AsRef<str>>, value: &Value) -> Result<(), SettingError> {
    at.each(value, |key, value, below| match key {
        "sample" => below.number(value, "a share from 0 to 1", |share| {
            Sample::new(share).is_some()
        }),
        _ => Err(at.unknown(key, "sample")),
    })
}

fn rule(at: &At<impl AsRef<str>>, value: &Value) -> Result<(), SettingError> {
    at.each(value, |key, value, below| match key {
        "deadband" => below.number(value, "a number from 0", |number| number >= 0.0),
        "min_interval_s" | "keep_alive_s" => below.whole(value, &METRIC_S),
        "alert_above" | "alert_below" | "alert_clear" => below.number(value, "a number", |_| true),
        _ => Err(at.unknown(
            key,
            "deadband, min_interval_s, keep_alive_s, alert_above, alert_below, alert_clear",
        )),
    })?;
    match (value.get("alert_above"), value.get("alert_below")) {
        (Some(_), Some(_)) => Err(at.wrong("alert_above or alert_below", "both".to_owned())),
        _ => Ok(()),
    }
}

/// A place in the settings.
struct At<T>(T);

impl<T: AsRef<str>> At<T> {
    fn below(&self, key: &str) -> At<String> {
        At(format!("{}.{}", self.0.as_ref(), shown(key)))
    }

    fn wrong(&self, expected: &str, got: String) -> SettingError {
        SettingError {
            path: self.0.as_ref().to_owned(),
            expected: expected.to_owned(),
            got,
        }
    }

    fn unknown(&self, key: &str, known: &str) -> SettingError {
        self.wrong(&format!("one of {known}"), format!("{:?}", shown(key)))
    }

    fn each(
        &self,
        value: &Value,
        check: impl Fn(&str, &Value, At<String>) -> Result<(), SettingError>,
    ) -> Result<(), SettingError> {
        let Value::Object(map) = value else {
            return Err(self.wrong("keys with values", shown(&value.to_string())));
        };
        map.iter()
            .try_for_each(|(key, value)| check(key, value, self.below(key)))
    }

    fn whole(&self, value: &Value, range: &RangeInclusive<u64>) -> Result<(), SettingError> {
        if value.as_u64().is_some_and(|number| range.contains(&number)) {
            return Ok(());
        }
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        Err(self.wrong(&expected, shown(&value.to_string())))
    }

    fn number(
        &self,
        value: &Value,
        expected: &str,
        fits: impl Fn(f64) -> bool,
    ) -> Result<(), SettingError> {
        if value.as_f64().is_some_and(fits) {
            return Ok(());
        }
        Err(self.wrong(expected, shown(&value.to_string())))
    }

    fn level(&self, value: &Value) -> Result<(), SettingError> {
        let is_one = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text));
        if value.as_str().is_some_and(is_one) {
            return Ok(());
        }
        Err(self.wrong(&LEVELS.join(", "), shown(&value.to_string())))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(settings: Value) -> Result<(), String> {
        let settings: Settings = serde_json::from_value(settings).unwrap();
        check_settings(&settings).map_err(|error| error.to_string())
    }

    fn of_cpu(rule: Value) -> Value {
        json!({ "telemetry": { "metrics": { "cpu_percent.0": rule } } })
    }

    #[test]
    fn what_can_be_wanted_passes() {
        for settings in [
            json!({}),
            json!({ "heartbeat_s": 1, "log": "Debug", "telemetry": { "sample_s": 600, "metrics": {} } }),
            json!({ "heartbeat_s": 3600, "log": "off", "telemetry": {}, "traces": { "sample": 1 } }),
            of_cpu(json!({ "deadband": 0, "min_interval_s": 1, "keep_alive_s": 86_400 })),
            of_cpu(json!({ "alert_above": 90.5, "alert_clear": -1 })),
        ] {
            assert_eq!(check(settings.clone()), Ok(()), "{settings}");
        }
    }

    #[test]
    fn the_refusal_has_the_path_and_what_was_expected() {
        let metrics = metric::KEYS.join(", ");
        for (settings, expected) in [
            (
                json!({ "heartbeat": 5 }),
                "settings: expected one of heartbeat_s, log, telemetry, traces, got \"heartbeat\"".to_owned(),
            ),
            (
                json!({ "relay": { "https": "https://evil" } }),
                "settings: expected one of heartbeat_s, log, telemetry, traces, got \"relay\"".to_owned(),
            ),
            (
                json!({ "heartbeat_s": 0 }),
                "settings.heartbeat_s: expected a whole number from 1 to 3600, got 0".to_owned(),
            ),
            (
                json!({ "heartbeat_s": "5" }),
                "settings.heartbeat_s: expected a whole number from 1 to 3600, got \"5\"".to_owned(),
            ),
            (
                json!({ "log": "loud" }),
                "settings.log: expected error, warn, info, debug, trace, off, got \"loud\"".to_owned(),
            ),
            (
                json!({ "traces": { "sample": 1.5 } }),
                "settings.traces.sample: expected a share from 0 to 1, got 1.5".to_owned(),
            ),
            (
                json!({ "telemetry": 5 }),
                "settings.telemetry: expected keys with values, got 5".to_owned(),
            ),
            (
                json!({ "telemetry": { "sample": 5 } }),
                "settings.telemetry: expected one of sample_s, metrics, got \"sample\"".to_owned(),
            ),
            (
                json!({ "telemetry": { "sample_s": 2.5 } }),
                "settings.telemetry.sample_s: expected a whole number from 1 to 600, got 2.5".to_owned(),
            ),
            (
                json!({ "telemetry": { "metrics": { "cpu": {} } } }),
                format!("settings.telemetry.metrics: expected one of {metrics}, got \"cpu\""),
            ),
            (
                of_cpu(json!({ "dead": 1 })),
                "settings.telemetry.metrics.cpu_percent.0: expected one of deadband, min_interval_s, keep_alive_s, \
                 alert_above, alert_below, alert_clear, got \"dead\""
                    .to_owned(),
            ),
            (
                of_cpu(json!({ "deadband": -1 })),
                "settings.telemetry.metrics.cpu_percent.0.deadband: expected a number from 0, got -1".to_owned(),
            ),
            (
                of_cpu(json!({ "keep_alive_s": 0 })),
                "settings.telemetry.metrics.cpu_percent.0.keep_alive_s: expected a whole number from 1 to 86400, got 0"
                    .to_owned(),
            ),
            (
                of_cpu(json!({ "alert_above": null })),
                "settings.telemetry.metrics.cpu_percent.0.alert_above: expected a number, got null".to_owned(),
            ),
            (
                of_cpu(json!({ "alert_above": 1, "alert_below": 2 })),
                "settings.telemetry.metrics.cpu_percent.0: expected alert_above or alert_below, got both".to_owned(),
            ),
        ] {
            assert_eq!(check(settings.clone()), Err(expected), "{settings}");
        }
        let long = check(json!({ "x".repeat(200): 1 })).unwrap_err();
        assert!(
            long.ends_with(&format!("got \"{}\"", "x".repeat(80))),
            "{long}"
        );
    }
}
