//! Emergency stops: begun where they are read from the socket, ahead of everything that waits for the
//! driver. The profile's stop action is started and local programs that subscribed to `control` are told;
//! then the driver hears of it, and tells the relay. What ends well is what stopped something: the stop
//! action, or where there is none, a program that was told and has confirmed it.
//!
//! Invariants: a stop that cannot be read stops the robot all the same, and none is too old; the same stop
//! is begun once, however often it comes; the stop action waits for nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lekiwi_protocol::message::{Arguments, Command};
use lekiwi_protocol::profile::StopAction;
use lekiwi_protocol::{Envelope, MessageType, RobotId};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use crate::clock;
use crate::commands::program;
use crate::driver::chain;
use crate::ipc::{Bus, StopStatus, Topic};
use crate::program::{Limits, Running, Stop};

/// Stops whose ids are remembered.
const REMEMBERED: usize = 16;
/// Stop actions that run at a time: a stop that finds so many is being done.
const RUNNING: usize = 4;
/// How long local programs have to confirm.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);
/// Stops that cannot be read are the same one, as long as they come in such a distance.
const SAME_UNREAD: Duration = Duration::from_secs(5);
/// Reports that may wait for the driver.
const REPORTS: usize = 16;

/// What helps where nothing stops the robot.
const HINT: &str = "(hint: give the profile a `stop`, or have the program that drives it confirm stops: docs/commands.md)";

/// What the driver hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// A stop came.
    Received {
        /// Which; nil for one that could not be read.
        id: Uuid,
        /// Who asked for it.
        by: String,
        /// Local programs that were told.
        listeners: usize,
        /// Whether the stop action began.
        action: bool,
    },
    /// It came again.
    Repeated(Uuid),
    /// All that a stop began has ended.
    Done {
        /// Which.
        id: Uuid,
        /// What local programs did.
        heard: Heard,
        /// How it ended: why it may not have stopped the robot.
        outcome: Result<(), String>,
    },
}

/// What became of telling local programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// How many were told.
    pub listeners: usize,
    /// How many of them confirmed in time.
    pub confirmed: usize,
}

impl Heard {
    /// As the result of the command.
    #[must_use]
    pub fn arguments(self) -> Arguments {
        let count = |name: &str, count: usize| (name.to_owned(), count.into());
        Arguments::from([
            count("listeners", self.listeners),
            count("confirmed", self.confirmed),
        ])
    }

    /// How a stop ended whose stop action ended so; `None` where the profile has none.
    fn judge(self, action: Option<Result<(), String>>) -> Result<(), String> {
        let Self {
            listeners,
            confirmed,
        } = self;
        let within = CONFIRMED_WITHIN.as_secs();
        match (action, listeners, confirmed) {
            (Some(Ok(())), _, _) | (None, _, 1..) => Ok(()),
            (Some(Err(reason)), 0, _) => Err(reason),
            (Some(Err(reason)), _, _) => Err(format!(
                "{reason}; {confirmed} of {listeners} local programs confirmed within {within} s"
            )),
            (None, 0, 0) => Err(format!(
                "nothing on this robot stops it: its profile has no stop action, and no local program has \
                 subscribed to control {HINT}"
            )),
            (None, _, 0) => Err(format!(
                "nobody confirmed that the robot stopped: its profile has no stop action, and none of {listeners} \
                 local programs that were told answered {{\"stopped\":ID}} within {within} s {HINT}"
            )),
        }
    }
}

/// The stop action with its place among those that run, or why it does not; `None` where there is none.
type Started = Option<Result<(Running, OwnedSemaphorePermit), String>>;

/// Begins emergency stops; cheap to clone.
#[derive(Debug, Clone)]
pub struct Estop {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    robot: RobotId,
    action: Mutex<Option<StopAction>>,
    seen: Mutex<VecDeque<Uuid>>,
    /// When one last began that could not be read.
    unread: Mutex<Option<Instant>>,
    running: Arc<Semaphore>,
    bus: Bus,
    reports: mpsc::Sender<Report>,
}

impl Estop {
    /// For `robot`, without a stop action so far; local programs are told by `bus`, reports go to the
    /// receiver.
    #[must_use]
    pub fn new(robot: RobotId, bus: Bus) -> (Self, mpsc::Receiver<Report>) {
        let (reports, heard) = mpsc::channel(REPORTS);
        let inner = Inner {
            robot,
            action: Mutex::default(),
            seen: Mutex::default(),
            unread: Mutex::default(),
            running: Arc::new(Semaphore::new(RUNNING)),
            bus,
            reports,
        };
        let inner = Arc::new(inner);
        (Self { inner }, heard)
    }

    /// The profile's stop action from now on.
    pub fn learn(&self, action: Option<StopAction>) {
        *lock(&self.inner.action) = action;
    }

    /// What would stop the robot now.
    #[must_use]
    pub fn status(&self) -> StopStatus {
        let inner = &self.inner;
        StopStatus {
            action: lock(&inner.action).is_some(),
            listeners: inner.bus.listeners(Topic::Control),
            confirmed: inner.bus.proven(),
        }
    }

    /// Begins a stop, `payload` being what came on its topic.
    pub fn begin(&self, payload: &[u8]) {
        let inner = &self.inner;
        let parsed = Envelope::<Command>::parse(MessageType::Command, &inner.robot, payload);
        let (id, by) = match parsed {
            Ok(envelope) => (envelope.payload.id, envelope.payload.by),
            Err(error) => {
                log::error!(
                    "an emergency stop cannot be read, and stops the robot all the same: {}",
                    chain(&error)
                );
                (Uuid::nil(), String::new())
            }
        };
        if !self.is_new(id) {
            let _ = inner.reports.try_send(Report::Repeated(id));
            return;
        }
        let (running, limits) = self.start_action();
        let line = json!({ "control": { "estop": { "id": id, "by": by } } });
        let mut confirmations = inner.bus.expect_stopped(id);
        let listeners = inner.bus.publish(Topic::Control, line.to_string());
        let action = running.as_ref().is_some_and(Result::is_ok);
        let reports = inner.reports.clone();
        tokio::spawn(async move {
            let received = Report::Received {
                id,
                by,
                listeners,
                action,
            };
            let stop = async {
                match running? {
                    Ok((running, _place)) => {
                        let ended = running.end(limits, &mut Stop::never()).await;
                        Some(ended.map(drop).map_err(|error| chain(&error)))
                    }
                    Err(reason) => Some(Err(reason)),
                }
            };
            let all = confirmations.all(listeners);
            let confirmed = tokio::time::timeout(CONFIRMED_WITHIN, all);
            // Whatever the driver does meanwhile: both have begun already.
            let (_, ended, _) = tokio::join!(reports.send(received), stop, confirmed);
            let heard = Heard {
                listeners,
                confirmed: confirmations.count(),
            };
            let outcome = heard.judge(ended);
            let _ = reports.send(Report::Done { id, heard, outcome }).await;
        });
    }

    /// One that cannot be read says nothing of itself, and nobody can answer it: it comes until the relay gives up.
    fn is_new(&self, id: Uuid) -> bool {
        if id.is_nil() {
            let (mut unread, now) = (lock(&self.inner.unread), clock::now());
            let is_new = unread.is_none_or(|at| now.duration_since(at) >= SAME_UNREAD);
            *unread = Some(now);
            return is_new;
        }
        let mut seen = lock(&self.inner.seen);
        if seen.contains(&id) {
            return false;
        }
        if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(id);
        true
    }

    fn start_action(&self) -> (Started, Limits) {
        let action = lock(&self.inner.action);
        let timeout = action.as_ref().map_or(0, |action| action.timeout_s);
        let limits = Limits {
            total: Duration::from_secs(timeout),
            silence: Duration::from_secs(timeout),
        };
        let started = action.as_ref().map(|action| {
            let place = self.inner.running.clone().try_acquire_owned();
            let place = place.map_err(|_| format!("{RUNNING} stop actions run already"))?;
            let running = Running::start(program(&action.run)).map_err(|error| chain(&error))?;
            Ok((running, place))
        });
        (started, limits)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_well_when_something_stopped_and_says_why_it_did_not() {
        let broken = || {
            Some(Err(
                "expected `/opt/stop` to succeed, got exit status: 1".to_owned()
            ))
        };
        let hint = "(hint: give the profile a `stop`, or have the program that drives it confirm stops: docs/commands.md)";
        for (listeners, confirmed, action, expected) in [
            (0, 0, Some(Ok(())), None),
            (2, 0, Some(Ok(())), None),
            (2, 1, None, None),
            (
                0,
                0,
                broken(),
                Some("expected `/opt/stop` to succeed, got exit status: 1".to_owned()),
            ),
            (
                2,
                1,
                broken(),
                Some(
                    "expected `/opt/stop` to succeed, got exit status: 1; 1 of 2 local programs confirmed within 1 s"
                        .to_owned(),
                ),
            ),
            (
                0,
                0,
                None,
                Some(format!(
                    "nothing on this robot stops it: its profile has no stop action, and no local program has \
                     subscribed to control {hint}"
                )),
            ),
            (
                2,
                0,
                None,
                Some(format!(
                    "nobody confirmed that the robot stopped: its profile has no stop action, and none of 2 local \
                     programs that were told answered {{\"stopped\":ID}} within 1 s {hint}"
                )),
            ),
        ] {
            let heard = Heard {
                listeners,
                confirmed,
            };
            assert_eq!(heard.judge(action).err(), expected);
        }
    }
}
