//! The live stream for people and programs: Server-Sent Events and WebSocket, the same messages on both.
//!
//! Invariant: a client that reads too slowly loses messages and is told how many; it never makes the
//! relay hold more than the stream's own bounded backlog for it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt as _};
use lekiwi_protocol::api::{self, Lagged};
use lekiwi_protocol::{RobotId, Timestamp};
use tokio::sync::OwnedSemaphorePermit;

use super::App;
use super::auth::Who;
use super::extract::Query;
use super::problem::{Failure, Kind};
use crate::clock;
use crate::live::{LiveMessage, Received, Subscription};

/// Comment after so much silence, so that proxies and clients know that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a quiet stream asks whether its session still counts.
const SESSION_CHECK: Duration = Duration::from_secs(3);
/// Longest time that a WebSocket client may refuse to take a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest message that a WebSocket client may send; nothing it says is used.
const MAX_INCOMING: usize = 4 * 1024;
const MAX_NAMES: usize = 100;

/// What a client wants to hear; nothing named means everything.
#[derive(Debug, Default)]
struct Filter {
    robots: BTreeSet<RobotId>,
    types: BTreeSet<String>,
}

impl Filter {
    fn from_query(mut query: Query) -> Result<Self, Failure> {
        let robots = query.text("robot", "robot ids, separated by commas", |text| {
            names(text).map(|name| RobotId::new(name).ok()).collect()
        })?;
        let types = query.text(
            "type",
            "message types such as telemetry or robot.connected, separated by commas",
            |text| {
                let usual = |name: &str| {
                    !name.is_empty()
                        && name.bytes().all(|b| {
                            b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'_'
                        })
                };
                names(text)
                    .map(|name| usual(name).then(|| name.to_owned()))
                    .collect()
            },
        )?;
        query.finish()?;
        let filter = Self {
            robots: robots.unwrap_or_default(),
            types: types.unwrap_or_default(),
        };
        if filter.robots.len().max(filter.types.len()) > MAX_NAMES {
            return Err(Failure::new(
                Kind::InvalidQuery,
                format!("expected at most {MAX_NAMES} robots and types"),
            ));
        }
        Ok(filter)
    }

    fn wants(&self, message: &LiveMessage) -> bool {
        (self.robots.is_empty() || self.robots.contains(&message.robot))
            && (self.types.is_empty() || self.types.contains(&*message.kind))
    }
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

/// Who listens for how long: until the session ends, the relay stops, or the client goes.
struct Listener {
    subscription: Subscription,
    filter: Filter,
    app: App,
    session_ends: Timestamp,
    session: [u8; 32],
    _place: OwnedSemaphorePermit,
}

impl Listener {
    fn new(app: App, Who(session): Who, query: Query) -> Result<Self, Failure> {
        let filter = Filter::from_query(query)?;
        let place = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
            Failure::new(
                Kind::TooManyStreams,
                "all places for live streams are taken",
            )
            .hint("close some; programs use the broker with a consumer certificate")
        })?;
        Ok(Self {
            subscription: app.fleet.live().subscribe(),
            filter,
            session_ends: Timestamp::from_ms(session.expires_ms),
            session: session.hash,
            app,
            _place: place,
        })
    }

    /// What is new; `None` at the end.
    async fn next(&mut self) -> Option<Received> {
        loop {
            let now = Timestamp::from_ms(clock::now_ms());
            // A logout ends the stream too, in a while.
            self.app.store.session(&self.session, now.as_ms())?;
            let left = self.session_ends.since(now).min(SESSION_CHECK);
            tokio::select! {
                () = self.app.stopping.cancelled() => return None,
                received = self.subscription.next() => return received,
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    fn wanted<'a>(&'a self, received: &'a Received) -> impl Iterator<Item = &'a LiveMessage> {
        received
            .batch
            .messages
            .iter()
            .filter(|message| self.filter.wants(message))
    }
}

fn lagged(dropped: u64) -> Option<String> {
    // A struct of one number always becomes JSON.
    (dropped > 0).then(|| serde_json::to_string(&Lagged { dropped }).unwrap_or_default())
}

/// Live messages as Server-Sent Events: event name is the type, id the sequence, data the envelope. A
/// client that was too slow gets an event `lagged`.
#[utoipa::path(
    get, path = "/api/v1/stream", tag = "live",
    params(
        ("robot" = Option<String>, Query, description = "Only these robots, separated by commas"),
        ("type" = Option<String>, Query, description = "Only these types, separated by commas"),
    ),
    responses(
        (status = 200, description = "`Live` envelopes", content_type = "text/event-stream", body = api::Live),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "too-many-streams", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn stream(
    State(app): State<App>,
    who: Who,
    query: Query,
) -> Result<Response, Failure> {
    let listener = Listener::new(app, who, query)?;
    let events = sse_events(listener);
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    // Proxies must not collect the stream before they pass it on.
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn sse_events(listener: Listener) -> impl Stream<Item = Result<Event, Infallible>> {
    // The first bytes tell the client at once that it listens.
    let hello = stream::iter([Ok(Event::default().comment("listening"))]);
    let messages = stream::unfold(listener, async |mut listener| {
        let received = listener.next().await?;
        let told = lagged(received.dropped).map(|json| Event::default().event("lagged").data(json));
        let messages = listener.wanted(&received).map(|message| {
            Event::default()
                .event(&message.kind)
                .id(message.sequence.to_string())
                .data(&message.json)
        });
        let events: Vec<_> = told.into_iter().chain(messages).map(Ok).collect();
        Some((stream::iter(events), listener))
    });
    hello.chain(messages.flatten())
}

/// The same messages over a WebSocket, one text message each; `{"type":"lagged","dropped":n}` for a client
/// that was too slow.
#[utoipa::path(
    get, path = "/api/v1/ws", tag = "live",
    params(
        ("robot" = Option<String>, Query, description = "Only these robots, separated by commas"),
        ("type" = Option<String>, Query, description = "Only these types, separated by commas"),
    ),
    responses(
        (status = 101, description = "`Live` envelopes as text messages"),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 426, description = "upgrade-required", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "too-many-streams", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn websocket(
    State(app): State<App>,
    who: Who,
    query: Query,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let upgrade = upgrade.map_err(|rejection| {
        Failure::new(
            Kind::UpgradeRequired,
            format!("expected a WebSocket upgrade: {}", rejection.body_text()),
        )
    })?;
    let listener = Listener::new(app, who, query)?;
    Ok(upgrade
        .max_message_size(MAX_INCOMING)
        .max_write_buffer_size(1024 * 1024)
        .on_upgrade(|socket| serve(socket, listener)))
}

async fn serve(mut socket: WebSocket, mut listener: Listener) {
    loop {
        let received = tokio::select! {
            received = listener.next() => match received {
                Some(received) => received,
                None => break,
            },
            incoming = socket.recv() => match incoming {
                // Pings are answered by the library; what else a client says is not for us.
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let told = (received.dropped > 0)
            .then(|| format!("{{\"type\":\"lagged\",\"dropped\":{}}}", received.dropped));
        let texts: Vec<Message> = told
            .map(|text| Message::Text(text.into()))
            .into_iter()
            .chain(
                listener
                    .wanted(&received)
                    .map(|message| Message::Text((*message.json).into())),
            )
            .collect();
        for text in texts {
            match tokio::time::timeout(SEND_TIMEOUT, socket.send(text)).await {
                Ok(Ok(())) => {}
                // It went, or has not read for so long that it might as well have.
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
    // A courtesy; the connection ends either way.
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.send(Message::Close(None))).await;
}
