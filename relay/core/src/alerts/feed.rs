//! What robots say, as far as rules look at it.

use std::cmp::Reverse;

use lekiwi_protocol::alert::RobotCondition;
use lekiwi_protocol::api::RobotView;
use lekiwi_protocol::message::{Metrics, RobotHealth, State, Teleoperation, TimeSync};
use lekiwi_protocol::{RobotId, Timestamp};

use super::{Alerts, Conditions, Robot};

impl Conditions {
    fn of(
        health: Option<&RobotHealth>,
        clock: Option<&TimeSync>,
        teleoperation: &Teleoperation,
    ) -> Self {
        let mut known = Self::default();
        let mut is = |condition: RobotCondition, holds: bool| known.0[condition as usize] = holds;
        is(
            RobotCondition::Unhealthy,
            health.is_some_and(|health| !health.healthy),
        );
        is(
            RobotCondition::ClockUnsynchronized,
            clock.is_some_and(|clock| !clock.synchronized),
        );
        is(
            RobotCondition::TeleoperatedByNobody,
            teleoperation.active && teleoperation.operator_id.is_none(),
        );
        is(
            RobotCondition::TeleoperationContention,
            teleoperation.contention,
        );
        known
    }
}

impl Alerts {
    /// A robot that takes part, of this profile; watched from now on.
    pub fn robot(&mut self, now: Timestamp, id: &RobotId, profile: &str) {
        let is_known = self.robots.contains_key(id);
        let robot = self.robots.entry(id.clone()).or_insert_with(|| Robot {
            profile: "".into(),
            connected: false,
            stale: false,
            conditions: None,
            is_ending: None,
            watches: Vec::new(),
        });
        if is_known && *robot.profile == *profile {
            return;
        }
        robot.profile = profile.into();
        for slot in 0..self.rules.places() {
            let selects = self
                .rules
                .at(slot)
                .is_some_and(|rule| rule.selects(id, profile));
            let watch = self
                .robots
                .get(id)
                .and_then(|robot| robot.watches.get(slot));
            if selects != watch.is_some_and(Option::is_some) {
                self.watch_anew(now, id, slot);
            }
        }
        self.abandon_orphans(Some(id));
    }

    /// A robot that takes part no more.
    pub fn forget(&mut self, id: &RobotId) {
        if self.robots.remove(id).is_some() {
            self.timers.retain(|Reverse((_, robot, _))| robot != id);
            self.abandon_orphans(Some(id));
        }
    }

    /// Whether the robot is watched.
    #[must_use]
    pub fn knows(&self, id: &RobotId) -> bool {
        self.robots.contains_key(id)
    }

    /// The picture of a robot that is connected, for rules that have not seen it.
    pub fn see(&mut self, now: Timestamp, view: &RobotView) {
        // Only a robot that has told its state has these.
        if let Some(teleoperation) = &view.teleoperation {
            let (health, clock) = (view.health.as_ref(), view.clock.as_ref());
            let conditions = Conditions::of(health, clock, teleoperation);
            self.conditions(now, &view.id, conditions);
        }
        for (name, value) in &view.resources {
            let slots = self.rules.index.metrics.get(name).cloned();
            for slot in slots.into_iter().flatten() {
                self.touch(&view.id, slot, |watch, rule| watch.seen(now, rule, *value));
                self.settle(now, &view.id, slot);
            }
        }
    }

    /// The robot was born, or is gone.
    pub fn connection(&mut self, now: Timestamp, id: &RobotId, connected: bool) {
        self.presence(now, id, connected, false);
    }

    /// The robot is connected, and silent for too long.
    pub fn stale(&mut self, now: Timestamp, id: &RobotId) {
        if let Some(connected) = self.robots.get(id).map(|robot| robot.connected) {
            self.presence(now, id, connected, true);
        }
    }

    /// The robot is heard again.
    pub fn heard(&mut self, now: Timestamp, id: &RobotId) {
        if let Some(robot) = self.robots.get(id)
            && robot.stale
        {
            self.presence(now, id, robot.connected, false);
        }
    }

    fn presence(&mut self, now: Timestamp, id: &RobotId, connected: bool, stale: bool) {
        let Some(robot) = self.robots.get_mut(id) else {
            return;
        };
        let is_other = robot.connected != connected;
        (robot.connected, robot.stale) = (connected, stale);
        if is_other {
            for slot in self.rules.index.absent_metrics.clone() {
                self.touch(id, slot, |watch, rule| watch.presence(now, rule, connected));
                self.settle(now, id, slot);
            }
        }
        self.judge(now, id, RobotCondition::Offline);
    }

    /// The robot's whole state.
    pub fn state(&mut self, now: Timestamp, id: &RobotId, state: &State) {
        self.conditions(
            now,
            id,
            Conditions::of(
                state.health.as_ref(),
                state.clock.as_ref(),
                &state.teleoperation,
            ),
        );
        // A metric that it does not have any more is beyond nothing.
        let gone: Vec<usize> = self
            .rules
            .index
            .metrics
            .iter()
            .filter(|(metric, _)| !state.resources.contains_key(*metric))
            .flat_map(|(_, slots)| slots.iter().copied())
            .collect();
        for slot in gone {
            self.touch(id, slot, |watch, rule| watch.gone(now, rule));
            self.settle(now, id, slot);
        }
        self.telemetry(now, id, &state.resources);
    }

    fn conditions(&mut self, now: Timestamp, id: &RobotId, conditions: Conditions) {
        let Some(robot) = self.robots.get_mut(id) else {
            return;
        };
        if robot.conditions == Some(conditions) {
            return;
        }
        robot.conditions = Some(conditions);
        for condition in RobotCondition::ALL {
            self.judge(now, id, condition);
        }
    }

    fn judge(&mut self, now: Timestamp, id: &RobotId, condition: RobotCondition) {
        let Some(holds) = self.robots.get(id).and_then(|robot| robot.is(condition)) else {
            return;
        };
        for slot in self.rules.index.conditions[condition as usize].clone() {
            self.touch(id, slot, |watch, _| watch.set(now, holds));
            self.settle(now, id, slot);
        }
    }

    /// Which robots have a certificate that ends soon.
    pub fn certificates(&mut self, now: Timestamp, is_ending: impl Fn(&RobotId) -> bool) {
        let mut changed = Vec::new();
        for (id, robot) in &mut self.robots {
            let is_ending = Some(is_ending(id));
            if robot.is_ending != is_ending {
                robot.is_ending = is_ending;
                changed.push(id.clone());
            }
        }
        for id in changed {
            self.judge(now, &id, RobotCondition::CertificateEnding);
        }
    }

    /// Metrics that a robot measured.
    pub fn telemetry(&mut self, now: Timestamp, id: &RobotId, metrics: &Metrics) {
        if self.rules.index.metrics.is_empty() {
            return;
        }
        for (name, value) in metrics {
            let places = self.rules.index.metrics.get(name).map_or(0, Vec::len);
            for place in 0..places {
                let slot = self.rules.index.metrics[name][place];
                self.touch(id, slot, |watch, rule| watch.measured(now, rule, *value));
                self.settle(now, id, slot);
            }
        }
    }

    /// An event of a robot that is in the log now.
    pub fn event(&mut self, now: Timestamp, id: &RobotId, kind: &str) {
        for slot in self.rules.index.events_of(kind) {
            self.touch(id, slot, |watch, rule| watch.happened(now, rule, kind));
            self.settle(now, id, slot);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::super::Logged;
    use super::*;

    #[test]
    fn a_certificate_that_ends_is_told_and_what_nobody_looked_at_stays() {
        let rule = json!({ "id": "certificate", "summary": "It ends", "for_s": 60,
                           "when": { "state": { "is": "certificate_ending" } } });
        let rules = vec![serde_json::from_value(rule).unwrap()];
        let at = |seconds: u64| Timestamp::from_ms(seconds * 1_000);
        let ids = ["kiwi-01", "kiwi-02"].map(|id| RobotId::new(id).unwrap());
        let begin = |now| {
            let mut alerts = Alerts::new(Vec::new(), rules.clone());
            for id in &ids {
                alerts.robot(now, id, "lekiwi");
            }
            alerts
        };
        let look = |alerts: &mut Alerts, now, ending: Option<&RobotId>| {
            alerts.certificates(now, |id| ending == Some(id));
            alerts.handle_timeout(now);
            alerts.poll_output()
        };
        let mut alerts = begin(at(0));
        alerts.lead(at(0), true);
        assert_eq!(look(&mut alerts, at(10), Some(&ids[1])), None);
        assert_eq!(look(&mut alerts, at(69), Some(&ids[1])), None);
        let fires = look(&mut alerts, at(70), Some(&ids[1])).unwrap();
        assert_eq!(
            fires.data["reason"],
            "the robot has a certificate that ends soon and was not renewed for 60 s"
        );
        // Another relay on the same log.
        let mut alerts = begin(at(80));
        let data = fires.data.to_string();
        let logged = Logged {
            position: 1,
            at: at(70),
            kind: fires.kind,
            aggregate_id: &fires.aggregate_id,
            data: &data,
        };
        alerts.logged(at(80), logged);
        alerts.lead(at(80), true);
        alerts.handle_timeout(at(80));
        assert_eq!(alerts.poll_output(), None, "nobody has looked");
        assert_eq!(look(&mut alerts, at(90), Some(&ids[1])), None);
        let over = look(&mut alerts, at(100), None).unwrap();
        assert_eq!(
            (over.kind, over.aggregate_id),
            ("alert.resolved", fires.aggregate_id)
        );
    }
}
