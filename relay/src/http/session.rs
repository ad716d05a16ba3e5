//! Login and logout for programs and the dashboard.

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use lekiwi_protocol::api;

use super::App;
use super::audited::Note;
use super::auth::{self, Asker};
use super::extract::{Json, Peer};
use super::problem::Failure;
use crate::people::sessions::LIFETIME;

/// Begins a session: the token for programs, and the same as a cookie for browsers.
#[utoipa::path(
    post, path = "/api/v1/session", tag = "session", request_body = api::Login,
    responses(
        (status = 200, body = api::Session),
        (status = 401, description = "login-failed, second-factor-required", body = api::Problem, content_type = "application/problem+json"),
        (status = 429, description = "login-throttled", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(app): State<App>,
    Peer(address): Peer,
    uri: Uri,
    headers: HeaderMap,
    note: Note,
    Json(login): Json<api::Login>,
) -> Result<Response, Failure> {
    // Another site must not log a browser in as somebody else. Programs send no Origin.
    if headers.contains_key(header::ORIGIN) {
        let authority = uri.authority().map(|authority| authority.as_str());
        auth::same_origin(&Method::POST, authority, &headers)?;
    }
    note.says("user", &login.user);
    let user = login.user.clone();
    let session = app
        .sessions
        .login(login, address, auth::agent(&headers))
        .await?;
    note.by("person", user);
    let cookie = auth::cookie(&session.token, LIFETIME.as_secs());
    Ok((
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        axum::Json(session),
    )
        .into_response())
}

/// Ends the session that the request shows.
#[utoipa::path(
    delete, path = "/api/v1/session", tag = "session",
    responses((status = 204, description = "Ended")), security(("session" = []), ("cookie" = []))
)]
pub(super) async fn end(State(app): State<App>, asker: Asker) -> Result<Response, Failure> {
    app.sessions.end(asker.session()?).await?;
    Ok((
        StatusCode::NO_CONTENT,
        AppendHeaders([(header::SET_COOKIE, auth::cookie("", 0))]),
    )
        .into_response())
}
