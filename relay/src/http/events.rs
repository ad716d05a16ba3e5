//! The event log, by robot.

use axum::extract::State;
use axum::{Extension, Json as Answer};
use lekiwi_protocol::api::{self, EventPage};

use super::App;
use super::extract::{Query, Robot};
use super::problem::Failure;
use crate::store::EventQuery;
use crate::store::records::StoredEvent;
use crate::traces::Linked;

const MOST: u64 = 1000;
const USUAL: u64 = 100;

/// A robot's events, ascending. Without `after`: the newest `limit`, or the last so many before a position.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/events", tag = "fleet",
    params(
        ("id" = String, Path, description = "The robot"),
        ("after" = Option<u64>, Query, description = "Only events beyond this position of the log; 0 for all from the start"),
        ("before" = Option<u64>, Query, maximum = 9223372036854775807_u64, description = "Only events before this position of the log"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; 100 when absent"),
    ),
    responses(
        (status = 200, body = EventPage),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn of_robot(
    State(app): State<App>,
    Robot(robot): Robot,
    mut query: Query,
) -> Result<(Option<Extension<Linked>>, Answer<EventPage>), Failure> {
    let after = query.number("after", 0..=i64::MAX as u64)?;
    let before = query.number("before", 0..=i64::MAX as u64)?;
    let limit = query.number("limit", 1..=MOST)?.unwrap_or(USUAL);
    query.finish()?;
    super::robots::known(&app, &robot)?;
    let wanted = EventQuery {
        robot: Some(robot.as_str().to_owned()),
        after: after.unwrap_or_default(),
        up_to: before.map(|before| before.saturating_sub(1)),
        newest_first: after.is_none(),
        ..EventQuery::default()
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // One more than asked for tells whether there is another page.
    let mut stored = app.store.find_events(wanted, limit + 1).await?;
    let more = after.is_some() && stored.len() > limit;
    stored.truncate(limit);
    if after.is_none() {
        stored.reverse();
    }
    let next_after = stored.last().filter(|_| more).map(|event| event.position);
    let events = stored.iter().map(StoredEvent::record).collect();
    let linked = app.traces.linked(&stored).map(Extension);
    Ok((linked, Answer(EventPage { events, next_after })))
}
