//! The configuration twin between the link, the disk and the configuration. Decided by
//! [`lekiwi_agent_core::twin`].

use std::path::Path;
use std::time::Instant;

use lekiwi_agent_core::twin::{Layer, Output, Record, Twin};
use lekiwi_protocol::message::Desired;
use lekiwi_protocol::{Envelope, MessageType};

use super::{Driver, chain};
use crate::clock;
use crate::storage::Kept;
use crate::trust::Refused;

const FILE: &str = "configuration.json";

/// Goes on with what the state folder has; `kill_at` is for tests. A file that cannot be read is told and left
/// out: it is only ever replaced as a whole, so that somebody else made it so.
pub(super) fn open(state_dir: &Path, kill_at: Option<u32>) -> (Kept, Twin) {
    let file = Kept::new(state_dir.join(FILE), kill_at);
    let record = match file.read() {
        Ok(None) => Ok(Record::default()),
        Ok(Some(json)) => serde_json::from_slice(&json).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let record = record.unwrap_or_else(|error| {
        let path = file.path().display();
        log::warn!("expected what operators desire in {path}: {error}");
        Record::default()
    });
    (file, Twin::restore(record))
}

impl Driver {
    /// The relay sends what operators desire.
    pub(super) fn desired(&mut self, payload: &[u8]) {
        let robot = &self.config.robot_id;
        match Envelope::<Desired>::parse(MessageType::Desired, robot, payload) {
            Ok(envelope) => {
                self.heard_relay(envelope.timestamp);
                match envelope.payload.check() {
                    Ok(()) => self.twin.desired(envelope.payload),
                    Err(error) => log::warn!("desired configuration refused: {error}"),
                }
                self.carry_out_twin();
            }
            Err(error) => log::warn!("desired configuration refused: {}", chain(&error)),
        }
    }

    pub(super) fn look_after_twin(&mut self, now: Instant) {
        self.twin.handle_timeout(now);
        self.carry_out_twin();
    }

    /// Tells the relay which configuration is in force.
    pub(super) fn report_configuration(&mut self) {
        let reported = self.twin.reported(self.config.digest());
        self.speech.reported(self.link.as_ref(), reported);
    }

    /// Does what the twin asks for, until it asks for nothing more.
    pub(super) fn carry_out_twin(&mut self) {
        while let Some(output) = self.twin.poll_output() {
            match output {
                Output::Check(layer) => {
                    let outcome = match self.believe() {
                        Ok(()) => self.candidate(Some(&layer)).map(drop),
                        Err(Refused::Unbelieved(reason)) => Err(reason),
                        Err(Refused::Unkept(error)) => {
                            log::warn!("what was signed cannot be kept: {error}");
                            self.twin.not_checked(&error);
                            continue;
                        }
                    };
                    if let Err(reason) = &outcome {
                        let version = layer.version;
                        log::error!("the desired configuration {version} is rejected: {reason}");
                    }
                    self.twin.checked(outcome);
                }
                Output::Keep => {
                    let json = serde_json::to_vec(self.twin.record());
                    let kept = json.map_err(Into::into);
                    match kept.and_then(|json| self.twin_file.write(&json)) {
                        Ok(()) => self.twin.kept(clock::now()),
                        Err(error) => {
                            log::warn!("what operators desire cannot be kept: {error}");
                            self.twin.not_kept(clock::now(), &error.to_string());
                        }
                    }
                }
                Output::Apply => self.apply_desired(),
                Output::Say => self.report_configuration(),
            }
        }
    }

    /// Whether what is looked at comes from those whom this robot believes.
    fn believe(&mut self) -> Result<(), Refused> {
        let Some(desired) = self.twin.checking() else {
            return Ok(());
        };
        let robot = &self.config.robot_id;
        self.anchor.check(self.floor.latest(), robot, desired)
    }

    fn apply_desired(&mut self) {
        let desired = self.twin.in_force().cloned();
        let version = desired.as_ref().map_or(0, |Layer { version, .. }| *version);
        let outcome = self.take_configuration(desired.as_ref()).map(drop);
        match &outcome {
            Ok(()) => log::info!("the desired configuration {version} is in force"),
            Err(reason) => {
                log::error!("the desired configuration {version} cannot be in force: {reason}");
                if let Err(reason) = self.take_configuration(None) {
                    log::error!("the configuration stays as it was: {reason}");
                }
            }
        }
        self.twin.applied(outcome);
    }
}
