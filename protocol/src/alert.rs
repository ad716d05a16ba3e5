//! Alerts: rules over what robots say, what becomes of them, and silences. The same types are written in
//! `relay.yml`, sent over HTTP and kept in the relay's log. Pure; `relay/core/src/alerts` judges by them.
//!
//! Terms: a *rule* has a *condition*; while it holds for one robot an alert is *pending*, once it has held for
//! [`Rule::for_s`] it is *firing*, and afterwards *resolved*. An *acknowledged* alert is repeated to nobody; a
//! *silenced* one is told to nobody.

mod pattern;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{MetricName, RobotId, RuleName};
use crate::limits::{MAX_ALERT_EVENTS, MAX_ALERT_TIME, MAX_PATTERNS, MAX_SUMMARY_BYTES};
use crate::timestamp::Timestamp;
pub use pattern::{Pattern, PatternError};

/// How bad it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look at it.
    #[default]
    Warning,
    /// Somebody should look at it now.
    Critical,
}

impl Severity {
    /// The severity as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When somebody is to be told, of each robot by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: RuleName,
    /// What is wrong, for people.
    pub summary: String,
    /// How bad that is.
    #[serde(default)]
    pub severity: Severity,
    /// What is looked for.
    pub when: Condition,
    /// Seconds for which it must hold without a break.
    #[serde(default)]
    pub for_s: u64,
    /// Only these robots; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub robots: Vec<Pattern>,
    /// Only robots of these profiles; of all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub profiles: Vec<Pattern>,
    /// Whether anybody looks.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// What a rule looks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// A metric beyond a level.
    Threshold(Threshold),
    /// A metric that moves fast.
    Change(Change),
    /// Something that does not come any more.
    Absence(Absence),
    /// Events, a number of them within a time.
    Events(Events),
    /// What the relay knows of the robot.
    State(StateCondition),
}

/// A metric beyond a level: exactly one of `above` and `below`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Which one.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub metric: MetricName,
    /// Holds above this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// Holds below this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// Once it holds, it does so until the value has come back to this one (hysteresis); the level itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
}

/// A metric that moves fast: exactly one of `rises_by` and `falls_by`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Which one.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub metric: MetricName,
    /// Holds while the value is by so much above its lowest one within the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rises_by: Option<f64>,
    /// Holds while the value is by so much below its highest one within the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub falls_by: Option<f64>,
    /// The time, in seconds.
    pub within_s: u64,
}

/// Something that does not come any more: exactly one of `metric` and `event`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Absence {
    /// A metric. Counts only while the robot is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub metric: Option<MetricName>,
    /// Events of these types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub event: Option<Pattern>,
    /// After so many seconds of nothing.
    pub after_s: u64,
}

/// Events, a number of them within a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// Of which types.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: Pattern,
    /// How many.
    #[serde(default = "one")]
    pub count: u16,
    /// Within how many seconds, by the relay's clock. It holds until that time has passed, too.
    pub within_s: u64,
    /// An event of these types ends it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub until: Option<Pattern>,
}

fn one() -> u16 {
    1
}

/// What the relay knows of the robot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StateCondition {
    /// What is so.
    pub is: RobotCondition,
}

/// What may be so of a robot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RobotCondition {
    /// It is not connected, or silent for too long.
    Offline,
    /// Its services or checks do not pass.
    Unhealthy,
    /// Its clock was not set from the network since it booted.
    ClockUnsynchronized,
    /// It is driven, and nobody knows by whom.
    TeleoperatedByNobody,
    /// Two operators drive it at once.
    TeleoperationContention,
    /// Less than a sixth of its certificate's life is left, and it has no other one.
    CertificateEnding,
}

impl RobotCondition {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Offline,
        Self::Unhealthy,
        Self::ClockUnsynchronized,
        Self::TeleoperatedByNobody,
        Self::TeleoperationContention,
        Self::CertificateEnding,
    ];

    /// The condition in words, behind "the robot".
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Offline => "is offline",
            Self::Unhealthy => "is not healthy",
            Self::ClockUnsynchronized => "has a clock that was not set from the network",
            Self::TeleoperatedByNobody => "is driven, and nobody knows by whom",
            Self::TeleoperationContention => "is driven by two operators at once",
            Self::CertificateEnding => "has a certificate that ends soon and was not renewed",
        }
    }
}

/// Why a rule or silence is refused although it parses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AlertError {
    /// Nobody could read it.
    #[error("expected {what} to be 1 to {MAX_SUMMARY_BYTES} bytes without control characters")]
    Text {
        /// Which text.
        what: &'static str,
    },
    /// A time out of bounds.
    #[error("expected {what} to be {least} to {} seconds, got {actual}", MAX_ALERT_TIME.as_secs())]
    Time {
        /// Which one.
        what: &'static str,
        /// The shortest.
        least: u64,
        /// What it is.
        actual: u64,
    },
    /// Two that exclude each other, or none of them.
    #[error("expected exactly one of {one} and {other}")]
    Either {
        /// The first.
        one: &'static str,
        /// The second.
        other: &'static str,
    },
    /// A number that is none.
    #[error("expected {what} to be a finite number above {least}, got {actual}")]
    Number {
        /// Which one.
        what: &'static str,
        /// What it must exceed.
        least: f64,
        /// What it is.
        actual: f64,
    },
    /// A level on the wrong side.
    #[error(
        "expected until to be at most {level} for above, and at least that for below, got {until}"
    )]
    Until {
        /// The level.
        level: f64,
        /// What it is.
        until: f64,
    },
    /// Too many events to remember, or none.
    #[error("expected count to be 1 to {MAX_ALERT_EVENTS}, got {0}")]
    Count(u16),
    /// Too many patterns.
    #[error("expected at most {MAX_PATTERNS} {what}, got {actual}")]
    Patterns {
        /// Of what.
        what: &'static str,
        /// How many there are.
        actual: usize,
    },
    /// A silence of everything by mistake.
    #[error("expected at least one of rules, robots and severity, got none")]
    Everything,
}

fn text(what: &'static str, text: &str, least: usize) -> Result<(), AlertError> {
    let is_fine =
        (least..=MAX_SUMMARY_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    is_fine.then_some(()).ok_or(AlertError::Text { what })
}

fn seconds(what: &'static str, least: u64, actual: u64) -> Result<(), AlertError> {
    if (least..=MAX_ALERT_TIME.as_secs()).contains(&actual) {
        Ok(())
    } else {
        Err(AlertError::Time {
            what,
            least,
            actual,
        })
    }
}

fn patterns(what: &'static str, patterns: &[Pattern]) -> Result<(), AlertError> {
    let actual = patterns.len();
    if actual > MAX_PATTERNS {
        return Err(AlertError::Patterns { what, actual });
    }
    Ok(())
}

fn finite(what: &'static str, value: f64, least: f64) -> Result<(), AlertError> {
    if value.is_finite() && value > least {
        return Ok(());
    }
    Err(AlertError::Number {
        what,
        least,
        actual: value,
    })
}

impl Rule {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// When something is out of bounds, or contradicts itself.
    pub fn check(&self) -> Result<(), AlertError> {
        text("summary", &self.summary, 1)?;
        seconds("for_s", 0, self.for_s)?;
        patterns("robots", &self.robots)?;
        patterns("profiles", &self.profiles)?;
        self.when.check()
    }

    /// Whether it is about this robot.
    #[must_use]
    pub fn selects(&self, robot: &RobotId, profile: &str) -> bool {
        any(&self.robots, robot.as_str()) && any(&self.profiles, profile)
    }
}

/// Whether one of the patterns fits, or there is none.
fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
}

impl Condition {
    fn check(&self) -> Result<(), AlertError> {
        match self {
            Self::Threshold(threshold) => {
                let level = threshold.level()?;
                finite("the level", level, f64::MIN)?;
                let until = threshold.until.unwrap_or(level);
                finite("until", until, f64::MIN)?;
                let is_beyond = match threshold.above {
                    Some(_) => until > level,
                    None => until < level,
                };
                if is_beyond {
                    return Err(AlertError::Until { level, until });
                }
                Ok(())
            }
            Self::Change(change) => {
                let by = match (change.rises_by, change.falls_by) {
                    (Some(by), None) | (None, Some(by)) => by,
                    _ => {
                        return Err(AlertError::Either {
                            one: "rises_by",
                            other: "falls_by",
                        });
                    }
                };
                finite("rises_by or falls_by", by, 0.0)?;
                seconds("within_s", 1, change.within_s)
            }
            Self::Absence(absence) => {
                if absence.metric.is_some() == absence.event.is_some() {
                    return Err(AlertError::Either {
                        one: "metric",
                        other: "event",
                    });
                }
                seconds("after_s", 1, absence.after_s)
            }
            Self::Events(events) => {
                if !(1..=MAX_ALERT_EVENTS).contains(&events.count) {
                    return Err(AlertError::Count(events.count));
                }
                seconds("within_s", 1, events.within_s)
            }
            Self::State(_) => Ok(()),
        }
    }
}

impl Threshold {
    /// The level.
    ///
    /// # Errors
    /// When there is none, or two.
    pub fn level(&self) -> Result<f64, AlertError> {
        match (self.above, self.below) {
            (Some(level), None) | (None, Some(level)) => Ok(level),
            _ => Err(AlertError::Either {
                one: "above",
                other: "below",
            }),
        }
    }

    /// Whether `value` is beyond the level; `was_beyond` says whether the one before was.
    #[must_use]
    pub fn is_beyond(&self, value: f64, was_beyond: bool) -> bool {
        let level = |level: f64| match self.until {
            Some(until) if was_beyond => until,
            _ => level,
        };
        match (self.above, self.below) {
            (Some(above), _) => value > level(above),
            (None, Some(below)) => value < level(below),
            (None, None) => false,
        }
    }
}

/// Where an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// Its condition holds, not long enough yet. Nobody is told, and the log does not have it.
    Pending,
    /// Somebody should do something.
    Firing,
    /// It is over.
    Resolved,
}

impl AlertState {
    /// The state as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// What a rule found out about a robot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Alert {
    /// `RULE:ROBOT:MS`: the rule, the robot, and since when, in milliseconds since the epoch.
    pub id: String,
    /// The rule.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub rule: RuleName,
    /// The robot.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub robot_id: RobotId,
    /// How bad it is.
    pub severity: Severity,
    /// The rule's words.
    pub summary: String,
    /// What was found.
    pub reason: String,
    /// The value that it was found by, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Where it is.
    pub state: AlertState,
    /// Since when the condition holds.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
    /// When it began to fire; absent while it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub fired_at: Option<Timestamp>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub resolved_at: Option<Timestamp>,
    /// Why it is over, where the condition does not just hold no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<String>,
    /// Who looks after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledged>,
    /// The silence that keeps it quiet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "uuid"))]
    pub silenced_by: Option<Uuid>,
}

/// Who looks after an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Acknowledged {
    /// Who.
    pub by: String,
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// What they say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Which alerts a silence keeps quiet: those that fit all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Matchers {
    /// Of these rules; of all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub rules: Vec<Pattern>,
    /// Of these robots; of all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub robots: Vec<Pattern>,
    /// Of this severity and below; of all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
}

impl Matchers {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// When nothing is said, or too much.
    pub fn check(&self) -> Result<(), AlertError> {
        if *self == Self::default() {
            return Err(AlertError::Everything);
        }
        patterns("rules", &self.rules)?;
        patterns("robots", &self.robots)
    }

    /// Whether the alert is one of those.
    #[must_use]
    pub fn matches(&self, alert: &Alert) -> bool {
        any(&self.rules, alert.rule.as_str())
            && any(&self.robots, alert.robot_id.as_str())
            && self.severity.is_none_or(|most| alert.severity <= most)
    }
}

/// For some time somebody wants to hear nothing of some alerts. They fire all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Silence {
    /// Which silence.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub id: Uuid,
    /// Which alerts.
    pub matchers: Matchers,
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
    /// Until when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub until: Timestamp,
    /// Who wants it.
    pub by: String,
    /// Why.
    pub comment: String,
}

/// Checks what a person says about an alert or a silence: it may be nothing.
///
/// # Errors
/// When it is too long, or has control characters.
pub fn check_comment(comment: &str) -> Result<(), AlertError> {
    text("comment", comment, 0)
}
