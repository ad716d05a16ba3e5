//! What a commit means: for the picture, and for those whose events are safe now. Pure.

use lekiwi_protocol::api::Claim;
use lekiwi_protocol::limits::MAX_ACK_RANGES;
use lekiwi_protocol::message::{Ack, ConnectionState, kind};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::{Enrolment, Fact, Input as Heard, What};
use serde::Deserialize;
use uuid::Uuid;

use crate::store::records::{Commit, OWN_SOURCE, StoredEvent};

/// What the relay's own events about robots say; each kind has some of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    profile: Option<String>,
    token_profile: Option<String>,
    hardware_serial: Option<String>,
    bound: bool,
    reason: Option<String>,
    by: Option<String>,
    version: u64,
    seen: Claim,
}

/// The same of births and deaths; a birth has no state.
#[derive(Debug, Deserialize)]
struct Session {
    session: Uuid,
    state: Option<ConnectionState>,
}

/// An event of the log as the picture takes it.
pub(super) fn folded(stored: &StoredEvent) -> Heard {
    fact(stored).map_or(Heard::Position(stored.position), Heard::Logged)
}

/// What an event of the log says of a robot; nothing when it is about something else.
#[must_use]
pub fn fact(stored: &StoredEvent) -> Option<Fact> {
    let event = &stored.event;
    let robot = robot_of(stored)?;
    // Only the relay decides who takes part; a robot may say what it likes.
    let is_own = event.source.starts_with(OWN_SOURCE);
    let at_ms = if is_own {
        event.ts_ms
    } else {
        event.received_ms
    };
    let data = || serde_json::from_str::<Data>(&event.data).unwrap_or_default();
    let what = match (&*event.kind, is_own) {
        (kind::REGISTERED, true) => {
            let data = data();
            What::Registered(Enrolment {
                profile: data.profile,
                token_profile: data.token_profile,
                serial: data.hardware_serial,
                bound: data.bound,
            })
        }
        (kind::QUARANTINED, true) => What::Quarantined {
            reason: data().reason.unwrap_or_default(),
        },
        (kind::APPROVED, true) => {
            let data = data();
            What::Approved {
                by: data.by.unwrap_or_default(),
                profile: data.profile,
                seen: data.seen,
            }
        }
        (kind::REJECTED, true) => What::Rejected {
            by: data().by.unwrap_or_default(),
        },
        (kind::CONFIGURATION_DESIRED, true) => What::Desired {
            version: data().version,
        },
        (kind::CONNECTED | kind::DISCONNECTED, true) => match serde_json::from_str(&event.data) {
            Ok(Session {
                session,
                state: Some(state),
            }) => What::Disconnected { session, state },
            Ok(Session {
                session,
                state: None,
            }) => What::Connected { session },
            Err(_) => What::Other,
        },
        (kind::STALE, true) => What::Stale,
        (kind::HARDWARE_CHANGED, true) => What::HardwareChanged,
        (_, true) => What::Other,
        (kind::REBOOTED, false) => What::Rebooted,
        (_, false) => What::Said,
    };
    Some(Fact {
        robot,
        position: stored.position,
        at: Timestamp::from_ms(at_ms),
        what,
    })
}

/// The robot that an event of the log is about.
pub(super) fn robot_of(stored: &StoredEvent) -> Option<RobotId> {
    let event = &stored.event;
    let is_robots = event.aggregate_type == "robot";
    is_robots.then(|| RobotId::new(&event.aggregate_id).ok())?
}

/// What to tell each robot; relays are none. A robot with many ranges gets several.
pub(super) fn acknowledgements(commit: &Commit) -> Vec<(RobotId, Ack)> {
    let mut messages = Vec::new();
    for acks in commit.acks.chunk_by(|a, b| a.source == b.source) {
        let Ok(robot) = RobotId::new(&acks[0].source) else {
            continue;
        };
        let (mut ack, mut ranges) = (Ack::default(), 0);
        for stream in acks {
            for range in &stream.ranges {
                if ranges == MAX_ACK_RANGES {
                    messages.push((robot.clone(), std::mem::take(&mut ack)));
                    ranges = 0;
                }
                ack.acks.entry(stream.stream).or_default().push(*range);
                ranges += 1;
            }
        }
        if ranges > 0 {
            messages.push((robot, ack));
        }
    }
    messages
}
