//! How the relay itself is.

use std::time::Instant;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{Health, HealthStatus, Readiness};

use super::App;
use super::extract::Query;
use super::problem::Failure;
use super::starting::readiness;
use crate::clock;
use crate::identity::server::RENEW_BEFORE;
use crate::metrics::HolderLabels;
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
    if app.leaving.is_cancelled() {
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
            "the server certificate ends at {ends}: restart the relay to renew it, after `lekiwi-relay ca issuing` where the \
             issuing authority ends then"
        ));
        degraded |= ends <= now;
    }
    said(problems, degraded, app.started)
}

/// The answer of `/health`.
pub(super) fn said(
    problems: Vec<String>,
    degraded: bool,
    started: Instant,
) -> (StatusCode, Answer<Health>) {
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
            .saturating_duration_since(started)
            .as_secs(),
    };
    (code, Answer(health))
}

/// Whether the relay can be sent robots and requests: it knows its fleet, and listens. Open to everybody. A store that
/// cannot write is no reason to go elsewhere; see `/health` for that.
#[utoipa::path(
    get, path = "/ready", tag = "relay",
    responses(
        (status = 200, description = "It can", body = Readiness),
        (status = 503, description = "Not yet, or not any more: see `missing`", body = Readiness),
    )
)]
pub(super) async fn ready(State(app): State<App>) -> (StatusCode, Answer<Readiness>) {
    let mut missing = Vec::new();
    if app.leaving.is_cancelled() {
        missing.push("the relay is stopping".to_owned());
    } else {
        missing.extend(app.broker.missing());
    }
    readiness(missing)
}

/// Counters and gauges for Prometheus, for who is logged in and for programs with a consumer's certificate. In
/// OpenMetrics' format where the `Accept` header names it, in Prometheus' own otherwise.
#[utoipa::path(
    get, path = "/metrics", tag = "relay",
    responses((status = 200, description = "`docs/observability.md` lists them", content(
        (String = "text/plain"), (String = "application/openmetrics-text"),
    ))),
    security(("session" = []), ("cookie" = []), ("consumer" = []))
)]
pub(super) async fn metrics(
    State(app): State<App>,
    headers: HeaderMap,
    query: Query,
) -> Result<impl IntoResponse, Failure> {
    query.finish()?;
    const OPEN: &str = "application/openmetrics-text";
    let metrics = &app.metrics;
    let counts = app.fleet.counts();
    metrics.robots_known.set(counts.known as i64);
    metrics.robots_online.set(counts.connected as i64);
    metrics.robots_stale.set(counts.stale as i64);
    metrics
        .teleoperation_sessions
        .set(counts.teleoperated as i64);
    look_at_certificates(&app);
    metrics.resident_memory.set(resident_bytes().unwrap_or(0));
    let accepts = headers.get_all(header::ACCEPT);
    let open = accepts
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.contains(OPEN)));
    let (kind, text) = if open {
        (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            metrics.encode(),
        )
    } else {
        (
            "text/plain; version=0.0.4; charset=utf-8",
            metrics.encode_plain(),
        )
    };
    Ok((
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind))],
        text,
    ))
}

/// Counts for how long certificates are still good.
fn look_at_certificates(app: &App) {
    let now_ms = clock::now_ms();
    let left = &app.metrics.certificate_left;
    let says = |of, ends_ms: u64| {
        let left_ms = ends_ms.cast_signed() - now_ms.cast_signed();
        left.get_or_create(&HolderLabels { of })
            .set(left_ms / 1_000);
    };
    says("server", app.certificate_ends_ms);
    says("authority", app.authority.not_after_ms());
    let in_use = app.store.certificates_in_use();
    match in_use.values().map(|robot| robot.not_after_ms).min() {
        Some(first_ms) => says("robots", first_ms),
        None => drop(left.remove(&HolderLabels { of: "robots" })),
    }
    let ending = in_use.values().filter(|robot| robot.is_ending(now_ms));
    let count = ending.count() as i64;
    app.metrics.robots_certificate_ending.set(count);
}

/// Memory that this process has, as Linux says it.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
