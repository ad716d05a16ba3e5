//! Which packages robots have, as they said when a command asked for it.

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api::{self, PackageView, PackagesView};

use super::App;
use super::extract::{Query, Robot};
use super::problem::{Failure, Kind};
use super::robots::known;

/// The newest list of a robot's packages, and whether it is what the robot has. A newer one comes with the command
/// `list_packages`.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/packages", tag = "fleet", params(("id" = String, Path, description = "The robot")),
    responses(
        (status = 200, body = PackagesView),
        (status = 404, description = "robot-unknown, packages-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "store-unavailable", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    Robot(robot): Robot,
    query: Query,
) -> Result<Answer<PackagesView>, Failure> {
    query.finish()?;
    let deployment = known(&app, &robot)?.deployment;
    let Some((view, text)) = app.packages.newest(&robot).await? else {
        return Err(Failure::new(
            Kind::PackagesUnknown,
            format!("{robot} was not asked for its packages, or that was long ago"),
        )
        .hint(format!("`lekiwi packages {robot}` asks for them")));
    };
    let digest = format!("sha256:{}", view.sha256);
    let installed = deployment.and_then(|deployment| deployment.installed_packages);
    Ok(Answer(PackagesView {
        is_current: installed.map(|installed| installed.digest == digest),
        digest,
        uploaded_at: view.uploaded_at,
        packages: text.lines().map(PackageView::read).collect(),
    }))
}
