//! How long telemetry and events are kept, as the configuration says it.

use std::collections::BTreeMap;

use lekiwi_relay_core::history::Retention;

use super::ConfigError;
use crate::store::NEVER_FORGOTTEN;

/// The keys, from the finest to the coarsest.
const KEYS: [&str; 4] = [
    "telemetry_days",
    "telemetry_1m_days",
    "telemetry_15m_days",
    "telemetry_1h_days",
];

/// Checks what was written for [`KEYS`]. What is not said is at least as long as what is finer.
///
/// # Errors
/// At the first value that is no number of days, or fewer than for what is finer.
pub(super) fn check(written: [Option<String>; 4]) -> Result<Retention, ConfigError> {
    let usual = Retention::default();
    let mut checked = [
        usual.raw_days,
        usual.minute_days,
        usual.quarter_days,
        usual.hour_days,
    ];
    let mut least = 1;
    for ((days, key), text) in checked.iter_mut().zip(KEYS).zip(written) {
        *days = match text {
            None => (*days).max(least),
            Some(text) => match text.parse() {
                Ok(written @ 1..=36_500) if written >= least => written,
                Ok(1..=36_500) => {
                    return Err(ConfigError::Value {
                        key,
                        expected: "at least as many days as finer telemetry is kept",
                        actual: text,
                    });
                }
                _ => {
                    return Err(ConfigError::Value {
                        key,
                        expected: "a number of days of 1 to 36500",
                        actual: text,
                    });
                }
            },
        };
        least = *days;
    }
    let [raw_days, minute_days, quarter_days, hour_days] = checked;
    Ok(Retention {
        raw_days,
        minute_days,
        quarter_days,
        hour_days,
    })
}

/// Two years, as long as it is usually asked for.
const AUDIT_DAYS: u32 = 730;

/// Checks how long it is kept who did what.
pub(super) fn audit_days(written: Option<String>) -> Result<u32, ConfigError> {
    let Some(text) = written else {
        return Ok(AUDIT_DAYS);
    };
    match text.parse() {
        Ok(days @ 1..=36_500) => Ok(days),
        _ => Err(ConfigError::Value {
            key: "audit_days",
            expected: "a number of days of 1 to 36500",
            actual: text,
        }),
    }
}

/// Checks which events are kept for how long.
pub(super) fn event_days(days: BTreeMap<String, u32>) -> Result<Vec<(String, u32)>, ConfigError> {
    for (kind, days) in &days {
        let name = kind.strip_suffix(".*").unwrap_or(kind);
        let is_kind = name.split('.').all(|part| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
        if !is_kind {
            return Err(ConfigError::EventKind(kind.clone()));
        }
        // A family may have members that stay; a type that stays must not be asked for.
        let stays = |never: &&&str| match never.strip_suffix('*') {
            Some(family) => kind.starts_with(family),
            None => **never == kind,
        };
        if let Some(never) = NEVER_FORGOTTEN.iter().find(stays) {
            return Err(ConfigError::NeverForgotten {
                kind: kind.clone(),
                never,
            });
        }
        if !(1..=36_500).contains(days) {
            return Err(ConfigError::EventDays {
                kind: kind.clone(),
                days: *days,
            });
        }
    }
    Ok(days.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(written: [Option<&str>; 4]) -> Result<[u32; 4], String> {
        let retention = check(written.map(|text| text.map(str::to_owned)));
        let retention = retention.map_err(|error| error.to_string())?;
        Ok([
            retention.raw_days,
            retention.minute_days,
            retention.quarter_days,
            retention.hour_days,
        ])
    }

    #[test]
    fn what_is_coarser_is_kept_at_least_as_long() {
        assert_eq!(checked([None; 4]), Ok([14, 30, 180, 1_095]));
        assert_eq!(
            checked([Some("200"), None, None, None]),
            Ok([200, 200, 200, 1_095])
        );
        assert_eq!(
            checked([Some("1"), Some("1"), Some("2"), Some("36500")]),
            Ok([1, 1, 2, 36_500])
        );
        let refused = |written| checked(written).err().unwrap_or_default();
        assert_eq!(
            refused([Some("40"), Some("39"), None, None]),
            "expected telemetry_1m_days to be at least as many days as finer telemetry is kept, got \"39\""
        );
        assert_eq!(
            refused([Some("0"), None, None, None]),
            "expected telemetry_days to be a number of days of 1 to 36500, got \"0\""
        );
        assert_eq!(
            refused([None, None, None, Some("for ever")]),
            "expected telemetry_1h_days to be a number of days of 1 to 36500, got \"for ever\""
        );
    }
}
