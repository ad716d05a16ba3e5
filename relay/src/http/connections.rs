//! Who is connected: robots and programs by MQTT, people and programs by live streams.

use axum::Json as Answer;
use axum::extract::State;
use lekiwi_protocol::api::{self, ConnectionList, ConnectionView};

use super::App;
use super::extract::Query;
use super::problem::Failure;

/// Connections on a page that names no limit.
const PAGE: usize = 100;
const MAX_PAGE: u64 = 1_000;
/// Longest id of a client.
const MAX_ID: usize = 128;

/// Connections that stand, by id, a page at a time.
#[utoipa::path(
    get, path = "/connections", tag = "relay",
    params(
        ("after" = Option<String>, Query, description = "Only ids beyond this one: `next` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "At most so many, 1 to 1000; 100 when absent"),
    ),
    responses(
        (status = 200, body = ConnectionList),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn list(
    State(app): State<App>,
    mut query: Query,
) -> Result<Answer<ConnectionList>, Failure> {
    let after = query.text("after", "an id of at most 128 bytes", |text| {
        (text.len() <= MAX_ID).then(|| text.to_owned())
    })?;
    let limit = query.number("limit", 1..=MAX_PAGE)?;
    let limit = limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(PAGE));
    query.finish()?;
    let (after, live) = (after.unwrap_or_default(), app.fleet.live());
    // One more tells whether there is another page.
    let mut connections: Vec<ConnectionView> = app.broker.connected(&after, limit + 1);
    connections.extend(live.connected(&after, limit + 1));
    connections.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let more = connections.len() > limit;
    connections.truncate(limit);
    let next = connections.last().filter(|_| more);
    Ok(Answer(ConnectionList {
        next: next.map(|last| last.id.clone()),
        connections,
        elsewhere: app.broker.elsewhere().map(ToString::to_string),
        total: (app.broker.connections() + live.count()) as u64,
    }))
}
