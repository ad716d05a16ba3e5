//! What the log says of alerts: which fire, who looks after them, what is silenced, and what is over.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lekiwi_protocol::alert::{Acknowledged, Alert, AlertState, Severity, Silence};
use lekiwi_protocol::limits::MAX_SILENCES;
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{RobotId, RuleName, Timestamp};
use serde::Deserialize;
use uuid::Uuid;

use super::Logged;

/// Alerts that are over and remembered; the log has all of them.
pub const MAX_RESOLVED: usize = 1_000;

/// Which alerts are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Where they are.
    pub state: AlertState,
    /// Of this rule.
    pub rule: Option<RuleName>,
    /// Of this robot.
    pub robot: Option<RobotId>,
    /// Of this severity and above.
    pub severity: Option<Severity>,
    /// Of these robots, whatever else is asked for; of all when there is no list.
    pub within: Option<BTreeSet<RobotId>>,
    /// How many at most.
    pub limit: usize,
}

impl Filter {
    pub(super) fn takes(&self, alert: &Alert) -> bool {
        self.rule.as_ref().is_none_or(|rule| *rule == alert.rule)
            && self
                .robot
                .as_ref()
                .is_none_or(|robot| *robot == alert.robot_id)
            && self.severity.is_none_or(|least| alert.severity >= least)
            && self
                .within
                .as_ref()
                .is_none_or(|within| within.contains(&alert.robot_id))
    }
}

#[derive(Debug)]
struct Active {
    alert: Alert,
    position: u64,
    /// Its end is on its way to the log.
    closing: bool,
}

type Key = (RuleName, RobotId);

/// What the log says.
#[derive(Debug, Default)]
pub(super) struct Book {
    active: BTreeMap<Key, Active>,
    /// The newest last.
    resolved: VecDeque<(Alert, u64)>,
    silences: BTreeMap<Uuid, Silence>,
    version: u64,
}

/// What the later events of an alert say.
#[derive(Deserialize)]
struct Data {
    rule: RuleName,
    robot_id: RobotId,
    resolution: Option<String>,
    #[serde(default)]
    by: String,
    #[serde(default)]
    comment: String,
}

impl Book {
    /// Takes an event; the rule and the robot whose alert has begun or ended.
    pub(super) fn logged(&mut self, event: &Logged<'_>) -> Option<Key> {
        match event.kind {
            kind::ALERT_FIRING => self.fires(event),
            kind::ALERT_RESOLVED => self.resolves(event),
            kind::ALERT_ACKNOWLEDGED => {
                let data: Data = serde_json::from_str(event.data).ok()?;
                let active = self.active.get_mut(&(data.rule, data.robot_id));
                let active = active.filter(|active| active.alert.id == event.aggregate_id)?;
                active.alert.acknowledged = Some(Acknowledged {
                    by: data.by,
                    at: event.at,
                    comment: data.comment,
                });
                self.version += 1;
                None
            }
            kind::ALERT_SILENCED => {
                let silence: Silence = serde_json::from_str(event.data).ok()?;
                self.silences.insert(silence.id, silence);
                self.version += 1;
                None
            }
            kind::ALERT_UNSILENCED => {
                self.silences.remove(&event.aggregate_id.parse().ok()?);
                self.version += 1;
                None
            }
            _ => None,
        }
    }

    fn fires(&mut self, event: &Logged<'_>) -> Option<Key> {
        let mut alert: Alert = serde_json::from_str(event.data).ok()?;
        alert.fired_at = Some(event.at);
        alert.state = AlertState::Firing;
        let key = (alert.rule.clone(), alert.robot_id.clone());
        // A second one while the first lasts says nothing new.
        if let Entry::Vacant(entry) = self.active.entry(key.clone()) {
            entry.insert(Active {
                alert,
                position: event.position,
                closing: false,
            });
            self.version += 1;
        }
        Some(key)
    }

    fn resolves(&mut self, event: &Logged<'_>) -> Option<Key> {
        let data: Data = serde_json::from_str(event.data).ok()?;
        let key = (data.rule, data.robot_id);
        if let Some(Active { mut alert, .. }) = self.active.remove(&key) {
            alert.state = AlertState::Resolved;
            alert.resolved_at = Some(event.at);
            alert.resolution = data.resolution;
            if self.resolved.len() == MAX_RESOLVED {
                self.resolved.pop_front();
            }
            self.resolved.push_back((alert, event.position));
            self.version += 1;
        }
        Some(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.active.keys()
    }

    pub(super) fn is_active(&self, rule: &RuleName, robot: &RobotId) -> bool {
        self.active.contains_key(&(rule.clone(), robot.clone()))
    }

    /// The id of an alert whose end is not asked for yet; it is now.
    pub(super) fn close(&mut self, rule: &RuleName, robot: &RobotId) -> Option<String> {
        let active = self.active.get_mut(&(rule.clone(), robot.clone()))?;
        if active.closing {
            return None;
        }
        active.closing = true;
        Some(active.alert.id.clone())
    }

    /// No end is asked for any more.
    pub(super) fn reopen(&mut self) {
        for active in self.active.values_mut() {
            active.closing = false;
        }
    }

    /// Forgets silences that are over.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let before = self.silences.len();
        self.silences.retain(|_, silence| silence.until > now);
        self.version += u64::from(self.silences.len() != before);
    }

    pub(super) fn silences(&self, now: Timestamp) -> impl Iterator<Item = &Silence> {
        let lasts = move |silence: &&Silence| silence.until > now;
        self.silences.values().filter(lasts).take(MAX_SILENCES)
    }

    fn view(&self, now: Timestamp, active: &Active) -> Alert {
        let silence = self
            .silences(now)
            .find(|silence| silence.matchers.matches(&active.alert));
        Alert {
            silenced_by: silence.map(|silence| silence.id),
            ..active.alert.clone()
        }
    }

    pub(super) fn firing(&self, now: Timestamp, filter: &Filter) -> Vec<Alert> {
        let mut found: Vec<&Active> = self
            .active
            .values()
            .filter(|active| filter.takes(&active.alert))
            .collect();
        found.sort_by_key(|active| std::cmp::Reverse(active.position));
        let shown = found.into_iter().take(filter.limit);
        shown.map(|active| self.view(now, active)).collect()
    }

    pub(super) fn all_firing(&self, now: Timestamp) -> impl Iterator<Item = (Alert, u64)> {
        let all = self.active.values();
        all.map(move |active| (self.view(now, active), active.position))
    }

    pub(super) fn resolved(&self, filter: &Filter) -> Vec<Alert> {
        let newest = self.resolved.iter().rev().map(|(alert, _)| alert);
        let found = newest.filter(|alert| filter.takes(alert));
        found.take(filter.limit).cloned().collect()
    }

    pub(super) fn one(&self, now: Timestamp, id: &str) -> Option<Alert> {
        match self.find(id) {
            Some(active) => Some(self.view(now, active)),
            None => {
                let mut newest = self.resolved.iter().rev().map(|(alert, _)| alert);
                newest.find(|alert| alert.id == id).cloned()
            }
        }
    }

    fn find(&self, id: &str) -> Option<&Active> {
        let mut parts = id.split(':');
        let rule = RuleName::new(parts.next()?).ok()?;
        let robot = RobotId::new(parts.next()?).ok()?;
        let active = self.active.get(&(rule, robot))?;
        (active.alert.id == id).then_some(active)
    }

    pub(super) fn ended<'a>(
        &'a self,
        ids: &'a BTreeSet<String>,
    ) -> impl Iterator<Item = (&'a Alert, u64)> {
        let wanted = self
            .resolved
            .iter()
            .filter(|(alert, _)| ids.contains(&alert.id));
        wanted.map(|(alert, position)| (alert, *position))
    }

    pub(super) fn is_firing(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    pub(super) fn count(&self) -> usize {
        self.active.len()
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }
}
