//! The driver's part in the next certificate: asked for in a task of its own, proved by the link.

use std::time::{Duration, Instant};

use lekiwi_agent_core::lifecycle;
use lekiwi_agent_core::renewal::{Input, Output, Renewal, Which};
use lekiwi_protocol::message::Arguments;
use lekiwi_protocol::{Clock, RobotId, Timestamp};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Driver, chain};
use crate::clock;
use crate::identity::{EnrolError, Identity, IdentityError, renew};
use crate::ipc::RenewalStatus;

/// Takes how a renewal ended.
type End = oneshot::Sender<Result<Arguments, String>>;

/// What is under way.
pub(super) struct Renewing {
    core: Renewal,
    /// The present certificate's number.
    serial: Option<String>,
    task: Option<JoinHandle<Result<(), EnrolError>>>,
    /// What the link connects with, or did last.
    shown: Which,
    /// What the relay said that it is, and when.
    told: Option<(Instant, Timestamp)>,
    /// Why there is no next certificate.
    trouble: Option<String>,
    /// The command that waits for another certificate.
    asked_by: Option<End>,
}

impl Renewing {
    pub(super) fn new(robot: RobotId, present: Option<&Identity>, has_next: bool) -> Self {
        let term = present.map(Identity::term);
        Self {
            core: Renewal::new(robot, clock::now(), term, has_next),
            serial: present.map(|identity| identity.serial.clone()),
            task: None,
            shown: Which::Present,
            told: None,
            trouble: None,
            asked_by: None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.core.poll_timeout()
    }

    pub(super) fn status(&self) -> RenewalStatus {
        RenewalStatus {
            serial: self.serial.clone(),
            renews_at: self.core.renews_at(),
            trouble: self.trouble.clone(),
        }
    }

    /// The relay said at `time` what is heard now.
    pub(super) fn heard(&mut self, time: Timestamp) {
        self.told = Some((clock::now(), time));
    }

    /// Answers the command that waits, where one does.
    fn end(&mut self, outcome: Result<Arguments, String>) {
        if let Some(end) = self.asked_by.take() {
            // One that took too long does not listen any more.
            let _ = end.send(outcome);
        }
    }

    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<(), EnrolError> {
        let result = match &mut self.task {
            // A task that was given up is as good as no answer.
            Some(task) => task
                .await
                .unwrap_or_else(|error| Err(EnrolError::Relay(error.to_string()))),
            None => std::future::pending().await,
        };
        self.task = None;
        result
    }
}

impl Driver {
    pub(super) fn renewal(&mut self, input: Input) {
        let now = clock::now();
        // Where nobody sets the clock, the relay knows better: it is asked nothing but the time to ask for more.
        let time = match (clock::state(), self.renewing.told) {
            (Clock::Synced, _) => clock::wall(),
            (Clock::Unsynced, None) => self.floor.latest(),
            (Clock::Unsynced, Some((at, time))) => {
                let passed: Duration = now.saturating_duration_since(at);
                time.plus(passed).max(self.floor.latest())
            }
        };
        let mut random = || getrandom::u64().unwrap_or(u64::MAX / 2);
        self.renewing.core.handle(now, time, input, &mut random);
        while let Some(output) = self.renewing.core.poll_output() {
            match output {
                Output::Ask => {
                    let (enrolment, now) = (self.enrolment.clone(), self.floor.certificate_time());
                    let task = async move { renew(&enrolment, now).await };
                    self.renewing.task = Some(tokio::spawn(task));
                }
                // Heard when the robot is online and nobody drives it; otherwise it connects with it by itself.
                Output::Move => self.input(lifecycle::Input::Move),
                Output::Promote => self.promote(),
                Output::Drop => {
                    log::warn!("the new certificate is dropped: only the one before is accepted");
                    if let Err(error) = self.enrolment.store.drop_next() {
                        log::warn!("{}", chain(&error));
                    }
                    let reason = "expected a broker that takes the new certificate, got one that takes only the one before";
                    self.renewing.end(Err(reason.to_owned()));
                }
            }
        }
    }

    pub(super) fn look_after_renewal(&mut self, now: Instant) {
        if self.renewing.poll_timeout().is_some_and(|at| at <= now) {
            self.renewal(Input::Timeout);
        }
    }

    /// The relay has answered, or nobody has.
    pub(super) fn renewed(&mut self, result: Result<(), EnrolError>) {
        match result {
            Ok(()) => {
                log::info!("there is a new certificate, which is tried");
                self.renewing.trouble = None;
                self.renewal(Input::Got);
            }
            Err(error) => {
                let text = chain(&error);
                if self.renewing.trouble.as_deref() != Some(&text) {
                    log::warn!("the certificate is not renewed: {text}");
                }
                self.renewing.end(Err(text.clone()));
                self.renewing.trouble = Some(text);
                // The time may have been the reason.
                self.floor.failed();
                self.renewal(Input::Failed);
            }
        }
    }

    /// Somebody wants the certificate renewed now.
    pub(super) fn renew_now(&mut self) {
        self.renewal(Input::Wanted);
    }

    /// The same for a command, which `end` tells how it went. One that is under way is as good as another.
    pub(super) fn renew_for(&mut self, end: End) {
        self.renewing.asked_by = Some(end);
        if self.uplink.is_up() {
            self.renew_now();
        }
    }

    /// The link did, or did not, come to be with what it showed.
    pub(super) fn proved(&mut self, is_accepted: bool) {
        let shown = self.renewing.shown;
        self.renewal(match is_accepted {
            true => Input::Accepted(shown),
            false => Input::Refused(shown),
        });
        // The command began before this agent did.
        if is_accepted && self.renewing.asked_by.is_some() {
            self.renew_now();
        }
    }

    /// What to connect with: the next certificate until it is known whether that works.
    pub(super) fn identity(&mut self, now: Timestamp) -> Result<Identity, IdentityError> {
        let first = self.renewing.core.certificate();
        let second = match first {
            Which::Present => Which::Next,
            Which::Next => Which::Present,
        };
        let load = |which| {
            let pinned = self.config.relay.ca_fingerprint;
            let store = &self.enrolment.store;
            store.load_one(which, &self.config.robot_id, pinned, now)
        };
        let (shown, identity) = match load(first) {
            Ok(identity) => (first, identity),
            Err(error) => match (load(second), first) {
                (Ok(identity), _) => (second, identity),
                (Err(_), Which::Present) => return Err(error),
                (Err(error), Which::Next) => return Err(error),
            },
        };
        if shown != first {
            self.renewal(Input::Refused(first));
        }
        self.renewing.shown = shown;
        let is_known = self.renewing.serial.as_ref() == Some(&identity.serial);
        if shown == Which::Present && !is_known && !self.enrolment.store.has_next() {
            self.has_identity(&identity);
        }
        Ok(identity)
    }

    fn promote(&mut self) {
        let Self {
            enrolment, config, ..
        } = self;
        let now = self.floor.certificate_time();
        let promoted = enrolment.store.promote().and_then(|()| {
            enrolment
                .store
                .load(&config.robot_id, config.relay.ca_fingerprint, now)
        });
        match promoted {
            Ok(identity) => {
                log::info!(
                    "certificate {} counts from now on, until {}",
                    identity.serial,
                    identity.not_after
                );
                self.has_identity(&identity);
                self.local.states.want();
            }
            Err(error) => log::warn!("the new certificate is not kept yet: {}", chain(&error)),
        }
    }

    /// This is the robot's certificate now.
    pub(super) fn has_identity(&mut self, identity: &Identity) {
        self.floor.passed(identity.not_before);
        self.not_after = Some(identity.not_after);
        let before = self.renewing.serial.replace(identity.serial.clone());
        if before.is_some_and(|before| before != identity.serial) {
            let result = [
                ("serial", json!(identity.serial)),
                ("not_after", json!(identity.not_after)),
            ];
            let result = result.map(|(name, value)| (name.to_owned(), value));
            self.renewing.end(Ok(result.into()));
        }
        self.renewal(Input::Term(identity.term()));
    }
}
