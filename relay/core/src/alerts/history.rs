//! The past of alerts, as the log's events tell it to people: what fired, who looked after it, what was silenced,
//! who was told and what could not be. Pure; `relay/src/http/alerts` asks, the store finds the events.

use lekiwi_protocol::alert::{Matchers, Pattern, Severity, Silence};
use lekiwi_protocol::api::AlertEntry;
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{RobotId, RuleName, Timestamp};
use serde::Deserialize;

use super::Logged;
use super::notify::MAX_LISTED;

/// Which part of the past: what fits all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Of this robot.
    pub robot: Option<RobotId>,
    /// Of this rule.
    pub rule: Option<RuleName>,
    /// Of this alert alone.
    pub alert: Option<Name>,
}

/// An alert's name, in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The rule.
    pub rule: RuleName,
    /// The robot.
    pub robot: RobotId,
    /// Since when its condition held.
    pub since: Timestamp,
}

impl Name {
    /// What a name is, for people.
    pub const EXPECTED: &'static str =
        "an alert's id: the rule, the robot and a time in ms, with colons between them";

    /// Reads `RULE:ROBOT:MS`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let name = Self {
            rule: RuleName::new(parts.next()?).ok()?,
            robot: RobotId::new(parts.next()?).ok()?,
            since: Timestamp::from_ms(parts.next()?.parse().ok()?),
        };
        parts.next().is_none().then_some(name)
    }

    /// The name as the log has it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}:{}:{}", self.rule, self.robot, self.since.as_ms())
    }
}

/// What the events about alerts say; each type has some of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    severity: Option<Severity>,
    summary: Option<String>,
    reason: Option<String>,
    resolution: Option<String>,
    by: Option<String>,
    comment: Option<String>,
    receiver: Option<String>,
    repeats: Option<u32>,
    firing: Vec<String>,
    resolved: Vec<String>,
    matchers: Option<Matchers>,
}

impl About {
    /// What happened, if it fits. What cannot be read is of another version, and left out.
    #[must_use]
    pub fn entry(&self, event: &Logged<'_>) -> Option<AlertEntry> {
        let data: Data = serde_json::from_str(event.data).ok()?;
        let mut entry = AlertEntry {
            position: event.position,
            at: event.at,
            kind: event.kind.to_owned(),
            by: data.by,
            comment: data.comment.filter(|comment| !comment.is_empty()),
            ..AlertEntry::default()
        };
        match event.kind {
            kind::ALERT_FIRING | kind::ALERT_RESOLVED | kind::ALERT_ACKNOWLEDGED => {
                let name = Name::parse(event.aggregate_id).filter(|name| self.takes(name))?;
                entry.alert = Some(event.aggregate_id.to_owned());
                entry.rule = Some(name.rule);
                entry.robot_id = Some(name.robot);
                entry.severity = data.severity;
                entry.summary = data.summary;
                entry.reason = data.reason.or(data.resolution);
            }
            kind::ALERT_SILENCED => {
                let silence: Silence = serde_json::from_str(event.data).ok()?;
                let lasts = |alert: &Name| silence.until > alert.since;
                let fits =
                    self.alert.as_ref().is_none_or(lasts) && self.may_take(&silence.matchers);
                entry.silence = Some(silence);
                return fits.then_some(entry);
            }
            kind::ALERT_UNSILENCED => {
                // Earlier relays did not say what it had been about: that may be anything.
                let fits = data
                    .matchers
                    .is_none_or(|matchers| self.may_take(&matchers));
                entry.silence_id = event.aggregate_id.parse().ok();
                return fits.then_some(entry);
            }
            kind::ALERT_NOTIFIED | kind::ALERT_UNDELIVERED => {
                entry.receiver = data.receiver;
                entry.repeats = data.repeats;
                entry.reason = data.reason;
                let told = |ids: Vec<String>| -> Vec<String> {
                    let fits = |id: &String| Name::parse(id).is_some_and(|name| self.takes(&name));
                    ids.into_iter().filter(fits).collect()
                };
                (entry.firing, entry.resolved) = (told(data.firing), told(data.resolved));
                let all = entry.firing.len() + entry.resolved.len();
                entry.firing.truncate(MAX_LISTED);
                entry.resolved.truncate(MAX_LISTED);
                let omitted = all - entry.firing.len() - entry.resolved.len();
                entry.omitted = (omitted > 0).then_some(omitted);
                if all == 0 {
                    return None;
                }
            }
            _ => return None,
        }
        Some(entry)
    }

    fn takes(&self, name: &Name) -> bool {
        self.rule.as_ref().is_none_or(|rule| *rule == name.rule)
            && self.robot.as_ref().is_none_or(|robot| *robot == name.robot)
            && self.alert.as_ref().is_none_or(|alert| alert == name)
    }

    /// Whether a silence of these may be about some of it.
    fn may_take(&self, matchers: &Matchers) -> bool {
        let any = |patterns: &[Pattern], name: Option<&str>| {
            let fits = |name| patterns.iter().any(|pattern| pattern.matches(name));
            patterns.is_empty() || name.is_none_or(fits)
        };
        let alert = self.alert.as_ref();
        let rule = self.rule.as_ref().or(alert.map(|alert| &alert.rule));
        let robot = self.robot.as_ref().or(alert.map(|alert| &alert.robot));
        any(&matchers.rules, rule.map(RuleName::as_str))
            && any(&matchers.robots, robot.map(RobotId::as_str))
    }
}

/// One page, newest first, of what was found down to a position, in any order: at most `limit`, and before which
/// position the next page is. Of one alert, what was silenced after its end is no part of it.
#[must_use]
pub fn page(
    about: &About,
    mut entries: Vec<AlertEntry>,
    down_to: u64,
    limit: usize,
) -> (Vec<AlertEntry>, Option<u64>) {
    let end = |entry: &&AlertEntry| entry.kind == kind::ALERT_RESOLVED;
    if let Some(end) = entries.iter().find(end).filter(|_| about.alert.is_some()) {
        let end = end.position;
        let is_silence = |entry: &AlertEntry| entry.silence.is_some() || entry.silence_id.is_some();
        entries.retain(|entry| entry.position <= end || !is_silence(entry));
    }
    entries.retain(|entry| entry.position >= down_to);
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.position));
    let next = if entries.len() > limit {
        entries.truncate(limit);
        entries.last().map(|last| last.position)
    } else {
        (down_to > 0).then_some(down_to)
    };
    (entries, next)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HOT: &str = "hot:kiwi-01:1000";
    const OTHER: &str = "hot:kiwi-010:2000";

    /// A log: position, type, what it is about, and what it says.
    fn log() -> Vec<(u64, &'static str, &'static str, Value)> {
        let silence = |id: u8, robots: &str, until: u64| {
            let id = format!("00000000-0000-0000-0000-00000000000{id}");
            json!({
                "id": id, "matchers": { "robots": [robots] }, "since": Timestamp::from_ms(0),
                "until": Timestamp::from_ms(until), "by": "ana", "comment": "",
            })
        };
        let fires = |robot: &str| json!({ "rule": "hot", "robot_id": robot, "severity": "critical", "summary": "Too hot", "reason": "90" });
        let told = |firing: &[&str], resolved: &[&str]| json!({ "receiver": "ops", "rule": "hot", "firing": firing, "resolved": resolved, "repeats": 0 });
        let quiet = "00000000-0000-0000-0000-000000000002";
        vec![
            (1, kind::ALERT_SILENCED, "…1", silence(1, "kiwi-*", 500)),
            (2, kind::ALERT_SILENCED, quiet, silence(2, "kiwi-*", 5_000)),
            (3, kind::ALERT_SILENCED, "…3", silence(3, "xle-*", 5_000)),
            (4, kind::ALERT_FIRING, HOT, fires("kiwi-01")),
            (5, kind::ALERT_FIRING, OTHER, fires("kiwi-010")),
            (6, kind::ALERT_NOTIFIED, "ops", told(&[HOT, OTHER], &[])),
            (7, kind::ALERT_NOTIFIED, "ops", told(&[OTHER], &[])),
            (
                8,
                kind::ALERT_ACKNOWLEDGED,
                HOT,
                json!({ "rule": "hot", "robot_id": "kiwi-01", "by": "ben", "comment": "on my way" }),
            ),
            (
                9,
                kind::ALERT_UNSILENCED,
                quiet,
                json!({ "matchers": { "robots": ["kiwi-*"] }, "by": "ana" }),
            ),
            (
                10,
                kind::ALERT_RESOLVED,
                HOT,
                json!({ "rule": "hot", "robot_id": "kiwi-01", "resolution": "gone" }),
            ),
            (
                11,
                kind::ALERT_UNDELIVERED,
                "ops",
                json!({ "receiver": "ops", "firing": [], "resolved": [HOT], "reason": "410" }),
            ),
            (
                12,
                kind::ALERT_SILENCED,
                "…4",
                silence(4, "kiwi-01", 90_000),
            ),
            (13, kind::ALERT_FIRING, "nonsense", fires("kiwi-01")),
            (14, kind::ALERT_FIRING, HOT, json!("no object")),
            (15, kind::CONNECTED, "kiwi-01", json!({})),
        ]
    }

    fn entries(about: &About) -> Vec<AlertEntry> {
        let mut entries = Vec::new();
        for (position, kind, aggregate_id, data) in log() {
            let data = data.to_string();
            entries.extend(about.entry(&Logged {
                position,
                at: Timestamp::from_ms(position),
                kind,
                aggregate_id,
                data: &data,
            }));
        }
        entries
    }

    fn positions(entries: &[AlertEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.position).collect()
    }

    #[test]
    fn what_is_asked_for_is_told_and_nothing_else() {
        let robot = |id: &str| About {
            robot: Some(RobotId::new(id).unwrap()),
            ..About::default()
        };
        let rule = |name: &str| About {
            rule: Some(RuleName::new(name).unwrap()),
            ..About::default()
        };
        for (about, expected) in [
            (
                About::default(),
                &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12][..],
            ),
            (robot("kiwi-01"), &[1, 2, 4, 6, 8, 9, 10, 11, 12]),
            (robot("kiwi-010"), &[1, 2, 5, 6, 7, 9]),
            (robot("xle-01"), &[3]),
            (rule("hot"), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
            (rule("cold"), &[1, 2, 3, 9, 12]),
        ] {
            assert_eq!(positions(&entries(&about)), expected, "{about:?}");
        }
        let of_both = &entries(&About::default())[5];
        assert_eq!((of_both.firing.len(), of_both.omitted), (2, None));
        let of_one = &entries(&robot("kiwi-01"))[3];
        assert_eq!(of_one.firing, [HOT]);
    }

    #[test]
    fn an_alerts_past_is_of_its_time() {
        let about = About {
            alert: Name::parse(HOT),
            ..About::default()
        };
        // The first silence was over before, the last one begins afterwards.
        let (all, next) = page(&about, entries(&about), 0, 100);
        assert_eq!(positions(&all), [11, 10, 9, 8, 6, 4, 2]);
        assert_eq!(next, None);
        let said = |entry: &AlertEntry| {
            (
                entry.by.clone(),
                entry.comment.clone(),
                entry.reason.clone(),
            )
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(said(&all[0]), (None, None, text("410")));
        assert_eq!(said(&all[1]), (None, None, text("gone")));
        assert_eq!(said(&all[3]), (text("ben"), text("on my way"), None));
        assert_eq!(said(&all[5]), (None, None, text("90")));
    }

    #[test]
    fn pages_follow_each_other_down_to_where_was_looked() {
        let all = entries(&About::default());
        let page = |down_to, limit| {
            let (page, next) = page(&About::default(), all.clone(), down_to, limit);
            (positions(&page), next)
        };
        assert_eq!(page(0, 3), (vec![12, 11, 10], Some(10)));
        assert_eq!(page(11, 3), (vec![12, 11], Some(11)));
        assert_eq!(page(20, 3), (vec![], Some(20)));
        assert_eq!(page(0, 12).1, None);
    }

    #[test]
    fn names_are_rule_robot_and_time() {
        assert_eq!(Name::parse(HOT).unwrap().id(), HOT);
        for text in [
            "",
            "hot",
            "hot:kiwi-01",
            "hot:kiwi-01:x",
            "hot:kiwi-01:1:2",
            "Hot:kiwi-01:1",
        ] {
            assert_eq!(Name::parse(text), None, "{text:?}");
        }
    }
}
