//! Which configuration a robot should have, and which it has.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::api::{
    self, ConfigurationRequest, ConfigurationStatus, ConfigurationView, DesiredView,
    RollbackRequest,
};
use lekiwi_protocol::limits::CONFIRM_WITHIN;
use lekiwi_protocol::message::{Desired, Settings, check_settings};
use lekiwi_protocol::signed::{Configuration, Document, Proof};
use lekiwi_protocol::{RobotId, Timestamp};

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::commands::{able, registered};
use super::extract::{Json, Query, Robot};
use super::problem::{Failure, Kind};
use super::robots::known;
use crate::clock;
use crate::ingest::Decision;

/// Which configuration a robot should have, what it says, and whether the two differ.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/configuration", tag = "configuration",
    params(("id" = String, Path, description = "The robot")),
    responses(
        (status = 200, body = ConfigurationView),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn one(
    State(app): State<App>,
    Robot(robot): Robot,
    query: Query,
) -> Result<Answer<ConfigurationView>, Failure> {
    query.finish()?;
    view(&app, &robot).await.map(Answer)
}

/// Wants another configuration of a robot: a new version, on record when this answers, and sent until the robot
/// says what became of it. The robot tries it, and goes back to the one before where the relay cannot confirm
/// in time that it heard of that. What no robot takes is refused here; the robot judges the rest together with its own
/// file.
#[utoipa::path(
    put, path = "/api/v1/robots/{id}/configuration", tag = "configuration",
    params(("id" = String, Path, description = "The robot")),
    request_body = ConfigurationRequest,
    responses(
        (status = 202, body = ConfigurationView),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "robot-not-registered, configuration-unsupported, configuration-changed", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn replace(
    State(app): State<App>,
    Robot(robot): Robot,
    asker: Asker,
    note: Note,
    Json(request): Json<ConfigurationRequest>,
) -> Result<(StatusCode, Answer<ConfigurationView>), Failure> {
    let ConfigurationRequest {
        settings,
        confirm_within_s,
        base_version,
        proof,
    } = request;
    let confirm_within_s = confirm_within_s.unwrap_or(CONFIRM_WITHIN.as_secs());
    if let Some(proof) = &proof {
        // What people see of it is what was signed, or no robot would take it.
        let signed = Configuration::parse(&proof.statement.document);
        let signed = signed.map_err(|error| invalid(error.to_string()))?;
        if signed.settings != settings {
            let version = signed.version;
            return Err(invalid(format!(
                "settings: expected those that were signed as version {version}, got others"
            )));
        }
    }
    let wanted = Wanted {
        settings,
        confirm_within_s,
        proof,
    };
    let answer = want(&app, &robot, asker.by(), wanted, base_version).await;
    told(&note, answer)
}

/// Wants the settings of an earlier version again, as a new version.
#[utoipa::path(
    post, path = "/api/v1/robots/{id}/configuration/rollback", tag = "configuration",
    params(("id" = String, Path, description = "The robot")),
    request_body = RollbackRequest,
    responses(
        (status = 202, body = ConfigurationView),
        (status = 404, description = "robot-unknown, configuration-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "robot-not-registered, configuration-unsupported, configuration-changed", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn rollback(
    State(app): State<App>,
    Robot(robot): Robot,
    asker: Asker,
    note: Note,
    Json(RollbackRequest { to }): Json<RollbackRequest>,
) -> Result<(StatusCode, Answer<ConfigurationView>), Failure> {
    let present = known(&app, &robot)?.configuration;
    let present = present.map_or(0, |configuration| configuration.desired);
    let unknown = |detail: String| {
        Failure::new(Kind::ConfigurationUnknown, detail).hint(format!(
            "the robot's events have all versions: `lekiwi events {robot}`"
        ))
    };
    let earlier = match to {
        Some(0) => None,
        Some(version) => {
            let found = app.store.desired_configuration(&robot, version).await?;
            let none = || unknown(format!("there is no version {version} of {robot}"));
            Some(found.ok_or_else(none)?)
        }
        None if present == 0 => {
            return Err(unknown(format!("nobody wanted a configuration of {robot}")));
        }
        None => {
            let store = &app.store;
            store.applied_configuration_before(&robot, present).await?
        }
    };
    let wanted = match earlier {
        Some(earlier) => Wanted {
            settings: earlier.settings,
            confirm_within_s: earlier.confirm_within_s,
            proof: earlier.proof,
        },
        None => Wanted {
            settings: Settings::new(),
            confirm_within_s: CONFIRM_WITHIN.as_secs(),
            proof: None,
        },
    };
    let answer = want(&app, &robot, asker.by(), wanted, Some(present)).await;
    told(&note, answer)
}

type Told = Result<(StatusCode, Answer<ConfigurationView>), Failure>;

/// The event of this version has all of it.
fn told(note: &Note, answer: Told) -> Told {
    if let Ok((_, Answer(view))) = &answer
        && let Some(desired) = &view.desired
    {
        note.says("version", desired.version);
    }
    answer
}

/// What a new version says.
struct Wanted {
    settings: Settings,
    confirm_within_s: u64,
    proof: Option<Proof>,
}

fn invalid(detail: String) -> Failure {
    Failure::new(Kind::InvalidBody, detail)
}

async fn want(
    app: &App,
    robot: &RobotId,
    by: String,
    Wanted {
        settings,
        confirm_within_s,
        proof,
    }: Wanted,
    base: Option<u64>,
) -> Result<(StatusCode, Answer<ConfigurationView>), Failure> {
    let desired = Desired {
        // Ingest numbers it.
        version: 1,
        settings,
        confirm_within_s,
        confirmed: false,
        issued_at: Timestamp::from_ms(clock::now_ms()),
        by,
        proof,
    };
    desired
        .check()
        .map_err(|error| invalid(error.to_string()))?;
    check_settings(&desired.settings).map_err(|error| invalid(error.to_string()))?;
    let robot_view = registered(app, robot)?;
    if !able(&robot_view, "configuration") {
        return Err(Failure::new(
            Kind::ConfigurationUnsupported,
            format!("expected an agent that takes configurations, but that of {robot} takes none"),
        )
        .hint("install a newer agent"));
    }
    let by = desired.by.clone();
    tracing::info!(%robot, user = %by, "configuration");
    let decision = Decision::Configure { desired, base };
    app.fleet.decide(robot, &by, decision).await?;
    Ok((StatusCode::ACCEPTED, Answer(view(app, robot).await?)))
}

async fn view(app: &App, robot: &RobotId) -> Result<ConfigurationView, Failure> {
    let status = known(app, robot)?.configuration;
    let status = status.unwrap_or_else(|| ConfigurationStatus::new(0, None));
    let in_force = status.reported.as_ref().map(|said| said.in_force);
    Ok(ConfigurationView {
        desired: version(app, robot, status.desired).await?,
        in_force: match in_force {
            Some(in_force) => version(app, robot, in_force).await?,
            None => None,
        },
        reported: status.reported,
        drift: status.drift,
    })
}

async fn version(app: &App, robot: &RobotId, version: u64) -> Result<Option<DesiredView>, Failure> {
    let found = app.store.desired_configuration(robot, version).await?;
    Ok(found.map(|desired| DesiredView {
        version: desired.version,
        settings: desired.settings,
        confirm_within_s: desired.confirm_within_s,
        issued_at: desired.issued_at,
        by: desired.by,
        is_signed: desired.proof.is_some(),
    }))
}
