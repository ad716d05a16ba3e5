//! What a commit means: for the picture, and for those whose events are safe now. Pure.

use lekiwi_protocol::api::Claim;
use lekiwi_protocol::limits::MAX_ACK_RANGES;
use lekiwi_protocol::message::{Ack, kind};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::{Enrolment, Input as Heard};
use serde::Deserialize;

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

/// An event of the log as the picture takes it.
pub(super) fn folded(robot: Option<RobotId>, stored: &StoredEvent) -> Heard {
    let (position, event) = (stored.position, &stored.event);
    let Some(robot) = robot else {
        return Heard::Position(position);
    };
    // Only the relay decides who takes part; a robot may say what it likes.
    if !event.source.starts_with(OWN_SOURCE) {
        return Heard::Event { robot, position };
    }
    let at = Timestamp::from_ms(event.ts_ms);
    let data = || serde_json::from_str::<Data>(&event.data).unwrap_or_default();
    match &*event.kind {
        kind::REGISTERED => {
            let data = data();
            Heard::Registered {
                robot,
                position,
                at,
                enrolment: Enrolment {
                    profile: data.profile,
                    token_profile: data.token_profile,
                    serial: data.hardware_serial,
                    bound: data.bound,
                },
            }
        }
        kind::QUARANTINED => Heard::Quarantined {
            robot,
            position,
            at,
            reason: data().reason.unwrap_or_default(),
        },
        kind::APPROVED => {
            let data = data();
            Heard::Approved {
                robot,
                position,
                at,
                by: data.by.unwrap_or_default(),
                profile: data.profile,
                seen: data.seen,
            }
        }
        kind::REJECTED => Heard::Rejected {
            robot,
            position,
            at,
            by: data().by.unwrap_or_default(),
        },
        kind::CONFIGURATION_DESIRED => Heard::Desired {
            robot,
            position,
            version: data().version,
        },
        _ => Heard::Event { robot, position },
    }
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
