//! What operators want robots' configurations to be, and what came of it.

use serde::{Deserialize, Serialize};

use crate::message::{Reported, Settings};
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
    /// Whether the two differ.
    pub drift: bool,
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
    pub confirm_within_s: Option<u64>,
    /// Refuse where the newest version is another one, 0 for none: somebody else was faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_version: Option<u64>,
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
