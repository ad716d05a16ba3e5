//! Enrolment tokens.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api;

use super::App;
use super::audited::Note;
use super::auth::Asker;
use super::extract::{Id, Json, Query};
use super::problem::{Failure, Kind};
use crate::clock;
use crate::identity::tokens;

/// All tokens, without their secrets.
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "enrolment",
    responses((status = 200, body = api::TokenList)), security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    query: Query,
) -> Result<Answer<api::TokenList>, Failure> {
    query.finish()?;
    let tokens = app.store.tokens().await?.iter().map(tokens::info).collect();
    Ok(Answer(api::TokenList { tokens }))
}

/// Makes a token; its secret is told only here.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "enrolment", request_body = api::TokenRequest,
    responses(
        (status = 201, body = api::TokenCreated),
        (status = 422, description = "invalid-body", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn create(
    State(app): State<App>,
    asker: Asker,
    note: Note,
    Json(request): Json<api::TokenRequest>,
) -> Result<(StatusCode, Answer<api::TokenCreated>), Failure> {
    let created = tokens::create(&app.store, &request, Timestamp::from_ms(clock::now_ms())).await?;
    note.says("token", created.info.id);
    tracing::info!(token = %created.info.id, user = %asker.name(), "enrolment token made");
    Ok((StatusCode::CREATED, Answer(created)))
}

/// Forgets a token. Certificates that it gave stay.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "enrolment", params(("id" = String, Path, description = "The token's id")),
    responses(
        (status = 204, description = "Forgotten"),
        (status = 404, description = "token-not-found", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn remove(
    State(app): State<App>,
    asker: Asker,
    Id(id): Id,
) -> Result<StatusCode, Failure> {
    if !app.store.delete_token(&id).await? {
        let shown: String = id.chars().take(80).collect();
        return Err(Failure::new(
            Kind::TokenNotFound,
            format!("there is no token {shown:?}"),
        ));
    }
    tracing::info!(token = %id, user = %asker.name(), "enrolment token removed");
    Ok(StatusCode::NO_CONTENT)
}
