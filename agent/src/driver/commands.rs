//! Commands and emergency stops between the link and what does them.

use std::time::Instant;

use lekiwi_protocol::Envelope;
use lekiwi_protocol::message::{Arguments, Command, CommandStatus, Op, kind};
use lekiwi_protocol::topic::Name;
use lekiwi_protocol::{MessageType, Timestamp};
use serde_json::json;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Driver, chain};
use crate::commands::{Ended, Task, Way};
use crate::estop::Report;

/// Emergency stops whose state is remembered.
const STOPS: usize = 16;

impl Driver {
    /// The relay sends a command, on a topic that names it.
    pub(super) fn command(&mut self, op: &Name, id: &Name, payload: &[u8]) {
        let robot = &self.config.robot_id;
        match Envelope::<Command>::parse(MessageType::Command, robot, payload) {
            Ok(Envelope {
                payload, timestamp, ..
            }) if payload.id.to_string() == id.as_str() && payload.op.as_str() == op.as_str() => {
                self.commands.command(payload, timestamp);
                self.carry_out_commands();
            }
            Ok(_) => log::warn!("command refused: expected the id and operation of its topic"),
            Err(error) => {
                // Of a newer relay, say: it is told, so that nobody waits.
                let reason = format!("this agent does not know the command: {}", chain(&error));
                log::warn!("{reason}");
                let status = CommandStatus::end(Err(reason));
                self.speech.command(self.link.as_ref(), id.clone(), status);
            }
        }
    }

    /// What the relay sent at `sent_at` shows how late it is there.
    pub(super) fn heard_relay(&mut self, sent_at: Timestamp) {
        self.commands.heard(sent_at);
        self.renewing.heard(sent_at);
    }

    pub(super) fn command_ended(&mut self, ended: Ended) {
        self.commands.ended(ended);
        self.carry_out_commands();
    }

    pub(super) fn look_after_commands(&mut self, now: Instant) {
        self.commands.handle_timeout(now);
        self.carry_out_commands();
    }

    /// Does what commands ask for, until they ask for nothing more.
    pub(super) fn carry_out_commands(&mut self) {
        while let Some(task) = self.commands.poll_task() {
            match task {
                Task::Say(id, status) => {
                    // Without a link, or with a full one: the relay asks again.
                    self.speech.command(self.link.as_ref(), id.into(), status);
                }
                Task::Upload(id, op, arguments) => {
                    let way = Way {
                        enrolment: self.enrolment.clone(),
                        floor: self.floor.clone(),
                    };
                    self.commands.upload(id, op, arguments, way);
                }
                Task::Renew(id) => {
                    let (end, ended) = oneshot::channel();
                    self.commands.renew(id, ended);
                    self.renew_for(end);
                }
                Task::Execute(id, Op::FullState) => {
                    let said = self.speech.factsheet(self.link.as_ref());
                    let outcome = (self.publish_state() && said).then(Arguments::new);
                    let full = || "expected room in the link's queue, got none".to_owned();
                    self.commands.ended((id, outcome.ok_or_else(full)));
                }
                Task::Execute(id, _) => {
                    let uptime_s = self.sampler.uptime().unwrap_or(0);
                    let result = Arguments::from([
                        ("version".to_owned(), env!("CARGO_PKG_VERSION").into()),
                        ("uptime_s".to_owned(), uptime_s.into()),
                    ]);
                    self.commands.ended((id, Ok(result)));
                }
            }
        }
    }

    /// The stop action of the profile that the robot is registered under, from now on.
    pub(super) fn learn_stop(&mut self) {
        match self.commands.place().profile() {
            Ok(profile) => self.estop.learn(profile.stop),
            // Whoever watches its services complains about the profile already.
            Err(reason) => log::debug!("no stop action is known: {reason}"),
        }
    }

    /// An emergency stop has begun, or ended.
    pub(super) fn stopped(&mut self, report: Report) {
        match report {
            Report::Received {
                id,
                by,
                listeners,
                action,
            } => {
                log::warn!("emergency stop by {by:?}");
                self.commands.stop();
                self.carry_out_commands();
                let data = json!({ "id": id, "by": by, "listeners": listeners, "action": action });
                self.event(kind::ESTOP_RECEIVED, data);
                self.say_stop(id, CommandStatus::Accepted);
                self.say_stop(id, CommandStatus::Running);
            }
            Report::Repeated(id) => {
                let known = self.stops.iter().find(|(known, _)| *known == id);
                if let Some((id, status)) = known.cloned() {
                    self.speech.command(self.link.as_ref(), id.into(), status);
                }
            }
            Report::Done { id, heard, outcome } => {
                let mut data =
                    json!({ "id": id, "listeners": heard.listeners, "confirmed": heard.confirmed });
                if let Err(reason) = &outcome {
                    log::error!("the emergency stop did not end well: {reason}");
                    data["reason"] = reason.as_str().into();
                }
                self.event(kind::ESTOP_DONE, data);
                let outcome = outcome.map(|()| heard.arguments());
                self.say_stop(id, CommandStatus::end(outcome));
            }
        }
    }

    fn say_stop(&mut self, id: Uuid, status: CommandStatus) {
        if id.is_nil() {
            // It could not be read: nobody waits for an answer.
            return;
        }
        self.stops.retain(|(known, _)| *known != id);
        if self.stops.len() == STOPS {
            self.stops.pop_front();
        }
        self.stops.push_back((id, status.clone()));
        self.speech.command(self.link.as_ref(), id.into(), status);
    }
}
