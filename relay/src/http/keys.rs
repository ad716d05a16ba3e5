//! API keys: who is logged in makes them for their programs; a key changes nothing but itself.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::api::{self, KeyCreated, KeyList, KeyRequest, RotationRequest};
use lekiwi_protocol::{Permission, Scope, Timestamp, UserName};
use lekiwi_relay_core::policy::{Action, What};

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::{Id, Json, Query};
use super::people::named;
use super::problem::{Failure, Kind};
use crate::clock;
use crate::people::keys::{self, KeyError};
use crate::store::records::Key;

fn now() -> Timestamp {
    Timestamp::from_ms(clock::now_ms())
}

fn listed(app: &App, owner: &UserName) -> KeyList {
    let keys = keys::of(&app.store, owner);
    let infos = keys.iter().map(|key| keys::info(key, now()));
    KeyList {
        keys: infos.collect(),
    }
}

fn unknown(id: &str) -> Failure {
    KeyError::Unknown(id.chars().take(80).collect()).into()
}

/// The key that the path names, where the asker may end it: it is theirs or itself, or they manage.
fn named_key(app: &App, asker: &Asker, id: &str) -> Result<Arc<Key>, Failure> {
    let people = app.store.people();
    let mut keys = people.keys.values();
    let found = keys.find(|key| key.id.to_string() == id);
    let key = found.ok_or_else(|| unknown(id))?;
    let manages = || {
        let manage = Action::Do(Permission::Manage);
        asker.may(manage, What::Fleet).is_ok()
    };
    let may = match asker.key() {
        Some((own, _)) => own.id == key.id,
        None => key.owner == *asker.name() || manages(),
    };
    may.then(|| Arc::clone(key)).ok_or_else(|| unknown(id))
}

/// Whether the asker may some of it there: a key that allows nothing is a mistake.
fn check_scope(
    app: &App,
    asker: &Asker,
    permission: Permission,
    on: &Scope,
) -> Result<(), Failure> {
    let may = |what| asker.may(Action::Do(permission), what).is_ok();
    let has = match on {
        Scope::Fleet => may(What::Some),
        Scope::Robot(robot) => may(What::Robot(robot)),
        Scope::Group(group) => {
            let people = app.store.people();
            let mut robots = people.groups.get(group).into_iter().flatten();
            robots.any(|robot| may(What::Robot(robot)))
        }
    };
    if has {
        return Ok(());
    }
    let detail = format!(
        "expected permissions that {} has on {on}, got `{permission}`",
        asker.name()
    );
    Err(Failure::new(Kind::PermissionMissing, detail).hint("GET /api/v1/me says what you may"))
}

/// The keys of who asks, without their secrets.
#[utoipa::path(
    get, path = "/api/v1/keys", tag = "keys", responses((status = 200, body = KeyList)),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    asker: Asker,
    query: Query,
) -> Result<Answer<KeyList>, Failure> {
    query.finish()?;
    Ok(Answer(listed(&app, asker.name())))
}

/// The keys of a person, without their secrets.
#[utoipa::path(
    get, path = "/api/v1/people/{id}/keys", tag = "people", params(("id" = String, Path, description = "As whom they log in")),
    responses(
        (status = 200, body = KeyList),
        (status = 404, description = "person-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn of_person(
    State(app): State<App>,
    Id(id): Id,
    query: Query,
) -> Result<Answer<KeyList>, Failure> {
    query.finish()?;
    Ok(Answer(listed(&app, &named(&app, &id)?)))
}

/// Makes a key; its secret is told only here. It never may more than its owner may at that moment, and it ends with them.
#[utoipa::path(
    post, path = "/api/v1/keys", tag = "keys", request_body = KeyRequest,
    responses(
        (status = 201, body = KeyCreated),
        (status = 403, description = "permission-missing", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "too-many-keys", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn create(
    State(app): State<App>,
    asker: Asker,
    note: Note,
    Json(request): Json<KeyRequest>,
) -> Result<(StatusCode, Answer<KeyCreated>), Failure> {
    // What no key may is said as such below.
    let permissions = request.permissions.iter();
    for permission in permissions.filter(|permission| *permission != Permission::Manage) {
        check_scope(&app, &asker, permission, &request.on)?;
    }
    let created = keys::create(&app.store, request, asker.name(), now()).await?;
    note.says("key", created.info.id);
    tracing::info!(key = %created.info.id, user = %asker.name(), "API key made");
    Ok((StatusCode::CREATED, Answer(created)))
}

/// Gives a key another secret, told only here. That until now goes on working for a while, or what the key itself has shown.
#[utoipa::path(
    post, path = "/api/v1/keys/{id}/rotate", tag = "keys", params(("id" = String, Path, description = "The key's id")),
    request_body = RotationRequest,
    responses(
        (status = 200, body = KeyCreated),
        (status = 404, description = "key-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn rotate(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
    Json(RotationRequest { overlap_s }): Json<RotationRequest>,
) -> Result<Answer<KeyCreated>, Failure> {
    let key = named_key(&app, &asker, &id)?;
    // Who manages ends the keys of others, and never has one.
    if key.owner != *asker.name() {
        return Err(unknown(&id));
    }
    let shown = asker.key().map_or(key.hash, |(_, shown)| shown);
    let rotated = keys::rotate(&app.store, &key, shown, overlap_s, now()).await?;
    tracing::info!(key = %key.id, by = %asker.by(), "API key rotated");
    Ok(Answer(rotated))
}

/// Revokes a key: it is refused from now on, and its live streams end.
#[utoipa::path(
    delete, path = "/api/v1/keys/{id}", tag = "keys", params(("id" = String, Path, description = "The key's id")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 404, description = "key-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn revoke(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
    note: Note,
) -> Result<StatusCode, Failure> {
    let key = named_key(&app, &asker, &id)?;
    note.says("of", &key.owner);
    if !app.store.remove_key(key.id).await? {
        return Err(unknown(&id));
    }
    tracing::info!(key = %key.id, owner = %key.owner, by = %asker.by(), "API key revoked");
    Ok(StatusCode::NO_CONTENT)
}
