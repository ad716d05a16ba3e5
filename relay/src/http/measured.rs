//! How long each route takes to answer, for `/metrics` and for traces.

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::App;
use super::routes::{self, Needs};
use crate::clock;
use crate::metrics::RequestLabels;
use crate::traces::Linked;

/// The layer around all others.
pub(super) async fn measure(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .and_then(|path| routes::find(request.method(), path.as_str()));
    let begun = clock::monotonic();
    // Strangers, and who only looks whether the relay is well, begin no trace.
    let trace = route
        .filter(|route| !matches!(route.needs, Needs::Open | Needs::Page))
        .and_then(|_| app.traces.asked(request.headers()));
    let response = next.run(request).await;
    let labels = RequestLabels {
        method: route.map_or("other", |route| route.method.as_str()),
        route: route.map_or("other", |route| route.path),
        status: class(response.status()),
    };
    let seconds = begun.elapsed().as_secs_f64();
    app.metrics.requests.get_or_create(&labels).observe(seconds);
    let denied = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
    if let Some(trace) = trace.filter(|_| !denied.contains(&response.status())) {
        let links = response.extensions().get::<Linked>();
        trace.answered(labels.method, labels.route, response.status(), links);
    }
    response
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500.. => "5xx",
    }
}
