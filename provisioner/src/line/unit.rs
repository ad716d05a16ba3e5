//! One unit's life on the line. Pure: what happened and when go in, the state comes out.
//!
//! Invariants: times never go back in a unit's steps; a healthy unit stays so; a unit that failed leaves that
//! state only by a retry, or because the relay knows it after all; a unit that is under way fails by itself
//! when its time is over; steps of one attempt are bounded.

use std::fmt;
use std::time::Duration;

use lekiwi_protocol::{RobotId, Timestamp};
use serde::{Deserialize, Serialize};

use super::board::{Mac, Serial};

/// Most steps that one attempt records; a board that reports more is not believed to get anywhere.
const MAX_STEPS: usize = 100;
/// Longest detail of a step, in characters.
const MAX_DETAIL: usize = 300;

/// What a unit is called on the line: the first thing that was known of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub String);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a unit stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum State {
    /// Nothing was heard of it.
    Waiting,
    /// It asked for an address, a file or the script.
    Booting,
    /// It got its image or its seed.
    Installing,
    /// The relay knows it.
    Enrolled,
    /// All services and checks of its profile pass. The end.
    Healthy,
    /// It will not get there by itself.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

impl State {
    /// The state in one word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Booting => "booting",
            Self::Installing => "installing",
            Self::Enrolled => "enrolled",
            Self::Healthy => "healthy",
            Self::Failed { .. } => "failed",
        }
    }

    /// Why it failed; `None` when it did not.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed { reason } => Some(reason),
            _ => None,
        }
    }
}

/// Something that happened to a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// In which attempt, from 1.
    pub attempt: u32,
    /// When.
    pub at: Timestamp,
    /// What: `dhcp`, `tftp`, `seed`, `image`, a state's name, or what the board reported.
    pub name: String,
    /// More about it; may be empty.
    pub detail: String,
}

/// How long a unit may stay in each state before it counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the first sign of life to image or seed.
    pub booting: Duration,
    /// From image or seed to the relay.
    pub installing: Duration,
    /// From the relay to healthy.
    pub enrolled: Duration,
}

/// What can happen to a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It asked for its boot by DHCP.
    Dhcp,
    /// It fetched a file by TFTP.
    Tftp(String),
    /// It fetched its image, by this name.
    Image(String),
    /// It fetched its seed, from this address.
    Seed(String),
    /// The board says what it does.
    Report {
        /// What: `failed` ends the attempt.
        step: String,
        /// More about it.
        detail: String,
    },
    /// The relay knows it and heard of it in this attempt.
    Enrolled(RobotId),
    /// The relay knows it, but does not let it take part.
    Refused(String),
    /// The relay shows it healthy.
    Healthy,
    /// A person wants it to start again.
    Retry,
    /// Time passes.
    Tick,
}

/// Why a retry is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It did not begin.
    #[error("expected a unit that failed or hangs, but {0} is still waiting")]
    Waiting(Key),
    /// It is done.
    #[error("expected a unit that failed or hangs, but {0} is healthy")]
    Healthy(Key),
}

/// A unit of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name on the line; never changes.
    pub key: Key,
    /// Its board's serial number, as far as it is known.
    pub serial: Option<Serial>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// What the board calls itself, or its type by network boot.
    pub board: Option<String>,
    /// Its memory in MiB.
    pub memory_mib: Option<u32>,
    /// Who it becomes; absent until the serial number or the file says so.
    pub robot_id: Option<RobotId>,
    /// Its hardware profile.
    pub profile: String,
    /// Its image's file name, where it gets one.
    pub image: Option<String>,
    /// Whether the line's file names it.
    pub expected: bool,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// The attempt under way, from 1.
    pub attempt: u32,
    /// When that began: what the relay heard before does not count.
    pub attempt_since: Timestamp,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

impl Unit {
    /// One that nothing was heard of.
    #[must_use]
    pub fn new(key: Key, profile: String, now: Timestamp) -> Self {
        Self {
            key,
            serial: None,
            mac: None,
            board: None,
            memory_mib: None,
            robot_id: None,
            profile,
            image: None,
            expected: true,
            state: State::Waiting,
            since: now,
            attempt: 1,
            attempt_since: now,
            steps: Vec::new(),
        }
    }

    /// Takes what happened at `now`; says whether anything changed.
    ///
    /// # Errors
    /// When a retry makes no sense; nothing else is refused.
    pub fn handle(
        &mut self,
        now: Timestamp,
        limits: &Limits,
        event: Event,
    ) -> Result<bool, Refused> {
        let now = now.max(self.since);
        let before = (self.state.name(), self.steps.len(), self.attempt);
        match event {
            Event::Dhcp => self.alive(now, "dhcp", String::new()),
            Event::Tftp(file) => self.alive(now, "tftp", file),
            Event::Image(name) => self.works(now, "image", name),
            Event::Seed(to) => self.works(now, "seed", to),
            Event::Report { step, detail } => self.report(now, step, detail),
            Event::Enrolled(robot) => {
                // One that the relay knew and that failed after all waits for its health.
                if self.state != State::Healthy && !self.has("enrolled") {
                    self.robot_id = Some(robot);
                    self.enter(now, State::Enrolled);
                }
            }
            Event::Refused(reason) => {
                if !matches!(self.state, State::Healthy | State::Failed { .. }) {
                    self.fail(now, reason);
                }
            }
            Event::Healthy => {
                if self.state != State::Healthy {
                    self.enter(now, State::Healthy);
                }
            }
            Event::Retry => self.retry(now)?,
            Event::Tick => self.tick(now, limits),
        }
        Ok(before != (self.state.name(), self.steps.len(), self.attempt))
    }

    /// When [`Event::Tick`] will fail the unit, if nothing happens before.
    #[must_use]
    pub fn deadline(&self, limits: &Limits) -> Option<Timestamp> {
        let limit = match self.state {
            State::Booting => limits.booting,
            State::Installing => limits.installing,
            State::Enrolled => limits.enrolled,
            State::Waiting | State::Healthy | State::Failed { .. } => return None,
        };
        Some(self.since.plus(limit))
    }

    /// When it entered a state in the attempt under way.
    #[must_use]
    pub fn entered(&self, state: &str) -> Option<Timestamp> {
        self.steps
            .iter()
            .rev()
            .take_while(|step| step.attempt == self.attempt)
            .find(|step| step.name == state)
            .map(|step| step.at)
    }

    fn retry(&mut self, now: Timestamp) -> Result<(), Refused> {
        match self.state {
            State::Waiting => return Err(Refused::Waiting(self.key.clone())),
            State::Healthy => return Err(Refused::Healthy(self.key.clone())),
            State::Booting | State::Installing | State::Enrolled | State::Failed { .. } => {}
        }
        self.attempt = self.attempt.saturating_add(1);
        self.attempt_since = now;
        self.enter(now, State::Waiting);
        Ok(())
    }

    fn tick(&mut self, now: Timestamp, limits: &Limits) {
        let Some(deadline) = self.deadline(limits) else {
            return;
        };
        if now < deadline {
            return;
        }
        let (limit, missing) = match self.state {
            State::Booting => (limits.booting, "its image or its seed was fetched"),
            State::Installing => (limits.installing, "the relay heard of it"),
            _ => (limits.enrolled, "its services and checks passed"),
        };
        let reason = format!("{} min went by before {missing}", limit.as_secs() / 60);
        self.fail(now, reason);
    }

    /// A sign of life, recorded once an attempt.
    fn alive(&mut self, now: Timestamp, name: &str, detail: String) {
        if matches!(self.state, State::Failed { .. } | State::Healthy) || self.has(name) {
            return;
        }
        if self.state == State::Waiting {
            self.enter(now, State::Booting);
        }
        self.record(now, name, detail);
    }

    fn works(&mut self, now: Timestamp, name: &str, detail: String) {
        if matches!(self.state, State::Failed { .. } | State::Healthy) || self.has(name) {
            return;
        }
        if matches!(self.state, State::Waiting | State::Booting) {
            self.enter(now, State::Installing);
        }
        self.record(now, name, detail);
    }

    fn report(&mut self, now: Timestamp, step: String, detail: String) {
        match (step.as_str(), &self.state) {
            (_, State::Failed { .. } | State::Healthy) => {}
            ("failed", _) => {
                self.fail(now, detail);
            }
            (_, State::Waiting) => {
                self.enter(now, State::Booting);
                self.record(now, &step, detail);
            }
            _ => self.record(now, &step, detail),
        }
    }

    fn fail(&mut self, now: Timestamp, reason: String) {
        let reason = if reason.is_empty() {
            "no reason was given".to_owned()
        } else {
            cut(&reason)
        };
        self.enter(now, State::Failed { reason });
    }

    /// State changes are recorded however many steps there are: they are few by themselves.
    fn enter(&mut self, now: Timestamp, state: State) {
        let name = state.name();
        let detail = state.reason().unwrap_or_default().to_owned();
        self.state = state;
        self.since = now;
        self.push(now, name, detail);
    }

    fn record(&mut self, now: Timestamp, name: &str, detail: String) {
        let own = |step: &&Step| step.attempt == self.attempt;
        if self.steps.iter().rev().take_while(own).count() < MAX_STEPS {
            self.push(now, name, detail);
        }
    }

    fn push(&mut self, now: Timestamp, name: &str, detail: String) {
        let last = self.steps.last().map_or(now, |step| step.at);
        self.steps.push(Step {
            attempt: self.attempt,
            at: now.max(last),
            name: name.to_owned(),
            detail: cut(&detail),
        });
    }

    fn has(&self, name: &str) -> bool {
        self.entered(name).is_some()
    }
}

fn cut(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_DETAIL)
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
#[path = "unit/tests.rs"]
mod tests;
