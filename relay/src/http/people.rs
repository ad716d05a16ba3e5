//! People: who may log in, and what they may. For those who manage.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::api::{
    self, Loan, NewPassword, Person, PersonChange, PersonList, PersonRequest, SessionList,
};
use lekiwi_protocol::{Scope, Timestamp, UserName};
use lekiwi_relay_core::policy::Source;

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::{Id, Json, Query};
use super::me;
use super::problem::{Failure, Kind};
use crate::clock;
use crate::store::Change;
use crate::store::records::{Account, Credential};

/// Most roles of a person.
const MAX_ROLES: usize = 100;

fn view(app: &App, account: &Account) -> Person {
    let now = clock::now_ms();
    let holds = |until: Option<Timestamp>| until.is_none_or(|until| until.as_ms() > now);
    let standing = || account.rights.iter().filter(|right| holds(right.until));
    let roles = standing().filter_map(|right| match right.source {
        Source::Role(role) => Some(api::Grant {
            role,
            on: right.on.clone(),
            until: right.until,
        }),
        _ => None,
    });
    let loans = standing().filter_map(|right| match (&right.source, &right.on) {
        (Source::Lent(by), Scope::Robot(robot)) => Some(Loan {
            robot_id: robot.clone(),
            to: account.name.clone(),
            by: by.clone(),
            until: right.until?,
        }),
        _ => None,
    });
    Person {
        name: account.name.clone(),
        roles: roles.collect(),
        loans: loans.collect(),
        created_at: Timestamp::from_ms(account.created_ms),
        disabled_at: account.disabled_ms.map(Timestamp::from_ms),
        has_password: account.has_password,
        has_second_factor: account.has_factor,
        issuer: account.issuer.clone(),
        sessions: app.store.sessions_of(account.name.as_str(), now).len() as u64,
    }
}

pub(super) fn unknown(name: &str) -> Failure {
    let shown: String = name.chars().take(80).collect();
    Failure::new(
        Kind::PersonUnknown,
        format!("there is nobody called {shown:?}"),
    )
    .hint("GET /api/v1/people lists them")
}

/// The name in the path, where there is somebody of this name.
pub(super) fn named(app: &App, text: &str) -> Result<UserName, Failure> {
    let people = app.store.people();
    let known = people.accounts.get_key_value(text);
    known
        .map(|(name, _)| name.clone())
        .ok_or_else(|| unknown(text))
}

/// Roles and passwords are for those whom no provider vouches for: it would undo the one, and the other would go round it.
fn refuse_provided(app: &App, name: &UserName) -> Result<(), Failure> {
    let people = app.store.people();
    let account = people.accounts.get(name);
    match account.and_then(|account| account.issuer.as_ref()) {
        None => Ok(()),
        Some(issuer) => Err(Failure::new(
            Kind::PersonProvided,
            format!("expected somebody with a password, {name} logs in by {issuer}"),
        )
        .hint("their roles follow from what the provider says at each login")),
    }
}

fn shown(app: &App, name: &UserName) -> Result<Answer<Person>, Failure> {
    let people = app.store.people();
    let account = people.accounts.get(name);
    account
        .map(|account| Answer(view(app, account)))
        .ok_or_else(|| unknown(name.as_str()))
}

pub(super) fn check_roles(roles: &[api::Grant]) -> Result<(), Failure> {
    if roles.len() > MAX_ROLES {
        return Err(Failure::new(
            Kind::InvalidBody,
            format!("expected at most {MAX_ROLES} roles, got {}", roles.len()),
        ));
    }
    Ok(())
}

/// Roles as the audit has them, such as `operator on group:warehouse`.
pub(super) fn in_words(roles: &[api::Grant]) -> String {
    let role = |grant: &api::Grant| match grant.until {
        Some(until) => format!("{} on {} until {until}", grant.role, grant.on),
        None => format!("{} on {}", grant.role, grant.on),
    };
    let roles: Vec<String> = roles.iter().map(role).collect();
    roles.join(", ")
}

fn made(name: &UserName, change: Change) -> Result<(), Failure> {
    match change {
        Change::Made => Ok(()),
        Change::Unknown => Err(unknown(name.as_str())),
        Change::LastAdmin => Err(Failure::new(
            Kind::LastAdmin,
            format!("expected another admin of the fleet to be left, {name} is the only one"),
        )
        .hint("make somebody else admin first")),
    }
}

/// Everybody.
#[utoipa::path(
    get, path = "/api/v1/people", tag = "people",
    responses((status = 200, body = PersonList)),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    query: Query,
) -> Result<Answer<PersonList>, Failure> {
    query.finish()?;
    let people = app.store.people();
    let people = people.accounts.values().map(|account| view(&app, account));
    Ok(Answer(PersonList {
        people: people.collect(),
    }))
}

/// One person.
#[utoipa::path(
    get, path = "/api/v1/people/{id}", tag = "people", params(("id" = String, Path, description = "As whom they log in")),
    responses(
        (status = 200, body = Person),
        (status = 404, description = "person-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn one(
    State(app): State<App>,
    Id(id): Id,
    query: Query,
) -> Result<Answer<Person>, Failure> {
    query.finish()?;
    shown(&app, &named(&app, &id)?)
}

/// Adds a person.
#[utoipa::path(
    post, path = "/api/v1/people", tag = "people", request_body = PersonRequest,
    responses(
        (status = 201, body = Person),
        (status = 409, description = "person-exists", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body, password-refused", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn create(
    State(app): State<App>,
    asker: Asker,
    note: Note,
    Json(request): Json<PersonRequest>,
) -> Result<(StatusCode, Answer<Person>), Failure> {
    check_roles(&request.roles)?;
    note.says("person", &request.name);
    note.says("roles", in_words(&request.roles));
    let hash = me::hashed(&app, &request.name, request.password).await?;
    let name = request.name.clone();
    let added = app
        .store
        .add_person(request.name, Some(hash), request.roles, clock::now_ms());
    if !added.await? {
        return Err(Failure::new(
            Kind::PersonExists,
            format!("there is somebody called {name}"),
        ));
    }
    tracing::info!(person = %name, by = %asker.name(), "person added");
    Ok((StatusCode::CREATED, shown(&app, &name)?))
}

/// Changes what a person may, or whether they are let in. What they lent ends.
#[utoipa::path(
    patch, path = "/api/v1/people/{id}", tag = "people", params(("id" = String, Path, description = "As whom they log in")),
    request_body = PersonChange,
    responses(
        (status = 200, body = Person),
        (status = 404, description = "person-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "last-admin, person-provided", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn change(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
    note: Note,
    Json(change): Json<PersonChange>,
) -> Result<Answer<Person>, Failure> {
    let name = named(&app, &id)?;
    if let Some(roles) = change.roles {
        check_roles(&roles)?;
        note.says("roles", in_words(&roles));
        refuse_provided(&app, &name)?;
        made(
            &name,
            app.store
                .set_roles(name.clone(), roles, clock::now_ms())
                .await?,
        )?;
        tracing::info!(person = %name, by = %asker.name(), "roles changed");
    }
    if let Some(is_disabled) = change.disabled {
        note.says("disabled", is_disabled);
        let since = is_disabled.then(clock::now_ms);
        made(&name, app.store.disable_person(name.clone(), since).await?)?;
        tracing::info!(person = %name, by = %asker.name(), is_disabled, "person let in or not");
    }
    shown(&app, &name)
}

/// Removes a person: their sessions end, and what they lent.
#[utoipa::path(
    delete, path = "/api/v1/people/{id}", tag = "people", params(("id" = String, Path, description = "As whom they log in")),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "person-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "last-admin", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn remove(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
) -> Result<StatusCode, Failure> {
    let name = named(&app, &id)?;
    let removed = app.store.remove_person(name.clone(), clock::now_ms());
    made(&name, removed.await?)?;
    tracing::info!(person = %name, by = %asker.name(), "person removed");
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a person another password: their sessions end.
#[utoipa::path(
    put, path = "/api/v1/people/{id}/password", tag = "people", params(("id" = String, Path, description = "As whom they log in")),
    request_body = NewPassword,
    responses(
        (status = 204, description = "From now on it is taken"),
        (status = 404, description = "person-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "person-provided", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body, password-refused", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn password(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
    Json(NewPassword { password }): Json<NewPassword>,
) -> Result<StatusCode, Failure> {
    let name = named(&app, &id)?;
    refuse_provided(&app, &name)?;
    let hash = me::hashed(&app, &name, password).await?;
    let user = name.to_string();
    if !app.store.set_credential(Credential { user, hash }).await? {
        return Err(unknown(name.as_str()));
    }
    app.store.end_sessions_of(name.as_str(), None).await?;
    tracing::info!(person = %name, by = %asker.name(), "password set");
    Ok(StatusCode::NO_CONTENT)
}

/// The sessions of a person.
#[utoipa::path(
    get, path = "/api/v1/people/{id}/sessions", tag = "people", params(("id" = String, Path, description = "As whom they log in")),
    responses(
        (status = 200, body = SessionList),
        (status = 404, description = "person-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn sessions(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
    query: Query,
) -> Result<Answer<SessionList>, Failure> {
    query.finish()?;
    let name = named(&app, &id)?;
    Ok(Answer(me::sessions_of(&app, &name, &asker)))
}

/// Ends all sessions of a person.
#[utoipa::path(
    delete, path = "/api/v1/people/{id}/sessions", tag = "people", params(("id" = String, Path, description = "As whom they log in")),
    responses(
        (status = 204, description = "Ended"),
        (status = 404, description = "person-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn end_sessions(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
) -> Result<StatusCode, Failure> {
    let name = named(&app, &id)?;
    let ended = app.store.end_sessions_of(name.as_str(), None).await?;
    tracing::info!(person = %name, by = %asker.name(), ended, "sessions ended");
    Ok(StatusCode::NO_CONTENT)
}
