//! Pages for people outside the dashboard: plain HTML that works without scripts, so that they work whatever the dashboard
//! does.

use std::sync::LazyLock;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qrcodegen::{QrCode, QrCodeEcc};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::auth;
use super::extract::Body;
use super::problem::{Failure, Kind};

const STYLE: &str = include_str!("page.css");

/// The pages' policy: their one style, and their forms.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// A page with this title around `content`, which is HTML.
pub(super) fn page(status: StatusCode, title: &str, content: &str) -> Response {
    framed(status, title, "", content)
}

/// A page that leads to the dashboard, as a link on a page of the relay does.
pub(super) fn go_on() -> Response {
    let refresh = "<meta http-equiv=\"refresh\" content=\"0;url=/\">";
    let link = "<a class=\"other\" href=\"/\">You are logged in: go on</a>";
    framed(StatusCode::OK, "Logged in", refresh, link)
}

fn framed(status: StatusCode, title: &str, head: &str, content: &str) -> Response {
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">{head}\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title} · Lekiwi Heartbeat</title>\
         <style>{STYLE}</style></head><body><main><h1><span aria-hidden=\"true\"></span>Lekiwi Heartbeat</h1>\
         {content}</main></body></html>\n"
    );
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let mut response = (status, [(header::CONTENT_TYPE, html)], page).into_response();
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// What went wrong, as HTML; nothing when nothing did.
pub(super) fn error(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| {
        format!("<p class=\"error\" role=\"alert\">{}</p>", escaped(text))
    })
}

/// The page of a form that was refused, with what the failure says to clients.
pub(super) fn refused(failure: Failure, page: impl FnOnce(&Failure) -> Response) -> Response {
    let mut page = page(&failure);
    page.extensions_mut().insert(failure.kind());
    if let Some(after) = failure.into_response().headers().get(header::RETRY_AFTER) {
        page.headers_mut()
            .insert(header::RETRY_AFTER, after.clone());
    }
    page
}

/// A text as HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A QR code as SVG; nothing when the text is too long for one.
pub(super) fn qr(text: &str) -> String {
    let Ok(code) = QrCode::encode_text(text, QrCodeEcc::Medium) else {
        return String::new();
    };
    let size = code.size();
    let squares = (0..size).flat_map(|y| (0..size).map(move |x| (x, y)));
    let dark = squares.filter(|(x, y)| code.get_module(*x, *y));
    let path: String = dark.map(|(x, y)| format!("M{x} {y}h1v1h-1z")).collect();
    let side = size + 8; // with the quiet zone
    format!(
        "<svg class=\"qr\" role=\"img\" aria-label=\"QR code\" viewBox=\"-4 -4 {side} {side}\" shape-rendering=\"crispEdges\">\
         <path fill=\"#fff\" d=\"M-4 -4h{side}v{side}h-{side}z\"/><path fill=\"#000\" d=\"{path}\"/></svg>"
    )
}

/// What a form sent, which must be one of ours: another site must not log a browser in as somebody else.
///
/// # Errors
/// When another site made the browser send it, or something is missing.
pub(super) async fn form<T: DeserializeOwned>(request: Request) -> Result<T, Failure> {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        let authority = request.uri().authority();
        let authority = authority.map(|authority| authority.as_str());
        auth::same_origin(&Method::POST, authority, headers)?;
    }
    let (parts, body) = request.into_parts();
    let Body(bytes) = Body::from_request(Request::from_parts(parts.clone(), body), &()).await?;
    let form = axum::Form::from_request(Request::from_parts(parts, bytes.into()), &()).await;
    let axum::Form(form) =
        form.map_err(|_| Failure::new(Kind::InvalidBody, "Fill in every field."))?;
    Ok(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_user_becomes_markup() {
        assert_eq!(
            escaped("\"><script>'&"),
            "&quot;&gt;&lt;script&gt;&#39;&amp;"
        );
    }
}
