//! Who asks: what they may, their password and their sessions.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::api::{self, Me, PasswordChange, RightView, SessionList, SessionView};
use lekiwi_protocol::{Permission, Timestamp, UserName};
use lekiwi_relay_core::policy::{Action, What};

use super::App;
use super::auth::Asker;
use super::extract::{Id, Json, Peer, Query};
use super::problem::{Failure, Kind};
use crate::clock;
use crate::people::keys;
use crate::store::records::{Credential, Session};

/// Bytes of a session's digest that name it.
const ID_BYTES: usize = 8;

/// What a session is called where it is listed: the beginning of its digest, which is no secret.
fn id(session: &Session) -> String {
    hex::encode(&session.hash[..ID_BYTES])
}

/// Who asks, and what they may.
#[utoipa::path(
    get, path = "/api/v1/me", tag = "me", responses((status = 200, body = Me)), security(("session" = []), ("cookie" = []))
)]
pub(super) async fn one(asker: Asker, query: Query) -> Result<Answer<Me>, Failure> {
    query.finish()?;
    let now = Timestamp::from_ms(clock::now_ms());
    let rights = match asker.key() {
        Some((key, _)) => std::slice::from_ref(&key.right),
        None => &asker.account().rights[..],
    };
    // Of what a key was given, its owner may have lost some.
    let may = |permission: &Permission| asker.may(Action::Do(*permission), What::Some).is_ok();
    let rights = rights.iter().filter(|right| right.holds(now));
    let rights = rights.map(|right| RightView {
        permissions: right.permissions.iter().filter(may).collect(),
        on: right.on.clone(),
        until: right.until,
        by: right.source.to_string(),
    });
    Ok(Answer(Me {
        name: asker.name().clone(),
        rights: rights.collect(),
        key: asker.key().map(|(key, _)| keys::info(key, now)),
        has_second_factor: asker.account().has_factor,
        recovery_codes: asker.account().recovery_codes,
    }))
}

/// Changes the password of who asks. All their other sessions end.
#[utoipa::path(
    put, path = "/api/v1/me/password", tag = "me", request_body = PasswordChange,
    responses(
        (status = 204, description = "From now on it is taken"),
        (status = 401, description = "login-failed", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid-body, password-refused", body = api::Problem, content_type = "application/problem+json"),
        (status = 429, description = "login-throttled", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn password(
    State(app): State<App>,
    Peer(address): Peer,
    asker: Asker,
    Json(change): Json<PasswordChange>,
) -> Result<StatusCode, Failure> {
    let name = asker.name();
    app.sessions.check(name, change.current, address).await?;
    let hash = hashed(&app, name, change.new).await?;
    let user = name.to_string();
    app.store.set_credential(Credential { user, hash }).await?;
    let own = Some(asker.session()?.hash);
    app.store.end_sessions_of(name.as_str(), own).await?;
    tracing::info!(person = %name, "password changed");
    Ok(StatusCode::NO_CONTENT)
}

/// The hash of a new password, where it is good enough.
pub(super) async fn hashed(
    app: &App,
    name: &UserName,
    password: String,
) -> Result<String, Failure> {
    let hashed = app.sessions.hash(name, password).await;
    hashed.map_err(Failure::from)
}

/// The sessions of a person, as they and those who manage see them.
pub(super) fn sessions_of(app: &App, name: &UserName, asker: &Asker) -> SessionList {
    let sessions = app.store.sessions_of(name.as_str(), clock::now_ms());
    let view = |session: Session| SessionView {
        id: id(&session),
        created_at: Timestamp::from_ms(session.created_ms),
        expires_at: Timestamp::from_ms(session.expires_ms),
        is_this: session.hash == asker.digest(),
        address: session.address,
        agent: session.agent,
    };
    SessionList {
        sessions: sessions.into_iter().map(view).collect(),
    }
}

/// The sessions of who asks.
#[utoipa::path(
    get, path = "/api/v1/me/sessions", tag = "me", responses((status = 200, body = SessionList)),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn sessions(
    State(app): State<App>,
    asker: Asker,
    query: Query,
) -> Result<Answer<SessionList>, Failure> {
    query.finish()?;
    Ok(Answer(sessions_of(&app, asker.name(), &asker)))
}

/// Ends one session of who asks.
#[utoipa::path(
    delete, path = "/api/v1/me/sessions/{id}", tag = "me", params(("id" = String, Path, description = "The session")),
    responses(
        (status = 204, description = "Ended"),
        (status = 404, description = "session-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn end_session(
    State(app): State<App>,
    Id(wanted): Id,
    asker: Asker,
) -> Result<StatusCode, Failure> {
    let sessions = app
        .store
        .sessions_of(asker.name().as_str(), clock::now_ms());
    let found = sessions.iter().find(|session| id(session) == wanted);
    let Some(session) = found else {
        let shown: String = wanted.chars().take(80).collect();
        let detail = format!("there is no session {shown:?} of {}", asker.name());
        return Err(
            Failure::new(Kind::SessionUnknown, detail).hint("GET /api/v1/me/sessions lists them")
        );
    };
    app.sessions.end(session).await?;
    Ok(StatusCode::NO_CONTENT)
}
