//! Emergency stops: begun where they are read from the socket, ahead of everything that waits for the
//! driver. The profile's stop action is started and local programs that subscribed to `control` are told;
//! then the driver hears of it, and tells the relay.
//!
//! Invariants: a stop that cannot be read stops the robot all the same, and none is too old; the same stop
//! is begun once, however often it comes; nothing here waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lekiwi_protocol::message::{Arguments, Command};
use lekiwi_protocol::profile::StopAction;
use lekiwi_protocol::{Envelope, MessageType, RobotId};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use crate::commands::program;
use crate::driver::chain;
use crate::ipc::{Bus, Topic};
use crate::program::{Limits, Running, Stop};

/// Stops whose ids are remembered.
const REMEMBERED: usize = 16;
/// Stop actions that run at a time: a stop that finds so many is being done.
const RUNNING: usize = 4;
/// Reports that may wait for the driver.
const REPORTS: usize = 16;

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
        /// How.
        outcome: Result<Arguments, String>,
    },
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
        if !id.is_nil() && !self.is_new(id) {
            let _ = inner.reports.try_send(Report::Repeated(id));
            return;
        }
        let (running, limits) = self.start_action();
        let line = json!({ "control": { "estop": { "id": id, "by": by } } });
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
            let _ = reports.send(received).await;
            let outcome = match running {
                Some(Ok((running, _place))) => running
                    .end(limits, &mut Stop::never())
                    .await
                    .map(drop)
                    .map_err(|error| chain(&error)),
                Some(Err(reason)) => Err(reason),
                None if listeners == 0 => Err(
                    "nothing on this robot stops it: its profile has no stop action, and no local \
                     program has subscribed to control"
                        .to_owned(),
                ),
                None => Ok(()),
            };
            let told = |()| Arguments::from([("listeners".to_owned(), listeners.into())]);
            let outcome = outcome.map(told);
            let _ = reports.send(Report::Done { id, outcome }).await;
        });
    }

    fn is_new(&self, id: Uuid) -> bool {
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
