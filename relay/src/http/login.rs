//! The login page.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use lekiwi_protocol::api;

use super::App;
use super::audited::Note;
use super::auth::{self, Asker};
use super::extract::Peer;
use super::page;
use super::problem::{Failure, Kind};
use crate::people::sessions::LIFETIME;

/// Longest user name that is shown again, in characters.
const LONGEST_SHOWN: usize = 80;

pub(super) fn render(app: &App, status: StatusCode, user: &str, error: Option<&str>) -> Response {
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
    let content = format!(
        "<form method=\"post\" action=\"/login\">{error}\
         <label for=\"user\">User</label>\
         <input id=\"user\" name=\"user\" autocomplete=\"username\" autocapitalize=\"none\" spellcheck=\"false\" \
         required value=\"{user}\"{focus_user}>\
         <label for=\"password\">Password</label>\
         <input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"current-password\" required{focus_password}>\
         <label for=\"totp\">Code of your authenticator, if you have one</label>\
         <input id=\"totp\" name=\"totp\" autocomplete=\"one-time-code\" autocapitalize=\"none\" spellcheck=\"false\">\
         <button type=\"submit\">Log in</button></form>{others}\
         <p class=\"hint\">The relay showed the administrator's password when it started for the first time.</p>",
        error = page::error(error),
        user = page::escaped(user),
    );
    page::page(status, "Log in", &content)
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
    let agent = auth::agent(request.headers()).to_owned();
    let note = request.extensions().get::<Note>().cloned();
    let note = note.unwrap_or_default();
    let login: api::Login = match page::form(request).await {
        Ok(login) => login,
        Err(failure) => return shown(&app, "", failure),
    };
    let user: String = login.user.chars().take(LONGEST_SHOWN).collect();
    note.says("user", &user);
    match log_in(&app, login, address, &agent).await {
        Ok(response) => {
            note.by("person", user);
            response
        }
        Err(failure) => shown(&app, &user, failure),
    }
}

fn shown(app: &App, user: &str, failure: Failure) -> Response {
    page::refused(failure, |failure| {
        let text = match failure.kind() {
            Kind::LoginFailed => "User or password is wrong.",
            Kind::SecondFactorRequired => {
                "Give your password again, with what your authenticator shows now, or a recovery code."
            }
            _ => failure.detail(),
        };
        render(app, failure.kind().status(), user, Some(text))
    })
}

async fn log_in(
    app: &App,
    login: api::Login,
    address: IpAddr,
    agent: &str,
) -> Result<Response, Failure> {
    let session = app.sessions.login(login, address, agent).await?;
    let cookie = auth::cookie(&session.token, LIFETIME.as_secs());
    Ok((
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        Redirect::to("/"),
    )
        .into_response())
}

/// Ends the browser's session.
pub(super) async fn logout(State(app): State<App>, asker: Asker) -> Result<Response, Failure> {
    app.sessions.end(asker.session()?).await?;
    Ok((
        AppendHeaders([(header::SET_COOKIE, auth::cookie("", 0))]),
        Redirect::to("/login"),
    )
        .into_response())
}
