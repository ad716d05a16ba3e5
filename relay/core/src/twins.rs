//! Which configuration robots should have, and what they say of it: what is sent to whom, when again, and what
//! becomes of it. Pure; ingest feeds it with what is in the log and what robots say, and carries its outputs out.
//!
//! Invariants: only what the log has is sent, and to robots that are connected: until the robot says what became
//! of it, ever more rarely, and at once after each birth; versions of a robot only go forward, also beyond those
//! that it knew of another relay; what became of a version is said once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lekiwi_protocol::message::{ConfigurationState, Desired, Reported, kind};
use lekiwi_protocol::{RobotId, Timestamp};
use serde_json::{Value, json};

/// Time between two sendings of a version, at first.
const RESEND: Duration = Duration::from_secs(2);
/// The same of one that the robot says nothing of: it may be of an older version.
const MOST_RESEND: Duration = Duration::from_secs(64);

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send it to the robot.
    Send(RobotId, Desired),
    /// Write an event of the relay's own into the log.
    Event {
        /// About whom.
        robot: RobotId,
        /// What happened.
        kind: &'static str,
        /// Details.
        data: Value,
    },
}

#[derive(Debug, Default)]
struct Twin {
    connected: bool,
    /// The newest version that was given out; the log may not have it yet.
    newest: u64,
    desired: Option<Desired>,
    /// The log has what became of it.
    is_settled: bool,
    reported: Option<Reported>,
    next_send: Timestamp,
    pause: Duration,
}

impl Twin {
    /// Whether the robot should hear something.
    fn is_open(&self) -> bool {
        let Some(desired) = &self.desired else {
            return false;
        };
        self.reported.as_ref().is_none_or(|said| {
            said.version < desired.version || (said.version == desired.version && is_tried(said))
        })
    }

    /// What the robot should hear: the version, or that the relay has heard of its trial.
    fn message(&self) -> Option<Desired> {
        let desired = self.desired.clone()?;
        let said = self.reported.as_ref();
        let confirmed = said.is_some_and(|said| said.version == desired.version && is_tried(said));
        Some(Desired {
            confirmed,
            ..desired
        })
    }

    fn hurry(&mut self, now: Timestamp) {
        self.next_send = now;
        self.pause = RESEND;
    }
}

fn is_tried(said: &Reported) -> bool {
    said.state == ConfigurationState::Trying
}

/// The twins of all robots.
#[derive(Debug, Default)]
pub struct Twins {
    robots: BTreeMap<RobotId, Twin>,
    outputs: VecDeque<Output>,
    /// When something is due, or before.
    due: Option<Timestamp>,
}

impl Twins {
    /// Puts the newest version of a robot back as the store has it. Called before any input.
    pub fn restore(&mut self, robot: RobotId, desired: Desired, is_settled: bool) {
        let twin = self.robots.entry(robot).or_default();
        twin.newest = desired.version;
        twin.desired = Some(desired);
        twin.is_settled = is_settled;
    }

    /// The number of a new version, if the newest one is still `base`.
    ///
    /// # Errors
    /// The newest version, when it is another one.
    pub fn reserve(&mut self, robot: &RobotId, base: Option<u64>) -> Result<u64, u64> {
        let twin = self.robots.entry(robot.clone()).or_default();
        if base.is_some_and(|base| base != twin.newest) {
            return Err(twin.newest);
        }
        let known = twin
            .reported
            .as_ref()
            .map_or(0, |reported| reported.version);
        twin.newest = twin.newest.max(known) + 1;
        Ok(twin.newest)
    }

    /// The log has a new version, at `now`; it may be known from the store.
    ///
    /// # Errors
    /// The newest version, when the log had another one of this number, or a later one; nothing changes then.
    pub fn desired(&mut self, now: Timestamp, robot: RobotId, desired: Desired) -> Result<(), u64> {
        let twin = self.robots.entry(robot).or_default();
        match &twin.desired {
            Some(known) if *known == desired => return Ok(()),
            Some(known) if known.version >= desired.version => return Err(known.version),
            _ => {}
        }
        twin.newest = twin.newest.max(desired.version);
        twin.desired = Some(desired);
        twin.is_settled = false;
        twin.hurry(now);
        self.wake(now);
        Ok(())
    }

    /// The robot was born, or is gone.
    pub fn connection(&mut self, now: Timestamp, robot: &RobotId, connected: bool) {
        let Some(twin) = self.robots.get_mut(robot) else {
            if connected {
                self.robots.entry(robot.clone()).or_default().connected = true;
            }
            return;
        };
        twin.connected = connected;
        if connected && twin.is_open() {
            twin.hurry(now);
            self.wake(now);
        }
    }

    /// The robot says which configuration it has.
    pub fn reported(&mut self, now: Timestamp, robot: &RobotId, reported: Reported) {
        let twin = self.robots.entry(robot.clone()).or_default();
        if let Some(desired) = &twin.desired
            && reported.version == desired.version
            && !twin.is_settled
        {
            let kind = match reported.state {
                ConfigurationState::Trying => None,
                ConfigurationState::Applied => Some(kind::CONFIGURATION_APPLIED),
                ConfigurationState::Rejected => Some(kind::CONFIGURATION_REJECTED),
                ConfigurationState::RolledBack => Some(kind::CONFIGURATION_ROLLED_BACK),
            };
            if let Some(kind) = kind {
                twin.is_settled = true;
                let mut data = json!({ "version": reported.version, "digest": reported.digest });
                if let Some(reason) = &reported.reason {
                    data["reason"] = reason.as_str().into();
                }
                self.outputs.push_back(Output::Event {
                    robot: robot.clone(),
                    kind,
                    data,
                });
            }
        }
        // The same again is an answer to what was sent, and no reason to send at once.
        if twin.reported.as_ref() != Some(&reported) {
            twin.reported = Some(reported);
            twin.hurry(now);
            if twin.is_open() {
                self.wake(now);
            }
        }
    }

    /// Sends what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = None;
        let mut next: Option<Timestamp> = None;
        for (id, twin) in &mut self.robots {
            if !twin.connected || !twin.is_open() {
                continue;
            }
            if twin.next_send <= now
                && let Some(message) = twin.message()
            {
                self.outputs.push_back(Output::Send(id.clone(), message));
                twin.next_send = now.plus(twin.pause);
                twin.pause = (twin.pause * 2).min(MOST_RESEND);
            }
            next = Some(next.map_or(twin.next_send, |next| next.min(twin.next_send)));
        }
        self.due = next;
    }

    /// When [`Self::handle_timeout`] may have something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.due
    }

    /// The next thing that follows.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn wake(&mut self, at: Timestamp) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}
