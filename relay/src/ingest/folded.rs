//! What a commit means: for the picture, and for those whose events are safe now. Pure.

use lekiwi_protocol::RobotId;
use lekiwi_protocol::limits::MAX_ACK_RANGES;
use lekiwi_protocol::message::Ack;
use lekiwi_relay_core::Input as Heard;

use crate::store::records::{Commit, StoredEvent};

/// An event of the log as the picture takes it.
pub(super) fn folded(stored: &StoredEvent) -> Heard {
    let fact = stored.fact();
    fact.map_or(Heard::Position(stored.position), Heard::Logged)
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
