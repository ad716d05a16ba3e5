//! Decides when a metric is worth a message, and when it is an alert. Pure; called by the driver.
//!
//! A metric is sent when it is new, when it moved by more than its deadband and its minimum interval
//! is over, when its keep-alive is over, and at once when it crosses its alert threshold in either
//! direction. One message carries all that is due. Invariants: a crossing is never delayed; an alert
//! is raised once and cleared once, whatever the value does between threshold and clearing level.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lekiwi_protocol::MetricName;
use lekiwi_protocol::message::Telemetry;

/// When a metric is sent. Levels are in the metric's own unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Movements up to this are noise.
    pub deadband: f64,
    /// Shortest time between two messages with this metric, crossings aside.
    pub min_interval: Duration,
    /// Longest time between two.
    pub keep_alive: Duration,
    /// Above this it is an alert.
    pub alert: Option<Threshold>,
}

/// An alert level with hysteresis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Raised above this.
    pub above: f64,
    /// Cleared at or below this.
    pub clear: f64,
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
    /// Whether it went above; otherwise it came back.
    pub raised: bool,
}

#[derive(Debug)]
struct Slot {
    metric: MetricName,
    rule: Rule,
    newest: Option<f64>,
    sent: Option<(Instant, f64)>,
    crossed: bool,
    alerted: bool,
}

impl Slot {
    /// When the newest value is due; `None` without a value.
    fn due(&self) -> Option<Due> {
        let value = self.newest?;
        Some(match self.sent {
            None => Due::AtOnce,
            _ if self.crossed => Due::AtOnce,
            Some((at, sent)) if (value - sent).abs() > self.rule.deadband => {
                Due::At(at + self.rule.min_interval.min(self.rule.keep_alive))
            }
            Some((at, _)) => Due::At(at + self.rule.keep_alive),
        })
    }
}

enum Due {
    AtOnce,
    At(Instant),
}

/// The debouncer of all metrics of a robot.
#[derive(Debug)]
pub struct Debouncer {
    slots: Vec<Slot>,
    alerts: VecDeque<Alert>,
    observed_at: Option<Instant>,
}

impl Debouncer {
    /// Knows these metrics; others are ignored.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = (MetricName, Rule)>) -> Self {
        let mut debouncer = Self {
            slots: Vec::new(),
            alerts: VecDeque::new(),
            observed_at: None,
        };
        for (metric, rule) in rules {
            debouncer.admit(metric, rule);
        }
        debouncer
    }

    /// Knows one more metric, or a known one by another rule from now on; its values stay.
    pub fn admit(&mut self, metric: MetricName, rule: Rule) {
        match self.slots.iter_mut().find(|slot| slot.metric == metric) {
            Some(slot) => slot.rule = rule,
            None => self.slots.push(Slot {
                metric,
                rule,
                newest: None,
                sent: None,
                crossed: false,
                alerted: false,
            }),
        }
    }

    /// Does not know this metric any more.
    pub fn forget(&mut self, metric: &MetricName) {
        self.slots.retain(|slot| slot.metric != *metric);
    }

    /// Takes a value measured at `now`. It replaces an earlier unsent one. Values that are no numbers
    /// are ignored, as is a metric without a rule.
    pub fn observe(&mut self, now: Instant, metric: &str, value: f64) {
        let slot = self.slots.iter_mut().find(|s| s.metric.as_str() == metric);
        let Some(slot) = slot.filter(|_| value.is_finite()) else {
            return;
        };
        self.observed_at = Some(now);
        slot.newest = Some(value);
        let level = match (slot.rule.alert, slot.alerted) {
            (Some(Threshold { above, .. }), false) if value > above => above,
            (Some(Threshold { clear, .. }), true) if value <= clear => clear,
            // A rule that lost its threshold: the alert is over.
            (None, true) => value,
            _ => return,
        };
        slot.alerted = !slot.alerted;
        slot.crossed = true;
        self.alerts.push_back(Alert {
            metric: slot.metric.clone(),
            value,
            level,
            raised: slot.alerted,
        });
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
            let due = slot.due().is_some_and(|due| match due {
                Due::AtOnce => true,
                Due::At(at) => at <= now,
            });
            if due && let Some(value) = slot.newest {
                telemetry.metrics.insert(slot.metric.clone(), value);
                slot.sent = Some((now, value));
                slot.crossed = false;
            }
        }
        (!telemetry.metrics.is_empty()).then_some(telemetry)
    }

    /// When [`Self::poll_output`] next has something, if nothing is observed before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let when = |due| match due {
            Due::AtOnce => self.observed_at,
            Due::At(at) => Some(at),
        };
        self.slots
            .iter()
            .filter_map(|slot| slot.due().and_then(when))
            .min()
    }

    /// Every metric's newest value.
    pub fn newest(&self) -> impl Iterator<Item = (&MetricName, f64)> {
        self.slots
            .iter()
            .filter_map(|slot| slot.newest.map(|value| (&slot.metric, value)))
    }

    /// All newest values were told in another way (the full state after a connect).
    pub fn told(&mut self, now: Instant) {
        for slot in &mut self.slots {
            slot.sent = slot.newest.map(|value| (now, value));
            slot.crossed = false;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
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
        let threshold = Threshold {
            above: 90.0,
            clear: 80.0,
        };
        Debouncer::new([
            (MetricName::new("cpu").unwrap(), rule(Some(threshold))),
            (MetricName::new("mem").unwrap(), rule(None)),
        ])
    }

    /// Feeds samples `(second, metric, value)`, and lets the debouncer's own timer fire between them and
    /// up to second 130.
    fn check(samples: &[(u64, &str, f64)], expected: &Expect) {
        let start = Instant::now();
        let mut debouncer = debouncer();
        let mut story = String::new();
        let mut drain = |debouncer: &mut Debouncer, now: Instant| {
            let second = (now - start).as_secs();
            while let Some(alert) = debouncer.poll_alert() {
                let word = if alert.raised { "above" } else { "back below" };
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
            debouncer.observe(now, metric, *value);
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
                1 s: alert cpu 95 above 90
                1 s: send {cpu: 95.0}
                4 s: alert cpu 80 back below 80
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
    fn rules_change_and_metrics_come_and_go_while_it_runs() {
        let now = Instant::now();
        let mut debouncer = debouncer();
        debouncer.observe(now, "cpu", 95.0);
        assert!(debouncer.poll_alert().unwrap().raised);
        debouncer.admit(MetricName::new("cpu").unwrap(), rule(None));
        debouncer.observe(now, "cpu", 95.0);
        assert!(!debouncer.poll_alert().unwrap().raised);
        let door = MetricName::new("custom.door").unwrap();
        debouncer.admit(door.clone(), rule(None));
        debouncer.observe(now, "custom.door", 1.0);
        assert_eq!(debouncer.poll_output(now).unwrap().metrics.len(), 2);
        debouncer.forget(&door);
        debouncer.observe(now, "custom.door", 0.0);
        assert_eq!(debouncer.newest().count(), 1);
    }

    #[test]
    fn what_the_state_told_is_not_sent_again() {
        let now = Instant::now();
        let mut debouncer = debouncer();
        debouncer.observe(now, "cpu", 12.0);
        debouncer.told(now);
        assert_eq!(debouncer.poll_output(now), None);
        assert_eq!(debouncer.newest().count(), 1);
        assert_eq!(
            debouncer.poll_timeout(),
            Some(now + Duration::from_secs(60))
        );
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
                debouncer.observe(now, "cpu", value);
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
