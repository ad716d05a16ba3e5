//! The configuration twin: what operators want a robot's configuration to be, and what the robot says of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::limits::{
    CONFIRM_WITHIN, MAX_CONFIRM_WITHIN, MAX_PROOF_BYTES, MAX_REASON_BYTES, MAX_SETTINGS_BYTES,
};
use crate::signed::Proof;
use crate::timestamp::Timestamp;

/// Keys of `agent.yml` with other values than the robot's own; those that can change while its agent runs.
/// [`super::check_settings`] knows them; the robot has the last word on what they mean together with its own file.
pub type Settings = BTreeMap<String, Value>;

/// `to/desired`, QoS 0: sent again until the robot has said what became of it. The robot looks at each
/// version once, and at none before the newest that it knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Desired {
    /// Counts up, from 1.
    pub version: u64,
    /// All that differs from the robot's own configuration, not only what is new; at most
    /// [`MAX_SETTINGS_BYTES`] as JSON.
    pub settings: Settings,
    /// Seconds that the robot tries it for: without the relay's confirmation by then it goes back.
    #[serde(default = "confirm_within_s")]
    pub confirm_within_s: u64,
    /// The confirmation: the relay has heard that the robot tries this version.
    #[serde(default)]
    pub confirmed: bool,
    /// When somebody wanted it.
    pub issued_at: Timestamp,
    /// Who wanted it.
    pub by: String,
    /// Why the robot should believe it: one with a root of trust takes nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

fn confirm_within_s() -> u64 {
    CONFIRM_WITHIN.as_secs()
}

/// Why a configuration, or what a robot says of one, is refused although it parses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Too much.
    #[error("expected settings of at most {MAX_SETTINGS_BYTES} bytes, got {0}")]
    Size(usize),
    /// The same of what proves it.
    #[error("expected a proof of at most {MAX_PROOF_BYTES} bytes, got {0}")]
    Proof(usize),
    /// A time that cannot be.
    #[error("expected confirm_within_s to be 1 to {}, got {seconds}", MAX_CONFIRM_WITHIN.as_secs())]
    ConfirmWithin {
        /// The time.
        seconds: u64,
    },
    /// There is no version 0 to be wanted, and the store counts with signs.
    #[error("expected a version from 1, got {0}")]
    Version(u64),
    /// A reason that is too long.
    #[error("expected a reason of at most {MAX_REASON_BYTES} bytes, got {0}")]
    Reason(usize),
}

impl Desired {
    /// Checks what the type cannot say.
    ///
    /// # Errors
    /// When it is too large, or version or time cannot be.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        if self.version == 0 || i64::try_from(self.version).is_err() {
            return Err(ConfigurationError::Version(self.version));
        }
        if !(1..=MAX_CONFIRM_WITHIN.as_secs()).contains(&self.confirm_within_s) {
            return Err(ConfigurationError::ConfirmWithin {
                seconds: self.confirm_within_s,
            });
        }
        // String keys and JSON values always become JSON.
        let bytes = serde_json::to_vec(&self.settings).map_or(usize::MAX, |json| json.len());
        if bytes > MAX_SETTINGS_BYTES {
            return Err(ConfigurationError::Size(bytes));
        }
        if let Some(proof) = &self.proof {
            let bytes = serde_json::to_vec(proof).map_or(usize::MAX, |json| json.len());
            if bytes > MAX_PROOF_BYTES {
                return Err(ConfigurationError::Proof(bytes));
            }
        }
        Ok(())
    }
}

/// `from/reported`, QoS 1, retained: said after each birth, at each step, and whenever the version comes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reported {
    /// The newest version that the robot knows; 0 while it knows none.
    pub version: u64,
    /// What became of it.
    pub state: ConfigurationState,
    /// Why it was rejected or rolled back, for people; at most [`MAX_REASON_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version that is in force; 0 for the robot's own configuration alone.
    pub in_force: u64,
    /// SHA-256 of what is in force, the robot's own configuration and its profile included: another one means
    /// that something changed, whoever changed it.
    pub digest: String,
}

impl Reported {
    /// Whether the robot has what is wanted of it: `desired`, or nothing where that is 0.
    #[must_use]
    pub fn follows(&self, desired: u64) -> bool {
        let is_applied = self.state == ConfigurationState::Applied;
        is_applied && self.version == desired && self.in_force == desired
    }

    /// Checks what the type cannot say.
    ///
    /// # Errors
    /// When the reason is too long, or the version cannot be.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        match &self.reason {
            Some(reason) if reason.len() > MAX_REASON_BYTES => {
                Err(ConfigurationError::Reason(reason.len()))
            }
            _ if i64::try_from(self.version).is_err() => {
                Err(ConfigurationError::Version(self.version))
            }
            _ => Ok(()),
        }
    }
}

/// What became of a version. All but the first are ends: nothing follows until the next version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ConfigurationState {
    /// It is in force until the relay confirms it, or does not in time.
    Trying,
    /// It is in force for good. Also what there is before the first version.
    #[default]
    Applied,
    /// It is not what a configuration can be, and never was in force.
    Rejected,
    /// It was in force, and the one before is again.
    RolledBack,
}

impl ConfigurationState {
    /// The state as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Applied => "applied",
            Self::Rejected => "rejected",
            Self::RolledBack => "rolled_back",
        }
    }
}

impl std::fmt::Display for ConfigurationState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn desired(version: u64, confirm_within_s: u64, settings: Value) -> Result<(), String> {
        let desired = Desired {
            version,
            settings: serde_json::from_value(settings).unwrap(),
            confirm_within_s,
            confirmed: false,
            issued_at: Timestamp::from_ms(0),
            by: "admin".to_owned(),
            proof: None,
        };
        desired.check().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wanted_has_bounds() {
        assert_eq!(desired(1, 60, json!({ "heartbeat_s": 5 })), Ok(()));
        for (refused, reason) in [
            (
                desired(0, 60, json!({})),
                "expected a version from 1, got 0",
            ),
            (
                desired(u64::MAX, 60, json!({})),
                "expected a version from 1, got 18446744073709551615",
            ),
            (
                desired(1, 0, json!({})),
                "expected confirm_within_s to be 1 to 3600, got 0",
            ),
            (
                desired(1, 3601, json!({})),
                "expected confirm_within_s to be 1 to 3600, got 3601",
            ),
            (
                desired(1, 60, json!({ "log": "x".repeat(MAX_SETTINGS_BYTES) })),
                "expected settings of at most 16384 bytes, got 16394",
            ),
        ] {
            assert_eq!(refused, Err(reason.to_owned()));
        }
    }

    #[test]
    fn a_report_has_bounds_and_says_whether_it_follows() {
        let mut reported = Reported {
            version: 3,
            state: ConfigurationState::Applied,
            reason: None,
            in_force: 3,
            digest: String::new(),
        };
        assert_eq!(reported.check(), Ok(()));
        assert!(reported.follows(3) && !reported.follows(4) && !reported.follows(0));
        reported.state = ConfigurationState::Trying;
        assert!(!reported.follows(3));
        reported.reason = Some("x".repeat(MAX_REASON_BYTES + 1));
        assert_eq!(
            reported.check().unwrap_err().to_string(),
            "expected a reason of at most 1024 bytes, got 1025"
        );
    }

    #[test]
    fn states_are_spelled_as_serde_spells_them() {
        use ConfigurationState::{Applied, Rejected, RolledBack, Trying};
        for state in [Trying, Applied, Rejected, RolledBack] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
