//! What to make of messages that the broker kept: each connection to it brings all of them again, however old. Pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use lekiwi_protocol::message::{Connection, ConnectionState};
use lekiwi_protocol::{Envelope, FromRobot, MessageType, RobotId, Timestamp};
use serde::Deserialize;

/// What was heard of each robot's pictures, as digests: one that comes again says nothing new, and telemetry since then
/// is newer.
#[derive(Debug, Default)]
pub(super) struct Retained {
    heard: HashMap<RobotId, [u64; 3]>,
}

impl Retained {
    /// When the message was said, milliseconds since the epoch; nothing when it was heard before. `kept` says that the
    /// broker had it, and did not get it right now.
    pub(super) fn heard(
        &mut self,
        robot: &RobotId,
        from: &FromRobot,
        payload: &[u8],
        kept: bool,
        now_ms: u64,
    ) -> Option<u64> {
        let place = match from {
            FromRobot::State => Some(0),
            FromRobot::Factsheet => Some(1),
            FromRobot::Reported => Some(2),
            _ => None,
        };
        if let Some(place) = place {
            let mut hasher = DefaultHasher::new();
            payload.hash(&mut hasher);
            let digest = hasher.finish();
            let known = &mut self.heard.entry(robot.clone()).or_default()[place];
            if std::mem::replace(known, digest) == digest && kept {
                return None;
            }
        }
        Some(if kept {
            said_ms(robot, from, payload, now_ms)
        } else {
            now_ms
        })
    }
}

/// When a kept message was said, by its robot's clock, and never later than now.
fn said_ms(robot: &RobotId, from: &FromRobot, payload: &[u8], now_ms: u64) -> u64 {
    #[derive(Deserialize)]
    struct Said {
        timestamp: Timestamp,
    }
    // A birth that no will has replaced: the broker says that the robot is connected now.
    let is_connected = *from == FromRobot::Connection
        && Envelope::<Connection>::parse(MessageType::Connection, robot, payload)
            .is_ok_and(|birth| birth.payload.state == ConnectionState::Online);
    if is_connected {
        return now_ms;
    }
    // What cannot be read is refused later on.
    serde_json::from_slice::<Said>(payload)
        .map_or(now_ms, |said| said.timestamp.as_ms().min(now_ms))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_as_old_as_it_says_and_no_news_twice() {
        let (now, robot): (u64, RobotId) = (2_000_000_000_000, "kiwi-01".parse().unwrap());
        let mut retained = Retained::default();
        let mut hear = |from: FromRobot, at: u64, kept, payload: serde_json::Value| {
            let kind = MessageType::of_topic(&from).unwrap();
            let message = serde_json::json!({
                "type": kind, "robot_id": robot, "timestamp": Timestamp::from_ms(at), "sequence": 1, "payload": payload,
            });
            retained.heard(&robot, &from, message.to_string().as_bytes(), kept, now)
        };
        let nothing = serde_json::json!({});
        let state = FromRobot::State;
        assert_eq!(
            hear(state.clone(), 7, true, nothing.clone()),
            Some(7),
            "the relay starts"
        );
        assert_eq!(
            hear(state.clone(), 7, true, nothing.clone()),
            None,
            "the broker is back"
        );
        assert_eq!(
            hear(state.clone(), 7, false, nothing.clone()),
            Some(now),
            "the robot says it now"
        );
        assert_eq!(hear(state.clone(), 8, true, nothing.clone()), Some(8));
        assert_eq!(
            hear(state, now + 1, true, nothing),
            Some(now),
            "a clock that is ahead"
        );
        let connection =
            |state: &str| serde_json::json!({ "session": uuid::Uuid::nil(), "state": state });
        let birth = FromRobot::Connection;
        for _ in 0..2 {
            let said = hear(birth.clone(), 7, true, connection("ONLINE"));
            assert_eq!(said, Some(now), "nobody said that it went");
        }
        let said = hear(birth, 7, true, connection("CONNECTION_BROKEN"));
        assert_eq!(said, Some(7));
    }
}
