//! The fleet as it is now: from memory, never from the disk.

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api::{self, RobotList, RobotView};
use lekiwi_protocol::{RobotId, Timestamp};

use super::App;
use super::extract::{Query, Robot};
use super::problem::{Failure, Kind};
use crate::clock;

/// All robots.
#[utoipa::path(
    get, path = "/api/v1/robots", tag = "fleet",
    responses((status = 200, body = RobotList)), security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    query: Query,
) -> Result<Answer<RobotList>, Failure> {
    query.finish()?;
    let (robots, position) = app.fleet.robots();
    Ok(Answer(RobotList {
        robots,
        position,
        now: Timestamp::from_ms(clock::now_ms()),
    }))
}

/// One robot.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}", tag = "fleet", params(("id" = String, Path, description = "The robot")),
    responses(
        (status = 200, body = RobotView),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn one(
    State(app): State<App>,
    Robot(robot): Robot,
    query: Query,
) -> Result<Answer<RobotView>, Failure> {
    query.finish()?;
    known(&app, &robot).map(Answer)
}

/// The robot, if the relay knows it.
pub(super) fn known(app: &App, robot: &RobotId) -> Result<RobotView, Failure> {
    app.fleet.robot(robot).ok_or_else(|| {
        Failure::new(Kind::RobotUnknown, format!("there is no robot {robot}"))
            .hint("GET /api/v1/robots lists them")
    })
}
