//! What the relay reads of whoever connects to it, and of its operators. Pure.

use std::path::Path;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use lekiwi_protocol::{MetricName, RobotId};
use lekiwi_relay::config;
use lekiwi_relay::http::auth::{Credential, credential, same_origin};
use lekiwi_relay::http::est::basic;
use lekiwi_relay::http::extract::{Query, expect_type};
use lekiwi_relay::http::live::Wish;
use lekiwi_relay::http::logs::digest;
use lekiwi_relay::http::problem::Failure;
use lekiwi_relay::http::websocket::frames::{Decoder, Incoming};
use lekiwi_relay::http::websocket::{handshake::deflates, parse_cbor};
use lekiwi_relay::identity::csr::{Csr, CsrError};
use lekiwi_relay::identity::{pem, pkcs7};
use lekiwi_relay::people::oidc::token::{self, Claims, Expected, Keys, TokenError};
use lekiwi_relay::store::PostgresOptions;
use lekiwi_relay_core::gateway::{MAX_REQUEST_BYTES, Wanted, parse_json};

/// Panics where the bytes break something.
type Try = fn(&[u8]);

/// All of them.
pub(crate) const TARGETS: &[(&str, Try)] = &[
    ("certificate", certificate),
    ("head", head),
    ("frames", frames),
    ("configuration", configuration),
    ("id_token", id_token),
];

/// Requests for certificates, in every form that is taken: base64, PEM, and DER in both.
fn certificate(bytes: &[u8]) {
    let _ = told(Csr::from_est(bytes));
    let text = String::from_utf8_lossy(bytes);
    let _ = told(Csr::from_pem(&text));
    let armoured = pem("CERTIFICATE REQUEST", bytes);
    let bare: String = armoured
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let (one, other) = (
        told(Csr::from_pem(&armoured)),
        told(Csr::from_est(bare.as_bytes())),
    );
    assert_eq!(one.is_some(), other.is_some());
    if let (Some(one), Some(other)) = (one, other) {
        assert_eq!(one, other);
        let there = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(there(&one.spki), "a key that nobody sent");
    }
    let _ = pkcs7::certs_only([bytes]);
}

fn told(read: Result<Csr, CsrError>) -> Option<Csr> {
    match read {
        Ok(csr) => {
            let _ = csr.key_digest();
            Some(csr)
        }
        Err(error) => {
            assert!(error.to_string().len() < 200 && !error.hint().is_empty());
            None
        }
    }
}

/// The head of a request: the target in the first line, then a header in each.
fn head(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name.try_into(), HeaderValue::from_bytes(value)) {
            let _: &HeaderName = &name;
            headers.append(name, value);
        }
    }
    if let Some(Credential::Cookie(token)) = credential(&headers) {
        assert!(!token.contains(';'));
    }
    if let Some((user, _)) = basic(&headers) {
        assert!(!user.contains(':'));
    }
    for method in [Method::GET, Method::POST] {
        let _ = same_origin(&method, None, &headers);
    }
    let _ = (
        deflates(&headers),
        digest(&headers),
        expect_type(&headers, "application/json"),
    );
    if let Ok(uri) = Uri::try_from(target) {
        queries(&uri);
    }
}

fn queries(uri: &Uri) {
    let Ok(query) = Query::of(uri) else {
        return;
    };
    match Wish::from_query(query) {
        // What an address can ask for is what the gateway takes.
        Ok(wish) => drop(Wanted::check(&wish.request, None).expect("a subscription")),
        Err(failure) => readable(&failure),
    }
    let of = || Query::of(uri).expect("read before");
    let mut history = of();
    let metric = history.text("metric", MetricName::EXPECTED, |text| {
        MetricName::new(text).ok()
    });
    let outcome = metric.and_then(|_| {
        let (from, to) = (history.time("from")?, history.time("to")?);
        if let Some(time) = from.or(to) {
            assert_eq!(time.to_string().parse().ok(), Some(time));
        }
        history.number("points", 10..=10_000)?;
        history.finish()
    });
    if let Err(failure) = outcome {
        readable(&failure);
    }
    let mut page = of();
    let robot = page.text("robot", RobotId::EXPECTED, |text| RobotId::new(text).ok());
    if let Err(failure) = robot.and_then(|_| page.number("after", 0..=i64::MAX as u64)) {
        readable(&failure);
    }
    if let Err(failure) = page.finish() {
        readable(&failure);
    }
}

/// A refusal is no copy of what was sent.
fn readable(failure: &Failure) {
    assert!(failure.detail().len() < 2_000, "{}", failure.detail());
}

/// What a WebSocket's client sends; the first byte says whether messages may be compressed. However the network cuts it, it says
/// the same.
fn frames(bytes: &[u8]) {
    let Some((mode, bytes)) = bytes.split_first() else {
        return;
    };
    let deflate = mode % 2 == 1;
    let whole = said(deflate, &[bytes]);
    let (begin, rest) = bytes.split_at(usize::from(*mode).min(bytes.len()));
    assert_eq!(whole, said(deflate, &[begin, rest]));
    if bytes.len() <= 1_024 {
        let singly: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(whole, said(deflate, &singly));
    }
    for incoming in whole.0 {
        let (Incoming::Text(payload) | Incoming::Binary(payload)) = &incoming else {
            continue;
        };
        assert!(payload.len() <= MAX_REQUEST_BYTES);
        let request = match incoming {
            Incoming::Text(_) => parse_json(payload),
            _ => parse_cbor(payload),
        };
        if let Ok(lekiwi_protocol::api::ClientMessage::Subscribe(request)) = request {
            let _ = Wanted::check(&request, None);
        }
    }
}

/// Everything that was said, and how it ended.
fn said(deflate: bool, pieces: &[&[u8]]) -> (Vec<Incoming>, Option<&'static str>) {
    let mut decoder = Decoder::new(deflate);
    let mut said = Vec::new();
    for piece in pieces {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next_incoming() {
                Ok(Some(incoming)) => said.push(incoming),
                Ok(None) => break,
                Err(violation) => return (said, Some(violation.reason)),
            }
        }
    }
    (said, None)
}

/// The relay's file, then the lines of an environment.
fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (text, variables) = text.split_once('\0').unwrap_or((text, ""));
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (over, _) = config::environment(variables);
    let read = config::parse(Path::new("relay.yml"), text);
    match read.and_then(|raw| over.over(raw).check()) {
        Ok(_) => {}
        Err(error) => drop((error.to_string(), error.hint())),
    }
    let _ = PostgresOptions::check(text);
}

/// An ID token, and what it is judged by: the keys after the first line's end, or those that the seeds were signed with. And
/// the bytes as the claims of a token that was signed.
fn id_token(bytes: &[u8]) {
    const KEYS: &str = include_str!("id_token_keys.json");
    let expected = Expected {
        issuer: "https://login.example",
        client_id: "lekiwi",
        nonce: "n",
        now_s: 1_700_000_000,
    };
    let readable = |error: TokenError| assert!(error.to_string().len() < 2_000, "{error}");
    let text = String::from_utf8_lossy(bytes);
    let (token, keys) = match text.split_once('\n') {
        Some((token, keys)) => (token, Some(keys)),
        None => (text.as_ref(), None),
    };
    if let Ok(keys) = Keys::parse(keys.unwrap_or(KEYS).as_bytes()) {
        match token::verify(token, &keys, expected) {
            Err(error) => readable(error),
            // Nobody has the private keys any more: it is one of the seeds.
            Ok(claims) => assert!(text.contains('\n') || claims["sub"] == "42"),
        }
    }
    if let Ok(claims) = serde_json::from_slice::<Claims>(bytes) {
        match token::check(&claims, expected) {
            Err(error) => readable(error),
            Ok(()) => assert_eq!(claims["iss"], expected.issuer),
        }
    }
}
