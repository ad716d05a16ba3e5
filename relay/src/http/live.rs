//! The live stream for people and programs: Server-Sent Events and WebSocket, the same messages on both, and who
//! watches. `docs/gateway.md` is the contract.
//!
//! Invariant: a client that reads too slowly costs a bounded queue and holds up nobody; what it loses is said to it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{self, Subscribe, Throttle, ThrottleMode};
use lekiwi_relay_core::gateway::{Kinds, MAX_NAMES, Pattern, Read, RequestError};
use tokio::sync::OwnedSemaphorePermit;

use super::App;
use super::auth::Asker;
use super::extract::{Query, Robot};
use super::problem::{Failure, Kind};
use super::websocket::Upgrade;
use crate::live::{Form, Message, Todo, Watcher, form, said, sse_id};

/// Comment after so much silence, so that proxies and clients know that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Things that are done for a client at once.
const MAX_BURST: usize = 64;
/// Stored events that are read at once.
const PAGE: usize = 100;
/// When browsers come back that a relay sent away.
const BACK_AFTER_MS: std::ops::RangeInclusive<u64> = 1_000..=10_000;
/// The subscription that a URL asks for.
const BY_URL: &str = "url";

/// What a URL asks for, and whether it asks for anything.
#[derive(Debug)]
pub struct Wish {
    /// The subscription.
    pub request: Subscribe,
    /// Whether the URL names anything of it.
    pub named: bool,
}

impl Wish {
    /// Reads a query.
    ///
    /// # Errors
    /// When a parameter is unknown or has no meaning.
    pub fn from_query(mut query: Query) -> Result<Self, Failure> {
        let topics = query.text(
            "topic",
            "topics such as robot.*.heartbeat or teleoperation.*, separated by commas",
            |text| checked(text, |name| Pattern::parse(name).is_ok()),
        )?;
        let robot_ids = query.text("robot", "robot ids, separated by commas", |text| {
            checked(text, |name| RobotId::new(name).is_ok())
        })?;
        let event_types = query.text(
            "type",
            "message types such as telemetry or robot.connected, separated by commas",
            |text| checked(text, |name| Kinds::parse(name).is_ok()),
        )?;
        let rate = query.text("rate", "messages a second, 0.01 to 100", |text| {
            text.parse()
                .ok()
                .filter(|rate| (0.01..=100.0).contains(rate))
        })?;
        let mode = query.text("throttle", "sample, aggregate or latest", |text| {
            Some(match text {
                "sample" => ThrottleMode::Sample,
                "aggregate" => ThrottleMode::Aggregate,
                "latest" => ThrottleMode::Latest,
                _ => return None,
            })
        })?;
        let from = query.text(
            "from",
            "a position of the event log, or now",
            |text| match text {
                "now" => Some(None),
                position => position.parse().ok().map(Some),
            },
        )?;
        query.finish()?;
        if mode.is_some() && rate.is_none() {
            return Err(Failure::new(
                Kind::InvalidQuery,
                "expected a rate with throttle, such as rate=1",
            ));
        }
        let named = [&topics, &robot_ids, &event_types]
            .iter()
            .any(|names| names.is_some())
            || from.is_some();
        let request = Subscribe {
            id: BY_URL.to_owned(),
            topics: topics.unwrap_or_default(),
            filter: api::Filter {
                robot_ids: robot_ids.unwrap_or_default(),
                event_types: event_types.unwrap_or_default(),
            },
            throttle: rate.map(|rate| Throttle {
                rate,
                mode: mode.unwrap_or_default(),
            }),
            from: from.flatten(),
        };
        let most = [
            &request.topics,
            &request.filter.robot_ids,
            &request.filter.event_types,
        ];
        if most.iter().any(|names| names.len() > MAX_NAMES) {
            return Err(Failure::new(
                Kind::InvalidQuery,
                format!("expected at most {MAX_NAMES} topics, robots and types"),
            ));
        }
        Ok(Self { request, named })
    }
}

fn checked(text: &str, check: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    text.split(',')
        .map(str::trim)
        .map(|name| check(name).then(|| name.to_owned()))
        .collect()
}

/// Who listens for how long: until the session ends, the relay stops, or the client goes.
pub(super) struct Listener {
    pub(super) watcher: Watcher,
    app: App,
    has_left: bool,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    fn new(app: App, asker: Asker) -> Result<Self, Failure> {
        let place = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
            Failure::new(
                Kind::TooManyStreams,
                "all places for live streams are taken",
            )
            .hint("close some; programs use the broker with a consumer certificate")
        })?;
        Ok(Self {
            watcher: app.fleet.live().watch(
                &asker.by(),
                asker.digest(),
                asker.seen().map(Arc::new),
            ),
            app,
            has_left: false,
            _place: place,
        })
    }

    /// Takes a subscription, or says why not. Answers the position from which on everything is told.
    pub(super) async fn subscribe(&self, request: &Subscribe) -> Result<u64, String> {
        let stored = match request.from {
            // What is committed counts, be it told already or not.
            Some(_) => Some(self.app.store.last_position().await),
            None => None,
        };
        let stored = stored.transpose().map_err(|error| error.to_string())?;
        let mut begin = request.from.unwrap_or_default();
        let end = || match stored {
            Some(end) => end,
            // What was handed out before is in the picture by now.
            None => {
                begin = self.app.fleet.position();
                begin
            }
        };
        self.watcher
            .subscribe(request, end)
            .map_err(|error: RequestError| error.to_string())?;
        Ok(begin)
    }

    /// What is to be done next; `None` at the end.
    pub(super) async fn next(&self) -> Option<Vec<Todo>> {
        tokio::select! {
            () = self.app.stopping.cancelled() => None,
            todo = self.watcher.next(MAX_BURST) => todo,
        }
    }

    /// Tells a client of Server-Sent Events when to come back, once, where the relay stops; each another time, so that
    /// they do not all come at once.
    fn farewell(&mut self) -> Option<Bytes> {
        if !self.app.stopping.is_cancelled() || std::mem::replace(&mut self.has_left, true) {
            return None;
        }
        // Without chance they come at the same time, which is all that is lost.
        let chance = getrandom::u32().unwrap_or_default();
        let wait_ms = BACK_AFTER_MS.start()
            + u64::from(chance) % (BACK_AFTER_MS.end() - BACK_AFTER_MS.start());
        Some(Bytes::from(format!(
            ": the relay is stopping\nretry: {wait_ms}\n\n"
        )))
    }

    /// The bytes for the client; `None` when the log cannot be read. Where a client goes on is an id before each event
    /// of a stream, and said after those that were told together over a WebSocket.
    pub(super) async fn carry_out(&self, todo: Vec<Todo>, shape: Form) -> Option<Vec<Bytes>> {
        let mut bytes = Vec::with_capacity(todo.len());
        let mut has_events = false;
        let mut tell = |bytes: &mut Vec<Bytes>, message: &Arc<Message>, position| {
            if message.position.is_some() {
                has_events = true;
                if shape == Form::Sse {
                    bytes.push(sse_id(position));
                }
            }
            bytes.push(form(message, shape));
        };
        for todo in todo {
            match todo {
                Todo::Say(message) => bytes.push(said(&message, shape)),
                Todo::Tell(message, position) => tell(&mut bytes, &message, position),
                Todo::Read(read) => {
                    for message in self.read(&read).await? {
                        // Nothing waits while stored events are told: they are in order.
                        let position = message.position.unwrap_or_default();
                        tell(&mut bytes, &message, position);
                    }
                }
            }
        }
        if has_events && shape != Form::Sse {
            let position = self.watcher.position();
            bytes.push(said(&api::RelayMessage::Bookmark { position }, shape));
        }
        Some(bytes)
    }

    async fn read(&self, read: &Read) -> Option<Vec<Arc<Message>>> {
        let robot = read.robot.as_ref().map(RobotId::as_str);
        match self.app.store.page(robot, read.after, PAGE).await {
            Ok(page) => Some(self.watcher.page(read, page)),
            Err(error) => {
                tracing::warn!(%error, "cannot read stored events for a live stream");
                None
            }
        }
    }
}

/// Live messages as Server-Sent Events: event name is the type, data the envelope. Events of the log have an id, the
/// position up to which everything was told; a client that comes back with it as `Last-Event-ID` gets what it missed
/// first. `lagged`, `slowed`, `resumed` and `replayed` are the relay's own.
#[utoipa::path(
    get, path = "/api/v1/stream", tag = "live",
    params(
        ("topic" = Option<String>, Query, description = "Only these topics, separated by commas: `heartbeat`, `teleoperation.*`, `robot.kiwi-01.*`, `robot.*.heartbeat`, `presence`"),
        ("robot" = Option<String>, Query, description = "Of these only these robots, separated by commas"),
        ("type" = Option<String>, Query, description = "Of these only these types, separated by commas"),
        ("rate" = Option<f64>, Query, minimum = 0.01, maximum = 100, description = "At most so many pictures a second of each robot and type, 0.01 to 100"),
        ("throttle" = Option<api::ThrottleMode>, Query, description = "What becomes of more; `latest` when absent"),
        ("from" = Option<String>, Query, description = "First the events beyond this position of the log; `now` for none, whatever Last-Event-ID says"),
        ("last-event-id" = Option<u64>, Header, description = "As `from`; what browsers send when they connect again"),
    ),
    responses(
        (status = 200, description = "`Live` envelopes, and `RelayMessage`s", content_type = "text/event-stream", body = api::Live),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "too-many-streams", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn stream(
    State(app): State<App>,
    asker: Asker,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, Failure> {
    const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
    let now = query.says("from", "now");
    let mut wish = Wish::from_query(query)?;
    if let Some(last) = headers.get(LAST_EVENT_ID).filter(|_| !now) {
        let position = last.to_str().ok().and_then(|text| text.parse().ok());
        let expected = || {
            Failure::new(
                Kind::InvalidQuery,
                format!("expected Last-Event-ID to be a position of the event log, got {last:?}"),
            )
        };
        wish.request.from = Some(position.ok_or_else(expected)?);
    }
    let listener = Listener::new(app, asker)?;
    let refused = |detail| Failure::new(Kind::InvalidQuery, detail);
    let begin = listener.subscribe(&wish.request).await.map_err(refused)?;
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies must not collect the stream before they pass it on.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)));
    let body = Body::from_stream(sse_events(listener, begin));
    Ok((headers, body).into_response())
}

fn sse_events(
    listener: Listener,
    begin: u64,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    // The first bytes tell the client at once that it listens, and where it goes on if it is cut off.
    let hello = Bytes::from(format!(": listening\nid: {begin}\n\n"));
    stream::unfold((listener, Some(hello)), async |(mut listener, hello)| {
        if let Some(hello) = hello {
            return Some((Ok(hello), (listener, None)));
        }
        let bytes = match tokio::time::timeout(KEEP_ALIVE, listener.next()).await {
            Err(_) => Bytes::from_static(b": \n\n"),
            Ok(todo) => {
                let Some(mut todo) = todo else {
                    return listener
                        .farewell()
                        .map(|bytes| (Ok(bytes), (listener, None)));
                };
                // Where it begins was said.
                todo.retain(|todo| {
                    !matches!(todo, Todo::Say(api::RelayMessage::Subscribed { .. }))
                });
                listener.carry_out(todo, Form::Sse).await?.concat().into()
            }
        };
        Some((Ok(bytes), (listener, None)))
    })
}

/// The same messages over a WebSocket, one message each. With the sub-protocol `lekiwi.v1.json` or `lekiwi.v1.cbor`
/// nothing is told but what the query names or `ClientMessage`s subscribe to; without one, everything that the query
/// does not rule out. permessage-deflate is agreed to.
#[utoipa::path(
    get, path = "/api/v1/ws", tag = "live",
    params(
        ("topic" = Option<String>, Query, description = "As of `/api/v1/stream`"),
        ("robot" = Option<String>, Query, description = "Only these robots, separated by commas"),
        ("type" = Option<String>, Query, description = "Only these types, separated by commas"),
        ("rate" = Option<f64>, Query, minimum = 0.01, maximum = 100, description = "As of `/api/v1/stream`"),
        ("throttle" = Option<api::ThrottleMode>, Query, description = "As of `/api/v1/stream`"),
        ("from" = Option<String>, Query, description = "As of `/api/v1/stream`"),
        ("sec-websocket-protocol" = Option<String>, Header, description = "`lekiwi.v1.json` or `lekiwi.v1.cbor`"),
    ),
    responses(
        (status = 101, description = "`Live` envelopes and `RelayMessage`s; the client sends `ClientMessage`s"),
        (status = 400, description = "invalid-query", body = api::Problem, content_type = "application/problem+json"),
        (status = 426, description = "upgrade-required", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "too-many-streams", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn websocket(
    State(app): State<App>,
    asker: Asker,
    query: Query,
    upgrade: Result<Upgrade, Failure>,
) -> Result<Response, Failure> {
    let wish = Wish::from_query(query)?;
    let upgrade = upgrade?;
    let listener = Listener::new(app, asker)?;
    if wish.named || !upgrade.is_quiet() {
        let refused = |detail| Failure::new(Kind::InvalidQuery, detail);
        listener.subscribe(&wish.request).await.map_err(refused)?;
    }
    Ok(upgrade.serve(listener))
}

/// Who watches a robot live, of those who named it.
#[utoipa::path(
    get, path = "/api/v1/robots/{id}/watchers", tag = "live",
    params(("id" = String, Path, description = "The robot")),
    responses(
        (status = 200, body = api::Watchers),
        (status = 404, description = "robot-unknown", body = api::Problem, content_type = "application/problem+json"),
    ),
    security(("session" = []), ("cookie" = []))
)]
pub(super) async fn watchers(
    State(app): State<App>,
    Robot(robot): Robot,
    query: Query,
) -> Result<Answer<api::Watchers>, Failure> {
    query.finish()?;
    super::robots::known(&app, &robot)?;
    Ok(Answer(app.fleet.live().watchers(&robot)))
}
