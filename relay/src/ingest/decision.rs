//! What people decide about robots, on its way into the log. The one who asks waits until the decision is
//! on disk and in the picture.

use std::collections::HashMap;
use std::time::Duration;

use lekiwi_protocol::api::{Claim, RobotView};
use lekiwi_protocol::message::{Command, Desired, kind};
use lekiwi_protocol::{RobotId, Timestamp};
use tokio::sync::{mpsc, oneshot};

use super::{Handle, Ingest};
use crate::clock;
use crate::store::records::StoredEvent;

/// Longest wait for the disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Decisions that may wait to be taken in.
const QUEUE: usize = 64;

/// What a person decided.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The robot takes part, under this profile where one is named.
    Approve {
        /// The profile.
        profile: Option<String>,
    },
    /// The robot is turned away.
    Reject,
    /// The robot is told to do something.
    Command(Command),
    /// The robot should have another configuration.
    Configure {
        /// Which; its version is given here.
        desired: Desired,
        /// The version that it changes, where somebody looked at one.
        base: Option<u64>,
    },
    /// Nothing changes, but it is on record.
    Note {
        /// What happened.
        kind: &'static str,
        /// Details.
        data: serde_json::Value,
    },
}

/// Why a decision did not come into effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// The disk takes no writes at the moment; the decision may still come into effect.
    #[error("expected the decision on disk within {} s", PATIENCE.as_secs())]
    Slow,
    /// Somebody else was faster.
    #[error("expected version {expected} of the configuration to be the newest, got {newest}")]
    Changed {
        /// The version that was looked at.
        expected: u64,
        /// The one that there is.
        newest: u64,
    },
    /// The relay goes down.
    #[error("the relay is stopping")]
    Stopping,
}

/// Who waits for a decision.
pub(super) type Done = oneshot::Sender<Result<(), DecideError>>;

/// A decision and who waits for it.
#[derive(Debug)]
pub(super) struct Request {
    robot: RobotId,
    by: String,
    decision: Decision,
    done: Done,
}

/// Ingest's end.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) requests: mpsc::Receiver<Request>,
    /// Those who wait, by the number of their event in the relay's stream.
    waiting: HashMap<u64, Done>,
}

impl Desk {
    pub(super) fn new() -> (mpsc::Sender<Request>, Self) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let desk = Self {
            requests,
            waiting: HashMap::new(),
        };
        (sender, desk)
    }
}

impl Handle {
    /// Carries out what `by` decided about a robot, and waits until it holds; the robot as it is then.
    ///
    /// # Errors
    /// When it is not known to hold in time.
    pub async fn decide(
        &self,
        robot: &RobotId,
        by: &str,
        decision: Decision,
    ) -> Result<Option<RobotView>, DecideError> {
        let (done, answer) = oneshot::channel();
        let request = Request {
            robot: robot.clone(),
            by: by.to_owned(),
            decision,
            done,
        };
        let stopping = |_| DecideError::Stopping;
        self.decisions.send(request).await.map_err(stopping)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(()))) => Ok(self.robot(robot)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(DecideError::Stopping),
            Err(_) => Err(DecideError::Slow),
        }
    }
}

impl Ingest {
    pub(super) fn decide(&mut self, request: Request) {
        let Request {
            robot,
            by,
            decision,
            done,
        } = request;
        let (kind, data) = match decision {
            Decision::Approve { profile } => {
                let view = self
                    .fleet
                    .read()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .view(&robot);
                let seen = view.map_or_else(Claim::default, |view| match &view.factsheet {
                    Some(sheet) => sheet.into(),
                    // It has not spoken yet: what it enrolled as.
                    None => Claim {
                        profile: view.robot_type,
                        serial: view.registration.serial.unwrap_or_default(),
                    },
                });
                let data = serde_json::json!({ "by": by, "profile": profile, "seen": seen });
                (kind::APPROVED, data)
            }
            // String keys and JSON values always become JSON.
            Decision::Command(command) => (kind::COMMAND_REQUESTED, serde_json::json!(command)),
            Decision::Configure { mut desired, base } => match self.twins.reserve(&robot, base) {
                Ok(version) => {
                    desired.version = version;
                    (kind::CONFIGURATION_DESIRED, serde_json::json!(desired))
                }
                Err(newest) => {
                    let expected = base.unwrap_or_default();
                    // Whoever asked may have gone.
                    let _ = done.send(Err(DecideError::Changed { expected, newest }));
                    return;
                }
            },
            Decision::Note { kind, data } => (kind, data),
            Decision::Reject => (kind::REJECTED, serde_json::json!({ "by": by })),
        };
        let now = Timestamp::from_ms(clock::now_ms());
        let seq = self.own_event(now, &robot, kind, &data);
        self.wait(seq, done);
    }

    /// Somebody waits for an event of the relay's own.
    pub(super) fn wait(&mut self, seq: u64, done: Done) {
        self.desk.waiting.retain(|_, waiting| !waiting.is_closed());
        self.desk.waiting.insert(seq, done);
    }

    /// Another relay's version of a configuration came into the log before this one, which is void.
    pub(super) fn overtaken(&mut self, stored: &StoredEvent, newest: u64) {
        if stored.event.stream == self.stream
            && let Some(done) = self.desk.waiting.remove(&stored.event.seq)
        {
            let expected = newest.saturating_sub(1);
            // Whoever asked may have gone.
            let _ = done.send(Err(DecideError::Changed { expected, newest }));
        }
    }

    /// After events of the log were folded: what they say is in effect.
    pub(super) fn answer(&mut self, events: &[StoredEvent]) {
        if self.desk.waiting.is_empty() {
            return;
        }
        for stored in events {
            if stored.event.stream == self.stream
                && let Some(done) = self.desk.waiting.remove(&stored.event.seq)
            {
                // Whoever asked may have gone.
                let _ = done.send(Ok(()));
            }
        }
    }
}
