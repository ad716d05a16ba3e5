//! The dashboard's files, built beforehand (`cargo xtask`) and embedded here; debug builds read them from
//! disk. A relay that was built without them says so.

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use rust_embed::RustEmbed;

use super::problem::{Failure, Kind};

#[derive(RustEmbed)]
#[folder = "dashboard/dist"]
#[allow_missing = true]
struct Files;

const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Lekiwi Heartbeat</title>\
    <h1>No dashboard in this relay</h1><p>It was built without one. \
    <code>cargo xtask up</code> builds both; the interface below <code>/api/v1</code> works all the same.";

/// The page.
pub(super) async fn index() -> Response {
    match Files::get("index.html") {
        Some(file) => with_type("index.html", file.data.into_owned()),
        None => Html(NOT_BUILT).into_response(),
    }
}

/// A file of the page. Its name carries its hash, so it never changes.
pub(super) async fn asset(Path(path): Path<String>) -> Result<Response, Failure> {
    let path = format!("assets/{path}");
    let Some(file) = Files::get(&path) else {
        let shown: String = path.chars().take(120).collect();
        return Err(Failure::new(
            Kind::NotFound,
            format!("there is no {shown:?}"),
        ));
    };
    let mut response = with_type(&path, file.data.into_owned());
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, max-age=31536000, immutable"),
    );
    Ok(response)
}

fn with_type(path: &str, bytes: Vec<u8>) -> Response {
    let kind = match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    };
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind))],
        bytes,
    )
        .into_response()
}
