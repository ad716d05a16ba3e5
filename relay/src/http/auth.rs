//! Who asks: finds the session in a cookie or bearer token, and lets a request through by its route's
//! permission. Runs before every route, unknown ones included.
//!
//! A robot's routes ask for its certificate instead, and for nothing else; `/metrics` takes a consumer's as well; on
//! all others a certificate counts for nothing.
//!
//! Invariant: what is not marked public answers nothing without a session or a robot's certificate. A cookie alone never changes
//! anything on behalf of another site.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use lekiwi_protocol::RobotId;
use lekiwi_protocol::access::Principal;

use super::App;
use super::problem::{Failure, Kind};
use super::routes::{self, Permission};
use crate::broker::{Authority, ClientCert, StoreAuthority};
use crate::store::records::Session;

/// The session's cookie. The prefix binds it to this host, HTTPS and path `/`.
pub const COOKIE: &str = "__Host-lekiwi";

/// `Set-Cookie` that begins a session.
#[must_use]
pub fn cookie(token: &str, max_age_s: u64) -> HeaderValue {
    let text =
        format!("{COOKIE}={token}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Strict");
    // Tokens are base64url.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// The layer around all routes.
pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let permission = request
        .extensions()
        .get::<MatchedPath>()
        .and_then(|path| routes::find(request.method(), path.as_str()))
        .map(|route| route.permission);
    if permission == Some(Permission::Scrape)
        && let Ok(Principal::Consumer(_)) = shown(&app, &request)
    {
        return next.run(request).await;
    }
    if permission == Some(Permission::Robot) {
        return match robot(&app, &request) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                next.run(request).await
            }
            Err(failure) => failure.into_response(),
        };
    }
    let found = credential(request.headers()).and_then(|credential| {
        app.sessions
            .find(credential.token())
            .map(|session| (credential, session))
    });
    match (permission, found) {
        (Some(Permission::Public), None) => {}
        (Some(Permission::Page), None) => return Redirect::to("/login").into_response(),
        (_, None) => return login_required(request.headers()).into_response(),
        (_, Some((credential, session))) => {
            let by_cookie = matches!(credential, Credential::Cookie(_));
            if by_cookie
                && let Err(failure) = same_origin(
                    request.method(),
                    request.uri().authority().map(|a| a.as_str()),
                    request.headers(),
                )
            {
                return failure.into_response();
            }
            request.extensions_mut().insert(session);
        }
    }
    next.run(request).await
}

/// Whose certificate the connection has shown.
fn shown(app: &App, request: &Request) -> Result<Principal, Failure> {
    let shown = request.extensions().get::<Arc<ClientCert>>();
    let shown = shown.ok_or_else(|| {
        Failure::new(
            Kind::CertificateRequired,
            "expected a robot's certificate in the TLS handshake, got none",
        )
    })?;
    let authority = StoreAuthority::new(app.store.clone(), app.root.org().clone());
    authority
        .admit(shown)
        .map_err(|denied| Failure::new(Kind::CertificateRefused, denied.to_string()))
}

/// The robot whose certificate the connection has shown.
fn robot(app: &App, request: &Request) -> Result<Caller, Failure> {
    match shown(app, request)? {
        Principal::Robot(id) => Ok(Caller(id)),
        other => Err(Failure::new(
            Kind::CertificateRefused,
            format!("expected a robot's certificate, got that of {other:?}"),
        )),
    }
}

/// The robot that [`guard`] let through by its certificate.
#[derive(Debug, Clone)]
pub struct Caller(pub RobotId);

impl<S: Sync> axum::extract::FromRequestParts<S> for Caller {
    type Rejection = Failure;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Self, Failure> {
        let caller = parts.extensions.get().cloned();
        caller.ok_or_else(|| Failure::new(Kind::CertificateRequired, "expected a robot"))
    }
}

fn login_required(headers: &HeaderMap) -> Failure {
    let detail = if credential(headers).is_some() {
        "expected a session that lasts, got one that ended or never was"
    } else {
        "expected a session cookie or `Authorization: Bearer …`"
    };
    Failure::new(Kind::LoginRequired, detail)
        .hint("POST user and password to /api/v1/session, or run `lekiwi login`")
        .header(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"lekiwi\""),
        )
}

/// What a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// `Authorization: Bearer …`.
    Bearer(&'a str),
    /// The cookie.
    Cookie(&'a str),
}

impl<'a> Credential<'a> {
    /// The secret in it.
    #[must_use]
    pub fn token(&self) -> &'a str {
        match self {
            Self::Bearer(token) | Self::Cookie(token) => token,
        }
    }
}

/// What a request shows, if anything; a bearer token counts before a cookie.
#[must_use]
pub fn credential(headers: &HeaderMap) -> Option<Credential<'_>> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| Credential::Bearer(token.trim()));
    bearer.or_else(|| {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(name, _)| *name == COOKIE)
            .map(|(_, token)| Credential::Cookie(token))
    })
}

/// Refuses what another site's page made a browser send. Requests that change something must prove
/// where they come from; others (the WebSocket is one) only must not come from elsewhere.
///
/// # Errors
/// When the request comes from another site, or does not say where from.
pub fn same_origin(
    method: &Method,
    authority: Option<&str>,
    headers: &HeaderMap,
) -> Result<(), Failure> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let host = authority.or_else(|| text(header::HOST));
    let reading = matches!(*method, Method::GET | Method::HEAD);
    let origin = text(header::ORIGIN);
    let from_here = match (
        origin,
        text(header::HeaderName::from_static("sec-fetch-site")),
    ) {
        (Some(origin), _) => Some(origin.split_once("://").is_some_and(|(scheme, rest)| {
            scheme == "https" && host.is_some_and(|host| host.eq_ignore_ascii_case(rest))
        })),
        (None, Some(site)) => Some(reading || matches!(site, "same-origin" | "none")),
        (None, None) => None,
    };
    match from_here {
        Some(true) => Ok(()),
        None if reading => Ok(()),
        _ => Err(Failure::new(
            Kind::CrossOrigin,
            format!(
                "expected a request of the relay's own pages, got one of {}",
                origin.unwrap_or("an unknown origin")
            ),
        )
        .hint("programs send `Authorization: Bearer …` instead of the cookie")),
    }
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Who {
    type Rejection = Failure;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Self, Failure> {
        parts
            .extensions
            .get()
            .cloned()
            .map(Self)
            .ok_or_else(|| login_required(&parts.headers))
    }
}

/// The session behind a request that [`guard`] let through.
#[derive(Debug, Clone)]
pub struct Who(pub Session);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn cookies_count_only_for_the_own_origin() {
        let check = |method: Method, headers: &[(&str, &str)]| {
            let headers: HeaderMap = headers
                .iter()
                .map(|(n, v)| {
                    (
                        n.parse::<header::HeaderName>().unwrap(),
                        v.parse::<HeaderValue>().unwrap(),
                    )
                })
                .collect();
            same_origin(&method, None, &headers).map_err(|failure| failure.detail().to_owned())
        };
        let host = ("host", "relay:8443");
        assert_eq!(
            check(Method::POST, &[host, ("origin", "https://relay:8443")]),
            Ok(())
        );
        assert_eq!(
            check(Method::POST, &[host, ("sec-fetch-site", "same-origin")]),
            Ok(())
        );
        assert_eq!(check(Method::GET, &[host]), Ok(()));
        assert_eq!(
            check(Method::POST, &[host]),
            Err("expected a request of the relay's own pages, got one of an unknown origin".into())
        );
        for method in [Method::POST, Method::GET] {
            assert_eq!(
                check(
                    method,
                    &[
                        host,
                        ("origin", "https://evil.example"),
                        ("sec-fetch-site", "cross-site")
                    ]
                ),
                Err(
                    "expected a request of the relay's own pages, got one of https://evil.example"
                        .into()
                )
            );
        }
        assert!(check(Method::POST, &[host, ("origin", "http://relay:8443")]).is_err());
        assert!(check(Method::POST, &[host, ("sec-fetch-site", "same-site")]).is_err());
        assert!(check(Method::POST, &[host, ("origin", "null")]).is_err());
    }

    #[test]
    fn finds_bearer_and_cookie() {
        let find = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            credential(&headers).map(|found| found.token().to_owned())
        };
        assert_eq!(
            find("authorization", "bearer lks_a").as_deref(),
            Some("lks_a")
        );
        assert_eq!(find("authorization", "Basic lks_a"), None);
        assert_eq!(
            find("cookie", "a=b; __Host-lekiwi=lks_b; c=d").as_deref(),
            Some("lks_b")
        );
        assert_eq!(find("cookie", "lekiwi=lks_b"), None);
    }
}
