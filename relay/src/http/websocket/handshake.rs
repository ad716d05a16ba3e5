//! The begin of a WebSocket: what a client asks for, and what it gets.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use tungstenite::handshake::derive_accept_key;

use crate::http::problem::{Failure, Kind};
use crate::live::Form;

/// Messages in JSON, with nothing told that was not subscribed to.
pub(super) const JSON: &str = "lekiwi.v1.json";
/// The same in CBOR.
pub(super) const CBOR: &str = "lekiwi.v1.cbor";
/// Each message is compressed by itself, so that all clients share it and none has a window in memory.
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A client that asks for a WebSocket.
pub(in crate::http) struct Upgrade {
    on: OnUpgrade,
    accept: String,
    /// The first of the offered protocols that is known.
    protocol: Option<&'static str>,
    deflate: bool,
}

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrade")
            .field("protocol", &self.protocol)
            .field("deflate", &self.deflate)
            .finish_non_exhaustive()
    }
}

fn refused(detail: impl std::fmt::Display) -> Failure {
    Failure::new(
        Kind::UpgradeRequired,
        format!("expected a WebSocket upgrade: {detail}"),
    )
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let headers = &parts.headers;
        if parts.method != Method::GET {
            return Err(refused("the method is not GET"));
        }
        if !names(headers, header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade")) {
            return Err(refused("Connection header did not include 'upgrade'"));
        }
        if !names(headers, header::UPGRADE).any(|name| name.eq_ignore_ascii_case("websocket")) {
            return Err(refused("Upgrade header did not include 'websocket'"));
        }
        if names(headers, header::SEC_WEBSOCKET_VERSION).next() != Some("13") {
            return Err(refused("Sec-WebSocket-Version header was not 13"));
        }
        let key = headers
            .get(header::SEC_WEBSOCKET_KEY)
            .ok_or_else(|| refused("Sec-WebSocket-Key header was missing"))?;
        let accept = derive_accept_key(key.as_bytes());
        let protocol = names(headers, header::SEC_WEBSOCKET_PROTOCOL)
            .find_map(|name| [JSON, CBOR].into_iter().find(|known| *known == name));
        let deflate = deflates(headers);
        // HTTP/2 has no upgrades of this kind.
        let on = parts
            .extensions
            .remove::<OnUpgrade>()
            .ok_or_else(|| refused("the connection cannot become one"))?;
        Ok(Self {
            on,
            accept,
            protocol,
            deflate,
        })
    }
}

impl Upgrade {
    /// Whether the client asked for a protocol in which nothing is told that was not subscribed to.
    pub(in crate::http) fn is_quiet(&self) -> bool {
        self.protocol.is_some()
    }

    /// The form in which messages go, and whether they may be compressed.
    pub(super) fn form(&self) -> (Form, bool) {
        let deflate = self.deflate;
        let form = if self.protocol == Some(CBOR) {
            Form::Cbor { deflate }
        } else {
            Form::Json { deflate }
        };
        (form, deflate)
    }

    /// The answer, and the connection to come.
    pub(super) fn accept(self) -> (Response, OnUpgrade) {
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, value: &str| {
            // All of these are our own words, or base64.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(header::CONNECTION, "upgrade");
        set(header::UPGRADE, "websocket");
        set(header::SEC_WEBSOCKET_ACCEPT, &self.accept);
        if let Some(protocol) = self.protocol {
            set(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        if self.deflate {
            set(header::SEC_WEBSOCKET_EXTENSIONS, AGREED);
        }
        let response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        (response, self.on)
    }
}

/// The members of a header's lists.
fn names(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Whether the client offers permessage-deflate in a way that can be agreed to.
#[must_use]
pub fn deflates(headers: &HeaderMap) -> bool {
    names(headers, header::SEC_WEBSOCKET_EXTENSIONS).any(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        parts.next() == Some("permessage-deflate")
            && parts.all(|parameter| {
                let (name, value) = parameter
                    .split_once('=')
                    .map_or((parameter, None), |(name, value)| (name, Some(value)));
                let window = value.map(|value| value.trim_matches('"').parse::<u8>());
                match (name, window) {
                    ("server_no_context_takeover" | "client_no_context_takeover", None)
                    | ("client_max_window_bits", None) => true,
                    ("client_max_window_bits", Some(Ok(bits))) => (8..=15).contains(&bits),
                    // A smaller window than the compressor has cannot be promised.
                    ("server_max_window_bits", Some(Ok(15))) => true,
                    _ => false,
                }
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_agreed_to_where_it_can_be() {
        for (offer, expected) in [
            ("permessage-deflate", true),
            ("permessage-deflate; client_max_window_bits", true),
            ("permessage-deflate; client_max_window_bits=9", true),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                true,
            ),
            ("permessage-deflate; server_max_window_bits=15", true),
            ("permessage-deflate; server_max_window_bits=10", false),
            (
                "permessage-deflate; server_max_window_bits=10, permessage-deflate",
                true,
            ),
            ("permessage-deflate; client_max_window_bits=7", false),
            ("permessage-deflate; unheard_of", false),
            ("permessage-bzip2", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::SEC_WEBSOCKET_EXTENSIONS,
                HeaderValue::from_static(offer),
            );
            assert_eq!(deflates(&headers), expected, "{offer:?}");
        }
        assert!(!deflates(&HeaderMap::new()));
    }
}
