//! Alerts, rules and silences.

use comfy_table::{Cell, Color};
use lekiwi_protocol::alert::{Alert, AlertState, Condition, Matchers, Pattern, Severity, Silence};
use lekiwi_protocol::api::{AlertEntry, AlertHistory, AlertList, RuleView};

use super::{NONE, finish, table};
use crate::ui::plain;

fn hue(severity: Severity) -> Color {
    match severity {
        Severity::Info => Color::Blue,
        Severity::Warning => Color::Yellow,
        Severity::Critical => Color::Red,
    }
}

/// Who looks after it, what keeps it quiet, or how it ended.
fn remark(alert: &Alert) -> String {
    if let Some(at) = alert.resolved_at {
        let why = alert
            .resolution
            .as_deref()
            .map(|why| format!(": {}", plain(why)));
        return format!("over {at}{}", why.unwrap_or_default());
    }
    match (&alert.acknowledged, &alert.silenced_by) {
        (Some(by), _) if by.comment.is_empty() => format!("{} looks after it", plain(&by.by)),
        (Some(by), _) => format!("{}: {}", plain(&by.by), plain(&by.comment)),
        (None, Some(silence)) => format!("silenced by {silence}"),
        (None, None) => NONE.to_owned(),
    }
}

/// `lekiwi alerts list`.
pub(crate) fn alerts(list: &AlertList, state: AlertState, colour: bool) -> String {
    if list.alerts.is_empty() {
        return match state {
            AlertState::Firing => "nothing fires".into(),
            AlertState::Pending => "nothing is pending".into(),
            AlertState::Resolved => "nothing is over".into(),
        };
    }
    let head = ["alert", "severity", "since", "what", "reason", ""];
    let mut table = table(colour, &head);
    for alert in &list.alerts {
        table.add_row(vec![
            Cell::new(plain(&alert.id)),
            Cell::new(alert.severity).fg(hue(alert.severity)),
            Cell::new(alert.since),
            Cell::new(plain(&alert.summary)),
            Cell::new(plain(&alert.reason)),
            Cell::new(remark(alert)),
        ]);
    }
    finish(&table)
}

/// What it is about: an alert, those that a receiver was told of, or what is silenced.
fn about(entry: &AlertEntry) -> String {
    if let Some(silence) = &entry.silence {
        return matchers(&silence.matchers);
    }
    if let Some(id) = entry.silence_id {
        return format!("silence {id}");
    }
    let told = entry.firing.iter().chain(&entry.resolved);
    let mut all = entry.alert.iter().chain(told);
    let first = all.next().map_or_else(|| NONE.to_owned(), |id| plain(id));
    match all.count() + entry.omitted.unwrap_or_default() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// What was found, said, or went wrong.
fn detail(entry: &AlertEntry) -> String {
    let words = match &entry.silence {
        Some(silence) if silence.comment.is_empty() => format!("until {}", silence.until),
        Some(silence) => format!("until {}: {}", silence.until, silence.comment),
        None => {
            let said = entry.reason.as_deref().or(entry.comment.as_deref());
            said.unwrap_or(NONE).to_owned()
        }
    };
    plain(&words)
}

/// `lekiwi alerts history`.
pub(crate) fn alert_history(history: &AlertHistory, colour: bool) -> String {
    if history.entries.is_empty() {
        return "nothing happened to alerts".into();
    }
    let mut table = table(colour, &["at", "what", "about", "who", ""]);
    for entry in &history.entries {
        let what = entry.kind.strip_prefix("alert.").unwrap_or(&entry.kind);
        let what = Cell::new(plain(what));
        let who = entry.by.as_deref().or(entry.receiver.as_deref());
        table.add_row(vec![
            Cell::new(entry.at),
            match entry.severity {
                Some(severity) => what.fg(hue(severity)),
                None => what,
            },
            Cell::new(about(entry)),
            Cell::new(plain(who.unwrap_or(NONE))),
            Cell::new(detail(entry)),
        ]);
    }
    let mut text = finish(&table);
    if let Some(before) = history.next_before {
        text.push_str(&format!("\nearlier: --before {before}"));
    }
    text
}

/// One alert in a line.
pub(crate) fn alert(alert: &Alert) -> String {
    format!("{}  {}", plain(&alert.id), plain(&alert.reason))
}

fn words(patterns: &[Pattern]) -> String {
    let words: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
    words.join(",")
}

fn matchers(matchers: &Matchers) -> String {
    let mut parts = Vec::new();
    if !matchers.rules.is_empty() {
        parts.push(format!("rules {}", words(&matchers.rules)));
    }
    if !matchers.robots.is_empty() {
        parts.push(format!("robots {}", words(&matchers.robots)));
    }
    if let Some(severity) = matchers.severity {
        parts.push(format!("{severity} and below"));
    }
    parts.join(", ")
}

/// One silence in a line.
pub(crate) fn silence(silence: &Silence) -> String {
    let comment = match silence.comment.as_str() {
        "" => String::new(),
        comment => format!(": {}", plain(comment)),
    };
    format!(
        "{}  {} until {}, by {}{comment}",
        silence.id,
        matchers(&silence.matchers),
        silence.until,
        plain(&silence.by)
    )
}

/// `lekiwi alerts silences`.
pub(crate) fn silences(silences: &[Silence]) -> String {
    if silences.is_empty() {
        return "nothing is silenced".into();
    }
    let lines: Vec<String> = silences.iter().map(silence).collect();
    lines.join("\n")
}

/// A condition as rules write it, without braces.
fn condition(condition: &Condition) -> String {
    let Ok(serde_json::Value::Object(kind)) = serde_json::to_value(condition) else {
        return String::new();
    };
    let mut text = String::new();
    for (kind, fields) in kind {
        text.push_str(&kind);
        for (field, value) in fields.as_object().into_iter().flatten() {
            let value = match value.as_str() {
                Some(word) => word.to_owned(),
                None => value.to_string(),
            };
            text.push_str(&format!(" {field}={value}"));
        }
    }
    plain(&text)
}

/// `lekiwi alerts rules`.
pub(crate) fn rules(rules: &[RuleView], colour: bool) -> String {
    let head = ["rule", "severity", "when", "for", "robots", "from"];
    let mut table = table(colour, &head);
    for RuleView { rule, origin } in rules {
        let about = match (rule.robots.as_slice(), rule.profiles.as_slice()) {
            ([], []) => "all".to_owned(),
            (robots, []) => words(robots),
            ([], profiles) => format!("of {}", words(profiles)),
            (robots, profiles) => format!("{} of {}", words(robots), words(profiles)),
        };
        let off = if rule.enabled { "" } else { ", off" };
        table.add_row(vec![
            Cell::new(&rule.id),
            Cell::new(rule.severity).fg(hue(rule.severity)),
            Cell::new(condition(&rule.when)),
            Cell::new(format!("{} s", rule.for_s)),
            Cell::new(about),
            Cell::new(format!("{}{off}", origin.as_str())),
        ]);
    }
    finish(&table)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn alerts_are_a_table() {
        let alert = |robot: &str, more: serde_json::Value| {
            let mut alert = json!({
                "id": format!("hot:{robot}:1795233120007"), "rule": "hot", "robot_id": robot, "severity": "critical",
                "summary": "Too hot", "reason": "temperature_c is 90, above 80", "state": "firing",
                "since": "2026-11-21T12:00:00.000Z",
            });
            for (key, value) in more.as_object().unwrap() {
                alert[key] = value.clone();
            }
            alert
        };
        let list: AlertList = serde_json::from_value(json!({
            "alerts": [
                alert("kiwi-01", json!({})),
                alert("kiwi-02", json!({ "acknowledged": { "by": "admin", "at": "2026-11-21T12:01:00.000Z", "comment": "on my way" } })),
                alert("kiwi-03", json!({ "resolved_at": "2026-11-21T12:05:00.000Z", "resolution": "the rule is gone, or switched off" })),
            ],
            "firing": 2, "now": "2026-11-21T12:06:00.000Z",
        }))
        .unwrap();
        expect![[r#"
            ALERT                      SEVERITY  SINCE                     WHAT     REASON
            hot:kiwi-01:1795233120007  critical  2026-11-21T12:00:00.000Z  Too hot  temperature_c is 90, above 80  –
            hot:kiwi-02:1795233120007  critical  2026-11-21T12:00:00.000Z  Too hot  temperature_c is 90, above 80  admin: on my way
            hot:kiwi-03:1795233120007  critical  2026-11-21T12:00:00.000Z  Too hot  temperature_c is 90, above 80  over 2026-11-21T12:05:00.000Z: the rule is gone, or switched off"#]]
        .assert_eq(&alerts(&list, AlertState::Firing, false));
    }

    #[test]
    fn history_says_what_became_of_alerts() {
        let at = "2026-11-21T12:00:00.000Z";
        let id = "hot:kiwi-01:1795233120007";
        let history: AlertHistory = serde_json::from_value(json!({
            "entries": [
                { "position": 9, "at": at, "type": "alert.resolved", "alert": id, "reason": "the rule is gone, or switched off" },
                { "position": 8, "at": at, "type": "alert.unsilenced", "silence_id": "00000000-0000-0000-0000-000000000007", "by": "admin" },
                { "position": 7, "at": at, "type": "alert.undelivered", "receiver": "ops", "firing": [id], "resolved": ["hot:kiwi-02:1"], "omitted": 3, "reason": "expected HTTP 2xx, got 410" },
                { "position": 6, "at": at, "type": "alert.acknowledged", "alert": id, "by": "admin", "comment": "on my way" },
                { "position": 5, "at": at, "type": "alert.silenced", "by": "admin", "silence": {
                    "id": "00000000-0000-0000-0000-000000000007", "matchers": { "robots": ["kiwi-*"] }, "since": at,
                    "until": "2026-11-21T14:00:00.000Z", "by": "admin", "comment": "new wheels" } },
                { "position": 4, "at": at, "type": "alert.firing", "alert": id, "severity": "critical", "reason": "temperature_c is 90, above 80" },
            ],
            "next_before": 4,
        }))
        .unwrap();
        expect![[r#"
            AT                        WHAT          ABOUT                                         WHO
            2026-11-21T12:00:00.000Z  resolved      hot:kiwi-01:1795233120007                     –      the rule is gone, or switched off
            2026-11-21T12:00:00.000Z  unsilenced    silence 00000000-0000-0000-0000-000000000007  admin  –
            2026-11-21T12:00:00.000Z  undelivered   hot:kiwi-01:1795233120007 and 4 more          ops    expected HTTP 2xx, got 410
            2026-11-21T12:00:00.000Z  acknowledged  hot:kiwi-01:1795233120007                     admin  on my way
            2026-11-21T12:00:00.000Z  silenced      robots kiwi-*                                 admin  until 2026-11-21T14:00:00.000Z: new wheels
            2026-11-21T12:00:00.000Z  firing        hot:kiwi-01:1795233120007                     –      temperature_c is 90, above 80
            earlier: --before 4"#]]
        .assert_eq(&alert_history(&history, false));
    }

    #[test]
    fn rules_and_silences_say_what_they_are_about() {
        let rule = json!({
            "rule": {
                "id": "hot", "summary": "Too hot", "when": { "threshold": { "metric": "temperature_c", "above": 80.0 } },
                "for_s": 60, "profiles": ["lekiwi", "xle*"], "enabled": false,
            },
            "origin": "interface",
        });
        let rule: RuleView = serde_json::from_value(rule).unwrap();
        expect![[r#"
            RULE  SEVERITY  WHEN                                       FOR   ROBOTS          FROM
            hot   warning   threshold above=80.0 metric=temperature_c  60 s  of lekiwi,xle*  interface, off"#]]
        .assert_eq(&rules(&[rule], false));
        let quiet = json!({
            "id": "00000000-0000-0000-0000-000000000007", "matchers": { "robots": ["kiwi-0?"], "severity": "warning" },
            "since": "2026-11-21T12:00:00.000Z", "until": "2026-11-21T14:00:00.000Z", "by": "admin", "comment": "new wheels",
        });
        let quiet: Silence = serde_json::from_value(quiet).unwrap();
        assert_eq!(
            silences(&[quiet]),
            "00000000-0000-0000-0000-000000000007  robots kiwi-0?, warning and below until 2026-11-21T14:00:00.000Z, by admin: new wheels"
        );
    }
}
