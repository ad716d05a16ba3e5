//! Decides when a metric is worth a message, and when it is an alert. Pure; called by the driver.
//!
//! A metric is sent when it is new, when it moved by more than its deadband and its minimum interval
//! is over, when its keep-alive is over, and at once when it crosses its alert threshold in either
//! direction. One message carries all that is due. Members of a family (a core, an interface) come with
//! their first value and go when they have had none for [`GONE`]. Invariants: a crossing is never delayed;
//! an alert is raised once and cleared once, whatever the value does between threshold and clearing level;
//! there are at most [`metric::most`] members of a family.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lekiwi_protocol::MetricName;
use lekiwi_protocol::message::{Telemetry, metric};

/// A metric without a new value for so long is not measured any more: the interface is unplugged, the
/// battery taken out, the program that reported it ended: an old value that looks new is a lie. Longer than
/// probes are ever put off.
pub const GONE: Duration = Duration::from_secs(900);

/// When a metric is sent. Levels are in the metric's own unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Movements up to this are noise.
    pub deadband: f64,
    /// Shortest time between two messages with this metric, crossings aside.
    pub min_interval: Duration,
    /// Longest time between two.
    pub keep_alive: Duration,
    /// Beyond this it is an alert.
    pub alert: Option<Threshold>,
}

/// An alert level with hysteresis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Raised above `level`, cleared at or below `clear`.
    Above {
        /// The level.
        level: f64,
        /// Where it is over.
        clear: f64,
    },
    /// Raised below `level`, cleared at or above `clear`.
    Below {
        /// The level.
        level: f64,
        /// Where it is over.
        clear: f64,
    },
}

impl Threshold {
    /// The level that `value` crosses, if any, while the alert is raised or not.
    fn crossed(self, raised: bool, value: f64) -> Option<f64> {
        match (self, raised) {
            (Self::Above { level, .. }, false) => (value > level).then_some(level),
            (Self::Above { clear, .. }, true) => (value <= clear).then_some(clear),
            (Self::Below { level, .. }, false) => (value < level).then_some(level),
            (Self::Below { clear, .. }, true) => (value >= clear).then_some(clear),
        }
    }
}

/// Rules by metric (`cpu_percent`), family (`cpu_percent.*`) or member of one (`cpu_percent.0`), which
/// comes before its family.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules(Vec<(String, Rule)>);

impl FromIterator<(String, Rule)> for Rules {
    fn from_iter<I: IntoIterator<Item = (String, Rule)>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

impl Rules {
    /// All of them, each with what it is for.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.0.iter().map(|(key, rule)| (key.as_str(), rule))
    }

    /// The rule of a metric by its whole name; `None` for one that is not known.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&Rule> {
        let get = |key: &str| self.0.iter().find(|(k, _)| k == key).map(|(_, rule)| rule);
        get(name).or_else(|| metric::key_of(name).and_then(get))
    }
}

/// A crossing of a threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Of which metric.
    pub metric: MetricName,
    /// Its value.
    pub value: f64,
    /// The level that it crossed.
    pub level: f64,
    /// Whether it went beyond; otherwise it came back, or is not measured any more.
    pub raised: bool,
}

#[derive(Debug)]
struct Slot {
    /// The metric or family, and the member as the probe calls it.
    family: &'static str,
    member: Box<str>,
    metric: MetricName,
    rule: Rule,
    newest: f64,
    observed: Instant,
    sent: Option<(Instant, f64)>,
    crossed: bool,
    alerted: bool,
}

impl Slot {
    /// When the newest value is due.
    fn due(&self) -> Instant {
        match self.sent {
            None => self.observed,
            _ if self.crossed => self.observed,
            Some((at, sent)) if (self.newest - sent).abs() > self.rule.deadband => {
                at + self.rule.min_interval.min(self.rule.keep_alive)
            }
            Some((at, _)) => at + self.rule.keep_alive,
        }
    }
}

/// The debouncer of all metrics of a robot.
#[derive(Debug)]
pub struct Debouncer {
    rules: Rules,
    slots: Vec<Slot>,
    alerts: VecDeque<Alert>,
}

impl Debouncer {
    /// Knows these metrics; others are ignored.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            slots: Vec::new(),
            alerts: VecDeque::new(),
        }
    }

    /// Goes by other rules from now on. Values stay, and an alert whose threshold is gone ends with its
    /// metric's next value.
    pub fn replace_rules(&mut self, rules: Rules) {
        self.rules = rules;
        for slot in &mut self.slots {
            if let Some(rule) = self.rules.of(slot.metric.as_str()) {
                slot.rule = *rule;
            }
        }
    }

    /// Takes a value measured at `now` of a metric, or of a family's `member`. It replaces an earlier
    /// unsent one. Ignored are values that are no numbers, metrics without a rule, members beyond the
    /// most that a family has, and a second member that would have the name of a first. Says whether it
    /// was taken.
    pub fn observe(
        &mut self,
        now: Instant,
        family: &'static str,
        member: &str,
        value: f64,
    ) -> bool {
        if !value.is_finite() {
            return false;
        }
        let known = |slot: &Slot| slot.family == family && *slot.member == *member;
        let index = match self.slots.iter().position(known) {
            Some(index) => index,
            None => match self.slot(now, family, member, value) {
                Some(slot) => {
                    self.slots.push(slot);
                    self.slots.len() - 1
                }
                None => return false,
            },
        };
        let slot = &mut self.slots[index];
        slot.observed = now;
        slot.newest = value;
        let level = match slot.rule.alert {
            Some(alert) => alert.crossed(slot.alerted, value),
            // Its rule lost the threshold.
            None => slot.alerted.then_some(value),
        };
        if let Some(level) = level {
            slot.alerted = !slot.alerted;
            slot.crossed = true;
            self.alerts.push_back(Alert {
                metric: slot.metric.clone(),
                value,
                level,
                raised: slot.alerted,
            });
        }
        true
    }

    fn slot(&self, now: Instant, family: &'static str, member: &str, value: f64) -> Option<Slot> {
        let metric = metric::name(family, member)?;
        let rule = *self.rules.of(metric.as_str())?;
        let members = self.slots.iter().filter(|slot| slot.family == family);
        let is_full = !member.is_empty() && members.count() >= metric::most(family);
        let is_taken = self.slots.iter().any(|slot| slot.metric == metric);
        (!is_full && !is_taken).then(|| Slot {
            family,
            member: member.into(),
            metric,
            rule,
            newest: value,
            observed: now,
            sent: None,
            crossed: false,
            alerted: false,
        })
    }

    /// Forgets what is not measured any more, which ends its alert. Says whether there was any: the
    /// picture that others have is wrong then.
    pub fn retire(&mut self, now: Instant) -> bool {
        let before = self.slots.len();
        let alerts = &mut self.alerts;
        self.slots.retain(|slot| {
            let stays = now.saturating_duration_since(slot.observed) < GONE;
            if !stays && slot.alerted {
                alerts.push_back(Alert {
                    metric: slot.metric.clone(),
                    value: slot.newest,
                    level: slot.newest,
                    raised: false,
                });
            }
            stays
        });
        self.slots.len() < before
    }

    /// The next crossing, oldest first.
    pub fn poll_alert(&mut self) -> Option<Alert> {
        self.alerts.pop_front()
    }

    /// The message that is due at `now`; `None` until [`Self::poll_timeout`].
    pub fn poll_output(&mut self, now: Instant) -> Option<Telemetry> {
        let mut telemetry = Telemetry {
            metrics: std::collections::BTreeMap::new(),
        };
        for slot in &mut self.slots {
            if slot.due() <= now {
                telemetry.metrics.insert(slot.metric.clone(), slot.newest);
                slot.sent = Some((now, slot.newest));
                slot.crossed = false;
            }
        }
        (!telemetry.metrics.is_empty()).then_some(telemetry)
    }

    /// When [`Self::poll_output`] next has something, if nothing is observed before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.slots.iter().map(Slot::due).min()
    }

    /// Every metric's newest value.
    pub fn newest(&self) -> impl Iterator<Item = (&MetricName, f64)> {
        self.slots.iter().map(|slot| (&slot.metric, slot.newest))
    }

    /// All newest values were told in another way (the full state after a connect).
    pub fn told(&mut self, now: Instant) {
        for slot in &mut self.slots {
            slot.sent = Some((now, slot.newest));
            slot.crossed = false;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use lekiwi_protocol::limits::{MAX_CUSTOM_METRICS, MAX_FAMILY};
    use proptest::prelude::*;

    use super::*;

    fn rule(alert: Option<Threshold>) -> Rule {
        Rule {
            deadband: 5.0,
            min_interval: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            alert,
        }
    }

    fn debouncer() -> Debouncer {
        let threshold = Threshold::Above {
            level: 90.0,
            clear: 80.0,
        };
        let low = Threshold::Below {
            level: 20.0,
            clear: 25.0,
        };
        let family = Rule {
            deadband: 25.0,
            ..rule(None)
        };
        let rules = [
            ("cpu", rule(Some(threshold))),
            ("mem", rule(None)),
            ("battery", rule(Some(low))),
            ("cpu_percent.*", family),
            ("cpu_percent.1", rule(None)),
            ("throttling.*", rule(Some(threshold))),
        ];
        Debouncer::new(
            rules
                .into_iter()
                .map(|(key, rule)| (key.to_owned(), rule))
                .collect(),
        )
    }

    /// Feeds samples `(second, metric, value)`, and lets the debouncer's own timer fire between them and
    /// up to second 130.
    fn check(samples: &[(u64, &'static str, f64)], expected: &Expect) {
        let start = Instant::now();
        let mut debouncer = debouncer();
        let mut story = String::new();
        let mut drain = |debouncer: &mut Debouncer, now: Instant| {
            let second = (now - start).as_secs();
            while let Some(alert) = debouncer.poll_alert() {
                let word = if alert.raised { "beyond" } else { "back at" };
                let Alert {
                    metric,
                    value,
                    level,
                    ..
                } = alert;
                writeln!(story, "{second} s: alert {metric} {value} {word} {level}").unwrap();
            }
            while let Some(telemetry) = debouncer.poll_output(now) {
                writeln!(story, "{second} s: send {:?}", telemetry.metrics).unwrap();
            }
        };
        let end = (130, "", 0.0);
        let mut samples = samples.iter().chain([&end]).peekable();
        while let Some((second, metric, value)) = samples.next() {
            let now = start + Duration::from_secs(*second);
            while let Some(at) = debouncer.poll_timeout().filter(|at| *at < now) {
                drain(&mut debouncer, at);
            }
            debouncer.observe(now, metric, "", *value);
            // Samples of one moment are one look at the sensors.
            if samples.peek().is_none_or(|(next, ..)| next != second) {
                drain(&mut debouncer, now);
            }
        }
        expected.assert_eq(&story);
    }

    #[test]
    fn noise_is_held_back_and_movement_waits_for_the_interval() {
        check(
            &[
                (0, "cpu", 10.0),
                (1, "mem", 40.0),
                (2, "cpu", 14.9),
                (3, "cpu", 30.0),
                (4, "cpu", 31.0),
            ],
            &expect![[r#"
                0 s: send {cpu: 10.0}
                1 s: send {mem: 40.0}
                10 s: send {cpu: 31.0}
                61 s: send {mem: 40.0}
                70 s: send {cpu: 31.0}
                121 s: send {mem: 40.0}
                130 s: send {cpu: 31.0}
            "#]],
        );
    }

    #[test]
    fn a_crossing_goes_at_once_and_only_once_within_the_hysteresis() {
        check(
            &[
                (0, "cpu", 10.0),
                (1, "cpu", 95.0),
                (2, "cpu", 89.0),
                (3, "cpu", 91.0),
                (4, "cpu", 80.0),
                (5, "cpu", 81.0),
            ],
            &expect![[r#"
                0 s: send {cpu: 10.0}
                1 s: alert cpu 95 beyond 90
                1 s: send {cpu: 95.0}
                4 s: alert cpu 80 back at 80
                4 s: send {cpu: 80.0}
                64 s: send {cpu: 81.0}
                124 s: send {cpu: 81.0}
            "#]],
        );
    }

    #[test]
    fn all_that_is_due_goes_in_one_message_and_nonsense_never() {
        check(
            &[
                (0, "cpu", f64::NAN),
                (0, "disk", 1.0),
                (5, "mem", 1.0),
                (5, "cpu", 1.0),
                (7, "cpu", 50.0),
                (8, "mem", 50.0),
                (16, "mem", 51.0),
            ],
            &expect![[r#"
                5 s: send {cpu: 1.0, mem: 1.0}
                15 s: send {cpu: 50.0, mem: 50.0}
                75 s: send {cpu: 50.0, mem: 51.0}
            "#]],
        );
    }

    #[test]
    fn rules_change_while_it_runs() {
        let now = Instant::now();
        let mut debouncer = debouncer();
        debouncer.observe(now, "cpu", "", 95.0);
        assert!(debouncer.poll_alert().unwrap().raised);
        debouncer.replace_rules([("cpu".to_owned(), rule(None))].into_iter().collect());
        assert_eq!(debouncer.newest().count(), 1, "values stay");
        assert!(debouncer.observe(now, "cpu", "", 95.0));
        assert!(!debouncer.poll_alert().unwrap().raised);
        assert!(!debouncer.observe(now, "mem", "", 1.0), "no rule any more");
    }

    #[test]
    fn metrics_of_programs_are_bounded_and_those_nobody_reports_make_room() {
        let start = Instant::now();
        let rules = [("custom.*".to_owned(), rule(None))];
        let mut debouncer = Debouncer::new(rules.into_iter().collect());
        for index in 0..MAX_CUSTOM_METRICS {
            assert!(debouncer.observe(start, "custom", &format!("m{index}"), 1.0));
        }
        let late = start + GONE;
        assert!(!debouncer.observe(late, "custom", "more", 1.0));
        assert!(debouncer.observe(late, "custom", "m7", 2.0));
        assert!(debouncer.retire(late));
        assert_eq!(debouncer.newest().count(), 1);
        assert!(debouncer.observe(late, "custom", "more", 1.0));
    }

    #[test]
    fn what_the_state_told_is_not_sent_again() {
        let now = Instant::now();
        let mut debouncer = debouncer();
        debouncer.observe(now, "cpu", "", 12.0);
        debouncer.told(now);
        assert_eq!(debouncer.poll_output(now), None);
        assert_eq!(debouncer.newest().count(), 1);
        assert_eq!(
            debouncer.poll_timeout(),
            Some(now + Duration::from_secs(60))
        );
    }

    #[test]
    fn a_low_battery_is_an_alert_from_below() {
        check(
            &[
                (0, "battery", 50.0),
                (1, "battery", 19.0),
                (2, "battery", 24.0),
                (3, "battery", 25.0),
            ],
            &expect![[r#"
                0 s: send {battery: 50.0}
                1 s: alert battery 19 beyond 20
                1 s: send {battery: 19.0}
                3 s: alert battery 25 back at 25
                3 s: send {battery: 25.0}
                63 s: send {battery: 25.0}
                123 s: send {battery: 25.0}
            "#]],
        );
    }

    #[test]
    fn members_come_with_their_first_value_and_have_a_rule_of_their_own_or_the_familys() {
        let now = Instant::now();
        let mut debouncer = debouncer();
        for core in ["0", "1"] {
            debouncer.observe(now, "cpu_percent", core, 10.0);
        }
        assert_eq!(debouncer.poll_output(now).unwrap().metrics.len(), 2);
        let later = now + Duration::from_secs(10);
        for core in ["0", "1"] {
            debouncer.observe(later, "cpu_percent", core, 30.0);
        }
        let due = debouncer.poll_output(later).unwrap().metrics;
        let names: Vec<&str> = due.keys().map(MetricName::as_str).collect();
        assert_eq!(names, ["cpu_percent.1"], "the other's deadband is 25");
        for core in 2..100 {
            debouncer.observe(later, "cpu_percent", &core.to_string(), 1.0);
        }
        assert_eq!(debouncer.newest().count(), MAX_FAMILY);
        debouncer.observe(later, "temperature_c", "cpu", 1.0);
        debouncer.observe(later, "throttling", "a b", 1.0);
        debouncer.observe(later, "throttling", "a_b", 2.0);
        let (_, value) = debouncer.newest().last().unwrap();
        assert!((value - 1.0).abs() < f64::EPSILON, "the first of a name");
    }

    #[test]
    fn what_is_not_measured_any_more_is_forgotten_and_its_alert_ends() {
        let start = Instant::now();
        let mut debouncer = debouncer();
        debouncer.observe(start, "cpu", "", 10.0);
        debouncer.observe(start, "throttling", "throttled", 95.0);
        assert!(debouncer.poll_alert().unwrap().raised);
        let later = start + GONE - Duration::from_secs(1);
        debouncer.observe(later, "cpu", "", 10.0);
        assert!(!debouncer.retire(later));
        let gone = start + GONE;
        assert!(debouncer.retire(gone) && !debouncer.retire(gone));
        let alert = debouncer.poll_alert().unwrap();
        assert_eq!(
            (alert.metric.as_str(), alert.raised),
            ("throttling.throttled", false)
        );
        let left: Vec<&str> = debouncer.newest().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left, ["cpu"]);
    }

    proptest! {
        /// Whatever happens: crossings go at once, other messages keep the interval, and silence never
        /// lasts longer than the keep-alive.
        #[test]
        fn intervals_hold(values in proptest::collection::vec((0_u64..20, 0.0_f64..100.0), 1..60)) {
            let start = Instant::now();
            let mut debouncer = debouncer();
            let mut sent: Vec<(Instant, bool)> = Vec::new();
            let mut now = start;
            for (pause, value) in values {
                let next = now + Duration::from_secs(pause);
                while let Some(at) = debouncer.poll_timeout().filter(|at| *at < next) {
                    prop_assert!(debouncer.poll_output(at).is_some(), "the timer fired for nothing");
                    sent.push((at, false));
                }
                now = next;
                debouncer.observe(now, "cpu", "", value);
                let crossed = debouncer.poll_alert().is_some();
                let message = debouncer.poll_output(now);
                prop_assert!(!crossed || message.is_some(), "a crossing was delayed");
                if message.is_some() {
                    sent.push((now, crossed));
                }
                prop_assert!(debouncer.poll_timeout().is_none_or(|at| at > now));
            }
            for pair in sent.windows(2) {
                let gap = pair[1].0 - pair[0].0;
                prop_assert!(pair[1].1 || gap >= Duration::from_secs(10), "{gap:?}");
                prop_assert!(gap <= Duration::from_secs(60), "{gap:?}");
            }
        }
    }
}
