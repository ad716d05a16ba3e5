//! The fleet as it is now: from memory, never from the disk. And what people decide about who takes part.

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api::{self, Approval, RobotList, RobotView};
use lekiwi_protocol::message::RegistrationStatus;
use lekiwi_protocol::{RobotId, Timestamp};

use super::App;
use super::auth::Who;
use super::extract::{Json, Query, Robot};
use super::problem::{Failure, Kind};
use crate::clock;
use crate::identity::tokens::{MAX_BINDING_BYTES, is_binding};
use crate::ingest::Decision;

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

/// Lets a robot in, under a profile where one is named; takes effect at once.
#[utoipa::path(
    post, path = "/api/v1/robots/{id}/approve", tag = "fleet", params(("id" = String, Path, description = "The robot")),
    request_body = Approval,
    responses(
        (status = 200, body = RobotView),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "robot-rejected", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn approve(
    State(app): State<App>,
    Robot(robot): Robot,
    Who(session): Who,
    Json(Approval { profile }): Json<Approval>,
) -> Result<Answer<RobotView>, Failure> {
    let view = known(&app, &robot)?;
    if let Some(profile) = profile.as_ref().filter(|profile| !is_binding(profile)) {
        let shown: String = profile.chars().take(80).collect();
        return Err(Failure::new(
            Kind::InvalidBody,
            format!(
                "expected profile to be 1 to {MAX_BINDING_BYTES} printable characters without spaces, got {shown:?}"
            ),
        ));
    }
    let registration = &view.registration;
    match registration.status {
        RegistrationStatus::Rejected => {
            return Err(Failure::new(
                Kind::RobotRejected,
                format!(
                    "{robot} was {} and its certificate revoked",
                    registration.status
                ),
            )
            .hint(format!(
                "let it enrol again: `lekiwi token create --robot {robot}`"
            )));
        }
        RegistrationStatus::Registered if profile.is_none() || profile == registration.profile => {
            return Ok(Answer(view));
        }
        RegistrationStatus::Registered | RegistrationStatus::Quarantined => {}
    }
    tracing::info!(%robot, user = %session.user, "robot approved");
    let decision = Decision::Approve { profile };
    let decided = app.fleet.decide(&robot, &session.user, decision).await?;
    Ok(Answer(decided.unwrap_or(view)))
}

/// Turns a robot away: its certificates are revoked, its session ends at once. It comes back only by a
/// token made for its id.
#[utoipa::path(
    post, path = "/api/v1/robots/{id}/reject", tag = "fleet", params(("id" = String, Path, description = "The robot")),
    responses(
        (status = 200, body = RobotView),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn reject(
    State(app): State<App>,
    Robot(robot): Robot,
    Who(session): Who,
) -> Result<Answer<RobotView>, Failure> {
    let view = known(&app, &robot)?;
    let name = robot.as_str();
    let revoked = app.store.revoke_all(name, clock::now_ms()).await?;
    tracing::info!(%robot, user = %session.user, certificates = revoked.len(), "robot rejected");
    // From here on it cannot come back; in the log first, so that it can be told.
    let decided = match view.registration.status {
        RegistrationStatus::Rejected => Ok(None),
        _ => {
            app.fleet
                .decide(&robot, &session.user, Decision::Reject)
                .await
        }
    };
    app.broker.disconnect(name).await;
    Ok(Answer(decided?.unwrap_or(view)))
}

/// The robot, if the relay knows it.
pub(super) fn known(app: &App, robot: &RobotId) -> Result<RobotView, Failure> {
    app.fleet.robot(robot).ok_or_else(|| {
        Failure::new(Kind::RobotUnknown, format!("there is no robot {robot}"))
            .hint("GET /api/v1/robots lists them")
    })
}
