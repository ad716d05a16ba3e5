//! The rules that are in force, and which of them look at what.

use std::collections::{BTreeMap, HashMap};

use lekiwi_protocol::alert::{Condition, Pattern, RobotCondition, Rule};
use lekiwi_protocol::{MetricName, RobotId, RuleName};

use super::Alerts;
use super::watch::Watch;

/// Where a rule comes from. A later one of these stands over an earlier one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The relay brings it.
    Default,
    /// The relay's configuration.
    Configuration,
    /// Somebody made it through the interface.
    Interface,
}

/// A rule that is in force.
#[derive(Debug, Clone, Copy)]
pub struct RuleEntry<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Where it comes from.
    pub origin: Origin,
}

/// The rules that look at something.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By metric: thresholds, changes and absences.
    pub(super) metrics: HashMap<MetricName, Vec<usize>>,
    /// Absences of metrics, which look at connections too.
    pub(super) absent_metrics: Vec<usize>,
    /// By [`RobotCondition`].
    pub(super) conditions: [Vec<usize>; RobotCondition::ALL.len()],
    events: HashMap<String, Vec<usize>>,
    event_patterns: Vec<(Pattern, usize)>,
}

impl Index {
    fn add(&mut self, slot: usize, rule: &Rule) {
        match &rule.when {
            Condition::Threshold(threshold) => self.metric(slot, &threshold.metric),
            Condition::Change(change) => self.metric(slot, &change.metric),
            Condition::Absence(absence) => {
                if let Some(metric) = &absence.metric {
                    self.metric(slot, metric);
                    self.absent_metrics.push(slot);
                }
                if let Some(event) = &absence.event {
                    self.event(slot, event);
                }
            }
            Condition::Events(events) => {
                self.event(slot, &events.kind);
                if let Some(until) = &events.until {
                    self.event(slot, until);
                }
            }
            Condition::State(state) => self.conditions[state.is as usize].push(slot),
        }
    }

    fn metric(&mut self, slot: usize, metric: &MetricName) {
        self.metrics.entry(metric.clone()).or_default().push(slot);
    }

    fn event(&mut self, slot: usize, pattern: &Pattern) {
        if pattern.is_exact() {
            let slots = self.events.entry(pattern.as_str().to_owned()).or_default();
            slots.push(slot);
        } else {
            self.event_patterns.push((pattern.clone(), slot));
        }
    }

    /// The rules that look at events of this type, each once.
    pub(super) fn events_of(&self, kind: &str) -> Vec<usize> {
        let mut slots = self.events.get(kind).cloned().unwrap_or_default();
        let patterns = self.event_patterns.iter();
        slots.extend(
            patterns
                .filter(|(pattern, _)| pattern.matches(kind))
                .map(|(_, slot)| slot),
        );
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}

/// All rules. Those in force have places, which watches are kept by.
#[derive(Debug, Default)]
pub(super) struct Rules {
    layers: BTreeMap<RuleName, BTreeMap<Origin, Rule>>,
    slots: Vec<Option<Rule>>,
    pub(super) index: Index,
}

impl Rules {
    pub(super) fn new(defaults: Vec<Rule>, configured: Vec<Rule>) -> Self {
        let mut rules = Self::default();
        for (origin, layer) in [
            (Origin::Default, defaults),
            (Origin::Configuration, configured),
        ] {
            for rule in layer {
                rules.put(origin, rule);
            }
        }
        rules
    }

    fn put(&mut self, origin: Origin, rule: Rule) -> Vec<usize> {
        let name = rule.id.clone();
        let layers = self.layers.entry(name.clone()).or_default();
        layers.insert(origin, rule);
        self.replace(&name)
    }

    /// A rule of the interface; the places that changed.
    pub(super) fn set(&mut self, rule: Rule) -> Vec<usize> {
        self.put(Origin::Interface, rule)
    }

    /// Takes a rule of the interface away, so that the one below it counts again; the places that changed.
    pub(super) fn remove(&mut self, name: &RuleName) -> Vec<usize> {
        if let Some(layers) = self.layers.get_mut(name) {
            layers.remove(&Origin::Interface);
            if layers.is_empty() {
                self.layers.remove(name);
            }
        }
        self.replace(name)
    }

    /// Puts what is in force under this name into its place.
    fn replace(&mut self, name: &RuleName) -> Vec<usize> {
        let in_force = self
            .layers
            .get(name)
            .and_then(|layers| layers.values().next_back())
            .filter(|rule| rule.enabled)
            .cloned();
        let free = |slot: &Option<Rule>| slot.is_none();
        let slot = self.place(name).or_else(|| {
            in_force.as_ref()?;
            let slot = self.slots.iter().position(free).unwrap_or(self.slots.len());
            Some(slot)
        });
        let Some(slot) = slot else {
            return Vec::new();
        };
        if slot == self.slots.len() {
            self.slots.push(in_force);
        } else {
            self.slots[slot] = in_force;
        }
        self.index = Index::default();
        for (slot, rule) in self.slots.iter().enumerate() {
            if let Some(rule) = rule {
                self.index.add(slot, rule);
            }
        }
        vec![slot]
    }

    /// How many places there are.
    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn at(&self, slot: usize) -> Option<&Rule> {
        self.slots.get(slot)?.as_ref()
    }

    /// The place of a rule that is in force.
    pub(super) fn place(&self, name: &RuleName) -> Option<usize> {
        let is_it = |slot: &Option<Rule>| slot.as_ref().is_some_and(|rule| rule.id == *name);
        self.slots.iter().position(is_it)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = RuleEntry<'_>> {
        self.layers
            .values()
            .filter_map(|layers| layers.iter().next_back())
            .map(|(origin, rule)| RuleEntry {
                rule,
                origin: *origin,
            })
    }
}

impl Alerts {
    /// Lets a watch take something in.
    pub(super) fn touch(
        &mut self,
        id: &RobotId,
        slot: usize,
        take: impl FnOnce(&mut Watch, &Rule),
    ) {
        let watch = self
            .robots
            .get_mut(id)
            .and_then(|robot| robot.watches.get_mut(slot)?.as_mut());
        if let (Some(watch), Some(rule)) = (watch, self.rules.at(slot)) {
            take(watch, rule);
        }
    }
}
