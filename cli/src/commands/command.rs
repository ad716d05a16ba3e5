//! `lekiwi command`, `lekiwi commands` and `lekiwi estop`.

use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{CommandRequest, CommandView};
use lekiwi_protocol::message::{CommandState, RegistrationStatus};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::args::{Commands, Estop, SendCommand};
use crate::client::Relay;
use crate::failure::Failure;
use crate::show;
use crate::ui::Ui;

/// Time between two looks at a command that is waited for.
const LOOK: Duration = Duration::from_millis(250);
/// How long an emergency stop is watched.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn send(
    relay: &Relay,
    arguments: SendCommand,
    ui: &mut Ui,
) -> Result<(), Failure> {
    let request = CommandRequest {
        op: arguments.op,
        arguments: arguments.arguments.into_iter().collect(),
        expires_in_s: arguments.expires.map(|time| time.as_secs()),
    };
    let mut command = relay.command(&arguments.id, &request).await?;
    if arguments.wait {
        let (robot, id) = (arguments.id, command.id);
        let ended = tokio::select! {
            ended = follow(relay, command, ui) => Some(ended?),
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(ended) = ended else {
            ui.note(format!(
                "the command goes on; `lekiwi commands {robot}` shows what becomes of {id}"
            ));
            return Ok(());
        };
        command = ended;
    }
    if arguments.output.json {
        super::json(ui, &command)?;
    } else {
        ui.line(show::command(&command))?;
    }
    match command.state {
        CommandState::Failed => Err(failed(command)),
        _ => Ok(()),
    }
}

/// Says each state, until the last one.
async fn follow(
    relay: &Relay,
    mut command: CommandView,
    ui: &mut Ui,
) -> Result<CommandView, Failure> {
    ui.note(show::progress(&command));
    while !command.state.is_end() {
        tokio::time::sleep(LOOK).await;
        let known = command.state;
        match relay.command_of(&command.robot_id, command.id).await {
            Ok(view) => command = view,
            // The relay starts anew, say: the command is on its disk.
            Err(failure) if failure.is_temporary() => {}
            Err(failure) => return Err(failure),
        }
        if command.state != known && !command.state.is_end() {
            ui.note(show::progress(&command));
        }
    }
    Ok(command)
}

/// Waits until a command has ended well; `None` when nobody waits for it any more.
pub(super) async fn success(
    relay: &Relay,
    command: CommandView,
    ui: &mut Ui,
) -> Result<Option<CommandView>, Failure> {
    let (robot, id) = (command.robot_id.clone(), command.id);
    let ended = tokio::select! {
        ended = follow(relay, command, ui) => ended?,
        _ = tokio::signal::ctrl_c() => {
            ui.note(format!("the command goes on; `lekiwi commands {robot}` shows what becomes of {id}"));
            return Ok(None);
        }
    };
    match ended.state {
        CommandState::Failed => Err(failed(ended)),
        _ => Ok(Some(ended)),
    }
}

fn failed(command: CommandView) -> Failure {
    Failure::Command {
        op: command.op,
        robot: command.robot_id,
        reason: command.reason.unwrap_or_default(),
    }
}

pub(super) async fn list(relay: &Relay, arguments: &Commands, ui: &mut Ui) -> Result<(), Failure> {
    let list = relay.commands(&arguments.id, arguments.limit).await?;
    if arguments.output.json {
        super::json(ui, &list)
    } else {
        ui.line(show::commands(&list.commands, ui.colour))
    }
}

pub(super) async fn estop(relay: Relay, arguments: Estop, ui: &mut Ui) -> Result<(), Failure> {
    let robots = match arguments.id {
        Some(id) => vec![id],
        None => {
            let robots = all(&relay, ui).await?;
            if !arguments.yes {
                if !ui.can_ask() {
                    return Err(Failure::Unconfirmed);
                }
                if !ui.confirm(&format!("Stop {} robots?", robots.len())) {
                    ui.note("nothing was stopped");
                    return Ok(());
                }
            }
            robots
        }
    };
    let is_many = robots.len() > 1;
    let relay = Arc::new(relay);
    let mut stops = JoinSet::new();
    for robot in robots {
        let relay = Arc::clone(&relay);
        stops.spawn(async move {
            let stopped = stop(&relay, &robot).await;
            (robot, stopped)
        });
    }
    let (mut first, mut failed, mut views) = (None, 0_usize, Vec::new());
    while let Some(joined) = stops.join_next().await {
        // A task that panicked has said so.
        let Ok((robot, stopped)) = joined else {
            failed += 1;
            continue;
        };
        match stopped {
            Ok(view) => {
                failed += usize::from(view.state != CommandState::Successful);
                if !arguments.output.json {
                    ui.line(show::command(&view))?;
                }
                views.push(view);
            }
            Err(failure) => {
                failed += 1;
                if is_many {
                    ui.note(format!("{robot}: {failure}"));
                }
                first.get_or_insert(failure);
            }
        }
    }
    if arguments.output.json {
        super::json(ui, &views)?;
    }
    match (failed, first) {
        (0, _) => Ok(()),
        (1, Some(failure)) => Err(failure),
        (failed, _) => Err(Failure::NotStopped(failed)),
    }
}

/// Every robot that takes part and is there; the others are named.
async fn all(relay: &Relay, ui: &mut Ui) -> Result<Vec<RobotId>, Failure> {
    let robots = relay.robots(None).await?.robots;
    let (there, away): (Vec<_>, Vec<_>) = robots
        .into_iter()
        .filter(|robot| robot.registration.status == RegistrationStatus::Registered)
        .partition(|robot| robot.status.online || robot.status.stale);
    if !away.is_empty() {
        let away: Vec<&str> = away.iter().map(|robot| robot.id.as_str()).collect();
        ui.note(format!("not connected: {}", away.join(", ")));
    }
    Ok(there.into_iter().map(|robot| robot.id).collect())
}

/// Stops one robot, and watches it for a while.
async fn stop(relay: &Relay, robot: &RobotId) -> Result<CommandView, Failure> {
    let mut command = relay.estop(robot).await?;
    let deadline = Instant::now() + STOP_PATIENCE;
    while !command.state.is_end() && Instant::now() < deadline {
        tokio::time::sleep(LOOK / 4).await;
        match relay.command_of(robot, command.id).await {
            Ok(view) => command = view,
            Err(failure) if failure.is_temporary() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(command)
}
