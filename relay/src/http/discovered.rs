//! Robots and other machines on the relay's local network.

use std::collections::BTreeSet;

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api;

use super::App;
use super::extract::Query;
use super::problem::Failure;

/// Who is on the relay's local network, registered or not. Nothing of it is proved.
#[utoipa::path(
    get, path = "/api/v1/discovered", tag = "enrolment",
    responses((status = 200, body = api::Discovered)), security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    query: Query,
) -> Result<Answer<api::Discovered>, Failure> {
    query.finish()?;
    let (robots, _) = app.fleet.robots();
    let known: BTreeSet<_> = robots.into_iter().map(|robot| robot.id).collect();
    Ok(Answer(app.discovery.list(|id| known.contains(id)).await))
}
