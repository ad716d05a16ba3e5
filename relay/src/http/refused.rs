//! Messages that the broker or ingest refused, for inspection.

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api;

use super::App;
use super::extract::Query;
use super::problem::Failure;

const MOST: u64 = 1000;
const USUAL: u64 = 100;

/// The newest refused messages and connections.
#[utoipa::path(
    get, path = "/api/v1/refused", tag = "fleet",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; 100 when absent")),
    responses(
        (status = 200, body = api::RefusedList),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    mut query: Query,
) -> Result<Answer<api::RefusedList>, Failure> {
    let limit = query.number("limit", 1..=MOST)?.unwrap_or(USUAL);
    query.finish()?;
    let rows = app
        .store
        .refused(usize::try_from(limit).unwrap_or(usize::MAX))
        .await?;
    let refused = rows
        .into_iter()
        .map(|row| api::Refused {
            received_at: Timestamp::from_ms(row.at_ms),
            client: row.client,
            topic: row.topic,
            reason: row.reason,
            payload: String::from_utf8_lossy(&row.payload).into_owned(),
            payload_bytes: row.payload_bytes,
        })
        .collect();
    Ok(Answer(api::RefusedList { refused }))
}
