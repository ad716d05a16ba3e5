//! What robots are told to do, and emergency stops.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::api::{self, CommandList, CommandRequest, CommandView, RobotView};
use lekiwi_protocol::limits::{COMMAND_LIFETIME, MAX_COMMAND_LIFETIME, MAX_OPEN_COMMANDS};
use lekiwi_protocol::message::{
    Arguments, Command, CommandState, Factsheet, Op, RegistrationStatus,
};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::policy::{Action, What};
use uuid::Uuid;

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::{Cmd, Json, Query, Robot};
use super::problem::{Failure, Kind};
use super::robots::known;
use crate::clock;
use crate::ingest::{Decision, send};

const MOST: u64 = 500;
const USUAL: u64 = 50;

/// The newest commands of a robot.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/commands", tag = "commands",
    params(
        ("id" = String, Path, description = "The robot"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 500, description = "1 to 500; 50 when absent"),
    ),
    responses(
        (status = 200, body = CommandList),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    Robot(robot): Robot,
    mut query: Query,
) -> Result<Answer<CommandList>, Failure> {
    let limit = query.number("limit", 1..=MOST)?.unwrap_or(USUAL);
    query.finish()?;
    known(&app, &robot)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let commands = app.store.commands_of_robot(&robot, limit).await?;
    Ok(Answer(CommandList { commands }))
}

/// One command of a robot: where it is, and how it ended.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/commands/{cmd}", tag = "commands",
    params(
        ("id" = String, Path, description = "The robot"),
        ("cmd" = String, Path, description = "The command"),
    ),
    responses(
        (status = 200, body = CommandView),
        (status = 404, description = "robot-unknown, command-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn one(
    State(app): State<App>,
    Robot(robot): Robot,
    Cmd(command): Cmd,
    query: Query,
) -> Result<Answer<CommandView>, Failure> {
    query.finish()?;
    known(&app, &robot)?;
    let found = app.store.command(&robot, command).await?;
    found.map(Answer).ok_or_else(|| {
        Failure::new(
            Kind::CommandUnknown,
            format!("there is no command {command} of {robot}"),
        )
        .hint(format!("GET /api/v1/robots/{robot}/commands lists them"))
    })
}

/// Tells a robot to do something. The command is on record when this answers, and sent until the robot has
/// accepted it or its time is over; a robot that is away gets it when it comes back in time.
#[utoipa::path(
    post, path = "/api/v1/robots/{id}/commands", tag = "commands", params(("id" = String, Path, description = "The robot")),
    request_body = CommandRequest,
    responses(
        (status = 202, body = CommandView),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "robot-not-registered, commands-unsupported, command-unsupported, too-many-commands", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn create(
    State(app): State<App>,
    Robot(robot): Robot,
    asker: Asker,
    note: Note,
    Json(request): Json<CommandRequest>,
) -> Result<(StatusCode, Answer<CommandView>), Failure> {
    let CommandRequest {
        op,
        arguments,
        expires_in_s,
    } = request;
    note.says("op", op);
    let invalid = |detail: String| Failure::new(Kind::InvalidBody, detail);
    if op == Op::Estop {
        return Err(
            invalid("expected an operation that may wait, got estop".to_owned())
                .hint(format!("POST /api/v1/robots/{robot}/estop")),
        );
    }
    asker.may(Action::Command(op), What::Robot(&robot))?;
    op.check(&arguments)
        .map_err(|error| invalid(error.to_string()))?;
    let most = MAX_COMMAND_LIFETIME.as_secs();
    let seconds = expires_in_s.unwrap_or(COMMAND_LIFETIME.as_secs());
    if !(1..=most).contains(&seconds) {
        return Err(invalid(format!(
            "expected expires_in_s to be 1 to {most}, got {seconds}"
        )));
    }
    takes_command(&app, &robot, op)?;
    if app.store.open_commands_of_robot(&robot).await? >= MAX_OPEN_COMMANDS {
        return Err(Failure::new(
            Kind::TooManyCommands,
            format!("expected at most {MAX_OPEN_COMMANDS} commands of {robot} that have not ended"),
        )
        .hint("wait until some have, or expired"));
    }
    let command = new(op, arguments, Duration::from_secs(seconds), &asker);
    note.says("command", command.id);
    requested(&app, &robot, command).await
}

/// Stops a robot: its profile's stop action begins, and local programs are told. Sent before anything is
/// written, and again until the robot has begun.
#[utoipa::path(
    post, path = "/api/v1/robots/{id}/estop", tag = "commands", params(("id" = String, Path, description = "The robot")),
    responses(
        (status = 202, body = CommandView),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "robot-not-registered, commands-unsupported", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn estop(
    State(app): State<App>,
    Robot(robot): Robot,
    asker: Asker,
    note: Note,
) -> Result<(StatusCode, Answer<CommandView>), Failure> {
    takes_command(&app, &robot, Op::Estop)?;
    let command = new(Op::Estop, Arguments::new(), COMMAND_LIFETIME, &asker);
    note.says("command", command.id);
    send(&app.broker, &app.root, &robot, &command).await;
    requested(&app, &robot, command).await
}

fn new(op: Op, arguments: Arguments, lifetime: Duration, asker: &Asker) -> Command {
    let issued_at = Timestamp::from_ms(clock::now_ms());
    Command {
        id: Uuid::new_v4(),
        op,
        arguments,
        issued_at,
        expires_at: issued_at.plus(lifetime),
        by: asker.by(),
    }
}

/// Puts it on record; from there it goes its way.
async fn requested(
    app: &App,
    robot: &RobotId,
    command: Command,
) -> Result<(StatusCode, Answer<CommandView>), Failure> {
    tracing::info!(%robot, user = %command.by, op = %command.op, id = %command.id, "command");
    let decision = Decision::Command(command.clone());
    app.fleet.decide(robot, &command.by, decision).await?;
    let view = CommandView {
        id: command.id,
        robot_id: robot.clone(),
        op: command.op,
        arguments: command.arguments,
        by: command.by,
        issued_at: command.issued_at,
        expires_at: command.expires_at,
        state: CommandState::Pending,
        updated_at: command.issued_at,
        result: Arguments::new(),
        reason: None,
    };
    Ok((StatusCode::ACCEPTED, Answer(view)))
}

/// The robot, if it takes part.
pub(super) fn registered(app: &App, robot: &RobotId) -> Result<RobotView, Failure> {
    let view = known(app, robot)?;
    let status = view.registration.status;
    if status != RegistrationStatus::Registered {
        return Err(Failure::new(
            Kind::RobotNotRegistered,
            format!("expected a registered robot, but {robot} is {status}"),
        )
        .hint(format!("`lekiwi robot {robot}` says why")));
    }
    Ok(view)
}

/// Whether the robot's agent has this part; one that has not spoken yet may have it.
pub(super) fn able(robot: &RobotView, capability: &str) -> bool {
    let has = |sheet: &Factsheet| sheet.capabilities.iter().any(|name| name == capability);
    robot.factsheet.as_ref().is_none_or(has)
}

/// Whether the robot takes part, and its agent takes commands and knows this one.
fn takes_command(app: &App, robot: &RobotId, op: Op) -> Result<(), Failure> {
    let view = registered(app, robot)?;
    let Some(sheet) = &view.factsheet else {
        return Ok(());
    };
    let lacks = |kind: Kind, what: String| {
        let version = &sheet.agent_version;
        let detail = format!("expected an agent that {what}, but {robot} has version {version}");
        Err(Failure::new(kind, detail).hint("install a newer agent"))
    };
    if !able(&view, "commands") {
        return lacks(Kind::CommandsUnsupported, "takes commands".to_owned());
    }
    // Those that go on are younger than the others.
    if op.goes_on() && !able(&view, op.as_str()) {
        return lacks(Kind::CommandUnsupported, format!("knows {op}"));
    }
    Ok(())
}
