//! Alerts: rules over what robots say, judged for each robot by itself. Pure: ingest feeds it with what robots
//! say and with what the log has, and writes its outputs into the log; `relay/src/alerts` tells receivers, as
//! [`notify`] decides.
//!
//! Two things are kept apart. Whether a rule *holds* for a robot is judged here, by what was heard since the
//! start, at the relay's times; whether an alert is *firing* is what the log says. Where the two differ, an
//! event is asked for, once, and only its commit changes what is shown and told. So a restart finds every
//! alert as it was, and what nothing is known of yet stays as the log has it.
//!
//! There are two times: that of rules and timers goes on steadily, whatever the wall clock is set to; the wall
//! clock's is what the log and people have, and what silences end by. [`Alerts::set_clock`] joins them.
//!
//! Invariants: `alert.resolved` follows an `alert.firing`, and the two alternate for each rule and robot; a
//! message costs only the rules that look at what it brings; memory is bounded by robots times rules.

mod book;
pub mod defaults;
mod feed;
pub mod history;
pub mod notify;
mod rules;
mod watch;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use lekiwi_protocol::alert::{Alert, AlertState, Condition, RobotCondition, Rule, Silence};
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{RobotId, RuleName, Timestamp};
use serde_json::{Value, json};

use self::book::Book;
pub use self::book::{Filter, MAX_RESOLVED};
use self::rules::Rules;
pub use self::rules::{Origin, RuleEntry};
use self::watch::{Holding, Watch};

/// Aggregate of the events of an alert.
pub const ALERT: &str = "alert";
/// Aggregate of the events of a rule that was made through the interface.
pub const ALERT_RULE: &str = "alert_rule";
/// Aggregate of the events of a silence.
pub const ALERT_SILENCE: &str = "alert_silence";
/// Aggregate of what a receiver was told.
pub const ALERT_RECEIVER: &str = "alert_receiver";

/// An event that the log should have.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// What kind of thing it is about.
    pub aggregate_type: &'static str,
    /// Which one.
    pub aggregate_id: String,
    /// What happened.
    pub kind: &'static str,
    /// Details.
    pub data: Value,
}

/// An event that the log has.
#[derive(Debug, Clone, Copy)]
pub struct Logged<'a> {
    /// Its place.
    pub position: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub kind: &'a str,
    /// What it is about.
    pub aggregate_id: &'a str,
    /// Details, JSON.
    pub data: &'a str,
}

/// What is known of a robot, as far as rules look at it.
#[derive(Debug)]
struct Robot {
    profile: Box<str>,
    connected: bool,
    stale: bool,
    /// What its last state said; absent until it said something.
    conditions: Option<Conditions>,
    /// Whether its certificate ends soon; absent until somebody looked.
    is_ending: Option<bool>,
    /// By the place of the rule; none where the rule is not about it.
    watches: Vec<Option<Watch>>,
}

/// Which conditions hold, by their place in [`RobotCondition::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Conditions([bool; RobotCondition::ALL.len()]);

impl Robot {
    /// Whether the condition holds; `None` where nobody knows.
    fn is(&self, condition: RobotCondition) -> Option<bool> {
        match condition {
            RobotCondition::Offline => Some(!self.connected || self.stale),
            RobotCondition::CertificateEnding => self.is_ending,
            other => self.conditions.map(|known| known.0[other as usize]),
        }
    }
}

/// All rules, robots and alerts.
#[derive(Debug)]
pub struct Alerts {
    rules: Rules,
    robots: BTreeMap<RobotId, Robot>,
    book: Book,
    /// When a watch may change without being told anything. Some entries are out of date.
    timers: BinaryHeap<Reverse<(Timestamp, RobotId, usize)>>,
    outputs: VecDeque<Output>,
    /// Whether this relay is the one that writes.
    leads: bool,
    /// By how much the wall clock is ahead of the time of rules.
    ahead_ms: i64,
}

impl Alerts {
    /// Alerts by these rules: those that are always there, and those of the configuration over them.
    #[must_use]
    pub fn new(defaults: Vec<Rule>, configured: Vec<Rule>) -> Self {
        Self {
            rules: Rules::new(defaults, configured),
            robots: BTreeMap::new(),
            book: Book::default(),
            timers: BinaryHeap::new(),
            outputs: VecDeque::new(),
            leads: false,
            ahead_ms: 0,
        }
    }

    /// The wall clock shows `wall` at `now`. Without it both are the same.
    pub fn set_clock(&mut self, now: Timestamp, wall: Timestamp) {
        self.ahead_ms = wall.as_ms().cast_signed() - now.as_ms().cast_signed();
    }

    /// What the wall clock shows at `now`.
    #[must_use]
    pub fn wall(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_ms(now.as_ms().saturating_add_signed(self.ahead_ms))
    }

    /// Takes an event of the relay's own that is in the log. What it cannot read is of another version.
    pub fn logged(&mut self, now: Timestamp, event: Logged<'_>) {
        match event.kind {
            kind::ALERT_RULE_SET => {
                if let Ok(rule) = serde_json::from_str::<RuleData>(event.data) {
                    let slots = self.rules.set(rule.rule);
                    self.reset(now, &slots);
                }
            }
            kind::ALERT_RULE_REMOVED => {
                if let Ok(name) = RuleName::new(event.aggregate_id) {
                    let slots = self.rules.remove(&name);
                    self.reset(now, &slots);
                }
            }
            _ => {
                if let Some((rule, robot)) = self.book.logged(&event) {
                    self.follow(now, &rule, &robot);
                }
            }
        }
    }

    /// The log says something new of this rule and robot.
    fn follow(&mut self, now: Timestamp, rule: &RuleName, robot: &RobotId) {
        let is_active = self.book.is_active(rule, robot);
        let place = self.rules.place(rule);
        let watch =
            place.and_then(|slot| self.robots.get_mut(robot)?.watches.get_mut(slot)?.as_mut());
        match (place, watch) {
            (Some(slot), Some(watch)) => {
                watch.active = is_active;
                watch.asked = false;
                self.settle(now, robot, slot);
            }
            // Nobody looks any more.
            _ if is_active && self.leads => self.abandon(rule.clone(), robot.clone()),
            _ => {}
        }
    }

    /// Ends what nobody looks at any more, of one robot or of all.
    fn abandon_orphans(&mut self, of: Option<&RobotId>) {
        if !self.leads {
            return;
        }
        let orphans: Vec<_> = self
            .book
            .keys()
            .filter(|(rule, robot)| {
                of.is_none_or(|of| of == robot) && !self.is_watched(rule, robot)
            })
            .cloned()
            .collect();
        for (rule, robot) in orphans {
            self.abandon(rule, robot);
        }
    }

    /// Whether this relay writes what follows. At first it does not: the log is to be read, and the robots of
    /// before to be known. One that begins to asks for all that the log lacks.
    pub fn lead(&mut self, now: Timestamp, leads: bool) {
        if self.leads == leads {
            return;
        }
        self.leads = leads;
        self.outputs.clear();
        self.book.reopen();
        let robots: Vec<RobotId> = self.robots.keys().cloned().collect();
        for robot in robots {
            let places = self.robots.get_mut(&robot).map_or(0, |known| {
                for watch in known.watches.iter_mut().flatten() {
                    watch.asked = false;
                }
                known.watches.len()
            });
            for slot in 0..places {
                self.settle(now, &robot, slot);
            }
        }
        self.abandon_orphans(None);
    }

    fn is_watched(&self, rule: &RuleName, robot: &RobotId) -> bool {
        let watch = |slot: usize| self.robots.get(robot)?.watches.get(slot)?.as_ref();
        self.rules.place(rule).and_then(watch).is_some()
    }

    fn abandon(&mut self, rule: RuleName, robot: RobotId) {
        let resolution = match self.rules.place(&rule) {
            None => "the rule is gone, or switched off",
            Some(_) => "the rule is not about this robot any more",
        };
        self.resolve(&rule, &robot, Some(resolution));
    }

    fn resolve(&mut self, rule: &RuleName, robot: &RobotId, resolution: Option<&str>) {
        let Some(id) = self.book.close(rule, robot) else {
            return;
        };
        let mut data = json!({ "rule": rule, "robot_id": robot });
        if let Some(resolution) = resolution {
            data["resolution"] = resolution.into();
        }
        self.outputs.push_back(Output {
            aggregate_type: ALERT,
            aggregate_id: id,
            kind: kind::ALERT_RESOLVED,
            data,
        });
    }

    /// Begins anew with the rules at these places.
    fn reset(&mut self, now: Timestamp, slots: &[usize]) {
        // Their timers would be there for as long as they were set for, however often a rule changes.
        self.timers
            .retain(|Reverse((_, _, slot))| !slots.contains(slot));
        let robots: Vec<RobotId> = self.robots.keys().cloned().collect();
        for robot in &robots {
            for slot in slots {
                self.watch_anew(now, robot, *slot);
            }
        }
        self.abandon_orphans(None);
    }

    /// Looks whether the rule at `slot` is about the robot, and begins to watch it.
    fn watch_anew(&mut self, now: Timestamp, id: &RobotId, slot: usize) {
        let Some(robot) = self.robots.get_mut(id) else {
            return;
        };
        if robot.watches.len() < self.rules.places() {
            robot.watches.resize_with(self.rules.places(), || None);
        }
        let rule = self.rules.at(slot);
        let rule = rule.filter(|rule| rule.enabled && rule.selects(id, &robot.profile));
        robot.watches[slot] = rule.map(|rule| {
            let mut watch = Watch::new(now, rule, self.book.is_active(&rule.id, id));
            watch.presence(now, rule, robot.connected);
            if let Condition::State(state) = &rule.when
                && let Some(holds) = robot.is(state.is)
            {
                watch.set(now, holds);
            }
            watch
        });
        self.settle(now, id, slot);
    }

    /// Carries out what follows from what a watch knows, and sets its timer.
    fn settle(&mut self, now: Timestamp, id: &RobotId, slot: usize) {
        let ahead_ms = self.ahead_ms;
        let Some(rule) = self.rules.at(slot) else {
            return;
        };
        let watch = self
            .robots
            .get_mut(id)
            .and_then(|robot| robot.watches.get_mut(slot)?.as_mut());
        let Some(watch) = watch else {
            return;
        };
        if let Some(due) = watch.due(now, rule)
            && watch.timer.is_none_or(|timer| due < timer)
        {
            watch.timer = Some(due);
            self.timers.push(Reverse((due, id.clone(), slot)));
        }
        let wanted = watch.wanted(now, rule);
        if wanted == watch.active || watch.asked || !self.leads {
            return;
        }
        watch.asked = true;
        if !wanted {
            let name = rule.id.clone();
            self.resolve(&name, id, None);
            return;
        }
        let Holding::Since(since) = watch.holding else {
            return;
        };
        let since = Timestamp::from_ms(since.as_ms().saturating_add_signed(ahead_ms));
        let alert = alert(rule, id, since, watch, AlertState::Firing);
        self.outputs.push_back(Output {
            aggregate_type: ALERT,
            aggregate_id: alert.id.clone(),
            kind: kind::ALERT_FIRING,
            data: json!(alert),
        });
    }

    /// Looks at what changes by the clock alone.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.book.expire(self.wall(now));
        while let Some(Reverse((due, _, _))) = self.timers.peek() {
            if *due > now {
                return;
            }
            let Some(Reverse((due, id, slot))) = self.timers.pop() else {
                return;
            };
            let Some(rule) = self.rules.at(slot) else {
                continue;
            };
            let watch = self
                .robots
                .get_mut(&id)
                .and_then(|robot| robot.watches.get_mut(slot)?.as_mut());
            // One that is out of date was replaced by an earlier one.
            if let Some(watch) = watch.filter(|watch| watch.timer == Some(due)) {
                watch.timer = None;
                watch.timeout(now, rule);
                self.settle(now, &id, slot);
            }
        }
    }

    /// When [`Self::handle_timeout`] may have something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.timers.peek().map(|Reverse((due, _, _))| *due)
    }

    /// The next event that the log should have.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Alerts as they are at `now` by the wall clock, the newest first, at most `filter.limit`.
    #[must_use]
    pub fn list(&self, now: Timestamp, filter: &Filter) -> Vec<Alert> {
        match filter.state {
            AlertState::Firing => self.book.firing(now, filter),
            AlertState::Resolved => self.book.resolved(filter),
            AlertState::Pending => self.pending(filter),
        }
    }

    fn pending(&self, filter: &Filter) -> Vec<Alert> {
        let mut found = Vec::new();
        for (id, robot) in &self.robots {
            for (slot, watch) in robot.watches.iter().enumerate() {
                let (Some(watch), Some(rule)) = (watch, self.rules.at(slot)) else {
                    continue;
                };
                let Holding::Since(since) = watch.holding else {
                    continue;
                };
                if watch.active || found.len() >= filter.limit {
                    continue;
                }
                let alert = alert(rule, id, self.wall(since), watch, AlertState::Pending);
                if filter.takes(&alert) {
                    found.push(alert);
                }
            }
        }
        found
    }

    /// One alert that is firing or was, by its id.
    #[must_use]
    pub fn one(&self, now: Timestamp, id: &str) -> Option<Alert> {
        self.book.one(now, id)
    }

    /// The alerts that fire at `now`, with the place of their event in the log.
    pub fn firing(&self, now: Timestamp) -> impl Iterator<Item = (Alert, u64)> {
        self.book.all_firing(now)
    }

    /// Those of these alerts that are over and remembered, with the place of their last event in the log.
    pub fn ended<'a>(
        &'a self,
        ids: &'a BTreeSet<String>,
    ) -> impl Iterator<Item = (&'a Alert, u64)> {
        self.book.ended(ids)
    }

    /// Whether this alert fires.
    #[must_use]
    pub fn is_firing(&self, id: &str) -> bool {
        self.book.is_firing(id)
    }

    /// How many alerts fire.
    #[must_use]
    pub fn count(&self) -> usize {
        self.book.count()
    }

    /// Changes whenever what receivers may have to be told does.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.book.version()
    }

    /// When the next silence ends.
    #[must_use]
    pub fn next_silence_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.silences(now).map(|silence| silence.until).min()
    }

    /// The silences that have not ended at `now`.
    pub fn silences(&self, now: Timestamp) -> impl Iterator<Item = &Silence> {
        self.book.silences(now)
    }

    /// All rules by name, and where each comes from.
    pub fn rules(&self) -> impl Iterator<Item = RuleEntry<'_>> {
        self.rules.all()
    }
}

/// An event's rule; who made it is in the log only.
#[derive(serde::Deserialize)]
struct RuleData {
    rule: Rule,
}

/// What a watch has found out.
fn alert(
    rule: &Rule,
    robot: &RobotId,
    since: Timestamp,
    watch: &Watch,
    state: AlertState,
) -> Alert {
    Alert {
        id: format!("{}:{robot}:{}", rule.id, since.as_ms()),
        rule: rule.id.clone(),
        robot_id: robot.clone(),
        severity: rule.severity,
        summary: rule.summary.clone(),
        reason: watch.reason(rule),
        value: watch.value,
        state,
        since,
        fired_at: None,
        resolved_at: None,
        resolution: None,
        acknowledged: None,
        silenced_by: None,
    }
}
