//! Where everything about the line comes together: who was seen and what happened goes in, is recorded, and is told
//! to whoever watches. Called by the servers and the watcher of [`super::serve`], which bring the time along.
//!
//! Invariants: a board that the line does not take gets nothing; a token goes to one address, and is on disk
//! before it goes out; nothing here waits for the network, so no unit waits for another.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{TokenCreated, TokenRequest};
use lekiwi_protocol::message::RegistrationStatus;
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use super::board::Serial;
use super::file::{Line, Unexpected};
use super::roster::{Counts, Roster, RosterError, Seen, Sighting};
use super::store::{Grant, Store, StoreError};
use super::unit::{Event, Key, State, Step, Unit};
use crate::relay::{Robot, Robots};

/// What a slow watcher may fall behind before it loses lines.
const NOTICES: usize = 1024;
/// How long a token lives that a seed carries: image and first boot included.
const TOKEN_LIFETIME_S: u64 = 4 * 3600;

/// Something that people may want to know at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A unit got on.
    Step {
        /// Which unit.
        key: Key,
        /// What happened.
        step: Step,
    },
    /// Something is wrong that is no unit's doing, or was asked for in vain.
    Trouble(String),
}

/// Why a board or a person does not get what it asks for.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The board is not on the list.
    #[error("{0} is not on this line's list")]
    Unexpected(Key),
    /// The unit needs a person.
    #[error("{key} failed: {reason}")]
    Failed {
        /// Which unit.
        key: Key,
        /// Why.
        reason: String,
    },
    /// The unit is through.
    #[error("{0} is enrolled already")]
    Enrolled(Key),
    /// Half a serial number is too little for a token.
    #[error("expected all 16 digits of the serial number, got {0:?}")]
    Half(Serial),
    /// Somebody else has the seed.
    #[error("the seed of {key} was given to {to} already")]
    Given {
        /// Which unit.
        key: Key,
        /// Who has it.
        to: String,
    },
    /// The unit was started again in the meantime.
    #[error("{0} was started again")]
    Overtaken(Key),
    /// No image for it.
    #[error("{0} has no image")]
    NoImage(Key),
    /// Nobody, or too many.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The records cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DeskError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unexpected(_) => {
                Some("add it to the line's file, or let the line take all: `unexpected: allow`")
            }
            Self::Failed { .. } | Self::Given { .. } => {
                Some("`lekiwi-provisioner line retry` starts it again")
            }
            _ => None,
        }
    }
}

/// A seed that can be rendered.
pub struct Ready {
    /// For whom.
    pub unit: Unit,
    /// Its token.
    pub token: String,
}

/// Whether there is a token for a unit.
pub enum Wanted {
    /// There is.
    Ready(Box<Ready>),
    /// The relay must make one; then [`Desk::granted`].
    Token {
        /// For whom.
        key: Key,
        /// For which attempt.
        attempt: u32,
        /// What to ask for.
        request: TokenRequest,
        /// The token of an earlier attempt, to be revoked.
        stale: Option<Uuid>,
    },
}

/// The line at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// How many stand where.
    pub counts: Counts,
    /// All units, by key.
    pub units: Vec<Unit>,
    /// Whether others than the list's are taken.
    pub takes_all: bool,
    /// What is wrong with the relay, while something is.
    pub trouble: Option<String>,
}

struct Inner {
    roster: Roster,
    store: Store,
    trouble: Option<String>,
}

/// See the module.
pub struct Desk {
    name: String,
    takes_all: bool,
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    notices: broadcast::Sender<Notice>,
}

impl Desk {
    /// Goes on where the records end, with the units that the file has now.
    ///
    /// # Errors
    /// When the records cannot be used.
    pub fn new(line: &Line, mut store: Store, now: Timestamp) -> Result<Self, DeskError> {
        let stored = store.units()?;
        let planned = line.planned();
        let roster = Roster::new(line.limits(), line.roster_defaults(), stored, &planned, now);
        for unit in roster.units() {
            store.keep(unit)?;
        }
        let inner = Inner {
            roster,
            store,
            trouble: None,
        };
        Ok(Self {
            name: line.name.clone(),
            takes_all: line.unexpected == Unexpected::Allow,
            inner: Mutex::new(inner),
            changes: watch::Sender::new(0),
            notices: broadcast::Sender::new(NOTICES),
        })
    }

    /// A number that grows with each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What happens from now on.
    #[must_use]
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// Tells people about something that is no unit's step.
    pub fn trouble(&self, text: String) {
        // Nobody may be watching.
        let _ = self.notices.send(Notice::Trouble(text));
    }

    /// The line as it is.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.inner();
        Snapshot {
            name: self.name.clone(),
            counts: inner.roster.counts(self.takes_all),
            units: inner.roster.units().cloned().collect(),
            takes_all: self.takes_all,
            trouble: inner.trouble.clone(),
        }
    }

    /// One unit, by whatever a person calls it.
    ///
    /// # Errors
    /// When there is none.
    pub fn unit(&self, name: &str) -> Result<Unit, DeskError> {
        Ok(self.inner().roster.named(name)?.clone())
    }

    /// A board was seen, and did something.
    ///
    /// # Errors
    /// When the line does not take it; that it was seen is recorded all the same.
    pub fn happened(
        &self,
        now: Timestamp,
        sighting: &Sighting,
        event: Event,
    ) -> Result<Key, DeskError> {
        let inner = &mut *self.inner();
        let key = self.seen(inner, now, sighting)?;
        self.handle(inner, &key, now, event)?;
        Ok(key)
    }

    /// The image of a unit that may have one.
    ///
    /// # Errors
    /// When it may not, or has none.
    pub fn image(&self, now: Timestamp, sighting: &Sighting) -> Result<(Key, String), DeskError> {
        let inner = &mut *self.inner();
        let key = self.seen(inner, now, sighting)?;
        let unit = under_way(inner, &key)?;
        let image = unit
            .image
            .clone()
            .ok_or_else(|| DeskError::NoImage(key.clone()))?;
        Ok((key, image))
    }

    /// Whether `from` may have the seed of a unit, and whether there is a token for it.
    ///
    /// # Errors
    /// When it may not.
    pub fn seed(
        &self,
        now: Timestamp,
        sighting: &Sighting,
        from: &str,
    ) -> Result<Wanted, DeskError> {
        let inner = &mut *self.inner();
        let key = self.seen(inner, now, sighting)?;
        let unit = under_way(inner, &key)?.clone();
        let serial = match &unit.serial {
            Some(serial) if serial.is_whole() => serial.clone(),
            Some(serial) => return Err(DeskError::Half(serial.clone())),
            None => return Err(RosterError::Nobody.into()),
        };
        let granted = inner.store.grant(&key)?;
        match granted {
            Some(grant) if grant.attempt == unit.attempt => ready(unit, grant, from),
            other => Ok(Wanted::Token {
                key,
                attempt: unit.attempt,
                request: TokenRequest {
                    // The board may turn out to be another robot than the list says; generic is anything.
                    profile: (unit.profile != "generic").then_some(unit.profile),
                    serial: Some(serial.as_str().to_owned()),
                    robot_id: unit.robot_id,
                    lifetime_s: Some(TOKEN_LIFETIME_S),
                    max_uses: None,
                },
                stale: other.map(|grant| grant.token_id),
            }),
        }
    }

    /// Keeps a token that the relay made. Another one that came first is used in its place.
    ///
    /// # Errors
    /// When the unit was started again, or the token cannot be kept; the token is of no use then.
    pub fn granted(
        &self,
        key: &Key,
        attempt: u32,
        token: TokenCreated,
        from: &str,
    ) -> Result<Wanted, DeskError> {
        let inner = &mut *self.inner();
        let unit = under_way(inner, key)?.clone();
        if unit.attempt != attempt {
            return Err(DeskError::Overtaken(key.clone()));
        }
        if let Some(grant) = inner.store.grant(key)?
            && grant.attempt == attempt
        {
            return ready(unit, grant, from);
        }
        let grant = Grant {
            attempt,
            token_id: token.info.id,
            token: token.token,
            given_to: from.to_owned(),
        };
        inner.store.grant_to(key, &grant)?;
        ready(unit, grant, from)
    }

    /// A person wants a unit to start again.
    ///
    /// # Errors
    /// When there is no such unit, or it makes no sense.
    pub fn retry(&self, now: Timestamp, name: &str) -> Result<Key, DeskError> {
        let inner = &mut *self.inner();
        let key = inner.roster.named(name)?.key.clone();
        self.handle(inner, &key, now, Event::Retry)?;
        Ok(key)
    }

    /// Time passes: units that take too long fail, and what other processes asked for is done.
    ///
    /// # Errors
    /// When the records cannot be used.
    pub fn tick(&self, now: Timestamp) -> Result<(), DeskError> {
        let inner = &mut *self.inner();
        for key in inner.roster.due(now) {
            self.handle(inner, &key, now, Event::Tick)?;
        }
        for key in inner.store.take_wishes()? {
            if let Err(error) = self.handle(inner, &key, now, Event::Retry) {
                self.trouble(format!("retry of {key}: {error}"));
            }
        }
        Ok(())
    }

    /// What the relay shows now.
    ///
    /// # Errors
    /// When the records cannot be used.
    pub fn relay_shows(&self, now: Timestamp, robots: &Robots) -> Result<(), DeskError> {
        let inner = &mut *self.inner();
        self.relay_answers(inner, None);
        let by_id: BTreeMap<&str, &Robot> = robots
            .robots
            .iter()
            .map(|robot| (robot.id.as_str(), robot))
            .collect();
        let mut events = Vec::new();
        for unit in inner.roster.units() {
            if unit.state == State::Healthy || !(unit.expected || self.takes_all) {
                continue;
            }
            let own = |robot: &&Robot| {
                let shown = serial_of(robot);
                matches!((&unit.serial, &shown), (Some(a), Some(b)) if a.fits(b))
            };
            let named = || {
                let id = unit.robot_id.as_ref()?;
                let robot = by_id.get(id.as_str())?;
                // The same name on another board is another robot.
                serial_of(robot).is_none().then_some(*robot)
            };
            let robot = robots.robots.iter().find(own).or_else(named);
            if let Some(robot) = robot.filter(|robot| heard(unit, robot, robots.now, now)) {
                events.extend(told(robot).map(|event| (unit.key.clone(), event)));
            }
        }
        for (key, event) in events {
            self.handle(inner, &key, now, event)?;
        }
        Ok(())
    }

    /// The relay does not answer, or not as a relay.
    pub fn relay_fails(&self, reason: String) {
        self.relay_answers(&mut self.inner(), Some(reason));
    }

    fn relay_answers(&self, inner: &mut Inner, trouble: Option<String>) {
        if inner.trouble != trouble {
            match &trouble {
                Some(reason) => self.trouble(reason.clone()),
                None => self.trouble("the relay answers again".into()),
            }
            inner.trouble = trouble;
            self.changed();
        }
    }

    /// Recognises a board, and refuses it where the line does not take it.
    fn seen(
        &self,
        inner: &mut Inner,
        now: Timestamp,
        sighting: &Sighting,
    ) -> Result<Key, DeskError> {
        let Seen { key, new, changed } = inner.roster.sight(now, sighting)?;
        for gone in inner.roster.take_gone() {
            inner.store.forget(&gone)?;
        }
        let Some(unit) = inner.roster.unit(&key) else {
            return Err(RosterError::Unknown(key.0).into());
        };
        if changed {
            inner.store.keep(unit)?;
            self.changed();
        }
        if new && !self.takes_all {
            self.trouble(DeskError::Unexpected(key.clone()).to_string());
        }
        if unit.expected || self.takes_all {
            Ok(key)
        } else {
            Err(DeskError::Unexpected(key))
        }
    }

    fn handle(
        &self,
        inner: &mut Inner,
        key: &Key,
        now: Timestamp,
        event: Event,
    ) -> Result<(), DeskError> {
        let steps = inner.roster.unit(key).map_or(0, |unit| unit.steps.len());
        if !inner.roster.handle(key, now, event)? {
            return Ok(());
        }
        if let Some(unit) = inner.roster.unit(key) {
            inner.store.keep(unit)?;
            for step in unit.steps.iter().skip(steps) {
                let notice = Notice::Step {
                    key: key.clone(),
                    step: step.clone(),
                };
                // Nobody may be watching.
                let _ = self.notices.send(notice);
            }
        }
        self.changed();
        Ok(())
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn under_way<'a>(inner: &'a Inner, key: &Key) -> Result<&'a Unit, DeskError> {
    let unit = inner
        .roster
        .unit(key)
        .ok_or_else(|| RosterError::Unknown(key.0.clone()))?;
    match &unit.state {
        State::Waiting | State::Booting | State::Installing => Ok(unit),
        State::Enrolled | State::Healthy => Err(DeskError::Enrolled(key.clone())),
        State::Failed { reason } => Err(DeskError::Failed {
            key: key.clone(),
            reason: reason.clone(),
        }),
    }
}

fn ready(unit: Unit, grant: Grant, from: &str) -> Result<Wanted, DeskError> {
    if grant.given_to == from {
        Ok(Wanted::Ready(Box::new(Ready {
            unit,
            token: grant.token,
        })))
    } else {
        Err(DeskError::Given {
            key: unit.key,
            to: grant.given_to,
        })
    }
}

fn serial_of(robot: &Robot) -> Option<Serial> {
    robot.factsheet.as_ref()?.hardware.serial.parse().ok()
}

/// Whether the relay heard of it in the unit's attempt. Both clocks are asked for a span only: they may differ.
fn heard(unit: &Unit, robot: &Robot, relay_now: Timestamp, now: Timestamp) -> bool {
    let here = |at: Timestamp| {
        let age = relay_now.since(at);
        now.as_ms()
            .saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    };
    // Heard since it was seen here: before, it was on its old card.
    let booted = unit.entered("booting").or(unit.entered("installing"));
    let is_back = robot
        .status
        .last_seen
        .zip(booted)
        .is_some_and(|(seen, booted)| here(seen) >= booted.as_ms());
    // One that was not seen here may come with a card of its own; then its certificate is new.
    let is_new = robot
        .status
        .registered_at
        .is_some_and(|at| here(at) >= unit.attempt_since.as_ms());
    is_back || is_new
}

/// What that means for the unit.
fn told(robot: &Robot) -> impl Iterator<Item = Event> + use<> {
    let registration = &robot.registration;
    let refused = (registration.status != RegistrationStatus::Registered).then(|| {
        let reason = registration.reason.as_deref().unwrap_or("no reason given");
        Event::Refused(format!("{} by the relay: {reason}", registration.status))
    });
    let healthy = robot.health.as_ref().is_some_and(|health| health.healthy);
    let healthy = (healthy && refused.is_none()).then_some(Event::Healthy);
    let enrolled = refused.is_none().then(|| Event::Enrolled(robot.id.clone()));
    [refused, enrolled, healthy].into_iter().flatten()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
#[path = "desk/tests.rs"]
mod tests;
