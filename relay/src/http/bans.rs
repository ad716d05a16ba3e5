//! Clients and addresses that were sent away for a while.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use lekiwi_protocol::api;

use super::App;
use super::auth::Asker;
use super::extract::{Id, Query};
use super::problem::{Failure, Kind};

/// Who is banned from this relay, and until when. A relay forgets its bans when it restarts.
#[utoipa::path(
    get, path = "/api/v1/bans", tag = "relay",
    responses((status = 200, body = api::BanList)), security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    query: Query,
) -> Result<Answer<api::BanList>, Failure> {
    query.finish()?;
    let bans = app.protect.bans();
    Ok(Answer(api::BanList { bans }))
}

/// Ends a ban, and forgets those before it.
#[utoipa::path(
    delete, path = "/api/v1/bans/{id}", tag = "relay", params(("id" = String, Path, description = "The client's id, or the address")),
    responses(
        (status = 204, description = "Ended"),
        (status = 404, description = "ban-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn lift(
    State(app): State<App>,
    asker: Asker,
    Id(who): Id,
) -> Result<StatusCode, Failure> {
    let shown: String = who.chars().take(80).collect();
    if !app.protect.lift(&who) {
        return Err(Failure::new(
            Kind::BanUnknown,
            format!("{shown:?} is not banned"),
        ));
    }
    tracing::info!(who = %shown, user = %asker.name(), "ban lifted");
    Ok(StatusCode::NO_CONTENT)
}
