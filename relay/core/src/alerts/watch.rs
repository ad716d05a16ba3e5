//! One rule and one robot: whether the rule's condition holds, and since when.

use std::collections::VecDeque;
use std::time::Duration;

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::alert::{Change, Condition, Rule};

/// Spans that the time of a [`Change`] is divided into; one extreme is kept of each.
const SPANS: u64 = 8;

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// Nothing was heard since the start that would tell.
    Unknown,
    /// It does not.
    No,
    /// It does, since then.
    Since(Timestamp),
}

/// What a condition has to remember.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "most watches of ten thousand robots have neither: three words less each"
)]
enum Memory {
    Nothing,
    /// The absence begins then, unless something is heard.
    Deadline(Timestamp),
    /// The newest events, at most as many as the rule counts. Boxed: most watches have none.
    Times(Box<VecDeque<Timestamp>>),
    /// The extreme of each span.
    Extremes(Box<VecDeque<(u64, f64)>>),
}

/// One rule and one robot.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) holding: Holding,
    /// What was measured last, or by how much it moved.
    pub(super) value: Option<f64>,
    /// Whether the log says that it fires.
    pub(super) active: bool,
    /// Whether an event is on its way to the log.
    pub(super) asked: bool,
    /// The timer that is set.
    pub(super) timer: Option<Timestamp>,
    memory: Memory,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Watch {
    /// Begins at `now`; `active` is what the log says.
    pub(super) fn new(now: Timestamp, rule: &Rule, active: bool) -> Self {
        let mut watch = Self {
            holding: Holding::Unknown,
            value: None,
            active,
            asked: false,
            timer: None,
            memory: Memory::Nothing,
        };
        match &rule.when {
            Condition::Absence(absence) if absence.event.is_some() => {
                watch.memory = Memory::Deadline(now.plus(seconds(absence.after_s)));
            }
            Condition::Events(events) => {
                // Those that made it fire are forgotten: as if they had come only now.
                let count = if active { usize::from(events.count) } else { 0 };
                watch.memory = Memory::Times(Box::new(vec![now; count].into()));
                watch.recount(now, rule);
            }
            _ => {}
        }
        watch
    }

    /// Whether it holds now.
    pub(super) fn set(&mut self, now: Timestamp, holds: bool) {
        self.holding = match (self.holding, holds) {
            (Holding::Since(since), true) => Holding::Since(since),
            (_, true) => Holding::Since(now),
            (_, false) => Holding::No,
        };
    }

    fn holds(&self) -> bool {
        matches!(self.holding, Holding::Since(_))
    }

    /// Whether it should fire.
    pub(super) fn wanted(&self, now: Timestamp, rule: &Rule) -> bool {
        match self.holding {
            Holding::Unknown => self.active,
            Holding::No => false,
            Holding::Since(since) => self.active || since.plus(seconds(rule.for_s)) <= now,
        }
    }

    /// When it may change without being told anything.
    pub(super) fn due(&self, now: Timestamp, rule: &Rule) -> Option<Timestamp> {
        let fires = match self.holding {
            Holding::Since(since) if !self.active => Some(since.plus(seconds(rule.for_s))),
            _ => None,
        };
        // What should fire by now waits for the log, not for a timer.
        let fires = fires.filter(|fires| *fires > now);
        let changes = match (&self.memory, &rule.when) {
            (Memory::Deadline(deadline), _) if !self.holds() => Some(*deadline),
            (Memory::Times(times), Condition::Events(events)) if self.holds() => {
                let oldest = times.front();
                oldest.map(|oldest| oldest.plus(seconds(events.within_s)))
            }
            (Memory::Extremes(extremes), Condition::Change(change)) if self.holds() => {
                let oldest = extremes.front();
                oldest.map(|(span, _)| Timestamp::from_ms((span + SPANS + 1) * span_ms(change)))
            }
            _ => None,
        };
        match (fires, changes) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Time has passed.
    pub(super) fn timeout(&mut self, now: Timestamp, rule: &Rule) {
        match (&self.memory, &rule.when) {
            (Memory::Deadline(deadline), _) if *deadline <= now => self.set(now, true),
            (Memory::Times(_), _) => self.recount(now, rule),
            (Memory::Extremes(_), Condition::Change(change)) => self.compare(now, change),
            _ => {}
        }
    }

    /// The robot is connected, or is not.
    pub(super) fn presence(&mut self, now: Timestamp, rule: &Rule, connected: bool) {
        if let Condition::Absence(absence) = &rule.when
            && absence.metric.is_some()
        {
            if connected {
                self.memory = Memory::Deadline(now.plus(seconds(absence.after_s)));
                return;
            }
            self.memory = Memory::Nothing;
            if !self.active {
                self.holding = Holding::Unknown;
            }
        }
    }

    /// The metric of the rule has a value.
    pub(super) fn measured(&mut self, now: Timestamp, rule: &Rule, value: f64) {
        match &rule.when {
            Condition::Threshold(threshold) => {
                let was_beyond = match self.holding {
                    Holding::Unknown => self.active,
                    Holding::No => false,
                    Holding::Since(_) => true,
                };
                self.value = Some(value);
                self.set(now, threshold.is_beyond(value, was_beyond));
            }
            Condition::Change(change) => {
                if matches!(self.memory, Memory::Nothing) {
                    self.memory = Memory::Extremes(Box::default());
                }
                // Robots say what moved: the value of before held until now.
                if let Some(before) = self.value {
                    self.remember(now, change, before);
                }
                self.remember(now, change, value);
                self.value = Some(value);
                self.compare(now, change);
            }
            Condition::Absence(absence) => {
                if let Memory::Deadline(deadline) = &mut self.memory {
                    *deadline = now.plus(seconds(absence.after_s));
                }
                self.set(now, false);
            }
            Condition::Events(_) | Condition::State(_) => {}
        }
    }

    /// The metric had this value before anybody looked. That is no news for a rule that knows more, and it does
    /// not show that the metric still comes.
    pub(super) fn seen(&mut self, now: Timestamp, rule: &Rule, value: f64) {
        let is_absence = matches!(rule.when, Condition::Absence(_));
        if self.holding == Holding::Unknown && !is_absence {
            self.measured(now, rule, value);
        }
    }

    /// The robot does not have the metric of the rule any more.
    pub(super) fn gone(&mut self, now: Timestamp, rule: &Rule) {
        if matches!(rule.when, Condition::Threshold(_) | Condition::Change(_)) {
            self.memory = Memory::Nothing;
            self.value = None;
            self.set(now, false);
        }
    }

    /// An event came.
    pub(super) fn happened(&mut self, now: Timestamp, rule: &Rule, kind: &str) {
        match &rule.when {
            Condition::Absence(absence) => {
                self.memory = Memory::Deadline(now.plus(seconds(absence.after_s)));
                self.set(now, false);
            }
            Condition::Events(events) => {
                if let Memory::Times(times) = &mut self.memory {
                    if events.kind.matches(kind) {
                        if times.len() == usize::from(events.count) {
                            times.pop_front();
                        }
                        times.push_back(now);
                    }
                    if events
                        .until
                        .as_ref()
                        .is_some_and(|until| until.matches(kind))
                    {
                        times.clear();
                    }
                }
                self.recount(now, rule);
            }
            _ => {}
        }
    }

    /// Whether enough events are within the time.
    fn recount(&mut self, now: Timestamp, rule: &Rule) {
        if let (Memory::Times(times), Condition::Events(events)) = (&mut self.memory, &rule.when) {
            while times
                .front()
                .is_some_and(|oldest| oldest.plus(seconds(events.within_s)) <= now)
            {
                times.pop_front();
            }
            let holds = times.len() >= usize::from(events.count);
            self.set(now, holds);
        }
    }

    fn remember(&mut self, now: Timestamp, change: &Change, value: f64) {
        let Memory::Extremes(extremes) = &mut self.memory else {
            return;
        };
        let span = now.as_ms() / span_ms(change);
        let more_extreme = |a: f64, b: f64| match change.rises_by {
            Some(_) => a.min(b),
            None => a.max(b),
        };
        match extremes.back_mut() {
            Some((last, extreme)) if *last >= span => *extreme = more_extreme(*extreme, value),
            _ => extremes.push_back((span, value)),
        }
    }

    /// Whether the value has moved far enough.
    fn compare(&mut self, now: Timestamp, change: &Change) {
        let Memory::Extremes(extremes) = &mut self.memory else {
            return;
        };
        let span = now.as_ms() / span_ms(change);
        while extremes
            .front()
            .is_some_and(|(oldest, _)| oldest + SPANS < span)
        {
            extremes.pop_front();
        }
        let values = extremes.iter().map(|(_, extreme)| *extreme);
        let moved = match (self.value, change.rises_by, change.falls_by) {
            (Some(value), Some(by), _) => value - values.fold(value, f64::min) >= by,
            (Some(value), None, Some(by)) => values.fold(value, f64::max) - value >= by,
            _ => false,
        };
        self.set(now, moved);
    }

    /// What was found, in words.
    pub(super) fn reason(&self, rule: &Rule) -> String {
        let lasting = match rule.for_s {
            0 => String::new(),
            seconds => format!(" for {seconds} s"),
        };
        let value = self.value.map_or_else(|| "?".to_owned(), figure);
        match &rule.when {
            Condition::Threshold(threshold) => {
                let (word, level) = match (threshold.above, threshold.below) {
                    (Some(level), _) => ("above", level),
                    (None, level) => ("below", level.unwrap_or_default()),
                };
                let metric = &threshold.metric;
                format!("{metric} is {value}, {word} {}{lasting}", figure(level))
            }
            Condition::Change(change) => {
                let (word, by) = match (change.rises_by, change.falls_by) {
                    (Some(by), _) => ("rose", by),
                    (None, by) => ("fell", by.unwrap_or_default()),
                };
                format!(
                    "{} {word} by {} or more within {} s, to {value}{}",
                    change.metric,
                    figure(by),
                    change.within_s,
                    match rule.for_s {
                        0 => String::new(),
                        _ => format!(", and stays so{lasting}"),
                    }
                )
            }
            Condition::Absence(absence) => {
                let what = match (&absence.metric, &absence.event) {
                    (Some(metric), _) => metric.to_string(),
                    (None, Some(event)) => format!("event {event}"),
                    (None, None) => String::new(),
                };
                format!("no {what} for {} s", absence.after_s + rule.for_s)
            }
            Condition::Events(events) => {
                let (count, kind, within) = (events.count, &events.kind, events.within_s);
                format!("{count} × {kind} within {within} s{lasting}")
            }
            Condition::State(state) => format!("the robot {}{lasting}", state.is.in_words()),
        }
    }
}

fn span_ms(change: &Change) -> u64 {
    (change.within_s * 1_000 / SPANS).max(1)
}

/// A number for people: two places at most.
fn figure(value: f64) -> String {
    let text = format!("{value:.2}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    short.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_robots_and_twenty_rules_fit() {
        assert!(size_of::<Option<Watch>>() <= 80);
        assert_eq!(figure(80.0), "80");
        assert_eq!(figure(80.456), "80.46");
        assert_eq!(figure(1_000_000.0), "1000000");
    }
}
