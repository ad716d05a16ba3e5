//! How the relay itself is.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{Health, HealthStatus};

use super::App;
use super::extract::Query;
use super::problem::Failure;
use crate::clock;
use crate::identity::server::RENEW_BEFORE;
use crate::store;

/// Whether the relay does its work. Open to everybody.
#[utoipa::path(
    get, path = "/health", tag = "relay",
    responses(
        (status = 200, description = "All of it", body = Health),
        (status = 503, description = "Some of it: see `problems`", body = Health),
    )
)]
pub(super) async fn health(State(app): State<App>) -> (StatusCode, Answer<Health>) {
    let mut problems = Vec::new();
    if let store::Health::Failing { reason } = &*app.store.health().borrow() {
        problems.push(format!(
            "the store cannot write: {reason}; events stay with the robots until it can"
        ));
    }
    let mut degraded = !problems.is_empty();
    if app.stopping.is_cancelled() {
        degraded = true;
        problems.push("the relay is stopping".to_owned());
    }
    if let Some(shed) = app.fleet.shedding() {
        // It does its work as far as that can be done: no reason to send anybody elsewhere.
        problems.push(format!(
            "overloaded: {shed} messages and samples were given up, the least urgent first"
        ));
    }
    let now = Timestamp::from_ms(clock::now_ms());
    let ends = Timestamp::from_ms(app.certificate_ends_ms);
    if ends.since(now) < RENEW_BEFORE / 2 {
        // Worth a word long before anything fails.
        problems.push(format!(
            "the server certificate ends at {ends}: restart the relay to renew it"
        ));
        degraded |= ends <= now;
    }
    let (status, code) = if degraded {
        (HealthStatus::Degraded, StatusCode::SERVICE_UNAVAILABLE)
    } else {
        (HealthStatus::Ok, StatusCode::OK)
    };
    let health = Health {
        status,
        problems,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: clock::monotonic()
            .saturating_duration_since(app.started)
            .as_secs(),
    };
    (code, Answer(health))
}

/// Counters in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "relay",
    responses((status = 200, description = "OpenMetrics text", content_type = "application/openmetrics-text", body = String)),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn metrics(
    State(app): State<App>,
    query: Query,
) -> Result<impl IntoResponse, Failure> {
    query.finish()?;
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], app.metrics.encode()))
}
