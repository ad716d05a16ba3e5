//! Which part of a robot's journal is asked for: the arguments of [`Op::CollectLogs`].

use std::time::Duration;

use serde_json::Value;

use super::command::{Arguments, CommandError, Op, UNIT};
use crate::limits::{LOG_BYTES, MAX_LOG_BYTES, MAX_LOG_UNITS, MIN_LOG_BYTES};
use crate::timestamp::Timestamp;

const SINCE: &str = "since";
const UNTIL: &str = "until";
const MAX_BYTES: &str = "max_bytes";
/// Longest name of a unit that systemd takes.
const MAX_UNIT_BYTES: usize = 255;
/// Longest time back from now: ten years.
const MAX_AGO_S: u64 = 3650 * 24 * 3600;

/// A point in time as a person says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// This one.
    At(Timestamp),
    /// So long before now, by the robot's clock, which is the journal's as well.
    Ago(Duration),
}

impl Moment {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(at) = text.parse() {
            return Some(Self::At(at));
        }
        let (number, seconds) = [('s', 1), ('m', 60), ('h', 3600), ('d', 24 * 3600)]
            .into_iter()
            .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let seconds = number.parse::<u64>().ok()?.checked_mul(seconds)?;
        (seconds <= MAX_AGO_S).then(|| Self::Ago(Duration::from_secs(seconds)))
    }

    /// Whether it may lie before `other`; of different kinds nobody knows.
    fn may_precede(self, other: Self) -> bool {
        match (self, other) {
            (Self::At(this), Self::At(other)) => this < other,
            (Self::Ago(this), Self::Ago(other)) => this > other,
            _ => true,
        }
    }
}

/// A part of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSlice {
    /// Of these units; of everything when empty.
    pub units: Vec<String>,
    /// From then on; from its beginning when absent.
    pub since: Option<Moment>,
    /// Until then; until now when absent.
    pub until: Option<Moment>,
    /// Most bytes, compressed. What does not fit is left out, the oldest first.
    pub max_bytes: u64,
}

impl LogSlice {
    /// What the arguments of a command say.
    ///
    /// # Errors
    /// When one of them is unknown, or not what it should be.
    pub fn parse(arguments: &Arguments) -> Result<Self, CommandError> {
        let mut slice = Self {
            units: Vec::new(),
            since: None,
            until: None,
            max_bytes: LOG_BYTES,
        };
        for (name, value) in arguments {
            match name.as_str() {
                UNIT => slice.units = units(value)?,
                SINCE => slice.since = Some(moment(SINCE, value)?),
                UNTIL => slice.until = Some(moment(UNTIL, value)?),
                MAX_BYTES => slice.max_bytes = size(value)?,
                unknown => return Err(Op::CollectLogs.unknown(unknown)),
            }
        }
        match (slice.since, slice.until) {
            (Some(since), Some(until)) if !since.may_precede(until) => {
                Err(LogSliceError::Order.into())
            }
            _ => Ok(slice),
        }
    }
}

/// One text, or several.
fn units(value: &Value) -> Result<Vec<String>, LogSliceError> {
    let values = match value {
        Value::Array(values) if (1..=MAX_LOG_UNITS).contains(&values.len()) => values.as_slice(),
        Value::String(_) => std::slice::from_ref(value),
        other => return Err(LogSliceError::Units(shown(other))),
    };
    let unit = |value: &Value| match value.as_str() {
        Some(text) if is_unit(text) => Ok(text.to_owned()),
        _ => Err(LogSliceError::Unit(shown(value))),
    };
    values.iter().map(unit).collect()
}

/// What systemd takes as a name, without patterns.
fn is_unit(text: &str) -> bool {
    let character = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    (1..=MAX_UNIT_BYTES).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(character)
}

fn moment(named: &'static str, value: &Value) -> Result<Moment, LogSliceError> {
    let parsed = value.as_str().and_then(Moment::parse);
    parsed.ok_or_else(|| LogSliceError::Moment {
        named,
        got: shown(value),
    })
}

fn size(value: &Value) -> Result<u64, LogSliceError> {
    let size = value.as_u64();
    size.filter(|size| (MIN_LOG_BYTES..=MAX_LOG_BYTES).contains(size))
        .ok_or_else(|| LogSliceError::Size(shown(value)))
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

/// Why no part of a journal can be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogSliceError {
    /// No name of a unit.
    #[error("expected a unit such as lekiwi-host.service, got {0}")]
    Unit(String),
    /// Neither a name nor a few.
    #[error("expected unit to be a text, or a list of 1 to {MAX_LOG_UNITS}, got {0}")]
    Units(String),
    /// No point in time.
    #[error(
        "expected {named} to be a UTC time such as 2026-11-21T03:52:00Z, or one before now such as 90s, 30m, 2h or 7d, got {got}"
    )]
    Moment {
        /// Which argument.
        named: &'static str,
        /// What it is.
        got: String,
    },
    /// The end comes first.
    #[error("expected since to be before until")]
    Order,
    /// No size, or out of bounds.
    #[error(
        "expected max_bytes to be a whole number from {MIN_LOG_BYTES} to {MAX_LOG_BYTES}, got {0}"
    )]
    Size(String),
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<LogSlice, String> {
        let arguments: Arguments = serde_json::from_value(value).unwrap();
        LogSlice::parse(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn a_slice_is_what_its_arguments_say() {
        let all = LogSlice {
            units: Vec::new(),
            since: None,
            until: None,
            max_bytes: LOG_BYTES,
        };
        let at = |text: &str| Some(Moment::At(text.parse().unwrap()));
        let ago = |seconds| Some(Moment::Ago(Duration::from_secs(seconds)));
        let cases = [
            (json!({}), all.clone()),
            (
                json!({ "unit": "a@b:c_1\\x2d.service", "max_bytes": MIN_LOG_BYTES }),
                LogSlice {
                    units: vec!["a@b:c_1\\x2d.service".to_owned()],
                    max_bytes: MIN_LOG_BYTES,
                    ..all.clone()
                },
            ),
            (
                json!({ "unit": ["a.service", "b"], "since": "7d", "until": "90s" }),
                LogSlice {
                    units: vec!["a.service".to_owned(), "b".to_owned()],
                    since: ago(7 * 24 * 3600),
                    until: ago(90),
                    ..all.clone()
                },
            ),
            (
                json!({ "since": "2026-11-21T03:52:00Z", "until": "2h" }),
                LogSlice {
                    since: at("2026-11-21T03:52:00Z"),
                    until: ago(7200),
                    ..all
                },
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(parse(value.clone()), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let unit = |got: &str| format!("expected a unit such as lekiwi-host.service, got {got}");
        let since = |got: &str| {
            format!(
                "expected since to be a UTC time such as 2026-11-21T03:52:00Z, or one before now such as 90s, 30m, 2h or 7d, got {got}"
            )
        };
        let size = |got: &str| {
            format!("expected max_bytes to be a whole number from 16384 to 16777216, got {got}")
        };
        let cases = [
            (json!({ "unit": "" }), unit("\"\"")),
            (json!({ "unit": "--help" }), unit("\"--help\"")),
            (json!({ "unit": "a*" }), unit("\"a*\"")),
            (json!({ "unit": "a b" }), unit("\"a b\"")),
            (json!({ "unit": ["a", 1] }), unit("1")),
            (
                json!({ "unit": "x".repeat(256) }),
                unit(&format!("\"{}", "x".repeat(79))),
            ),
            (
                json!({ "unit": [] }),
                "expected unit to be a text, or a list of 1 to 8, got []".to_owned(),
            ),
            (
                json!({ "unit": 3 }),
                "expected unit to be a text, or a list of 1 to 8, got 3".to_owned(),
            ),
            (json!({ "since": "yesterday" }), since("\"yesterday\"")),
            (json!({ "since": "+1h" }), since("\"+1h\"")),
            (json!({ "since": "h" }), since("\"h\"")),
            (json!({ "since": "3651d" }), since("\"3651d\"")),
            (
                json!({ "since": "99999999999999999999s" }),
                since("\"99999999999999999999s\""),
            ),
            (json!({ "since": 5 }), since("5")),
            (
                json!({ "since": "1h", "until": "2h" }),
                "expected since to be before until".to_owned(),
            ),
            (
                json!({ "since": "2026-11-21T03:52:00Z", "until": "2026-11-21T03:52:00Z" }),
                "expected since to be before until".to_owned(),
            ),
            (json!({ "max_bytes": 16383 }), size("16383")),
            (json!({ "max_bytes": 16777217 }), size("16777217")),
            (json!({ "max_bytes": "4MiB" }), size("\"4MiB\"")),
            (
                json!({ "lines": 5 }),
                "expected no argument \"lines\" of collect_logs".to_owned(),
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(parse(value.clone()), Err(expected), "{value}");
        }
    }
}
