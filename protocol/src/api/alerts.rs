//! Alerts over HTTP: what fires, by which rules, and what is silenced.

use serde::{Deserialize, Serialize};

use crate::alert::{Alert, Matchers, Rule, Silence};
use crate::timestamp::Timestamp;

/// `GET /api/v1/alerts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AlertList {
    /// Newest first.
    pub alerts: Vec<Alert>,
    /// How many fire, whether they are in this answer or not.
    pub firing: usize,
    /// The relay's time.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub now: Timestamp,
}

/// `POST /api/v1/alerts/{id}/acknowledge`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeRequest {
    /// What others should know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum RuleOrigin {
    /// Every relay brings it.
    Default,
    /// This relay's configuration.
    Configuration,
    /// Somebody made it over this interface.
    Interface,
}

impl RuleOrigin {
    /// The origin as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Configuration => "configuration",
            Self::Interface => "interface",
        }
    }
}

/// A rule and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuleView {
    /// The rule.
    pub rule: Rule,
    /// Where it comes from.
    pub origin: RuleOrigin,
}

/// `GET /api/v1/alert-rules`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuleList {
    /// By name.
    pub rules: Vec<RuleView>,
}

/// `POST /api/v1/alert-silences`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SilenceRequest {
    /// Which alerts.
    pub matchers: Matchers,
    /// For how many seconds from now.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 604800))]
    pub duration_s: u64,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// `GET /api/v1/alert-silences`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SilenceList {
    /// Those that have not ended.
    pub silences: Vec<Silence>,
}

/// What a webhook's receiver gets as its body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AlertNotification {
    /// The same for every attempt to send this: who has seen it has seen this message.
    pub id: String,
    /// The receiver, as the relay's configuration calls it.
    pub receiver: String,
    /// Who sends.
    pub relay: String,
    /// When this attempt was made.
    pub sent_at: Timestamp,
    /// The rule that all of it is about.
    pub rule: String,
    /// How often the same was told before.
    pub repeats: u32,
    /// What fires.
    pub firing: Vec<Alert>,
    /// What is over.
    pub resolved: Vec<Alert>,
    /// How many more fire or are over, and are not listed.
    pub omitted: usize,
}

/// Names a notification, the same for every attempt.
pub const DELIVERY_HEADER: &str = "lekiwi-delivery";
/// When the attempt was made: seconds since the epoch.
pub const TIMESTAMP_HEADER: &str = "lekiwi-timestamp";
/// `v1=` and the HMAC-SHA256, in hex, of the timestamp's text, a dot, and the body.
pub const SIGNATURE_HEADER: &str = "lekiwi-signature";
