//! What a request shows of who asks: a cookie, a bearer token or an API key; which program it is; and whether another site's
//! page made a browser send it.

use axum::http::{HeaderMap, HeaderValue, Method, header};
use lekiwi_protocol::api::API_KEY;

use super::problem::{Failure, Kind};
use crate::people::keys;

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

/// What the program that asks calls itself.
#[must_use]
pub fn agent(headers: &HeaderMap) -> &str {
    let agent = headers.get(header::USER_AGENT);
    agent
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default()
}

/// What a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// `Authorization: Bearer …`: a session, or a key.
    Bearer(&'a str),
    /// `X-API-Key: …`.
    Key(&'a str),
    /// The cookie.
    Cookie(&'a str),
}

impl<'a> Credential<'a> {
    /// The secret in it.
    #[must_use]
    pub fn token(&self) -> &'a str {
        match self {
            Self::Bearer(token) | Self::Key(token) | Self::Cookie(token) => token,
        }
    }

    /// The API key in it, good or not. A cookie has none: those are sent by browsers, whoever asks them to.
    #[must_use]
    pub fn key(&self) -> Option<&'a str> {
        match self {
            Self::Key(key) => Some(key),
            Self::Bearer(token) if keys::is_one(token) => Some(token),
            Self::Bearer(_) | Self::Cookie(_) => None,
        }
    }
}

/// What a request shows, if anything; a bearer token counts before a key of its own, and that before a cookie.
#[must_use]
pub fn credential(headers: &HeaderMap) -> Option<Credential<'_>> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| Credential::Bearer(token.trim()));
    let key = || {
        let value = headers.get(API_KEY)?;
        Some(Credential::Key(value.to_str().ok()?.trim()))
    };
    let cookie = || cookie_of(headers, COOKIE).map(Credential::Cookie);
    bearer.or_else(key).or_else(cookie)
}

/// The cookie of this name.
#[must_use]
pub fn cookie_of<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
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
