//! What operators want robots' configurations to be, and what came of it.

use serde::{Deserialize, Serialize};

use crate::message::{ConfigurationState, Reported, Settings};
use crate::signed::Proof;
use crate::timestamp::Timestamp;

/// `GET /api/v1/robots/{id}/configuration`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigurationView {
    /// What is wanted; absent while nobody wanted anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<DesiredView>,
    /// What the robot says; absent until it said something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
    /// The version that is in force, as the robot says; absent where that is the robot's own configuration alone,
    /// or a version that the relay does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<DesiredView>,
    /// Whether the two differ.
    pub drift: bool,
}

impl ConfigurationView {
    /// What a change of single keys starts from: the newest settings, or, where the robot refused these, the ones
    /// in force.
    ///
    /// # Errors
    /// The version in force, where its settings are not known.
    pub fn base(&self) -> Result<Settings, u64> {
        let said = self.reported.as_ref();
        let is_refused = |version| {
            said.is_some_and(|said| {
                let is_over = [ConfigurationState::Rejected, ConfigurationState::RolledBack];
                said.version == version && is_over.contains(&said.state)
            })
        };
        match (&self.desired, &self.in_force) {
            (Some(desired), _) if !is_refused(desired.version) => Ok(desired.settings.clone()),
            (_, Some(in_force)) => Ok(in_force.settings.clone()),
            _ => match said.map_or(0, |said| said.in_force) {
                0 => Ok(Settings::new()),
                unknown => Err(unknown),
            },
        }
    }
}

/// A version of a robot's desired configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DesiredView {
    /// Counts up, from 1.
    pub version: u64,
    /// Keys of `agent.yml` with other values than the robot's own.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub settings: Settings,
    /// Seconds that the robot tries it for, without the relay's confirmation.
    pub confirm_within_s: u64,
    /// When somebody wanted it.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub issued_at: Timestamp,
    /// Who wanted it.
    pub by: String,
    /// Whether somebody signed it.
    #[serde(default)]
    pub is_signed: bool,
}

/// `PUT /api/v1/robots/{id}/configuration`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfigurationRequest {
    /// All that is to differ from the robot's own configuration, in the keys of `agent.yml`; at most
    /// [`crate::limits::MAX_SETTINGS_BYTES`] as JSON.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub settings: Settings,
    /// Seconds that the robot tries it for; [`crate::limits::CONFIRM_WITHIN`] when absent, at most
    /// [`crate::limits::MAX_CONFIRM_WITHIN`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 3600))]
    pub confirm_within_s: Option<u64>,
    /// Refuse where the newest version is another one, 0 for none: somebody else was faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_version: Option<u64>,
    /// Why the robot should believe it, which one with a root of trust asks for: a signed configuration with just these
    /// settings. The relay passes it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// `POST /api/v1/robots/{id}/configuration/rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Whose settings to want again, as a new version: 0 for none; when absent, the newest version before the
    /// present one that the robot applied, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// A robot's configuration in [`super::RobotView`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigurationStatus {
    /// The version that is wanted; 0 while nobody wanted anything.
    pub desired: u64,
    /// What the robot says; absent until it said something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
    /// Whether the two differ.
    pub drift: bool,
}

impl ConfigurationStatus {
    /// Compares what is wanted with what the robot says.
    #[must_use]
    pub fn new(desired: u64, reported: Option<Reported>) -> Self {
        let follows = reported.as_ref().map(|reported| reported.follows(desired));
        Self {
            drift: !follows.unwrap_or(desired == 0),
            desired,
            reported,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn version(version: u64) -> Value {
        json!({
            "version": version, "settings": { "heartbeat_s": version }, "confirm_within_s": 60,
            "issued_at": "2026-11-21T12:00:00.000Z", "by": "admin"
        })
    }

    #[test]
    fn a_change_starts_from_what_the_robot_did_not_refuse() {
        let said = |version, state: &str, in_force| json!({ "version": version, "state": state, "in_force": in_force, "digest": "" });
        for (desired, reported, in_force, expected) in [
            (Value::Null, Value::Null, Value::Null, Ok(None)),
            (version(2), Value::Null, Value::Null, Ok(Some(2))),
            // On its way, tried or in force: the next change is one more.
            (version(2), said(1, "applied", 1), version(1), Ok(Some(2))),
            (version(2), said(2, "trying", 2), version(2), Ok(Some(2))),
            (version(2), said(2, "applied", 2), version(2), Ok(Some(2))),
            (version(2), said(2, "rejected", 1), version(1), Ok(Some(1))),
            (
                version(2),
                said(2, "rolled_back", 1),
                version(1),
                Ok(Some(1)),
            ),
            (version(2), said(2, "rejected", 0), Value::Null, Ok(None)),
            (version(2), said(2, "rejected", 1), Value::Null, Err(1)),
            // Of a relay that is no more.
            (Value::Null, said(7, "applied", 7), Value::Null, Err(7)),
        ] {
            let view = json!({ "desired": desired, "reported": reported, "in_force": in_force, "drift": true });
            let shown = view.to_string();
            let view: ConfigurationView = serde_json::from_value(view).unwrap();
            let base = view
                .base()
                .map(|settings| settings.get("heartbeat_s").and_then(Value::as_u64));
            assert_eq!(base, expected, "{shown}");
        }
    }
}
