//! The login page: plain HTML that works without scripts, so that it works whatever the dashboard does.

use std::sync::LazyLock;

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lekiwi_protocol::api;
use sha2::{Digest, Sha256};

use super::App;
use super::auth::{self, Asker};
use super::extract::{Body, Peer};
use super::problem::{Failure, Kind};
use crate::people::sessions::LIFETIME;

const STYLE: &str = include_str!("login.css");

/// The page's policy: its one style, and its form.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

pub(super) fn render(app: &App, status: StatusCode, user: &str, error: Option<&str>) -> Response {
    let error = error.map_or_else(String::new, |text| {
        format!("<p class=\"error\" role=\"alert\">{}</p>", escaped(text))
    });
    let (focus_user, focus_password) = if user.is_empty() {
        (" autofocus", "")
    } else {
        ("", " autofocus")
    };
    // Their names are letters, digits and dashes.
    let others: String = app
        .oidc
        .names()
        .map(|name| format!("<a class=\"other\" href=\"/login/oidc/{name}\">Log in by {name}</a>"))
        .collect();
    let body = format!(
        "<form method=\"post\" action=\"/login\">{error}\
         <label for=\"user\">User</label>\
         <input id=\"user\" name=\"user\" autocomplete=\"username\" autocapitalize=\"none\" spellcheck=\"false\" \
         required value=\"{user}\"{focus_user}>\
         <label for=\"password\">Password</label>\
         <input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"current-password\" required{focus_password}>\
         <button type=\"submit\">Log in</button></form>{others}\
         <p class=\"hint\">The relay showed the administrator's password when it started for the first time.</p>",
        user = escaped(user),
    );
    framed(status, "", &body)
}

/// Leads to the dashboard, as a link on a page of the relay does.
pub(super) fn go_on() -> Response {
    let refresh = "<meta http-equiv=\"refresh\" content=\"0;url=/\">";
    let link = "<a class=\"other\" href=\"/\">You are logged in: go on</a>";
    framed(StatusCode::OK, refresh, link)
}

fn framed(status: StatusCode, head: &str, body: &str) -> Response {
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">{head}\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>Log in · Lekiwi Heartbeat</title>\
         <style>{STYLE}</style></head><body><main><h1><span aria-hidden=\"true\"></span>Lekiwi Heartbeat</h1>\
         {body}</main></body></html>\n"
    );
    let mut response = (
        status,
        [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        )],
        page,
    )
        .into_response();
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn escaped(text: &str) -> String {
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

/// The page.
pub(super) async fn page(State(app): State<App>) -> Response {
    render(&app, StatusCode::OK, "", None)
}

/// The form.
pub(super) async fn submit(
    State(app): State<App>,
    Peer(address): Peer,
    request: Request,
) -> Response {
    match log_in(&app, address, request).await {
        Ok(response) => response,
        Err((user, failure)) => {
            let text = match failure.kind() {
                Kind::LoginFailed => "User or password is wrong.",
                _ => failure.detail(),
            };
            let mut page = render(&app, failure.kind().status(), &user, Some(text));
            if let Some(after) = failure.into_response().headers().get(header::RETRY_AFTER) {
                page.headers_mut()
                    .insert(header::RETRY_AFTER, after.clone());
            }
            page
        }
    }
}

async fn log_in(
    app: &App,
    address: std::net::IpAddr,
    request: Request,
) -> Result<Response, (String, Failure)> {
    let nobody = |failure| (String::new(), failure);
    let headers = request.headers();
    // Another site must not log a browser in as somebody else.
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        let authority = request
            .uri()
            .authority()
            .map(|authority| authority.as_str());
        auth::same_origin(&Method::POST, authority, headers).map_err(nobody)?;
    }
    let agent = auth::agent(headers).to_owned();
    let (parts, body) = request.into_parts();
    let Body(bytes) = Body::from_request(Request::from_parts(parts.clone(), body), &())
        .await
        .map_err(nobody)?;
    let axum::Form(login) =
        axum::Form::<api::Login>::from_request(Request::from_parts(parts, bytes.into()), &())
            .await
            .map_err(|_| {
                nobody(Failure::new(
                    Kind::InvalidBody,
                    "Fill in both user and password.",
                ))
            })?;
    let user = login.user.chars().take(80).collect();
    let session = app
        .sessions
        .login(login, address, &agent)
        .await
        .map_err(|error| (user, error.into()))?;
    let cookie = auth::cookie(&session.token, LIFETIME.as_secs());
    Ok((
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        Redirect::to("/"),
    )
        .into_response())
}

/// Ends the browser's session.
pub(super) async fn logout(State(app): State<App>, asker: Asker) -> Result<Response, Failure> {
    app.sessions.end(asker.session()).await?;
    Ok((
        AppendHeaders([(header::SET_COOKIE, auth::cookie("", 0))]),
        Redirect::to("/login"),
    )
        .into_response())
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
