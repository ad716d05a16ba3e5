//! Who is told of which alerts, when, and how often.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lekiwi_protocol::alert::{Rule, Severity};
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::alerts::notify::{MAX_ATTEMPTS, Notifier, Outcome, Output, Receiver};
use lekiwi_relay_core::alerts::{Alerts, Logged};
use proptest::prelude::*;
use serde_json::{Value, json};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_ms(seconds * 1_000)
}

fn receiver() -> Receiver {
    Receiver {
        name: "ops".parse().unwrap(),
        rules: Vec::new(),
        robots: Vec::new(),
        severity: Severity::Warning,
        resolved: true,
        group_wait: Duration::from_secs(10),
        repeat: Duration::from_secs(1_000),
    }
}

struct Relay {
    alerts: Alerts,
    notifier: Notifier,
    /// Positions, and what receivers were told.
    log: Vec<(u64, &'static str, Value)>,
    position: u64,
    /// The id of what is on its way.
    flying: Vec<String>,
}

impl Relay {
    fn new(receivers: Vec<Receiver>) -> Self {
        let rules = ["hot", "cold"].map(|name| {
            let level = if name == "hot" { "above" } else { "below" };
            let when = json!({ "threshold": { "metric": "temperature_c", level: 50 } });
            let rule = json!({ "id": name, "summary": name, "when": when });
            serde_json::from_value::<Rule>(rule).unwrap()
        });
        let mut alerts = Alerts::new(Vec::new(), rules.into());
        for n in 1..=3 {
            let robot = RobotId::new(&format!("kiwi-0{n}")).unwrap();
            alerts.robot(at(0), &robot, "lekiwi");
        }
        alerts.lead(at(0), true);
        // What fires later is no remainder of a run before.
        let mut notifier = Notifier::new(receivers);
        notifier.review(at(0), &alerts);
        Self {
            alerts,
            notifier,
            log: Vec::new(),
            position: 0,
            flying: Vec::new(),
        }
    }

    fn write(&mut self, seconds: u64, kind: &'static str, aggregate_id: &str, data: Value) {
        self.position += 1;
        let text = data.to_string();
        self.alerts.logged(
            at(seconds),
            Logged {
                position: self.position,
                at: at(seconds),
                kind,
                aggregate_id,
                data: &text,
            },
        );
        self.log.push((seconds, kind, data));
    }

    fn temperature(&mut self, seconds: u64, robot: &str, value: f64) {
        let metrics = BTreeMap::from([("temperature_c".parse().unwrap(), value)]);
        let robot = RobotId::new(robot).unwrap();
        self.alerts.telemetry(at(seconds), &robot, &metrics);
        while let Some(output) = self.alerts.poll_output() {
            self.write(seconds, output.kind, &output.aggregate_id, output.data);
        }
    }

    /// What is sent and written at that time, in words.
    fn follow(&mut self, seconds: u64) -> Vec<String> {
        self.notifier.review(at(seconds), &self.alerts);
        let mut said = Vec::new();
        while let Some(output) = self.notifier.poll_output() {
            match output {
                Output::Send(sent) => {
                    let robots = |alerts: &[lekiwi_protocol::alert::Alert]| {
                        let robots = alerts.iter().map(|alert| alert.robot_id.to_string());
                        robots.collect::<Vec<_>>().join(",")
                    };
                    said.push(format!(
                        "{} firing [{}] resolved [{}]",
                        // Without the digest of what it says.
                        sent.id.rsplit_once(':').unwrap().0,
                        robots(&sent.firing),
                        robots(&sent.resolved)
                    ));
                    self.flying.push(sent.id);
                }
                Output::Event(event) => {
                    let reason = event.data["reason"].as_str().unwrap_or_default();
                    said.push(format!("{} {reason}", event.kind).trim().to_owned());
                    self.log.push((seconds, event.kind, event.data));
                }
            }
        }
        said
    }

    /// Killed, and started again on its log.
    fn restart(&mut self, receiver: Receiver) {
        self.flying.clear();
        self.notifier = Notifier::new(vec![receiver]);
        for (seconds, kind, data) in &self.log {
            if *kind == kind::ALERT_NOTIFIED {
                self.notifier.logged(at(*seconds), "ops", &data.to_string());
            }
        }
    }

    fn sent(&mut self, seconds: u64, outcome: Outcome) -> Vec<String> {
        let id = self.flying.pop().unwrap();
        self.notifier.sent(at(seconds), &id, outcome);
        self.follow(seconds)
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn what_comes_together_is_told_together_and_repeated_while_it_lasts() {
    let mut relay = Relay::new(vec![receiver()]);
    relay.temperature(1, "kiwi-01", 60.0);
    assert_eq!(relay.follow(1), NOTHING);
    relay.temperature(9, "kiwi-02", 60.0);
    assert_eq!(relay.follow(10), NOTHING);
    assert_eq!(
        relay.follow(11),
        ["ops:hot:2:0 firing [kiwi-01,kiwi-02] resolved []"]
    );
    // While it is on its way, news waits.
    relay.temperature(12, "kiwi-03", 60.0);
    assert_eq!(relay.follow(30), NOTHING);
    assert_eq!(relay.sent(31, Outcome::Delivered), ["alert.notified"]);
    assert_eq!(
        relay.follow(41),
        ["ops:hot:3:0 firing [kiwi-03] resolved []"]
    );
    assert_eq!(relay.sent(42, Outcome::Delivered), ["alert.notified"]);
    // Counted from the first that it was told of.
    assert_eq!(relay.follow(1_030), NOTHING);
    assert_eq!(
        relay.follow(1_031),
        ["ops:hot:3:1 firing [kiwi-01,kiwi-02,kiwi-03] resolved []"]
    );
    assert_eq!(relay.sent(1_043, Outcome::Delivered), ["alert.notified"]);
    relay.temperature(1_050, "kiwi-01", 50.0);
    relay.temperature(1_050, "kiwi-02", 40.0);
    assert_eq!(relay.follow(1_051), NOTHING);
    assert_eq!(
        relay.follow(1_061),
        [
            "ops:cold:6:0 firing [kiwi-02] resolved []",
            "ops:hot:5:0 firing [] resolved [kiwi-01,kiwi-02]",
        ]
    );
}

#[test]
fn news_of_others_does_not_put_off_a_reminder() {
    let mut relay = Relay::new(vec![receiver()]);
    relay.temperature(0, "kiwi-01", 60.0);
    let (mut reminders, mut ids) = (Vec::new(), BTreeSet::new());
    for second in 0..4_000 {
        match second % 100 {
            20 => relay.temperature(second, "kiwi-02", 60.0),
            60 => relay.temperature(second, "kiwi-02", 40.0),
            _ => {}
        }
        for said in relay.follow(second) {
            if said.contains("kiwi-01") {
                reminders.push(second);
            }
        }
        while let Some(id) = relay.flying.last().cloned() {
            assert!(ids.insert(id), "no two messages have the same id");
            relay.sent(second, Outcome::Delivered);
        }
    }
    // The news, and then what still lasts.
    assert_eq!(reminders, [10, 1_010, 2_010, 3_010]);
}

#[test]
fn a_clock_that_is_set_neither_fires_nor_stops() {
    const YEAR: u64 = 365 * 24 * 3_600;
    for wall in [100 * YEAR, 0] {
        let mut relay = Relay::new(vec![receiver()]);
        let rule = json!({ "id": "hot", "summary": "hot", "for_s": 60,
            "when": { "threshold": { "metric": "temperature_c", "above": 50 } } });
        let rule: Rule = serde_json::from_value(rule).unwrap();
        relay.alerts = Alerts::new(Vec::new(), vec![rule]);
        let kiwi = RobotId::new("kiwi-01").unwrap();
        relay.alerts.robot(at(50 * YEAR), &kiwi, "lekiwi");
        relay.alerts.lead(at(50 * YEAR), true);
        relay.temperature(50 * YEAR, "kiwi-01", 60.0);
        relay.alerts.set_clock(at(50 * YEAR + 10), at(wall + 10));
        relay.alerts.handle_timeout(at(50 * YEAR + 59));
        assert!(relay.alerts.poll_output().is_none(), "not yet");
        relay.alerts.handle_timeout(at(50 * YEAR + 60));
        let output = relay.alerts.poll_output().expect("then");
        assert_eq!(output.data["since"], json!(at(wall)), "as people have it");
        relay.write(
            50 * YEAR + 60,
            output.kind,
            &output.aggregate_id,
            output.data,
        );
        relay.follow(50 * YEAR + 60);
        assert_eq!(relay.follow(50 * YEAR + 70).len(), 1, "it is told");
        relay.sent(50 * YEAR + 70, Outcome::Delivered);
        assert_eq!(relay.follow(50 * YEAR + 1_069), NOTHING);
        assert_eq!(relay.follow(50 * YEAR + 1_070).len(), 1, "and again");
    }
}

#[test]
fn what_is_over_before_it_is_told_is_told_to_nobody() {
    let mut relay = Relay::new(vec![receiver()]);
    relay.temperature(1, "kiwi-01", 60.0);
    relay.follow(1);
    relay.temperature(5, "kiwi-01", 50.0);
    assert_eq!(relay.follow(5), NOTHING);
    assert_eq!(relay.follow(100), NOTHING);
}

#[test]
fn it_is_tried_again_with_growing_pauses_and_given_up_in_the_end() {
    let mut relay = Relay::new(vec![receiver()]);
    relay.temperature(0, "kiwi-01", 60.0);
    relay.follow(0);
    let id = "ops:hot:1:0 firing [kiwi-01] resolved []";
    assert_eq!(relay.follow(10), [id]);
    let (mut now, mut pauses) = (10, Vec::new());
    for _ in 1..MAX_ATTEMPTS {
        assert_eq!(relay.sent(now, Outcome::Failed("no route".into())), NOTHING);
        let tried = (now..)
            .find(|second| !relay.follow(*second).is_empty())
            .unwrap();
        pauses.push(tried - now);
        now = tried;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256]);
    assert_eq!(
        relay.sent(now, Outcome::Failed("no route".into())),
        ["alert.undelivered no route, after 10 attempts"]
    );
    // The next repetition tries anew.
    assert_eq!(relay.follow(now + 999), NOTHING);
    assert_eq!(
        relay.follow(now + 1_000),
        ["ops:hot:1:1 firing [kiwi-01] resolved []"]
    );
    assert_eq!(
        relay.sent(now + 1_000, Outcome::Refused("404".into())),
        ["alert.undelivered 404"]
    );
}

#[test]
fn a_restart_tells_again_what_may_not_have_arrived_under_the_same_id() {
    let mut relay = Relay::new(vec![receiver()]);
    relay.temperature(1, "kiwi-01", 60.0);
    relay.follow(1);
    relay.follow(11);
    relay.sent(11, Outcome::Delivered);
    relay.temperature(20, "kiwi-02", 60.0);
    relay.follow(20);
    let lost = "ops:hot:2:0 firing [kiwi-02] resolved []";
    assert_eq!(relay.follow(30), [lost]);
    // Killed before the answer.
    relay.restart(receiver());
    assert_eq!(relay.follow(40), NOTHING);
    assert_eq!(relay.follow(50), [lost]);
}

#[test]
fn reminders_are_counted_for_each_alert_whenever_the_relay_restarts() {
    for (restarts, resolved) in [(false, true), (true, true), (false, false), (true, false)] {
        let receiver = Receiver {
            resolved,
            ..receiver()
        };
        let mut relay = Relay::new(vec![receiver.clone()]);
        let mut told = Vec::new();
        for second in 0..6_000 {
            match second {
                1 => relay.temperature(second, "kiwi-01", 60.0),
                2_500 => relay.temperature(second, "kiwi-01", 50.0),
                3_000 => relay.temperature(second, "kiwi-02", 60.0),
                _ if restarts && second % 700 == 0 => relay.restart(receiver.clone()),
                _ => {}
            }
            told.extend(relay.follow(second));
            while !relay.flying.is_empty() {
                told.extend(relay.sent(second, Outcome::Delivered));
            }
        }
        told.retain(|said| said != kind::ALERT_NOTIFIED);
        let mut expected = vec![
            "ops:hot:1:0 firing [kiwi-01] resolved []",
            "ops:hot:1:1 firing [kiwi-01] resolved []",
            "ops:hot:1:2 firing [kiwi-01] resolved []",
            "ops:hot:3:0 firing [kiwi-02] resolved []",
            "ops:hot:3:1 firing [kiwi-02] resolved []",
            "ops:hot:3:2 firing [kiwi-02] resolved []",
        ];
        if resolved {
            expected.insert(3, "ops:hot:2:0 firing [] resolved [kiwi-01]");
        }
        assert_eq!(told, expected, "restarts: {restarts}, resolved: {resolved}");
    }
}

#[test]
fn who_looks_after_it_and_what_is_silenced_is_left_alone() {
    let mut relay = Relay::new(vec![receiver()]);
    relay.temperature(1, "kiwi-01", 60.0);
    relay.follow(1);
    relay.follow(11);
    relay.sent(11, Outcome::Delivered);
    let acknowledged = json!({ "rule": "hot", "robot_id": "kiwi-01", "by": "admin" });
    relay.write(
        12,
        kind::ALERT_ACKNOWLEDGED,
        "hot:kiwi-01:1000",
        acknowledged,
    );
    assert_eq!(relay.follow(5_000), NOTHING, "nobody is reminded");
    let id = uuid::Uuid::from_u128(1);
    let silence = json!({
        "id": id, "matchers": { "robots": ["kiwi-02"] }, "since": at(5_000), "until": at(6_000), "by": "admin", "comment": ""
    });
    relay.write(5_000, kind::ALERT_SILENCED, &id.to_string(), silence);
    relay.temperature(5_001, "kiwi-02", 60.0);
    assert_eq!(relay.follow(5_900), NOTHING);
    // The silence ends, and it still fires.
    assert_eq!(relay.follow(6_000), NOTHING);
    assert_eq!(
        relay.follow(6_010),
        ["ops:hot:4:0 firing [kiwi-02] resolved []"]
    );
    relay.sent(6_010, Outcome::Delivered);
    relay.temperature(6_020, "kiwi-01", 50.0);
    assert_eq!(relay.follow(6_020), NOTHING);
    assert_eq!(
        relay.follow(6_030),
        ["ops:hot:5:0 firing [] resolved [kiwi-01]"]
    );
}

#[test]
fn receivers_choose_what_they_are_told_of() {
    let mut quiet = receiver();
    quiet.name = "quiet".parse().unwrap();
    quiet.resolved = false;
    quiet.robots = vec!["kiwi-02".parse().unwrap()];
    let mut critical = receiver();
    critical.name = "critical".parse().unwrap();
    critical.severity = Severity::Critical;
    let mut cold = receiver();
    cold.name = "cold".parse().unwrap();
    cold.rules = vec!["c*".parse().unwrap()];
    let mut relay = Relay::new(vec![quiet, critical, cold]);
    relay.temperature(1, "kiwi-01", 60.0);
    relay.temperature(1, "kiwi-02", 60.0);
    assert_eq!(relay.follow(1), NOTHING);
    assert_eq!(
        relay.follow(11),
        ["quiet:hot:2:0 firing [kiwi-02] resolved []"]
    );
    relay.sent(11, Outcome::Delivered);
    relay.temperature(12, "kiwi-02", 50.0);
    assert_eq!(relay.follow(12), NOTHING);
    assert_eq!(relay.follow(100), NOTHING);
}

proptest! {
    /// Whatever fails on the way, and however often the relay restarts.
    #[test]
    fn in_the_end_a_receiver_knows_what_fires(
        steps in proptest::collection::vec((0..30_u64, 1..=3_u8, 0..10_u8), 1..60)
    ) {
        let mut relay = Relay::new(vec![receiver()]);
        // What the receiver knows to fire, and every message that it saw, by id.
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let mut flying: Vec<(String, Vec<String>, Vec<String>)> = Vec::new();
        let (mut seconds, mut failures, mut was_killed) = (0, 0, false);
        let quiet = (0..200).map(|_| (30, 1, 9));
        for (pause, robot, step) in steps.into_iter().chain(quiet) {
            seconds += pause;
            relay.notifier.review(at(seconds), &relay.alerts);
            while let Some(output) = relay.notifier.poll_output() {
                match output {
                    Output::Send(sent) => {
                        prop_assert!(
                            flying.iter().all(|(id, ..)| !id.starts_with(&format!("ops:{}:", sent.rule))),
                            "two messages of a group at a time"
                        );
                        let told = format!("{:?} {:?}", sent.firing, sent.resolved);
                        let before = seen.insert(sent.id.clone(), told.clone());
                        prop_assert!(before.is_none_or(|before| before == told), "{} is two messages", sent.id);
                        let ids = |alerts: &[lekiwi_protocol::alert::Alert]| {
                            alerts.iter().map(|alert| alert.id.clone()).collect::<Vec<_>>()
                        };
                        flying.push((sent.id.clone(), ids(&sent.firing), ids(&sent.resolved)));
                    }
                    Output::Event(event) => relay.log.push((seconds, event.kind, event.data)),
                }
            }
            match step {
                0..=3 => relay.temperature(seconds, &format!("kiwi-0{robot}"), 60.0),
                4 | 5 => relay.temperature(seconds, &format!("kiwi-0{robot}"), 50.0),
                6 => {
                    // Killed: what flies may have arrived, or not.
                    was_killed = true;
                    for (_, firing, _) in flying.drain(..) {
                        if robot == 1 {
                            known.extend(firing);
                        }
                    }
                    relay.restart(receiver());
                }
                7 if failures < 3 => {
                    failures += 1;
                    if let Some((id, ..)) = flying.pop() {
                        relay.notifier.sent(at(seconds), &id, Outcome::Failed("no".into()));
                    }
                }
                _ => {
                    failures = 0;
                    if let Some((id, firing, resolved)) = flying.pop() {
                        for alert in resolved {
                            let is_known = known.remove(&alert);
                            prop_assert!(is_known || was_killed, "{alert} is over, and was never told");
                        }
                        known.extend(firing);
                        relay.notifier.sent(at(seconds), &id, Outcome::Delivered);
                    }
                }
            }
        }
        let firing: BTreeSet<String> = relay.alerts.firing(at(seconds)).map(|(alert, _)| alert.id).collect();
        prop_assert!(firing.is_subset(&known), "{firing:?} {known:?}");
        // What was over while its message flew, and the relay was killed: nobody knows that it was told.
        prop_assert!(was_killed || firing == known, "{firing:?} {known:?}");
    }
}
