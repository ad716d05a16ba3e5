//! Rules over what robots say: told as stories, and as properties of any sequence of them.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use lekiwi_protocol::alert::{Alert, AlertState, Rule};
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::alerts::{Alerts, Filter, Logged, Output};
use proptest::prelude::*;
use serde_json::{Value, json};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_ms(1_000_000_000 + seconds * 1_000)
}

fn id(text: &str) -> RobotId {
    RobotId::new(text).unwrap()
}

fn rule(name: &str, when: Value, for_s: u64) -> Rule {
    let rule = json!({ "id": name, "summary": name, "when": when, "for_s": for_s });
    let rule: Rule = serde_json::from_value(rule).unwrap();
    rule.check().unwrap();
    rule
}

fn hot(for_s: u64) -> Rule {
    let when = json!({ "threshold": { "metric": "temperature_c", "above": 80, "until": 75 } });
    rule("hot", when, for_s)
}

fn filter(state: AlertState) -> Filter {
    Filter {
        state,
        rule: None,
        robot: None,
        severity: None,
        within: None,
        limit: usize::MAX,
    }
}

/// A relay without its driver: what is asked for is in the log at once.
struct Relay {
    alerts: Alerts,
    log: Vec<(Timestamp, Output)>,
}

impl Relay {
    fn new(rules: Vec<Rule>) -> Self {
        let mut relay = Self {
            alerts: Alerts::new(Vec::new(), rules),
            log: Vec::new(),
        };
        for robot in ["kiwi-01", "kiwi-02"] {
            relay.alerts.robot(at(0), &id(robot), "lekiwi");
            relay.alerts.connection(at(0), &id(robot), true);
        }
        relay.alerts.lead(at(0), true);
        relay
    }

    fn write(&mut self, now: Timestamp, output: Output) {
        let position = self.log.len() as u64 + 1;
        logged(&mut self.alerts, now, position, now, &output);
        self.log.push((now, output));
    }

    /// Time passes until then; what was written meanwhile, in words.
    fn follow(&mut self, seconds: u64) -> Vec<String> {
        let now = at(seconds);
        let mut said = Vec::new();
        self.alerts.handle_timeout(now);
        while let Some(output) = self.alerts.poll_output() {
            let data = &output.data;
            let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
            let more = match output.kind {
                kind::ALERT_FIRING => text("reason"),
                _ => text("resolution"),
            };
            let robot = text("robot_id");
            said.push(
                format!("{} {} {robot} {more}", output.kind, text("rule"))
                    .trim()
                    .to_owned(),
            );
            self.write(now, output);
        }
        said
    }

    fn temperature(&mut self, seconds: u64, value: f64) -> Vec<String> {
        self.measured(seconds, "temperature_c", value)
    }

    fn measured(&mut self, seconds: u64, metric: &str, value: f64) -> Vec<String> {
        let metrics = BTreeMap::from([(metric.parse().unwrap(), value)]);
        self.alerts.telemetry(at(seconds), &id("kiwi-01"), &metrics);
        self.follow(seconds)
    }

    fn event(&mut self, seconds: u64, kind: &str) -> Vec<String> {
        self.alerts.event(at(seconds), &id("kiwi-01"), kind);
        self.follow(seconds)
    }

    /// Another relay on the same log.
    fn restarted(&self, rules: Vec<Rule>, now: Timestamp) -> Alerts {
        let mut alerts = Alerts::new(Vec::new(), rules);
        for (position, (then, output)) in self.log.iter().enumerate() {
            logged(&mut alerts, now, position as u64 + 1, *then, output);
        }
        for robot in ["kiwi-01", "kiwi-02"] {
            alerts.robot(now, &id(robot), "lekiwi");
        }
        alerts.lead(now, true);
        alerts
    }
}

fn logged(alerts: &mut Alerts, now: Timestamp, position: u64, at: Timestamp, output: &Output) {
    let data = output.data.to_string();
    alerts.logged(
        now,
        Logged {
            position,
            at,
            kind: output.kind,
            aggregate_id: &output.aggregate_id,
            data: &data,
        },
    );
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_level_holds_for_a_time_and_until_the_value_has_come_back() {
    let mut relay = Relay::new(vec![hot(60)]);
    assert_eq!(relay.temperature(10, 81.0), NOTHING);
    assert_eq!(
        relay
            .alerts
            .list(at(10), &filter(AlertState::Pending))
            .len(),
        1
    );
    // It came back in time: the sixty seconds begin anew.
    assert_eq!(relay.temperature(50, 75.0), NOTHING);
    assert_eq!(relay.temperature(60, 80.5), NOTHING);
    // Within the hysteresis it goes on holding.
    assert_eq!(relay.temperature(100, 76.0), NOTHING);
    assert_eq!(relay.follow(119), NOTHING);
    assert_eq!(
        relay.follow(120),
        ["alert.firing hot kiwi-01 temperature_c is 76, above 80 for 60 s"]
    );
    assert_eq!(relay.temperature(130, 75.1), NOTHING);
    assert_eq!(relay.temperature(140, 75.0), ["alert.resolved hot kiwi-01"]);
    assert_eq!(relay.follow(1_000), NOTHING);
    let resolved = relay.alerts.list(at(1_000), &filter(AlertState::Resolved));
    assert_eq!(resolved.len(), 1);
    assert_eq!(resolved[0].id, format!("hot:kiwi-01:{}", at(60).as_ms()));
    assert_eq!(resolved[0].fired_at, Some(at(120)));
    assert_eq!(resolved[0].resolved_at, Some(at(140)));
}

#[test]
fn a_level_from_below() {
    let when = json!({ "threshold": { "metric": "battery_percent", "below": 20, "until": 25 } });
    let mut relay = Relay::new(vec![rule("low", when, 0)]);
    assert_eq!(relay.measured(1, "battery_percent", 20.0), NOTHING);
    assert_eq!(
        relay.measured(2, "battery_percent", 19.5),
        ["alert.firing low kiwi-01 battery_percent is 19.5, below 20"]
    );
    assert_eq!(relay.measured(3, "battery_percent", 24.0), NOTHING);
    assert_eq!(
        relay.measured(4, "battery_percent", 25.0),
        ["alert.resolved low kiwi-01"]
    );
}

#[test]
fn what_does_not_come_any_more_is_noticed_while_the_robot_is_connected() {
    let when = json!({ "absence": { "metric": "battery_percent", "after_s": 100 } });
    let backup = json!({ "absence": { "event": "backup.*", "after_s": 500 } });
    let mut relay = Relay::new(vec![rule("silent", when, 0), rule("backup", backup, 0)]);
    assert_eq!(relay.measured(90, "battery_percent", 50.0), NOTHING);
    assert_eq!(
        relay.follow(189),
        ["alert.firing silent kiwi-02 no battery_percent for 100 s"]
    );
    relay.alerts.connection(at(189), &id("kiwi-01"), false);
    assert_eq!(relay.follow(400), NOTHING);
    relay.alerts.connection(at(400), &id("kiwi-01"), true);
    assert_eq!(relay.event(450, "backup.done"), NOTHING);
    assert_eq!(
        relay.follow(500),
        [
            "alert.firing silent kiwi-01 no battery_percent for 100 s",
            "alert.firing backup kiwi-02 no event backup.* for 500 s",
        ]
    );
    assert_eq!(
        relay.measured(510, "battery_percent", 50.0),
        ["alert.resolved silent kiwi-01"]
    );
}

#[test]
fn a_value_that_moves_fast_is_told_from_one_that_creeps() {
    let when = json!({ "change": { "metric": "disk_percent", "rises_by": 5, "within_s": 800 } });
    let mut relay = Relay::new(vec![rule("filling", when, 0)]);
    for minute in 0..60 {
        let creeping = relay.measured(minute * 60, "disk_percent", 50.0 + minute as f64 * 0.2);
        assert_eq!(creeping, NOTHING, "{minute}");
    }
    // A robot that said nothing for long still had its last value.
    assert_eq!(
        relay.measured(9_000, "disk_percent", 67.0),
        ["alert.firing filling kiwi-01 disk_percent rose by 5 or more within 800 s, to 67"]
    );
    assert_eq!(relay.follow(9_700), NOTHING);
    assert_eq!(relay.follow(9_900), ["alert.resolved filling kiwi-01"]);
    assert_eq!(relay.measured(10_000, "disk_percent", 20.0), NOTHING);
}

#[test]
fn events_count_within_a_time_and_one_of_them_ends_it() {
    let when = json!({ "events": { "type": "service.f*", "count": 3, "within_s": 60, "until": "service.steady" } });
    let mut relay = Relay::new(vec![rule("flapping", when, 0)]);
    for (seconds, kind) in [
        (0, "service.flapping"),
        (30, "service.flapping"),
        (61, "service.failed"),
    ] {
        assert_eq!(relay.event(seconds, kind), NOTHING);
    }
    assert_eq!(
        relay.event(70, "service.failed"),
        ["alert.firing flapping kiwi-01 3 × service.f* within 60 s"]
    );
    assert_eq!(relay.event(80, "service.changed"), NOTHING);
    assert_eq!(relay.follow(89), NOTHING);
    // The event of second 30 is too old by now, and two are not enough.
    assert_eq!(relay.follow(90), ["alert.resolved flapping kiwi-01"]);
    assert_eq!(relay.event(91, "service.failed").len(), 1);
    assert_eq!(
        relay.event(92, "service.steady"),
        ["alert.resolved flapping kiwi-01"]
    );
}

#[test]
fn what_the_relay_knows_of_a_robot() {
    let offline = rule("offline", json!({ "state": { "is": "offline" } }), 300);
    let mut relay = Relay::new(vec![offline]);
    relay.alerts.connection(at(10), &id("kiwi-01"), false);
    assert_eq!(relay.follow(309), NOTHING);
    assert_eq!(
        relay.follow(310),
        ["alert.firing offline kiwi-01 the robot is offline for 300 s"]
    );
    relay.alerts.connection(at(400), &id("kiwi-01"), true);
    assert_eq!(relay.follow(400), ["alert.resolved offline kiwi-01"]);
    relay.alerts.stale(at(500), &id("kiwi-01"));
    relay.alerts.heard(at(799), &id("kiwi-01"));
    relay.alerts.stale(at(800), &id("kiwi-01"));
    assert_eq!(relay.follow(1_099), NOTHING);
    assert_eq!(relay.follow(1_100).len(), 1);
    relay.alerts.heard(at(1_101), &id("kiwi-01"));
    assert_eq!(relay.follow(1_101), ["alert.resolved offline kiwi-01"]);
}

#[test]
fn a_rule_that_goes_and_a_robot_that_goes_take_their_alerts_along() {
    let mut relay = Relay::new(vec![hot(0)]);
    assert_eq!(relay.temperature(1, 90.0).len(), 1);
    let set = |enabled: bool, robots: &[&str]| Output {
        aggregate_type: "alert_rule",
        aggregate_id: "hot".to_owned(),
        kind: kind::ALERT_RULE_SET,
        data: json!({ "by": "admin", "rule": Rule { enabled, robots: robots.iter().map(|r| r.parse().unwrap()).collect(), ..hot(0) } }),
    };
    relay.write(at(2), set(true, &["kiwi-01"]));
    assert_eq!(
        relay.follow(2),
        NOTHING,
        "it is about the robot all the same"
    );
    relay.write(at(3), set(true, &["kiwi-02"]));
    assert_eq!(
        relay.follow(3),
        ["alert.resolved hot kiwi-01 the rule is not about this robot any more"]
    );
    let removed = Output {
        kind: kind::ALERT_RULE_REMOVED,
        data: json!({}),
        ..set(true, &[])
    };
    relay.write(at(4), removed);
    assert_eq!(
        relay.temperature(5, 90.0).len(),
        1,
        "the configuration's rule counts again"
    );
    relay.write(at(6), set(false, &[]));
    assert_eq!(
        relay.follow(6),
        ["alert.resolved hot kiwi-01 the rule is gone, or switched off"]
    );
    relay.write(at(7), set(true, &[]));
    assert_eq!(relay.temperature(8, 90.0).len(), 1);
    relay.alerts.forget(&id("kiwi-01"));
    assert_eq!(relay.follow(9).len(), 1);
    assert_eq!(relay.alerts.count(), 0);
}

#[test]
fn people_look_after_alerts_and_keep_them_quiet_for_a_time() {
    let mut relay = Relay::new(vec![hot(0)]);
    relay.temperature(1, 90.0);
    let alert = relay
        .alerts
        .list(at(1), &filter(AlertState::Firing))
        .remove(0);
    let data =
        json!({ "rule": "hot", "robot_id": "kiwi-01", "by": "admin", "comment": "on my way" });
    for (aggregate_id, expected) in [("hot:kiwi-01:1", false), (alert.id.as_str(), true)] {
        let output = Output {
            aggregate_type: "alert",
            aggregate_id: aggregate_id.to_owned(),
            kind: kind::ALERT_ACKNOWLEDGED,
            data: data.clone(),
        };
        relay.write(at(2), output);
        let found = relay.alerts.one(at(2), &alert.id).unwrap();
        assert_eq!(found.acknowledged.is_some(), expected, "{aggregate_id}");
    }
    let silence = uuid::Uuid::from_u128(7);
    let output = Output {
        aggregate_type: "alert_silence",
        aggregate_id: silence.to_string(),
        kind: kind::ALERT_SILENCED,
        data: json!({ "id": silence, "matchers": { "rules": ["h*"] }, "since": at(3), "until": at(10), "by": "admin", "comment": "" }),
    };
    relay.write(at(3), output);
    let silenced_by =
        |relay: &Relay, s: u64| relay.alerts.one(at(s), &alert.id).unwrap().silenced_by;
    assert_eq!(silenced_by(&relay, 9), Some(silence));
    assert_eq!(relay.alerts.next_silence_end(at(9)), Some(at(10)));
    assert_eq!(silenced_by(&relay, 10), None);
    assert_eq!(relay.alerts.one(at(3), "nonsense"), None);
}

#[test]
fn a_relay_that_does_not_lead_writes_nothing_and_what_the_log_lacks_once_it_does() {
    let mut relay = Relay::new(vec![hot(0)]);
    relay.alerts.lead(at(0), false);
    assert_eq!(relay.temperature(1, 90.0), NOTHING);
    assert_eq!(relay.follow(50), NOTHING);
    relay.alerts.lead(at(60), true);
    assert_eq!(relay.follow(60).len(), 1);
    // The one that leads has asked for the end and is gone before the log had it.
    relay.alerts.telemetry(
        at(61),
        &id("kiwi-01"),
        &BTreeMap::from([("temperature_c".parse().unwrap(), 20.0)]),
    );
    relay.alerts.lead(at(62), false);
    assert_eq!(relay.follow(62), NOTHING);
    relay.alerts.lead(at(63), true);
    assert_eq!(relay.follow(63), ["alert.resolved hot kiwi-01"]);
}

#[test]
fn ten_thousand_robots_and_twenty_rules() {
    let rules = (0..20).map(|n| {
        let when = json!({ "threshold": { "metric": format!("m{n}"), "above": 80 } });
        rule(&format!("r{n}"), when, 0)
    });
    let mut alerts = Alerts::new(Vec::new(), rules.collect());
    let robots: Vec<RobotId> = (0..10_000).map(|n| id(&format!("kiwi-{n}"))).collect();
    for robot in &robots {
        alerts.robot(at(0), robot, "lekiwi");
    }
    alerts.lead(at(0), true);
    let quiet = (0..30)
        .map(|n| (format!("q{n}").parse().unwrap(), 1.0))
        .collect();
    let loud = BTreeMap::from([("m7".parse().unwrap(), 90.0)]);
    for robot in &robots {
        alerts.telemetry(at(1), robot, &quiet);
        alerts.telemetry(at(1), robot, &loud);
    }
    // Each is pending for one rule alone, and sets no timer.
    assert_eq!(alerts.poll_timeout(), None);
    let mut asked = 0;
    while let Some(output) = alerts.poll_output() {
        asked += 1;
        logged(&mut alerts, at(2), asked, at(2), &output);
    }
    assert_eq!((asked, alerts.count()), (10_000, 10_000));
    let few = Filter {
        limit: 10,
        ..filter(AlertState::Firing)
    };
    assert_eq!(alerts.list(at(3), &few).len(), 10);
}

/// What may happen.
#[derive(Debug, Clone)]
enum Step {
    Temperature(u8, f64),
    Event(u8, &'static str),
    Connection(u8, bool),
    Rule(bool),
    Acknowledge,
    Silence(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..=2_u8, 60..100_u32).prop_map(|(robot, value)| Step::Temperature(robot, f64::from(value))),
        4 => (1..=2_u8, prop_oneof![Just("a.b"), Just("a.c"), Just("x")]).prop_map(|(robot, kind)| Step::Event(robot, kind)),
        3 => (1..=2_u8, any::<bool>()).prop_map(|(robot, on)| Step::Connection(robot, on)),
        1 => any::<bool>().prop_map(Step::Rule),
        1 => Just(Step::Acknowledge),
        1 => (1..200_u64).prop_map(Step::Silence),
        1 => Just(Step::Restart),
    ]
}

fn rules() -> Vec<Rule> {
    vec![
        hot(20),
        rule(
            "gone",
            json!({ "absence": { "metric": "temperature_c", "after_s": 60 } }),
            0,
        ),
        rule(
            "fast",
            json!({ "change": { "metric": "temperature_c", "rises_by": 10, "within_s": 40 } }),
            5,
        ),
        rule(
            "events",
            json!({ "events": { "type": "a.*", "count": 2, "within_s": 30, "until": "x" } }),
            0,
        ),
        rule("offline", json!({ "state": { "is": "offline" } }), 30),
    ]
}

proptest! {
    #[test]
    fn never_resolved_without_firing_and_a_restart_finds_all_as_it_was(
        steps in proptest::collection::vec((0..40_u64, step()), 1..120)
    ) {
        let mut relay = Relay::new(rules());
        let mut seconds = 0;
        for (pause, step) in steps {
            seconds += pause;
            let now = at(seconds);
            let robot = |n: u8| id(&format!("kiwi-0{n}"));
            relay.follow(seconds);
            match step {
                Step::Temperature(n, value) => {
                    let metrics = BTreeMap::from([("temperature_c".parse().unwrap(), value)]);
                    relay.alerts.telemetry(now, &robot(n), &metrics);
                }
                Step::Event(n, kind) => relay.alerts.event(now, &robot(n), kind),
                Step::Connection(n, on) => relay.alerts.connection(now, &robot(n), on),
                Step::Rule(enabled) => relay.write(now, Output {
                    aggregate_type: "alert_rule",
                    aggregate_id: "hot".to_owned(),
                    kind: kind::ALERT_RULE_SET,
                    data: json!({ "by": "admin", "rule": Rule { enabled, ..hot(7) } }),
                }),
                Step::Acknowledge => {
                    let found = relay.alerts.list(now, &filter(AlertState::Firing));
                    if let Some(alert) = found.first() {
                        relay.write(now, Output {
                            aggregate_type: "alert",
                            aggregate_id: alert.id.clone(),
                            kind: kind::ALERT_ACKNOWLEDGED,
                            data: json!({ "rule": alert.rule, "robot_id": alert.robot_id, "by": "admin" }),
                        });
                    }
                }
                Step::Silence(lasts) => {
                    let silence = uuid::Uuid::from_u128(u128::from(seconds));
                    relay.write(now, Output {
                        aggregate_type: "alert_silence",
                        aggregate_id: silence.to_string(),
                        kind: kind::ALERT_SILENCED,
                        data: json!({ "id": silence, "matchers": { "robots": ["kiwi-01"] }, "since": now, "until": at(seconds + lasts), "by": "admin", "comment": "" }),
                    });
                }
                Step::Restart => relay.alerts = relay.restarted(rules(), now),
            }
            relay.follow(seconds);
            // The log alone tells what fires, what is over, and what is silenced.
            let again = relay.restarted(rules(), now);
            for state in [AlertState::Firing, AlertState::Resolved] {
                prop_assert_eq!(again.list(now, &filter(state)), relay.alerts.list(now, &filter(state)));
            }
            prop_assert_eq!(
                again.silences(now).collect::<Vec<_>>(),
                relay.alerts.silences(now).collect::<Vec<_>>()
            );
            prop_assert_eq!(
                again.rules().map(|entry| (entry.rule.clone(), entry.origin)).collect::<Vec<_>>(),
                relay.alerts.rules().map(|entry| (entry.rule.clone(), entry.origin)).collect::<Vec<_>>()
            );
        }
        let mut firing: BTreeMap<(String, String), String> = BTreeMap::new();
        for (_, output) in &relay.log {
            let key = (output.data["rule"].to_string(), output.data["robot_id"].to_string());
            match output.kind {
                kind::ALERT_FIRING => {
                    let id = output.aggregate_id.clone();
                    prop_assert_eq!(firing.insert(key, id), None, "fires twice: {:?}", output);
                }
                kind::ALERT_RESOLVED => {
                    let id = firing.remove(&key);
                    prop_assert_eq!(id.as_ref(), Some(&output.aggregate_id), "{:?}", output);
                }
                _ => {}
            }
        }
        prop_assert_eq!(firing.len(), relay.alerts.count());
    }

    #[test]
    fn a_level_with_hysteresis_is_what_a_model_of_it_says(
        samples in proptest::collection::vec((1..30_u64, 70..90_u32), 1..80)
    ) {
        let mut relay = Relay::new(vec![hot(20)]);
        let (mut seconds, mut since, mut fires) = (0, None::<u64>, false);
        for (pause, value) in samples {
            let before = seconds;
            seconds += pause;
            // Second by second, as a person would.
            for second in before..seconds {
                fires = fires || since.is_some_and(|since| since + 20 <= second);
                relay.follow(second);
                prop_assert_eq!(relay.alerts.count(), usize::from(fires), "second {}", second);
            }
            let is_beyond = if since.is_some() { value > 75 } else { value > 80 };
            fires = fires || since.is_some_and(|since| since + 20 <= seconds);
            relay.follow(seconds);
            relay.temperature(seconds, f64::from(value));
            if is_beyond {
                since = since.or(Some(seconds));
            } else {
                (since, fires) = (None, false);
            }
            prop_assert_eq!(relay.alerts.count(), usize::from(fires), "second {}", seconds);
        }
    }
}

#[test]
fn alerts_are_found_by_what_they_are_about() {
    let mut relay = Relay::new(vec![hot(0)]);
    relay.temperature(1, 90.0);
    let count = |state, rule: Option<&str>, robot: Option<&str>, severity: &str| {
        let wanted = Filter {
            state,
            rule: rule.map(|rule| rule.parse().unwrap()),
            robot: robot.map(id),
            severity: serde_json::from_value(json!(severity)).unwrap(),
            within: None,
            limit: 10,
        };
        let found: Vec<Alert> = relay.alerts.list(at(2), &wanted);
        found.len()
    };
    assert_eq!(
        count(AlertState::Firing, Some("hot"), Some("kiwi-01"), "warning"),
        1
    );
    assert_eq!(count(AlertState::Firing, Some("cold"), None, "info"), 0);
    assert_eq!(count(AlertState::Firing, None, Some("kiwi-02"), "info"), 0);
    assert_eq!(count(AlertState::Firing, None, None, "critical"), 0);
    assert_eq!(count(AlertState::Resolved, None, None, "info"), 0);
}
