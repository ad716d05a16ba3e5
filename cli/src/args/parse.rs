//! What is said on the command line as a text: what it means, or what was expected.

use std::time::Duration;

use lekiwi_protocol::limits::{MAX_COMMAND_LIFETIME, MAX_CONFIRM_WITHIN};
use lekiwi_protocol::message::{Arguments, LogSlice};
use serde_json::Value;

/// Checks one argument of logs as the robot will.
fn checked(name: &str, value: Value) -> Result<(), String> {
    let checked = LogSlice::parse(&Arguments::from([(name.to_owned(), value)]));
    checked.map(drop).map_err(|error| error.to_string())
}

pub(super) fn unit(text: &str) -> Result<String, String> {
    checked("unit", text.into()).map(|()| text.to_owned())
}

pub(super) fn moment(text: &str) -> Result<String, String> {
    // The option's name is told already.
    checked("since", text.into())
        .map(|()| text.to_owned())
        .map_err(|error| error.replacen("since to be ", "", 1))
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = [("KiB", 1024), ("MiB", 1024 * 1024)]
        .into_iter()
        .find_map(|(ending, unit)| Some((text.strip_suffix(ending)?, unit)))
        .unwrap_or((text, 1));
    let size = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    size.filter(|size| checked("max_bytes", (*size).into()).is_ok())
        .ok_or_else(|| "expected a size from 16KiB to 16MiB, such as 512KiB".into())
}

pub(super) fn setting(text: &str) -> Result<(String, Value), String> {
    argument(text).map_err(|_| "expected KEY=VALUE, such as telemetry.sample_s=5".into())
}

pub(super) fn confirm_within(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.as_secs() > 0 && time <= MAX_CONFIRM_WITHIN => Ok(time),
        _ => Err("expected a time from 1s to 1h, such as 30s or 5min".into()),
    }
}

pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("expected a time such as 30d or 2years".into()),
    }
}

pub(super) fn over(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a time such as 30s, 10m or 2h".into())
}

/// A number, `true`, `false` or a text in quotes is what JSON says it is; everything else is a text.
pub(super) fn argument(text: &str) -> Result<(String, Value), String> {
    let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
        return Err("expected KEY=VALUE, such as unit=lekiwi-host.service".into());
    };
    let value = match serde_json::from_str(value) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::String(_))) => value,
        _ => value.into(),
    };
    Ok((key.to_owned(), value))
}

pub(super) fn expiry(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.as_secs() > 0 && time <= MAX_COMMAND_LIFETIME => Ok(time),
        _ => Err("expected a time from 1s to 7d, such as 10s or 1h".into()),
    }
}

pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(lifetime) if lifetime.as_secs() > 0 => Ok(lifetime),
        _ => Err("expected a time of at least a second, such as 30min, 2h or 7d".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_look_like() {
        let value = |text: &str| argument(text).map(|(_, value)| value.to_string());
        for (text, expected) in [
            ("times=3", "3"),
            ("on=true", "true"),
            ("text=\"3\"", "\"3\""),
            ("unit=a.service", "\"a.service\""),
            ("to=a=b", "\"a=b\""),
            ("empty=", "\"\""),
            ("list=[1]", "\"[1]\""),
        ] {
            assert_eq!(value(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes() {
        for (text, expected) in [("16KiB", 16384), ("4MiB", 4 << 20), ("100000", 100_000)] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
    }
}
