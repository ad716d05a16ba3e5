//! The second factor of who asks, and of somebody who lost theirs.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::api::{self, RecoveryCodes, TotpCode, TotpEnd, TotpRequest, TotpSecret};

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::{Id, Json, Peer};
use super::people::{named, unknown};
use super::problem::{Failure, Kind};

/// Gives an authenticator its secret. Logins take its codes once one of them is confirmed.
#[utoipa::path(
    post, path = "/api/v1/me/totp", tag = "me", request_body = TotpRequest,
    responses(
        (status = 200, body = TotpSecret),
        (status = 401, description = "login-failed", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "second-factor-exists", body = api::Problem, content_type = "application/problem+json"),
        (status = 429, description = "login-throttled", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn begin(
    State(app): State<App>,
    Peer(address): Peer,
    asker: Asker,
    note: Note,
    Json(request): Json<TotpRequest>,
) -> Result<Answer<TotpSecret>, Failure> {
    note.says("step", "begin");
    let begun = app
        .sessions
        .begin_factor(asker.name(), request.password, address);
    Ok(Answer(begun.await?))
}

/// Has logins take the codes of the authenticator that was begun, and all other sessions end.
#[utoipa::path(
    post, path = "/api/v1/me/totp/confirm", tag = "me", request_body = TotpCode,
    responses(
        (status = 200, body = RecoveryCodes),
        (status = 401, description = "second-factor-required", body = api::Problem, content_type = "application/problem+json"),
        (status = 404, description = "second-factor-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "second-factor-exists", body = api::Problem, content_type = "application/problem+json"),
        (status = 429, description = "login-throttled", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn confirm(
    State(app): State<App>,
    Peer(address): Peer,
    asker: Asker,
    note: Note,
    Json(shown): Json<TotpCode>,
) -> Result<Answer<RecoveryCodes>, Failure> {
    note.says("step", "confirm");
    let recovery_codes = confirmed(&app, &asker, &shown.code, address).await?;
    Ok(Answer(RecoveryCodes { recovery_codes }))
}

/// Confirms, and ends the sessions that began without it.
pub(super) async fn confirmed(
    app: &App,
    asker: &Asker,
    code: &str,
    address: std::net::IpAddr,
) -> Result<Vec<String>, Failure> {
    let name = asker.name();
    let codes = app.sessions.confirm_factor(name, code, address).await?;
    let own = Some(asker.session()?.hash);
    app.store.end_sessions_of(name.as_str(), own).await?;
    tracing::info!(person = %name, "second factor set up");
    Ok(codes)
}

/// Has who asks log in by their password alone, which they show once more, or a code.
#[utoipa::path(
    delete, path = "/api/v1/me/totp", tag = "me", request_body = TotpEnd,
    responses(
        (status = 204, description = "From now on no code is taken"),
        (status = 401, description = "login-failed, second-factor-required", body = api::Problem, content_type = "application/problem+json"),
        (status = 404, description = "second-factor-unknown", body = api::Problem, content_type = "application/problem+json"),
        (status = 429, description = "login-throttled", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn end(
    State(app): State<App>,
    Peer(address): Peer,
    asker: Asker,
    note: Note,
    Json(shown): Json<TotpEnd>,
) -> Result<StatusCode, Failure> {
    note.says("step", "end");
    app.sessions
        .end_factor(asker.name(), shown, address)
        .await?;
    tracing::info!(person = %asker.name(), "second factor ended");
    Ok(StatusCode::NO_CONTENT)
}

/// Has somebody whose authenticator and recovery codes are lost log in by their password alone. Their sessions end.
#[utoipa::path(
    delete, path = "/api/v1/people/{id}/totp", tag = "people", params(("id" = String, Path, description = "As whom they log in")),
    responses(
        (status = 204, description = "From now on no code is taken"),
        (status = 404, description = "person-unknown, second-factor-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn reset(
    State(app): State<App>,
    Id(id): Id,
    asker: Asker,
) -> Result<StatusCode, Failure> {
    let name = named(&app, &id)?;
    if !app.store.end_factor(name.clone()).await? {
        let people = app.store.people();
        people.accounts.get(&name).ok_or_else(|| unknown(&id))?;
        let detail = format!("{name} has no second factor");
        return Err(Failure::new(Kind::SecondFactorUnknown, detail));
    }
    app.store.end_sessions_of(name.as_str(), None).await?;
    tracing::warn!(person = %name, by = %asker.name(), "second factor reset");
    Ok(StatusCode::NO_CONTENT)
}
