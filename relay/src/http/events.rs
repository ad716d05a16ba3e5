//! The event log, by robot.

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api::{self, EventPage};

use super::App;
use super::extract::{Query, Robot};
use super::problem::Failure;
use crate::store::records::StoredEvent;

const MOST: u64 = 1000;
const USUAL: u64 = 100;

/// A robot's events, ascending. Without `after`: the newest `limit`.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/events", tag = "fleet",
    params(
        ("id" = String, Path, description = "The robot"),
        ("after" = Option<u64>, Query, description = "Only events beyond this position of the log; 0 for all from the start"),
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
) -> Result<Answer<EventPage>, Failure> {
    let after = query.number("after", 0..=i64::MAX as u64)?;
    let limit = query.number("limit", 1..=MOST)?.unwrap_or(USUAL);
    query.finish()?;
    super::robots::known(&app, &robot)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (stored, more) = match after {
        Some(after) => {
            // One more than asked for tells whether there is another page.
            let mut stored = app
                .store
                .events_of_robot(robot.as_str(), after, limit + 1)
                .await?;
            let more = stored.len() > limit;
            stored.truncate(limit);
            (stored, more)
        }
        None => {
            let mut newest = app
                .store
                .last_events_of_robot(robot.as_str(), limit)
                .await?;
            newest.reverse();
            (newest, false)
        }
    };
    let next_after = stored.last().filter(|_| more).map(|event| event.position);
    let events = stored.iter().map(StoredEvent::record).collect();
    Ok(Answer(EventPage { events, next_after }))
}
