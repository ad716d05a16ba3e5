//! The configuration twin: what operators want this robot's configuration to be, tried before it counts. Pure;
//! the driver keeps [`Twin::record`] on the disk, carries outputs out in their order, and says how that went.
//!
//! A version is looked at once. What cannot be in force is rejected. Everything else is tried: it is in force,
//! and the robot says so, until the relay confirms that it heard that; without a confirmation in time, or where
//! the agent keeps being restarted meanwhile, the version before is in force again.
//!
//! Each step is on the disk before anything is done or said by it; a step that the disk does not take has not
//! happened, and why is said. The relay sends the version again, which is asking for the step again; going back is
//! tried again from here.
//!
//! Invariants: versions only go forward; nothing is tried that the disk does not have or the check refused; what
//! was rejected or rolled back never comes into force again; a trial ends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lekiwi_protocol::limits::{MAX_CONFIRM_WITHIN, MAX_REASON_BYTES};
use lekiwi_protocol::message::{ConfigurationState, Desired, Reported, Settings};
use serde::{Deserialize, Serialize};

/// How often the agent may start while one version is tried, the first time included.
const MOST_STARTS: u32 = 3;
/// How long after a failed write going back is tried again.
const RETRY_KEEPING: Duration = Duration::from_secs(5);

/// A version and what it says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Layer {
    /// Which.
    pub version: u64,
    /// Over the robot's own configuration.
    pub settings: Settings,
}

/// A version that is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Trial {
    layer: Layer,
    confirm_within_s: u64,
    /// In how many lives of the agent.
    starts: u32,
}

/// What is on the disk.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Record {
    /// The newest version that is known; neither it nor any before is looked at again.
    newest: u64,
    /// What became of it.
    state: ConfigurationState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The newest that was confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirmed: Option<Layer>,
    /// The newest, while it is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trial: Option<Trial>,
}

impl Record {
    /// What should be in force.
    fn in_force(&self) -> Option<&Layer> {
        let trial = self.trial.as_ref().map(|trial| &trial.layer);
        trial.or(self.confirmed.as_ref())
    }
}

/// What the driver is asked for, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Look whether this could be in force, and whether [`Twin::checking`] is believed, then call [`Twin::checked`] or
    /// [`Twin::not_checked`].
    Check(Layer),
    /// Write [`Twin::record`], then call [`Twin::kept`] or [`Twin::not_kept`].
    Keep,
    /// Bring [`Twin::in_force`] into force, then call [`Twin::applied`].
    Apply,
    /// Tell the relay [`Twin::reported`].
    Say,
}

/// The twin of one robot.
#[derive(Debug, Default)]
pub struct Twin {
    record: Record,
    /// What the record becomes once that is on the disk.
    next: Option<Record>,
    /// What is looked at.
    checking: Option<Desired>,
    /// When the trial is over.
    until: Option<Instant>,
    /// A way back that the disk did not take, and when it is tried again.
    back: Option<(Instant, Record)>,
    /// Why the disk did not take the last step that the relay asked for.
    untaken: Option<String>,
    /// The version that is in force, 0 for none.
    live: u64,
    /// Why what should be in force is not, although it was confirmed.
    trouble: Option<String>,
    outputs: VecDeque<Output>,
}

impl Twin {
    /// Goes on with what the disk has, while the robot's own configuration is in force.
    #[must_use]
    pub fn restore(record: Record) -> Self {
        let mut this = Self {
            record,
            ..Self::default()
        };
        let mut next = this.record.clone();
        match &mut next.trial {
            Some(trial) if trial.starts >= MOST_STARTS => {
                let starts = trial.starts;
                this.go_back(format!(
                    "the agent started {starts} times while it was tried"
                ));
            }
            Some(trial) => {
                trial.starts += 1;
                this.keep(next);
            }
            None if next.confirmed.is_some() => this.outputs.push_back(Output::Apply),
            None => {}
        }
        this
    }

    /// What must be on the disk.
    #[must_use]
    pub fn record(&self) -> &Record {
        self.next.as_ref().unwrap_or(&self.record)
    }

    /// What should be in force over the robot's own configuration.
    #[must_use]
    pub fn in_force(&self) -> Option<&Layer> {
        self.record.in_force()
    }

    /// The version that is in force; 0 for none.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.live
    }

    /// What the relay is told; `digest` is of what is in force.
    #[must_use]
    pub fn reported(&self, digest: String) -> Reported {
        let Record { newest, state, .. } = self.record;
        let (state, reason) = match (&self.trouble, state) {
            (Some(trouble), ConfigurationState::Applied) => {
                (ConfigurationState::Rejected, Some(trouble.clone()))
            }
            _ => (state, self.record.reason.clone()),
        };
        let reason = self.untaken.clone().or(reason);
        Reported {
            version: newest,
            state,
            reason,
            in_force: self.live,
            digest,
        }
    }

    /// The relay wants something.
    pub fn desired(&mut self, desired: Desired) {
        if desired.version > self.record.newest {
            self.outputs.push_back(Output::Check(Layer {
                version: desired.version,
                settings: desired.settings.clone(),
            }));
            self.checking = Some(desired);
            return;
        }
        if desired.version < self.record.newest {
            return;
        }
        if desired.confirmed && self.live == desired.version {
            let mut next = self.record.clone();
            if let Some(trial) = next.trial.take() {
                next.confirmed = Some(trial.layer);
                next.state = ConfigurationState::Applied;
                self.keep(next);
                return;
            }
        }
        self.outputs.push_back(Output::Say);
    }

    /// What is looked at, between [`Output::Check`] and [`Self::checked`].
    #[must_use]
    pub fn checking(&self) -> Option<&Desired> {
        self.checking.as_ref()
    }

    /// It cannot be looked at now, as the disk did not take what comes before that: the relay asks again.
    pub fn not_checked(&mut self, reason: &str) {
        if let Some(desired) = self.checking.take() {
            self.not_taken(desired.version, reason);
        }
    }

    /// What was to be looked at could be in force, or why not.
    pub fn checked(&mut self, outcome: Result<(), String>) {
        let Some(desired) = self.checking.take() else {
            return;
        };
        let mut next = self.record.clone();
        next.newest = desired.version;
        match outcome {
            Ok(()) => {
                next.state = ConfigurationState::Trying;
                next.reason = None;
                next.trial = Some(Trial {
                    layer: Layer {
                        version: desired.version,
                        settings: desired.settings,
                    },
                    confirm_within_s: desired.confirm_within_s,
                    starts: 1,
                });
            }
            Err(reason) => {
                next.state = ConfigurationState::Rejected;
                next.reason = Some(cut(reason));
                // Nobody will confirm an older one that is still tried.
                next.trial = None;
            }
        }
        self.keep(next);
    }

    /// The record is on the disk.
    pub fn kept(&mut self, now: Instant) {
        let Some(next) = self.next.take() else {
            return;
        };
        self.record = next;
        self.back = None;
        self.untaken = None;
        self.until = self.record.trial.as_ref().map(|trial| {
            let within = Duration::from_secs(trial.confirm_within_s);
            now + within.min(MAX_CONFIRM_WITHIN)
        });
        if self.record.in_force().map_or(0, |layer| layer.version) == self.live {
            self.outputs.push_back(Output::Say);
        } else {
            self.outputs.push_back(Output::Apply);
        }
    }

    /// It is not, for this reason: the step has not happened.
    pub fn not_kept(&mut self, now: Instant, reason: &str) {
        let Some(next) = self.next.take() else {
            return;
        };
        match (&self.record.trial, &next.trial) {
            // Not even counted, it is not tried in this life of the agent.
            (Some(trial), Some(again)) if trial.layer == again.layer => {
                let back = self.without_trial("the disk does not keep that it is tried".into());
                self.back = Some((now + RETRY_KEEPING, back));
            }
            (Some(_), None) if next.state == ConfigurationState::RolledBack => {
                self.until = None;
                self.back = Some((now + RETRY_KEEPING, next));
            }
            // The relay is told, and asks again for what it has not heard of.
            _ => {
                self.not_taken(next.newest, reason);
            }
        }
    }

    /// What should be in force is, or why it cannot be: the robot's own configuration is in force alone then.
    /// Also called when the robot's own configuration was read again.
    pub fn applied(&mut self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.live = self.record.in_force().map_or(0, |layer| layer.version);
                self.trouble = None;
                self.outputs.push_back(Output::Say);
            }
            Err(reason) => {
                self.live = 0;
                if self.record.trial.is_some() {
                    self.go_back(reason);
                } else {
                    self.trouble = Some(cut(reason));
                    self.outputs.push_back(Output::Say);
                }
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let back = self.back.as_ref().map(|(at, _)| *at);
        self.until.into_iter().chain(back).min()
    }

    /// Ends a trial that nobody confirmed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, back)) = self.back.take_if(|(at, _)| *at <= now) {
            self.keep(back);
        } else if self.until.is_some_and(|until| until <= now)
            && let Some(trial) = &self.record.trial
        {
            let within = trial.confirm_within_s;
            self.go_back(format!("the relay did not confirm it within {within} s"));
        }
    }

    /// The next thing that the driver has to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn not_taken(&mut self, version: u64, reason: &str) {
        self.untaken = Some(cut(format!(
            "expected the robot's disk to take configuration {version}: {reason}"
        )));
        self.outputs.push_back(Output::Say);
    }

    fn keep(&mut self, next: Record) {
        self.next = Some(next);
        self.outputs.push_back(Output::Keep);
    }

    fn go_back(&mut self, reason: String) {
        let next = self.without_trial(reason);
        self.keep(next);
    }

    fn without_trial(&self, reason: String) -> Record {
        Record {
            state: ConfigurationState::RolledBack,
            reason: Some(cut(reason)),
            trial: None,
            ..self.record.clone()
        }
    }
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

#[cfg(test)]
mod tests;
