//! Patterns, and rules that cannot be.

#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn patterns_mean_what_they_say() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("kiwi-*", "kiwi-01", true),
        ("kiwi-*", "kiw-01", false),
        ("kiwi-0?", "kiwi-01", true),
        ("kiwi-0?", "kiwi-0", false),
        ("*.flapping", "service.flapping", true),
        ("*a*b", "xaxxbxb", true),
        ("*a*b", "xaxxbxc", false),
        ("kiwi", "kiwi", true),
        ("kiwi", "kiwi2", false),
    ] {
        assert_eq!(
            Pattern::new(pattern).unwrap().matches(text),
            expected,
            "{pattern} {text}"
        );
    }
    assert_eq!(
        Pattern::new("Kiwi*").unwrap_err().to_string(),
        "expected a pattern of 1 to 64 of a-z, 0-9, '.', '_', '-', '*' and '?', got \"Kiwi*\""
    );
}

proptest! {
    #[test]
    fn a_pattern_of_a_text_and_stars_matches_it(text in "[a-z.]{1,12}", at in 0..12_usize) {
        let at = at.min(text.len());
        let cut = text[at..].chars().skip(1).collect::<String>();
        for pattern in [text.clone(), format!("{}*{cut}", &text[..at]), format!("*{}*", &text[..at])] {
            prop_assert!(Pattern::new(&pattern).unwrap().matches(&text), "{} {}", pattern, text);
        }
    }
}

fn refusal(rule: serde_json::Value) -> String {
    match serde_json::from_value::<Rule>(rule) {
        Ok(rule) => rule
            .check()
            .map_or_else(|e| e.to_string(), |()| "fine".into()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn rules_that_cannot_be_are_refused_with_their_reason() {
    let rule = |when: serde_json::Value| json!({ "id": "hot", "summary": "too hot", "when": when });
    for (rule, expected) in [
        (
            rule(json!({ "threshold": { "metric": "temperature_c", "above": 80, "until": 76 } })),
            "fine",
        ),
        (
            rule(json!({ "threshold": { "metric": "temperature_c", "above": 80, "until": 81 } })),
            "expected until to be at most 80 for above, and at least that for below, got 81",
        ),
        (
            rule(json!({ "threshold": { "metric": "temperature_c" } })),
            "expected exactly one of above and below",
        ),
        (
            rule(json!({ "threshold": { "metric": "temperature_c", "over": 80 } })),
            "unknown field `over`, expected one of `metric`, `above`, `below`, `until`",
        ),
        (
            rule(json!({ "change": { "metric": "a", "rises_by": 0, "within_s": 60 } })),
            "expected rises_by or falls_by to be a finite number above 0, got 0",
        ),
        (
            rule(json!({ "change": { "metric": "a", "rises_by": 1, "within_s": 0 } })),
            "expected within_s to be 1 to 604800 seconds, got 0",
        ),
        (
            rule(json!({ "absence": { "after_s": 60 } })),
            "expected exactly one of metric and event",
        ),
        (
            rule(json!({ "events": { "type": "service.*", "count": 0, "within_s": 60 } })),
            "expected count to be 1 to 100, got 0",
        ),
        (
            rule(json!({ "state": { "is": "upside_down" } })),
            "unknown variant `upside_down`, expected one of `offline`, `unhealthy`, `clock_unsynchronized`, `teleoperated_by_nobody`, `teleoperation_contention`, `certificate_ending`",
        ),
        (
            json!({ "id": "Hot", "summary": "x", "when": { "state": { "is": "offline" } } }),
            "expected a rule's name: 1 to 40 of a-z, 0-9 and '-', not starting with '-', got \"Hot\"",
        ),
        (
            json!({ "id": "hot", "summary": "", "when": { "state": { "is": "offline" } } }),
            "expected summary to be 1 to 200 bytes without control characters",
        ),
        (
            json!({ "id": "hot", "summary": "x", "for_s": 604_801, "when": { "state": { "is": "offline" } } }),
            "expected for_s to be 0 to 604800 seconds, got 604801",
        ),
    ] {
        assert_eq!(refusal(rule.clone()), expected, "{rule}");
    }
    assert_eq!(
        Matchers::default().check().unwrap_err().to_string(),
        "expected at least one of rules, robots and severity, got none"
    );
}
