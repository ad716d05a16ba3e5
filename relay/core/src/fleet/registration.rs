//! Who takes part. The log decides: `robot.registered`, `robot.quarantined`, `robot.approved` and
//! `robot.rejected` are folded in its order. What makes the relay suspicious takes effect at once, and goes
//! into the log.
//!
//! Invariants:
//! * A robot that the log has no enrolment of is heard by nobody.
//! * A registered robot is judged when what it says of itself differs from what it was let in with; the
//!   robot that had a board serial first keeps its place.
//! * Quarantine ends by a person's word only.

use lekiwi_protocol::api::Claim;
use lekiwi_protocol::message::{self, ConnectionState, RegistrationStatus, UNKNOWN_PROFILE, kind};
use lekiwi_protocol::{RobotId, Timestamp};
use serde_json::json;

use super::{Fleet, Output};
use crate::recorded::{Enrolled, Enrolment, Fact, What, counts, enrol};
use crate::robot::Robot;

/// How newcomers are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// A valid token suffices, unless something is suspicious.
    #[default]
    Open,
    /// Every newcomer waits for a person.
    Approve,
}

impl Fleet {
    /// Whether the robot is connected and not silent for too long.
    #[must_use]
    pub fn is_connected(&self, id: &RobotId) -> bool {
        let robot = self.robots.get(id);
        robot.is_some_and(|robot| robot.is_connected() && !robot.stale)
    }

    /// The profile that the robot goes by.
    #[must_use]
    pub fn profile(&self, id: &RobotId) -> Option<String> {
        self.robots.get(id)?.robot_type()
    }

    /// After the last robot and event was put back: says where each robot stands, and what the log still
    /// has to learn.
    pub fn begin(&mut self) {
        // What followed in an earlier life was carried out then.
        self.outputs.clear();
        let ids: Vec<RobotId> = self.robots.keys().cloned().collect();
        for id in ids {
            self.accuse(&id);
            self.standing(&id);
        }
    }

    /// Whether this relay tells the log and the robots what follows; it does, unless this says otherwise. One that begins
    /// to, at `now`, says where each robot stands, and what the log lacks of what was heard: whoever led before may not
    /// have come to it.
    pub fn lead(&mut self, now: Timestamp, leads: bool) {
        if std::mem::replace(&mut self.leads, leads) || !leads {
            return;
        }
        let ids: Vec<RobotId> = self.robots.keys().cloned().collect();
        for id in ids {
            self.testify(&id);
            let said = self.robots.get(&id).and_then(Robot::factsheet);
            let said = said.map(Claim::from);
            self.accuse(&id);
            if let Some(said) = said {
                self.judge(now, &id, said, false);
            }
            self.standing(&id);
        }
    }

    /// Tells the log what it lacks of a robot's presence.
    fn testify(&mut self, id: &RobotId) {
        let Some(robot) = self.robots.get(id) else {
            return;
        };
        // What was not heard by this relay, it cannot say.
        let Some(heard) = robot.birth.as_ref().map(|birth| &birth.payload) else {
            return;
        };
        let (known, session) = (&robot.recorded, heard.session);
        let state = match heard.state {
            ConnectionState::Online => robot.connection,
            end => end,
        };
        let is_born = known.session() == Some(session);
        let is_gone = state != ConnectionState::Online
            && !(is_born && known.connection() != ConnectionState::Online);
        let is_silent = robot.stale && !(is_born && known.is_stale(robot.last_seen));
        let last_seen = robot.last_seen;
        if !is_born {
            self.record(id, kind::CONNECTED, json!({ "session": session }));
        }
        if is_silent {
            self.record(id, kind::STALE, json!({ "last_seen": last_seen }));
        }
        if is_gone {
            let data = json!({ "session": session, "state": state });
            self.record(id, kind::DISCONNECTED, data);
        }
    }

    /// Takes an event of the log, unless it was taken before.
    pub(super) fn logged(&mut self, fact: Fact) {
        if fact.position <= self.position {
            return;
        }
        self.position = fact.position;
        let robot = self.robot(&fact.robot);
        robot.recorded.fold(&fact);
        // Its picture carries the position, so that a restart does not read the whole log again.
        robot.changed = true;
        let Fact {
            robot: id,
            at,
            what,
            ..
        } = fact;
        match what {
            What::Registered(enrolment) => return self.enrolled(at, &id, enrolment),
            What::Quarantined { reason } => robot.quarantine(at, &reason),
            What::Approved { by, profile, seen } => {
                robot.approve(at, &by, profile.as_deref(), &seen);
            }
            What::Rejected { by } => robot.reject(at, &by),
            _ => return,
        }
        self.standing(&id);
    }

    /// The log has an enrolment.
    fn enrolled(&mut self, at: Timestamp, id: &RobotId, enrolment: Enrolment) {
        let robot = self.robot(id);
        let enrolled = enrol(&mut robot.registration, at, &enrolment);
        let Enrolment {
            profile,
            token_profile,
            serial,
            ..
        } = enrolment;
        if let Some(profile) = profile.as_ref().or(token_profile.as_ref()) {
            robot.set_type(profile);
        }
        if let Enrolled::Rejected(rejected) = enrolled {
            robot.suspicion = Some((
                at,
                format!("it was rejected at {rejected}, and has enrolled again"),
            ));
            self.accuse(id);
            self.standing(id);
            return;
        }
        // It may have spoken before its enrolment was in the log.
        let said = robot.factsheet().map(Claim::from);
        let said = said.unwrap_or_else(|| Claim {
            profile: profile.unwrap_or_default(),
            serial: serial.unwrap_or_default(),
        });
        self.judge(at, id, said, enrolled == Enrolled::Newcomer);
        self.standing(id);
    }

    /// The robot said what it is.
    pub(super) fn identified(&mut self, now: Timestamp, id: &RobotId, said: Claim) {
        let robot = self.robot(id);
        if let Some(known) = &mut robot.registration {
            let before = known.serial.take();
            known.serial = Some(said.serial.clone()).filter(|serial| counts(serial));
            match (&before, &known.serial) {
                (Some(old), Some(new)) if old != new => {
                    let data = json!({ "old_serial": old, "new_serial": new });
                    self.record(id, kind::HARDWARE_CHANGED, data);
                }
                (Some(_), None) => known.serial = before,
                _ => {}
            }
        }
        self.judge(now, id, said, false);
        self.standing(id);
    }

    /// Looks at what a robot says of itself, where that is news.
    fn judge(&mut self, now: Timestamp, id: &RobotId, said: Claim, newcomer: bool) {
        let Some(robot) = self.robots.get(id) else {
            return;
        };
        let Some(known) = &robot.registration else {
            return;
        };
        if known.status == RegistrationStatus::Rejected {
            return;
        }
        let accepted = known.accepted.clone().unwrap_or_default();
        let new_profile = !said.profile.is_empty() && said.profile != accepted.profile;
        let new_serial = counts(&said.serial) && said.serial != accepted.serial;
        let bound = known.profile.as_ref();
        let reason = if newcomer && self.policy == Policy::Approve {
            Some("this relay takes newcomers only with approval (registration: approve)".to_owned())
        } else if new_profile && said.profile == UNKNOWN_PROFILE {
            Some("its hardware matches no profile".to_owned())
        } else if let Some(bound) = bound.filter(|bound| new_profile && **bound != said.profile) {
            Some(format!(
                "it says profile {}, and its token or approval was for {bound}",
                said.profile
            ))
        } else if new_serial {
            self.holder(id, &said.serial).map(|holder| {
                format!(
                    "{id} says board serial {}, which belongs to {holder}",
                    said.serial
                )
            })
        } else {
            None
        };
        let leads = self.leads;
        let robot = self.robot(id);
        let admitted = robot.is_admitted();
        match reason {
            // Two relays may hear two robots in two orders: one of them judges. That it is new, all have from the log.
            Some(_) if !leads && !newcomer => {}
            Some(reason) if robot.registration().reason.as_ref() != Some(&reason) => {
                robot.suspicion = Some((now, reason));
                robot.changed = true;
                self.accuse(id);
            }
            None if admitted && (new_profile || new_serial) => {
                let accepted = robot
                    .registration
                    .get_or_insert_default()
                    .accepted
                    .get_or_insert_default();
                if new_profile {
                    accepted.profile = said.profile;
                }
                if new_serial {
                    accepted.serial = said.serial;
                }
            }
            _ => {}
        }
    }

    /// Another robot of this board, that was not rejected.
    fn holder(&self, id: &RobotId, serial: &str) -> Option<&RobotId> {
        self.robots
            .iter()
            .find(|(other, robot)| {
                *other != id
                    && robot.registration.as_ref().is_some_and(|known| {
                        known.status != RegistrationStatus::Rejected
                            && known.serial.as_deref() == Some(serial)
                    })
            })
            .map(|(other, _)| other)
    }

    /// Puts a suspicion into the log.
    fn accuse(&mut self, id: &RobotId) {
        let Some((_, reason)) = self.robots.get(id).and_then(|r| r.suspicion.as_ref()) else {
            return;
        };
        let data = json!({ "reason": reason });
        self.record(id, kind::QUARANTINED, data);
    }

    /// Says where a robot stands.
    pub(super) fn standing(&mut self, id: &RobotId) {
        let Some(robot) = self.robots.get(id) else {
            return;
        };
        let hears = self.leads && (robot.link.is_some() || robot.is_connected());
        let tell = hears.then(|| {
            let known = robot.registration();
            message::Registration {
                status: known.status,
                reason: known.reason,
                profile: known
                    .profile
                    .or_else(|| robot.robot_type())
                    .filter(|profile| profile != UNKNOWN_PROFILE),
            }
        });
        self.outputs.push_back(Output::Standing {
            robot: id.clone(),
            admitted: robot.is_admitted(),
            judged: robot.factsheet().map(Claim::from),
            tell,
        });
    }
}
