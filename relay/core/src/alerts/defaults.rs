//! The rules that every relay brings. Each can be replaced, or switched off, by one of the same name.

use lekiwi_protocol::alert::Rule;

/// The rules as a configuration would write them.
const RULES: &str = r#"[
  { "id": "temperature", "severity": "critical", "summary": "The board is too hot",
    "when": { "threshold": { "metric": "temperature_c", "above": 80, "until": 75 } }, "for_s": 60 },
  { "id": "disk", "summary": "The disk is almost full",
    "when": { "threshold": { "metric": "disk_percent", "above": 90, "until": 85 } }, "for_s": 300 },
  { "id": "offline", "summary": "The robot is not reached",
    "when": { "state": { "is": "offline" } }, "for_s": 300 },
  { "id": "teleoperation-nobody", "severity": "critical", "summary": "The robot is driven, and nobody knows by whom",
    "when": { "state": { "is": "teleoperated_by_nobody" } }, "for_s": 10 },
  { "id": "clock", "summary": "The clock is not set from the network",
    "when": { "state": { "is": "clock_unsynchronized" } }, "for_s": 900 },
  { "id": "certificate", "summary": "The certificate ends soon, and the robot has not renewed it",
    "when": { "state": { "is": "certificate_ending" } }, "for_s": 3600 }
]"#;

/// The rules that every relay brings.
#[must_use]
pub fn rules() -> Vec<Rule> {
    // A test reads it.
    serde_json::from_str(RULES).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lekiwi_protocol::alert::RobotCondition;

    use super::*;

    #[test]
    fn they_are_rules() {
        let rules = rules();
        let names: Vec<_> = rules.iter().map(|rule| rule.id.as_str()).collect();
        assert_eq!(
            names,
            [
                "temperature",
                "disk",
                "offline",
                "teleoperation-nobody",
                "clock",
                "certificate"
            ]
        );
        for rule in rules {
            assert_eq!(rule.check(), Ok(()), "{}", rule.id);
        }
    }

    #[test]
    fn they_are_documented_and_so_are_conditions() {
        let page = include_str!("../../../../docs/alerts.md");
        let row = |start: &str| page.lines().find(|line| line.starts_with(start)).unwrap();
        for rule in rules() {
            let row = row(&format!("| `{}` | {} |", rule.id, rule.severity));
            assert!(row.ends_with(&format!("for {} s |", rule.for_s)), "{row}");
        }
        let conditions = row("| `state: {is}`");
        for condition in RobotCondition::ALL {
            let word = serde_json::to_value(condition).unwrap();
            let word = format!("`{}`", word.as_str().unwrap());
            assert!(conditions.contains(&word), "{word}");
        }
    }
}
