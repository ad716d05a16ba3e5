//! Units as rows: JSON and CSV. Pure.

use serde_json::{Value, json};

use super::unit::{State, Unit};

const COLUMNS: [&str; 17] = [
    "unit",
    "serial",
    "mac",
    "board",
    "memory_mib",
    "robot_id",
    "profile",
    "image",
    "expected",
    "state",
    "reason",
    "attempts",
    "booting_at",
    "installing_at",
    "enrolled_at",
    "healthy_at",
    "seconds",
];

/// One unit with all that happened to it.
#[must_use]
pub fn json(unit: &Unit) -> Value {
    json!({
        "unit": unit.key,
        "serial": unit.serial,
        "mac": unit.mac,
        "board": unit.board,
        "memory_mib": unit.memory_mib,
        "robot_id": unit.robot_id,
        "profile": unit.profile,
        "image": unit.image,
        "expected": unit.expected,
        "state": unit.state.name(),
        "reason": unit.state.reason(),
        "since": unit.since,
        "attempt": unit.attempt,
        "steps": unit.steps,
    })
}

/// All units, a line each, with the times of the last attempt.
#[must_use]
pub fn csv(units: &[Unit]) -> String {
    let mut text = COLUMNS.join(",") + "\r\n";
    for unit in units {
        let entered = |state: &str| {
            let at = unit.entered(state);
            at.map(|at| at.to_string()).unwrap_or_default()
        };
        // From the first sign of life to the end, good or bad.
        let end = match unit.state {
            State::Healthy | State::Failed { .. } => Some(unit.since),
            _ => None,
        };
        let seconds = end.zip(unit.entered("booting").or(unit.entered("installing")));
        let fields = [
            unit.key.0.clone(),
            unit.serial
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            unit.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            unit.board.clone().unwrap_or_default(),
            unit.memory_mib
                .map(|mib| mib.to_string())
                .unwrap_or_default(),
            unit.robot_id
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            unit.profile.clone(),
            unit.image.clone().unwrap_or_default(),
            unit.expected.to_string(),
            unit.state.name().to_owned(),
            unit.state.reason().unwrap_or_default().to_owned(),
            unit.attempt.to_string(),
            entered("booting"),
            entered("installing"),
            entered("enrolled"),
            entered("healthy"),
            seconds
                .map(|(end, begin)| end.since(begin).as_secs().to_string())
                .unwrap_or_default(),
        ];
        text += &fields.map(|field| quoted(&field)).join(",");
        text += "\r\n";
    }
    text
}

/// RFC 4180; what a spreadsheet would take for a formula gets an apostrophe.
fn quoted(field: &str) -> String {
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let field = if formula {
        format!("'{field}")
    } else {
        field.to_owned()
    };
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use lekiwi_protocol::Timestamp;

    use super::*;
    use crate::line::unit::{Event, Key, Limits};

    #[test]
    fn rows_are_what_spreadsheets_read() {
        let limit = Duration::from_secs(60);
        let limits = Limits {
            booting: limit,
            installing: limit,
            enrolled: limit,
        };
        let at = |s: u64| Timestamp::from_ms(s * 1000);
        let mut unit = Unit::new(Key("abcdef01".into()), "lekiwi".into(), at(0));
        unit.serial = Some("10000000abcdef01".parse().unwrap());
        unit.handle(at(5), &limits, Event::Dhcp).unwrap();
        let failed = Event::Report {
            step: "failed".into(),
            detail: "=cmd(), \"x\"".into(),
        };
        unit.handle(at(12), &limits, failed).unwrap();
        let text = csv(&[unit.clone()]);
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "abcdef01,10000000abcdef01,,,,,lekiwi,,true,failed,\"'=cmd(), \"\"x\"\"\",1,1970-01-01T00:00:05.000Z,,,,7"
        );
        assert_eq!(text.lines().next().unwrap().split(',').count(), 17);
        let json = json(&unit);
        assert_eq!(json["steps"][1]["name"], "dhcp");
        assert_eq!(json["state"], "failed");
    }
}
