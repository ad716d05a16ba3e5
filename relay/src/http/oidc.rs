//! Logins by a provider of OpenID Connect, as browsers see them: away, and back again. What goes wrong is said on the login
//! page, where there may be another way in.

use std::net::IpAddr;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use lekiwi_protocol::Timestamp;
use serde::Deserialize;

use super::App;
use super::audited::Note;
use super::auth;
use super::extract::{Id, Peer};
use super::login;
use super::page;
use super::problem::Kind;
use crate::alerts::chain;
use crate::clock;
use crate::people::oidc::attempt::{Attempt, LASTS_S};
use crate::people::oidc::{OidcError, Provider};
use crate::store::records::Welcome;

/// What the browser keeps until it comes back. Not strict: it comes back from elsewhere.
const COOKIE: &str = "__Host-lekiwi-oidc";

/// What the login page says, and how the answer ends.
type Refusal = (StatusCode, String);

fn cookie(value: &str, max_age_s: u64) -> HeaderValue {
    let text =
        format!("{COOKIE}={value}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Lax");
    // A number and base64url.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

fn provider<'a>(app: &'a App, name: &str) -> Result<&'a Provider, Refusal> {
    let missing = || (StatusCode::NOT_FOUND, "There is no such login.".to_owned());
    app.oidc.find(name).ok_or_else(missing)
}

/// Where the browser comes back to: what the provider knows the relay by.
fn back(provider: &Provider, uri: &Uri, headers: &HeaderMap) -> Result<String, Refusal> {
    let named = || headers.get(header::HOST)?.to_str().ok()?.parse().ok();
    let authority: Option<Authority> = uri.authority().cloned().or_else(named);
    let authority = authority.ok_or_else(|| {
        let text = "The relay was called by no name.".to_owned();
        (StatusCode::BAD_REQUEST, text)
    })?;
    let name = provider.name();
    Ok(format!("https://{authority}/login/oidc/{name}/callback"))
}

fn failed(provider: &Provider, address: IpAddr, error: &OidcError) -> Refusal {
    let name = provider.name();
    tracing::warn!(provider = name, %address, error = chain(error), "login refused");
    match error {
        OidcError::Unreachable(_) | OidcError::Failing => (
            StatusCode::BAD_GATEWAY,
            format!("{name} does not answer. Try again later, or log in by a password."),
        ),
        OidcError::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many people log in at the moment. Try again.".to_owned(),
        ),
        OidcError::Answer { .. } | OidcError::Token(_) => (
            StatusCode::FORBIDDEN,
            format!("{name} did not confirm who you are. Try again."),
        ),
    }
}

fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error = chain(error), "login failed");
    let text = "The relay cannot log anybody in at the moment.".to_owned();
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

/// Sends the browser to the provider.
pub(super) async fn begin(
    State(app): State<App>,
    Id(name): Id,
    Peer(address): Peer,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let sent = async {
        let provider = provider(&app, &name)?;
        let back = back(provider, &uri, &headers)?;
        let attempt = Attempt::begin(provider.name(), clock::now_ms() / 1_000);
        let attempt = attempt.map_err(|error| internal(&error))?;
        let place = provider.address(&attempt, &back).await;
        let place = place.map_err(|error| failed(provider, address, &error))?;
        let kept = cookie(&attempt.cookie(), LASTS_S);
        Ok((
            AppendHeaders([(header::SET_COOKIE, kept)]),
            Redirect::to(place.as_str()),
        ))
    };
    let sent: Result<_, Refusal> = sent.await;
    match sent {
        Ok(away) => away.into_response(),
        Err((status, text)) => login::render(&app, status, "", Some(&text)),
    }
}

/// What the browser brings back.
#[derive(Debug, Deserialize)]
pub(super) struct Brought {
    state: Option<String>,
    code: Option<String>,
    /// Who sends it, where the provider says so (RFC 9207).
    iss: Option<String>,
    error: Option<String>,
}

/// Takes the browser that comes back, and begins a session.
pub(super) async fn callback(
    State(app): State<App>,
    Id(name): Id,
    Peer(address): Peer,
    uri: Uri,
    headers: HeaderMap,
    note: Note,
    brought: Result<Query<Brought>, QueryRejection>,
) -> Response {
    let brought = brought.ok().map(|Query(brought)| brought);
    let spent = (header::SET_COOKIE, cookie("", 0));
    match log_in(&app, &name, address, &uri, &headers, &note, brought).await {
        // Not a redirection: the session's cookie is strict, and browsers would not show it at the end of a way that began
        // elsewhere.
        Ok(session) => {
            let session = (header::SET_COOKIE, session);
            (AppendHeaders([spent, session]), page::go_on()).into_response()
        }
        Err((status, text)) => {
            let mut page = login::render(&app, status, "", Some(&text));
            page.extensions_mut().insert(Kind::LoginFailed);
            (AppendHeaders([spent]), page).into_response()
        }
    }
}

/// The session's cookie.
async fn log_in(
    app: &App,
    name: &str,
    address: IpAddr,
    uri: &Uri,
    headers: &HeaderMap,
    note: &Note,
    brought: Option<Brought>,
) -> Result<HeaderValue, Refusal> {
    let provider = provider(app, name)?;
    let name = provider.name();
    let now_s = clock::now_ms() / 1_000;
    let begun = brought.and_then(|brought| {
        let (cookie, state) = (auth::cookie_of(headers, COOKIE)?, brought.state.as_deref()?);
        Some((Attempt::resume(cookie, name, state, now_s)?, brought))
    });
    let (attempt, brought) = begun.ok_or_else(|| {
        tracing::warn!(provider = name, %address, "login refused: not begun by this browser, or long ago");
        let text = "This login was begun in another browser, or too long ago. Try again.";
        (StatusCode::BAD_REQUEST, text.to_owned())
    })?;
    let is_other = |issuer: &String| issuer != provider.issuer();
    let code = match (brought.code, brought.error, brought.iss) {
        (Some(code), None, issuer) if !issuer.as_ref().is_some_and(is_other) => code,
        (_, error, _) => {
            let error: String = error.unwrap_or_default().chars().take(80).collect();
            tracing::warn!(provider = name, %address, error = %error.escape_debug(), "login refused");
            let text = format!("{name} did not let you in. {error}");
            return Err((StatusCode::FORBIDDEN, text));
        }
    };
    let back = back(provider, uri, headers)?;
    let outsider = provider.outsider(&attempt, &code, &back).await;
    let mut outsider = outsider.map_err(|error| failed(provider, address, &error))?;
    // What they may ends with the session, for nobody says after it that they still are what they were.
    let now = Timestamp::from_ms(clock::now_ms());
    for role in &mut outsider.roles {
        role.until = Some(now.plus(provider.session()));
    }
    let subject = outsider.subject.clone();
    let welcome = app.store.welcome(outsider, now.as_ms()).await;
    let user = match welcome.map_err(|error| internal(&error))? {
        Welcome::In(user) => {
            note.by("person", &user);
            user
        }
        other => {
            let subject = subject.escape_debug();
            tracing::warn!(provider = name, %subject, %address, why = ?other, "login refused");
            let text = match other {
                Welcome::Taken(user) => format!(
                    "Somebody else is called {user} here. Ask an administrator for another name at {name}."
                ),
                Welcome::Nameless => format!("{name} does not say what to call you here."),
                Welcome::Disabled(user) => format!("{user} is not let in any more."),
                _ => {
                    format!("{name} knows you, but you may do nothing here. Ask an administrator.")
                }
            };
            return Err((StatusCode::FORBIDDEN, text));
        }
    };
    tracing::info!(%user, provider = name, %address, "logged in");
    let session = app.sessions.begin(
        user.to_string(),
        provider.session(),
        address,
        auth::agent(headers),
    );
    let session = session.await.map_err(|error| internal(&error))?;
    Ok(auth::cookie(&session.token, provider.session().as_secs()))
}
