//! The fleet as the log had it at an earlier position. Pure; fed with the last pictures that were taken by then and
//! with each robot's events after its own.
//!
//! Invariants:
//! * What the log says is the same from any pictures, and from none, where the log is whole.
//! * What robots said without the log is as of the picture, and the answer says of when that is.

use std::collections::BTreeMap;

use lekiwi_protocol::api::{AsOf, ConfigurationStatus, RobotView, Status};
use lekiwi_protocol::message::ConnectionState;
use lekiwi_protocol::{RobotId, Timestamp};

use crate::recorded::{Fact, Recorded};
use crate::robot::{Picture, Robot, unregistered};

/// One robot then.
#[derive(Debug, Default)]
struct Then {
    recorded: Recorded,
    /// What it had said, and when that was looked at.
    picture: Option<(Timestamp, RobotView)>,
    /// Every event of it up to here is folded.
    position: u64,
}

/// The robots of an earlier position.
#[derive(Debug)]
pub struct Past {
    position: u64,
    robots: BTreeMap<RobotId, Then>,
}

impl Past {
    /// No robot yet; events up to `position` are to come.
    #[must_use]
    pub fn new(position: u64) -> Self {
        Self {
            position,
            robots: BTreeMap::new(),
        }
    }

    /// Begins with a picture of a robot that includes its events up to `position`. Without `taken_at` only what the log
    /// said is taken of it: it is of a later time.
    pub fn restore(&mut self, picture: Picture, position: u64, taken_at: Option<Timestamp>) {
        let Picture { view, recorded, .. } = picture;
        let then = Then {
            recorded,
            position,
            picture: taken_at.map(|taken_at| (taken_at, view.clone())),
        };
        self.robots.insert(view.id, then);
    }

    /// Gives a picture of an earlier relay, which kept the view only, the record that the log has.
    pub fn correct(&self, picture: &mut Picture) {
        if let Some(then) = self.robots.get(&picture.view.id) {
            picture.recorded.clone_from(&then.recorded);
        }
    }

    /// Takes an event; those of a robot come in the log's order. What its picture includes already changes nothing.
    pub fn fold(&mut self, fact: &Fact) {
        let then = self.robots.entry(fact.robot.clone()).or_default();
        if fact.position > then.position {
            then.position = fact.position;
            then.recorded.fold(fact);
        }
    }

    /// All robots, by id.
    pub fn views(&self) -> impl Iterator<Item = RobotView> {
        let robots = self.robots.iter();
        robots.map(|(id, then)| then.view(id, self.position))
    }

    /// One robot, if it was known.
    #[must_use]
    pub fn view(&self, id: &RobotId) -> Option<RobotView> {
        let then = self.robots.get(id)?;
        Some(then.view(id, self.position))
    }
}

impl Then {
    /// What it had said, and over it what the log says.
    fn view(&self, id: &RobotId, position: u64) -> RobotView {
        let (picture_at, said) = self.picture.clone().unzip();
        // Of a robot that there is no picture of, only the log speaks.
        let said = said.unwrap_or_else(|| Robot::new(id.clone()).view());
        let recorded = &self.recorded;
        let last_seen = said.status.last_seen.max(recorded.heard_at);
        let connection = recorded.connection();
        let is_connected = connection == ConnectionState::Online;
        let is_stale = recorded.is_stale(last_seen);
        let registration = recorded.registration.clone();
        let registration = registration.unwrap_or_else(unregistered);
        let decided = registration.approved_by.as_ref();
        let robot_type = decided
            .and(registration.profile.clone())
            .or_else(|| Some(said.factsheet.as_ref()?.profile.clone()))
            .or_else(|| recorded.profile.clone());
        let reported = said.configuration.and_then(|known| known.reported);
        let is_told = recorded.desired > 0 || reported.is_some();
        RobotView {
            robot_type: robot_type.unwrap_or_default(),
            status: Status {
                online: is_connected && !is_stale,
                stale: is_stale,
                connection,
                last_seen,
                registered_at: recorded.registered_at,
                uptime_s: said.status.uptime_s,
            },
            registration,
            configuration: is_told.then(|| ConfigurationStatus::new(recorded.desired, reported)),
            freshness: None,
            as_of: Some(AsOf {
                position,
                picture_at,
            }),
            ..said
        }
    }
}
