//! The fleet as it is now: from memory, never from the disk. And what people decide about who takes part.

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api::{self, Approval, CertificateView, RobotList, RobotView};
use lekiwi_protocol::message::RegistrationStatus;
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::Past;

use super::App;
use super::auth::Asker;
use super::extract::{Json, Query, Robot};
use super::problem::{Failure, Kind};
use crate::clock;
use crate::identity::tokens::{MAX_BINDING_BYTES, is_binding};
use crate::ingest::Decision;
use crate::store::{InUseByName, LookedBack, Moment};

/// All robots, as they are or as they were: with `at` or `position`, registration, wanted configuration and presence are
/// as the log had them then, and the rest as of the last picture that was kept by then (`as_of`).
#[utoipa::path(
    get, path = "/api/v1/robots", tag = "fleet",
    params(
        ("at" = Option<String>, Query, description = "As of the last event that the relay took by this time: UTC, or milliseconds since 1970"),
        ("position" = Option<u64>, Query, description = "As of this position of the log"),
    ),
    responses(
        (status = 200, body = RobotList),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 410, description = "log-gone", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "not-yet", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    asker: Asker,
    mut query: Query,
) -> Result<Answer<RobotList>, Failure> {
    let now = Timestamp::from_ms(clock::now_ms());
    let (robots, position) = match moment(&mut query, now)? {
        None => {
            query.finish()?;
            let (mut robots, position) = app.fleet.robots();
            let in_use = app.store.certificates_in_use();
            for robot in &mut robots {
                certify(robot, &in_use);
            }
            (robots, position)
        }
        Some(moment) => {
            query.finish()?;
            let (past, position) = look_back(&app, moment, None).await?;
            (past.views().collect(), position)
        }
    };
    let robots = match asker.seen() {
        None => robots,
        Some(seen) => robots
            .into_iter()
            .filter(|robot| seen.contains(&robot.id))
            .collect(),
    };
    Ok(Answer(RobotList {
        robots,
        position,
        now,
    }))
}

/// One robot, as it is or as it was.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}", tag = "fleet",
    params(
        ("id" = String, Path, description = "The robot"),
        ("at" = Option<String>, Query, description = "As of the last event that the relay took by this time: UTC, or milliseconds since 1970"),
        ("position" = Option<u64>, Query, description = "As of this position of the log"),
    ),
    responses(
        (status = 200, body = RobotView),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 410, description = "log-gone", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "not-yet", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn one(
    State(app): State<App>,
    Robot(robot): Robot,
    mut query: Query,
) -> Result<Answer<RobotView>, Failure> {
    let moment = moment(&mut query, Timestamp::from_ms(clock::now_ms()))?;
    query.finish()?;
    let Some(moment) = moment else {
        return known(&app, &robot).map(Answer);
    };
    let (past, position) = look_back(&app, moment, Some(&robot)).await?;
    let view = past.view(&robot).ok_or_else(|| {
        let what = format!("there was no robot {robot} at position {position} of the log");
        Failure::new(Kind::RobotUnknown, what)
    })?;
    Ok(Answer(view))
}

/// Which moment the query is about, if it is not now.
fn moment(query: &mut Query, now: Timestamp) -> Result<Option<Moment>, Failure> {
    let at = query.time("at")?;
    let position = query.number("position", 0..=i64::MAX as u64)?;
    match (at, position) {
        (None, None) => Ok(None),
        (Some(at), None) if at > now => Err(Failure::new(
            Kind::NotYet,
            format!("expected at to be {now} or before, got {at}"),
        )),
        (Some(at), None) => Ok(Some(Moment::Time(at.as_ms()))),
        (None, Some(position)) => Ok(Some(Moment::Position(position))),
        (Some(_), Some(_)) => Err(Failure::new(
            Kind::InvalidQuery,
            "expected at or position, got both",
        )),
    }
}

async fn look_back(
    app: &App,
    moment: Moment,
    robot: Option<&RobotId>,
) -> Result<(Past, u64), Failure> {
    let robot = robot.map(|robot| robot.as_str().to_owned());
    match app.store.look_back(moment, robot).await? {
        LookedBack::Past(past, position) => Ok((past, position)),
        LookedBack::NotYet(last) => Err(Failure::new(
            Kind::NotYet,
            format!("expected a position of the log, which goes up to {last}"),
        )),
        LookedBack::Gone(None) => Err(Failure::new(Kind::LogGone, "the log is empty")),
        LookedBack::Gone(Some((position, ms))) => Err(Failure::new(
            Kind::LogGone,
            format!(
                "expected a moment from position {position} of the log on, which is of {}",
                Timestamp::from_ms(ms)
            ),
        )),
    }
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
    asker: Asker,
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
    tracing::info!(%robot, user = %asker.name(), "robot approved");
    let decision = Decision::Approve { profile };
    let decided = app.fleet.decide(&robot, &asker.by(), decision).await?;
    Ok(Answer(certified(&app, decided.unwrap_or(view))))
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
    asker: Asker,
) -> Result<Answer<RobotView>, Failure> {
    let view = known(&app, &robot)?;
    let name = robot.as_str();
    let revoked = app.store.revoke_all(name, clock::now_ms()).await?;
    tracing::info!(%robot, user = %asker.name(), certificates = revoked.len(), "robot rejected");
    // From here on it cannot come back; in the log first, so that it can be told.
    let decided = match view.registration.status {
        RegistrationStatus::Rejected => Ok(None),
        _ => {
            app.fleet
                .decide(&robot, &asker.by(), Decision::Reject)
                .await
        }
    };
    app.broker.disconnect(name).await;
    Ok(Answer(certified(&app, decided?.unwrap_or(view))))
}

/// The robot, if the relay knows it.
pub(super) fn known(app: &App, robot: &RobotId) -> Result<RobotView, Failure> {
    let view = app.fleet.robot(robot).ok_or_else(|| {
        Failure::new(Kind::RobotUnknown, format!("there is no robot {robot}"))
            .hint("GET /api/v1/robots lists them")
    })?;
    Ok(certified(app, view))
}

/// With the certificate that the robot has in use now.
fn certified(app: &App, mut view: RobotView) -> RobotView {
    certify(&mut view, &app.store.certificates_in_use());
    view
}

fn certify(view: &mut RobotView, in_use: &InUseByName) {
    view.certificate = in_use.get(view.id.as_str()).map(|found| CertificateView {
        serial: found.serial.to_string(),
        not_after: Timestamp::from_ms(found.not_after_ms),
    });
}
