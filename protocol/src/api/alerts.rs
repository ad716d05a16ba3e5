//! Alerts over HTTP: what fires, by which rules, and what is silenced.

use serde::{Deserialize, Serialize};

use uuid::Uuid;

use crate::alert::{Alert, Matchers, Rule, Severity, Silence};
use crate::id::{RobotId, RuleName};
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

/// `GET /api/v1/alerts/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AlertHistory {
    /// Newest first.
    pub entries: Vec<AlertEntry>,
    /// Pass it as `before` for the next page; absent on the last one. A page may have fewer entries than were asked
    /// for, or none, and not be the last: the relay looks only so far at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<u64>,
}

/// Something that happened to alerts, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AlertEntry {
    /// Its place in the log.
    pub position: u64,
    /// When it happened, by the relay's clock.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// `alert.firing`, `alert.acknowledged`, `alert.resolved`; `alert.silenced`, `alert.unsilenced`; and of receivers
    /// `alert.notified` and `alert.undelivered`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The alert that fires, is looked after, or is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
    /// Its rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub rule: Option<RuleName>,
    /// Its robot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub robot_id: Option<RobotId>,
    /// How bad it is; of one that fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The rule's words; of one that fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What was found, why it is over where its condition does not just hold no more, or why a receiver was not
    /// told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// What was silenced, by whom and until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
    /// The silence that was ended before its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "uuid"))]
    pub silence_id: Option<Uuid>,
    /// Who was told, or was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<String>,
    /// How often it had been told the same before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u32>,
    /// The alerts that it was told to fire; those that were asked for, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firing: Vec<String>,
    /// Those that it was told to be over; likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolved: Vec<String>,
    /// How many more there were, where there were more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<usize>,
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
