//! Whether what is known of a robot may still be relied on: the cache policies of the state model. Pure.
//!
//! * Hardware holds until the log tells of another boot or board than the factsheet does.
//! * Network and deployment hold while the robot is heard in the session in which it said them, for it says at once what
//!   changes; and after its last word for an hour, and five minutes. A new session may have another network.
//! * Telemetry holds for 30 s after its last message.

use std::time::Duration;

use lekiwi_protocol::api::{Fresh, Freshness, RobotView};
use lekiwi_protocol::{RobotId, Timestamp};

use crate::Fleet;
use crate::robot::Robot;

const NETWORK: Duration = Duration::from_secs(3600);
const TELEMETRY: Duration = Duration::from_secs(30);
const DEPLOYMENT: Duration = Duration::from_secs(300);

/// What is known of each kind of knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// When it said what it is.
    pub(crate) hardware_at: Option<Timestamp>,
    /// Whether the log tells of another boot or board since.
    pub(crate) is_other_hardware: bool,
    /// When it last was as it had said.
    pub(crate) state_at: Option<Timestamp>,
    /// Whether it has another session since.
    pub(crate) is_other_session: bool,
    /// When it last measured something.
    pub(crate) telemetry_at: Option<Timestamp>,
}

/// Judges it at `now`.
pub(crate) fn judge(known: &Known, now: Timestamp) -> Freshness {
    let fresh = |as_of: Option<Timestamp>, is_other: bool, most: Duration| Fresh {
        as_of,
        stale: is_other || as_of.is_none_or(|as_of| now.since(as_of) > most),
    };
    Freshness {
        hardware: fresh(known.hardware_at, known.is_other_hardware, Duration::MAX),
        network: fresh(known.state_at, known.is_other_session, NETWORK),
        telemetry: fresh(known.telemetry_at, false, TELEMETRY),
        deployment: fresh(known.state_at, false, DEPLOYMENT),
    }
}

fn view(robot: &Robot, now: Timestamp) -> RobotView {
    RobotView {
        freshness: Some(judge(&robot.known(), now)),
        ..robot.view()
    }
}

impl Fleet {
    /// One robot, and how fresh that is at `now`.
    #[must_use]
    pub fn fresh_view(&self, id: &RobotId, now: Timestamp) -> Option<RobotView> {
        self.robots.get(id).map(|robot| view(robot, now))
    }

    /// All robots, by id, and how fresh that is at `now`.
    pub fn fresh_views(&self, now: Timestamp) -> impl Iterator<Item = RobotView> {
        self.robots.values().map(move |robot| view(robot, now))
    }
}
