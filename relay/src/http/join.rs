//! The page by which invited people choose their password.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use lekiwi_protocol::UserName;
use lekiwi_protocol::api::Join;
use serde::Deserialize;

use super::App;
use super::audited::Note;
use super::auth;
use super::extract::{Peer, Query};
use super::problem::{Failure, Kind};
use super::{invitations, page};
use crate::people::invitations::PAGE;
use crate::people::sessions::LIFETIME;

fn render(status: StatusCode, name: &UserName, token: &str, error: Option<&str>) -> Response {
    let content = format!(
        "<form method=\"post\" action=\"{PAGE}\">{error}\
         <p>You are invited. You will log in as <b>{name}</b>.</p>\
         <input type=\"hidden\" name=\"token\" value=\"{token}\">\
         <input type=\"hidden\" name=\"name\" autocomplete=\"username\" value=\"{name}\">\
         <label for=\"password\">Choose a password of 15 characters or more</label>\
         <input id=\"password\" name=\"password\" type=\"password\" autocomplete=\"new-password\" required autofocus>\
         <label for=\"again\">Once more</label>\
         <input id=\"again\" name=\"again\" type=\"password\" autocomplete=\"new-password\" required>\
         <button type=\"submit\">Join</button></form>\
         <p class=\"hint\">Some words that have nothing to do with each other are hard to guess and easy to remember.</p>",
        error = page::error(error),
        name = page::escaped(name.as_str()),
        token = page::escaped(token),
    );
    page::page(status, "Join", &content)
}

/// What went wrong, where there is no form to show it in.
fn sorry(failure: &Failure) -> Response {
    let hint = page::escaped(failure.hinted().unwrap_or_default());
    let content = format!(
        "<form>{}<p>{hint}</p></form>",
        page::error(Some(failure.detail()))
    );
    page::page(failure.kind().status(), "Join", &content)
}

/// The page.
pub(super) async fn page(State(app): State<App>, mut query: Query) -> Response {
    let token = query.text("token", "a token", |text| Some(text.to_owned()));
    let token = token.ok().flatten().unwrap_or_default();
    match invitations::open(&app, &token).await {
        Ok(invitation) => render(StatusCode::OK, &invitation.person, &token, None),
        Err(failure) => page::refused(failure, sorry),
    }
}

/// What the form sends.
#[derive(Deserialize)]
struct Filled {
    token: String,
    password: String,
    again: String,
}

/// The form.
pub(super) async fn submit(
    State(app): State<App>,
    Peer(address): Peer,
    note: Note,
    request: Request,
) -> Response {
    let agent = auth::agent(request.headers()).to_owned();
    let filled: Filled = match page::form(request).await {
        Ok(filled) => filled,
        Err(failure) => return page::refused(failure, sorry),
    };
    let invitation = match invitations::open(&app, &filled.token).await {
        Ok(invitation) => invitation,
        Err(failure) => return page::refused(failure, sorry),
    };
    let token = filled.token.clone();
    match join(&app, filled, address, &agent, &note).await {
        Ok(response) => response,
        Err(failure) => page::refused(failure, |failure| {
            let (status, text) = (failure.kind().status(), failure.detail());
            render(status, &invitation.person, &token, Some(text))
        }),
    }
}

async fn join(
    app: &App,
    filled: Filled,
    address: IpAddr,
    agent: &str,
    note: &Note,
) -> Result<Response, Failure> {
    if filled.password != filled.again {
        let detail = "Expected the same password twice, got two.";
        return Err(Failure::new(Kind::InvalidBody, detail));
    }
    let join = Join {
        token: filled.token,
        password: filled.password,
    };
    let joined = invitations::joined(app, join, address, agent, note).await?;
    let cookie = auth::cookie(&joined.session.token, LIFETIME.as_secs());
    Ok((
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        Redirect::to("/"),
    )
        .into_response())
}
