//! The operators' side: the page, the same as JSON, a stream of changes, CSV, labels, and a retry. On this machine
//! only unless the line's file says otherwise; other sites' pages can neither read it nor press its buttons.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path as Part, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::{self, Stream};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, DeskError};
use super::{label, page, table};
use crate::clock;

/// Changes come in bursts; a page is told at most this often.
const PAUSE: Duration = Duration::from_millis(200);

/// What the handlers need.
#[derive(Clone)]
pub(super) struct App {
    pub(super) desk: Arc<Desk>,
    /// `https://host:port` of the relay, for labels.
    pub(super) relay: Arc<str>,
    /// Ends the streams.
    pub(super) stopping: CancellationToken,
}

/// Everything that operators may ask for.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/", get(whole))
        .route("/content", get(content))
        .route("/api/line", get(state))
        .route("/api/stream", get(changes))
        .route("/api/units/{key}/retry", post(retry))
        .route("/units.csv", get(csv))
        .route("/units/{key}/label.svg", get(svg))
        .route("/units/{key}/label.pdf", get(pdf))
        .layer(middleware::from_fn(own_name))
        .with_state(app)
}

/// A page of another site that has its own name point here is refused: it would come with that name.
async fn own_name(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let address = name.trim_start_matches('[').trim_end_matches(']');
    if name == "localhost" || address.parse::<IpAddr>().is_ok() {
        return next.run(request).await;
    }
    let text = format!("error: expected this machine's address or localhost, got {host:?}\n");
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

async fn whole(State(app): State<App>) -> Response {
    let mut random = [0; 16];
    if getrandom::fill(&mut random).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let nonce: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let html = page::page(&app.desk.snapshot(), clock::now(), &nonce);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, page::policy(&nonce)),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
        (header::REFERRER_POLICY, "no-referrer".into()),
        (header::CACHE_CONTROL, "no-store".into()),
    ];
    (headers, Html(html)).into_response()
}

async fn content(State(app): State<App>) -> Response {
    let html = page::content(&app.desk.snapshot(), clock::now());
    ([(header::CACHE_CONTROL, "no-store")], Html(html)).into_response()
}

async fn state(State(app): State<App>) -> Json<serde_json::Value> {
    let snapshot = app.desk.snapshot();
    let units: Vec<_> = snapshot.units.iter().map(table::json).collect();
    Json(json!({
        "name": snapshot.name,
        "now": clock::now(),
        "counts": snapshot.counts,
        "trouble": snapshot.trouble,
        "units": units,
    }))
}

async fn changes(State(app): State<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = app.desk.changes();
    let stream = stream::unfold(
        (changes, app.stopping),
        |(mut changes, stopping)| async move {
            tokio::select! {
                () = stopping.cancelled() => return None,
                changed = changes.changed() => changed.ok()?,
            }
            tokio::time::sleep(PAUSE).await;
            let count = *changes.borrow_and_update();
            let event = Event::default().event("change").data(count.to_string());
            Some((Ok(event), (changes, stopping)))
        },
    );
    Sse::new(stream).keep_alive(KeepAlive::default())
}

/// The header makes other sites' pages ask first, and nobody answers them.
async fn retry(
    State(app): State<App>,
    Part(key): Part<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    if !headers.contains_key("x-lekiwi-line") {
        let text = "error: expected the header x-lekiwi-line\n".to_owned();
        return Err(Refusal(StatusCode::FORBIDDEN, text));
    }
    app.desk.retry(clock::now(), &key)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn csv(State(app): State<App>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"units.csv\"",
        ),
    ];
    (headers, table::csv(&app.desk.snapshot().units)).into_response()
}

async fn svg(State(app): State<App>, Part(key): Part<String>) -> Result<Response, Refusal> {
    let label = of(&app, &key)?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], label.svg()).into_response())
}

async fn pdf(State(app): State<App>, Part(key): Part<String>) -> Result<Response, Refusal> {
    let label = of(&app, &key)?;
    Ok(([(header::CONTENT_TYPE, "application/pdf")], label.pdf()).into_response())
}

fn of(app: &App, key: &str) -> Result<label::Label, Refusal> {
    let unit = app.desk.unit(key)?;
    label::Label::new(&unit, &app.relay)
        .map_err(|error| Refusal(StatusCode::CONFLICT, format!("error: {error}\n")))
}

struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl From<DeskError> for Refusal {
    fn from(error: DeskError) -> Self {
        let status = match &error {
            DeskError::Roster(super::roster::RosterError::Unknown(_)) => StatusCode::NOT_FOUND,
            DeskError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::CONFLICT,
        };
        Self(status, format!("error: {error}\n"))
    }
}
