//! Headers that every answer carries, so that a page of ours can do no more than it must; and one that says when an answer
//! may be older than it looks.
//!
//! No `Strict-Transport-Security`: the certificate is the fleet's own, and a browser that does not know
//! the authority yet would be locked out for good.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::cors::CorsLayer;

use super::App;

/// Pages load only what this relay serves; no inline script or style, no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const ALWAYS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // Not no-referrer: under it browsers send `Origin: null` with the login form.
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Why the answer may lack what happened meanwhile.
const STALE: HeaderName = HeaderName::from_static("lekiwi-stale");

/// The layer around what the fleet is asked: says when the relay does not hear robots, or other relays, at the moment.
pub(super) async fn stale(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let reasons: Vec<String> = [app.broker.missing(), app.fleet.behind()]
        .into_iter()
        .flatten()
        .collect();
    if !reasons.is_empty() {
        // Other people's words are in it.
        let mut text = reasons.join("; ");
        text.retain(|char| char.is_ascii_graphic() || char == ' ');
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(STALE, value);
        }
    }
    response
}

/// The layer around all routes: pages of these origins may ask with a session or key that they were given. Cookies are
/// never for them.
pub(super) fn elsewhere(origins: &[HeaderValue]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    CorsLayer::new()
        .allow_origin(origins.to_vec())
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("x-api-key"),
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([header::RETRY_AFTER, STALE])
        .max_age(Duration::from_secs(600))
}

/// The layer around all routes: adds what a handler did not set itself.
pub(super) async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in ALWAYS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}
