//! Commands on their way to robots, and what robots say of them.

use lekiwi_protocol::message::{Command, CommandStatus, Op, kind};
use lekiwi_protocol::topic::Name;
use lekiwi_protocol::{Envelope, FromRobot, MessageType, RobotId, Root, Timestamp, ToRobot};
use lekiwi_relay_core::commands::{Commands, Output};

use super::check::Refusal;
use super::{Ingest, to};
use crate::broker::Broker;
use crate::metrics::EndLabels;
use crate::store::records::{OWN_SOURCE, StoredEvent};
use crate::store::{Store, StoreError};

/// What had not ended when the relay stopped.
pub(super) async fn restore(store: &Store) -> Result<Commands, StoreError> {
    let mut commands = Commands::default();
    for view in store.open_commands().await? {
        let command = Command {
            id: view.id,
            op: view.op,
            arguments: view.arguments,
            issued_at: view.issued_at,
            expires_at: view.expires_at,
            by: view.by,
        };
        commands.restore(view.robot_id, command, view.state);
    }
    Ok(commands)
}

/// Sends a command once. A robot that is not connected does not get it.
pub(crate) async fn send(broker: &Broker, root: &Root, robot: &RobotId, command: &Command) {
    let to_robot = match command.op {
        Op::Estop => ToRobot::Estop,
        // Operations are spelled in lower case.
        op => match Name::new(op.as_str()) {
            Ok(op) => ToRobot::Command(op, command.id.into()),
            Err(error) => return tracing::error!(%error, "a command has no topic"),
        },
    };
    let json = to(robot, MessageType::Command, command).to_json();
    broker
        .publish(&root.to_robot(robot, to_robot), json, false)
        .await;
}

impl Ingest {
    /// A robot says how far a command is.
    pub(super) fn answered(
        &mut self,
        robot: &RobotId,
        from: &FromRobot,
        envelope: Envelope<CommandStatus>,
        received_ms: u64,
    ) -> Result<(), Refusal> {
        let Envelope {
            sequence,
            payload: status,
            ..
        } = envelope;
        status
            .check()
            .map_err(|error| ("response", error.to_string()))?;
        let id = match from {
            FromRobot::Command(id) => id.as_str().parse(),
            _ => return Ok(()),
        };
        let id = id.map_err(|_| {
            let reason = format!("expected the id of a command, a uuid, got from/{from}");
            ("response", reason)
        })?;
        let received = Timestamp::from_ms(received_ms);
        self.live
            .response(received, robot.clone(), sequence, &status);
        self.commands.answered(received, robot, id, status);
        Ok(())
    }

    /// An event is in the log; if it is a command of the relay's own, its way begins.
    pub(super) fn requested(&mut self, robot: Option<&RobotId>, stored: &StoredEvent) {
        let event = &stored.event;
        if *event.kind != *kind::COMMAND_REQUESTED || !event.source.starts_with(OWN_SOURCE) {
            return;
        }
        if let (Some(robot), Ok(command)) = (robot, serde_json::from_str(&event.data)) {
            self.commands.requested(
                Timestamp::from_ms(event.received_ms),
                robot.clone(),
                command,
            );
        }
    }

    /// Sends what is due, and writes down what became of commands.
    pub(super) async fn look_after_commands(&mut self, broker: &Broker, now: Timestamp) {
        self.commands.handle_timeout(now);
        while let Some(output) = self.commands.poll_output() {
            match output {
                Output::Send(robot, command) => {
                    self.live.command(now, robot.clone(), &command);
                    if self.leads {
                        send(broker, &self.settings.root, &robot, &command).await;
                    }
                }
                Output::Event { .. } if !self.leads => {}
                Output::Event {
                    robot,
                    kind,
                    data,
                    end,
                } => {
                    self.own_event(now, &robot, kind, &data);
                    if let Some(end) = end {
                        let labels = EndLabels { end: end.as_str() };
                        self.metrics.commands.get_or_create(&labels).inc();
                    }
                }
            }
        }
        self.live.flush();
    }
}
