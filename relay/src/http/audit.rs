//! Who did what, for those who may look.

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{self, AuditCheckpoint, AuditPage};

use super::App;
use super::extract::Query;
use super::problem::Failure;
use crate::clock;
use crate::store::AuditQuery;

const MOST: u64 = 1000;
const USUAL: u64 = 100;
/// Longest text to look for.
const LONGEST: usize = 300;

/// Who did what, ascending. Without `after`: the newest `limit`, or the last so many before an entry.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "audit",
    params(
        ("who" = Option<String>, Query, description = "Only what this one did, such as person:ada"),
        ("action" = Option<String>, Query, description = "Only this, such as robot-command"),
        ("robot" = Option<String>, Query, description = "Only on this robot"),
        ("from" = Option<String>, Query, description = "Only at this time or later"),
        ("to" = Option<String>, Query, description = "Only before this time"),
        ("after" = Option<u64>, Query, description = "Only beyond this entry; 0 for all from the first"),
        ("before" = Option<u64>, Query, description = "Only before this entry"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; 100 when absent"),
    ),
    responses(
        (status = 200, body = AuditPage),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    mut query: Query,
) -> Result<Answer<AuditPage>, Failure> {
    let text = |text: &str| (text.len() <= LONGEST).then(|| text.to_owned());
    let positions = 0..=i64::MAX as u64;
    let after = query.number("after", positions.clone())?;
    let wanted = AuditQuery {
        who: query.text("who", "somebody such as person:ada", text)?,
        action: query.text("action", "an action such as robot-command", text)?,
        robot: query.text("robot", "a robot's id", text)?,
        from_ms: query.time("from")?.map(Timestamp::as_ms),
        to_ms: query.time("to")?.map(Timestamp::as_ms),
        after: after.unwrap_or_default(),
        before: query.number("before", positions)?,
        newest_first: after.is_none(),
    };
    let limit = query.number("limit", 1..=MOST)?.unwrap_or(USUAL);
    query.finish()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // One more than asked for tells whether there is another page.
    let mut entries = app.store.audit(wanted, limit + 1).await?;
    let more = after.is_some() && entries.len() > limit;
    entries.truncate(limit);
    if after.is_none() {
        entries.reverse();
    }
    let next_after = entries.last().filter(|_| more).map(|entry| entry.number);
    Ok(Answer(AuditPage {
        entries,
        next_after,
    }))
}

/// How far it goes, signed now.
#[utoipa::path(
    get, path = "/api/v1/audit/checkpoint", tag = "audit",
    responses(
        (status = 200, body = AuditCheckpoint),
        (status = 500, description = "audit-broken", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn checkpoint(
    State(app): State<App>,
    query: Query,
) -> Result<Answer<AuditCheckpoint>, Failure> {
    query.finish()?;
    let now = Timestamp::from_ms(clock::now_ms());
    Ok(Answer(app.notary.checkpoint(&app.store, now).await?))
}
