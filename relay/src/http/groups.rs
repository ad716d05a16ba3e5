//! Groups of robots, on which people are given roles.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::api::{self, Group, GroupList, GroupRequest};
use lekiwi_protocol::{GroupName, RobotId};

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::{Id, Json, Query};
use super::problem::{Failure, Kind};

/// Most groups.
const MAX_GROUPS: usize = 1_000;

fn name(text: &str) -> Result<GroupName, Failure> {
    GroupName::new(text).map_err(|error| Failure::new(Kind::GroupUnknown, error.to_string()))
}

/// All groups.
#[utoipa::path(
    get, path = "/api/v1/groups", tag = "people", responses((status = 200, body = GroupList)),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    query: Query,
) -> Result<Answer<GroupList>, Failure> {
    query.finish()?;
    let people = app.store.people();
    let groups = people.groups.iter().map(|(name, robots)| Group {
        name: name.clone(),
        robots: robots.clone(),
    });
    Ok(Answer(GroupList {
        groups: groups.collect(),
    }))
}

/// Makes a group, or gives it other robots.
#[utoipa::path(
    put, path = "/api/v1/groups/{id}", tag = "people", params(("id" = String, Path, description = "The group")),
    request_body = GroupRequest,
    responses(
        (status = 200, body = Group),
        (status = 404, description = "group-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "too-many-groups", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn replace(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
    note: Note,
    Json(GroupRequest { robots }): Json<GroupRequest>,
) -> Result<Answer<Group>, Failure> {
    let name = name(&id)?;
    let shown: Vec<&str> = robots.iter().map(RobotId::as_str).collect();
    note.says("robots", shown.join(", "));
    let groups = &app.store.people().groups;
    if groups.len() >= MAX_GROUPS && !groups.contains_key(&name) {
        return Err(Failure::new(
            Kind::TooManyGroups,
            format!("expected at most {MAX_GROUPS} groups"),
        ));
    }
    app.store.set_group(name.clone(), robots.clone()).await?;
    tracing::info!(group = %name, robots = robots.len(), by = %asker.name(), "group set");
    Ok(Answer(Group { name, robots }))
}

/// Removes a group, and the roles on it.
#[utoipa::path(
    delete, path = "/api/v1/groups/{id}", tag = "people", params(("id" = String, Path, description = "The group")),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "group-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn remove(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
) -> Result<StatusCode, Failure> {
    let name = name(&id)?;
    if !app.store.remove_group(name.clone()).await? {
        let detail = format!("there is no group {name}");
        return Err(Failure::new(Kind::GroupUnknown, detail).hint("GET /api/v1/groups lists them"));
    }
    tracing::info!(group = %name, by = %asker.name(), "group removed");
    Ok(StatusCode::NO_CONTENT)
}
