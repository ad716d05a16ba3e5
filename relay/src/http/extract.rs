//! What handlers take from a request, each refusal a problem of its own: JSON bodies, queries, ids.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use lekiwi_protocol::{RobotId, Timestamp};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::problem::{Failure, Kind};

/// Largest body of any request.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// The other end of the connection. Put there by the server.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        // Only tests run without a connection.
        Ok(parts
            .extensions
            .get()
            .copied()
            .unwrap_or(Self(IpAddr::from([127, 0, 0, 1]))))
    }
}

/// A whole body, bounded in size and time.
#[derive(Debug)]
pub struct Body(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Failure;
    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let body = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
        match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(error)) if is_length_limit(&error) => Err(Failure::new(
                Kind::TooLarge,
                format!("expected at most {MAX_BODY_BYTES} bytes"),
            )),
            Ok(Err(_)) => Err(Failure::new(
                Kind::MalformedBody,
                "expected a whole body, got a part of one",
            )),
            Err(_) => Err(Failure::new(
                Kind::TooSlow,
                format!(
                    "expected the whole body within {} s",
                    BODY_TIMEOUT.as_secs()
                ),
            )),
        }
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.to_string() == "length limit exceeded" {
            return true;
        }
        source = cause.source();
    }
    false
}

/// A JSON body, which is an object.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        expect_type(request.headers(), "application/json")?;
        let Body(bytes) = Body::from_request(request, state).await?;
        // serde takes a struct's fields without their names too.
        if bytes.trim_ascii_start().starts_with(b"[") {
            let detail = "expected an object, got an array";
            return Err(Failure::new(Kind::InvalidBody, detail));
        }
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| match error.classify() {
                serde_json::error::Category::Data => {
                    Failure::new(Kind::InvalidBody, error.to_string())
                }
                _ => Failure::new(Kind::MalformedBody, format!("expected JSON: {error}")),
            })
    }
}

/// Refuses a body of another type than `expected`.
///
/// # Errors
/// When the request says another type, or none.
pub fn expect_type(headers: &HeaderMap, expected: &str) -> Result<(), Failure> {
    let actual = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("none");
    let essence = actual.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(expected) {
        Ok(())
    } else {
        Err(Failure::new(
            Kind::UnsupportedMediaType,
            format!("expected content type {expected}, got {actual}"),
        ))
    }
}

/// The `{id}` of a robot's route.
#[derive(Debug)]
pub struct Robot(pub RobotId);

impl<S: Send + Sync> FromRequestParts<S> for Robot {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = path_level(parts, state, "id").await;
        RobotId::new(&text)
            .map(Self)
            .map_err(|error| Failure::new(Kind::RobotUnknown, error.to_string()))
    }
}

/// The `{id}` of any other route.
#[derive(Debug)]
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Ok(Self(path_level(parts, state, "id").await))
    }
}

/// The `{person}` of a loan's route.
#[derive(Debug)]
pub struct Person(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Person {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Ok(Self(path_level(parts, state, "person").await))
    }
}

/// The `{cmd}` of a command's route.
#[derive(Debug)]
pub struct Cmd(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Cmd {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = path_level(parts, state, "cmd").await;
        text.parse().map(Self).map_err(|_| {
            Failure::new(
                Kind::CommandUnknown,
                format!("expected a command's id, a uuid, got {}", cut(&text)),
            )
        })
    }
}

async fn path_level<S: Send + Sync>(parts: &mut Parts, state: &S, level: &str) -> String {
    // Broken percent-encoding is refused here and ends as an unknown id.
    RawPathParams::from_request_parts(parts, state)
        .await
        .ok()
        .and_then(|params| {
            params
                .iter()
                .find(|(name, _)| *name == level)
                .map(|(_, value)| value.to_owned())
        })
        .unwrap_or_default()
}

/// The query: each parameter is taken once, and [`finish`](Self::finish) refuses what is left.
#[derive(Debug)]
pub struct Query {
    values: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::of(&parts.uri)
    }
}

fn cut(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

impl Query {
    /// The query of an address.
    ///
    /// # Errors
    /// When it is none, or says something twice.
    pub fn of(uri: &Uri) -> Result<Self, Failure> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Failure::new(Kind::InvalidQuery, "expected a query of name=value pairs"))?
            .0;
        let mut values = BTreeMap::new();
        for (name, value) in pairs {
            if values.insert(name.clone(), value).is_some() {
                return Err(Failure::new(
                    Kind::InvalidQuery,
                    format!("expected {} once", cut(&name)),
                ));
            }
        }
        Ok(Self {
            values,
            known: Vec::new(),
        })
    }

    fn take<T>(
        &mut self,
        name: &'static str,
        expected: impl FnOnce() -> String,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        self.known.push(name);
        let Some(text) = self.values.remove(name) else {
            return Ok(None);
        };
        parse(&text).map(Some).ok_or_else(|| {
            Failure::new(
                Kind::InvalidQuery,
                format!("expected {name} to be {}, got {}", expected(), cut(&text)),
            )
        })
    }

    /// A whole number within `range`.
    ///
    /// # Errors
    /// When it is none, or outside.
    pub fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Failure> {
        let expected = || {
            if *range.end() == i64::MAX as u64 {
                "a whole number".to_owned()
            } else {
                format!("a whole number of {} to {}", range.start(), range.end())
            }
        };
        self.take(name, expected, |text| {
            text.parse().ok().filter(|n| range.contains(n))
        })
    }

    /// A time: ISO 8601, or milliseconds since the epoch.
    ///
    /// # Errors
    /// When it is neither.
    pub fn time(&mut self, name: &'static str) -> Result<Option<Timestamp>, Failure> {
        self.take(
            name,
            || "a UTC time such as 2026-11-21T03:52:00.000Z, or milliseconds since 1970".to_owned(),
            |text| {
                text.parse()
                    .ok()
                    .or_else(|| text.parse().ok().map(Timestamp::from_ms))
            },
        )
    }

    /// A text that `parse` understands.
    ///
    /// # Errors
    /// When it does not.
    pub fn text<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        self.take(name, || expected.to_owned(), parse)
    }

    /// Whether `name` is there and says `value`. It is still to be taken.
    #[must_use]
    pub fn says(&self, name: &str, value: &str) -> bool {
        self.values.get(name).is_some_and(|text| text == value)
    }

    /// Refuses parameters that nobody took.
    ///
    /// # Errors
    /// When there are any.
    pub fn finish(self) -> Result<(), Failure> {
        match self.values.into_keys().next() {
            None => Ok(()),
            Some(unknown) => Err(Failure::new(
                Kind::InvalidQuery,
                match self.known.as_slice() {
                    [] => format!("expected no query, got {}", cut(&unknown)),
                    known => format!(
                        "expected only {} in the query, got {}",
                        known.join(", "),
                        cut(&unknown)
                    ),
                },
            )),
        }
    }
}
