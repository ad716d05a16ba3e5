//! What a robot's configuration should be, and is.

use lekiwi_protocol::api::ConfigurationView;
use lekiwi_protocol::message::{ConfigurationState, Reported};
use serde_json::Value;

use crate::ui::plain;

/// `lekiwi config get ID`: where the robot is, and the settings as `lekiwi config set` takes them.
pub(crate) fn configuration(view: &ConfigurationView) -> String {
    let version = view.desired.as_ref().map_or(0, |desired| desired.version);
    let mut lines = vec![standing(version, view.reported.as_ref())];
    if let Some(desired) = &view.desired {
        let signed = if desired.is_signed { ", signed" } else { "" };
        lines.push(format!(
            "version {version} is of {}{signed}, {}",
            plain(&desired.by),
            desired.issued_at
        ));
        for (key, value) in &desired.settings {
            flatten(&mut lines, key, value);
        }
    }
    lines.join("\n")
}

/// Where the robot is, in a line.
pub(super) fn standing(version: u64, reported: Option<&Reported>) -> String {
    let name = |version| match version {
        0 => "its own configuration".to_owned(),
        version => format!("version {version}"),
    };
    let Some(said) = reported else {
        return format!(
            "{} is wanted; the robot has not said what it has",
            name(version)
        );
    };
    if said.version != version {
        let (wanted, has) = (name(version), name(said.in_force));
        return format!("{wanted} is wanted; the robot has {has}");
    }
    let reason = plain(said.reason.as_deref().unwrap_or_default());
    let has = name(said.in_force);
    match said.state {
        ConfigurationState::Applied if version == 0 => format!("the robot has {has}"),
        ConfigurationState::Applied => format!("{has} is applied"),
        ConfigurationState::Trying => format!("version {version} is tried"),
        ConfigurationState::Rejected => {
            format!("version {version} is rejected: {reason}; the robot has {has}")
        }
        ConfigurationState::RolledBack => {
            format!("version {version} is rolled back: {reason}; the robot has {has}")
        }
    }
}

fn flatten(lines: &mut Vec<String>, key: &str, value: &Value) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (level, value) in map {
                flatten(lines, &format!("{key}.{level}"), value);
            }
        }
        Value::String(text) => lines.push(format!("{}={}", plain(key), plain(text))),
        value => lines.push(format!("{}={}", plain(key), plain(&value.to_string()))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(view: Value, expected: &Expect) {
        expected.assert_eq(&configuration(&serde_json::from_value(view).unwrap()));
    }

    #[test]
    fn it_says_where_the_robot_is() {
        check(
            json!({ "drift": false }),
            &expect!["its own configuration is wanted; the robot has not said what it has"],
        );
        check(
            json!({ "drift": false, "reported": { "version": 0, "state": "applied", "in_force": 0, "digest": "" } }),
            &expect!["the robot has its own configuration"],
        );
        let desired = json!({
            "version": 2, "by": "admin", "issued_at": "2026-11-21T12:00:00.000Z", "confirm_within_s": 60,
            "settings": { "log": "debug", "telemetry": { "sample_s": 5, "metrics": { "cpu_percent.*": { "deadband": 2.5 } } } }
        });
        check(
            json!({ "drift": false, "desired": desired,
                "reported": { "version": 2, "state": "applied", "in_force": 2, "digest": "" } }),
            &expect![[r#"
                version 2 is applied
                version 2 is of admin, 2026-11-21T12:00:00.000Z
                log=debug
                telemetry.metrics.cpu_percent.*.deadband=2.5
                telemetry.sample_s=5"#]],
        );
        let desired = json!({
            "version": 3, "by": "admin", "issued_at": "2026-11-21T12:00:00.000Z", "confirm_within_s": 60, "settings": {}
        });
        for (reported, expected) in [
            (
                json!({ "version": 2, "state": "applied", "in_force": 2, "digest": "" }),
                "version 3 is wanted; the robot has version 2",
            ),
            (
                json!({ "version": 3, "state": "trying", "in_force": 3, "digest": "" }),
                "version 3 is tried",
            ),
            (
                json!({ "version": 3, "state": "rejected", "reason": "no", "in_force": 2, "digest": "" }),
                "version 3 is rejected: no; the robot has version 2",
            ),
            (
                json!({ "version": 3, "state": "rolled_back", "reason": "late", "in_force": 0, "digest": "" }),
                "version 3 is rolled back: late; the robot has its own configuration",
            ),
        ] {
            let view = json!({ "drift": true, "desired": desired, "reported": reported });
            let shown = configuration(&serde_json::from_value(view).unwrap());
            assert_eq!(shown.lines().next().unwrap(), expected);
        }
    }
}
