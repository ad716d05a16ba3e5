//! What events and requests go through, as spans for a collector of OpenTelemetry. The broker reads which trace a message
//! belongs to, `ingest`, `live` and `http` say what they have done; `export` sends it. Off, all of it is a look at an
//! option, and so it is for what nobody sampled.
//!
//! Spans are made when they are over, from times that are known then, so that nothing is carried along but the trace's
//! own id: in the metadata of the event, where each relay that follows the log finds it. The robot's part is made here
//! as well, from what its message says; the agent exports nothing.

mod export;

use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, StatusCode};
use lekiwi_protocol::message::EventBatch;
use lekiwi_protocol::trace::{Sample, TRACEPARENT, TraceParent};
use lekiwi_protocol::{Clock, Envelope, RelayId, Timestamp};
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::export::TracesError;
use self::export::{Queue, Service, Span};
use crate::clock;
use crate::config::traces::TracesConfig;
use crate::metrics::Metrics;
use crate::store::records::{Commit, StoredEvent};

/// Traces of events that the span of a request names at most.
const MAX_LINKS: usize = 32;

/// Takes what was done for traces that are kept. Cheap to clone; the default takes nothing.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    queue: Queue,
    sample: Sample,
    stop: CancellationToken,
    exporting: Mutex<Option<JoinHandle<()>>>,
}

/// Nanoseconds since the epoch.
type Moment = u64;

/// A message that belongs to a trace which is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    parent: TraceParent,
    at: Moment,
}

impl Arrived {
    /// What an MQTT message's user properties say, when it arrives; nothing of traces that are not kept.
    pub(crate) fn read<'a>(
        properties: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Option<Box<Self>> {
        let mut named = properties.filter(|(name, _)| *name == TRACEPARENT);
        let (_, value) = named.next()?;
        let parent = TraceParent::parse(value).filter(|parent| parent.is_sampled)?;
        let at = clock::now_ns();
        Some(Box::new(Self { parent, at }))
    }
}

/// A request that belongs to a trace which is kept, until it is answered.
#[derive(Debug)]
pub(crate) struct Asked {
    queue: Queue,
    parent: Option<TraceParent>,
    context: TraceParent,
    at: Moment,
}

/// In the extensions of an answer: traces of the events in it.
#[derive(Debug, Clone)]
pub(crate) struct Linked(Vec<TraceParent>);

impl Traces {
    /// Begins to export as it is configured, in the name of `relay`.
    ///
    /// # Errors
    /// When the system offers no TLS.
    pub fn start(
        config: Option<&TracesConfig>,
        relay: &RelayId,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, TracesError> {
        let Some(config) = config else {
            return Ok(Self::default());
        };
        let stop = CancellationToken::new();
        let (queue, exporting) = export::start(config, relay, metrics, stop.clone())?;
        Ok(Self(Some(Arc::new(On {
            queue,
            sample: config.sample,
            stop,
            exporting: Mutex::new(Some(exporting)),
        }))))
    }

    /// Sends what waits, for a few seconds at most.
    pub async fn finish(&self) {
        if let Some(on) = &self.0 {
            on.stop.cancel();
            let exporting = on.exporting.lock().map_or(None, |mut task| task.take());
            if let Some(exporting) = exporting {
                export::ended(exporting).await;
            }
        }
    }

    /// Events of a robot were taken. The answer is what goes into the log with them.
    pub(crate) fn received(
        &self,
        arrived: Option<&Arrived>,
        envelope: &Envelope<EventBatch>,
    ) -> Option<TraceParent> {
        let (on, Arrived { parent, at }) = (self.0.as_ref()?, arrived?);
        let attributes = || {
            vec![
                KeyValue::new("messaging.system", "mqtt"),
                KeyValue::new("messaging.destination.name", "from/events"),
                KeyValue::new(
                    "messaging.batch.message_count",
                    envelope.payload.events.len() as i64,
                ),
                KeyValue::new("lekiwi.robot.id", envelope.robot_id.to_string()),
            ]
        };
        // A clock that is not set does not say when.
        let is_timed = envelope.clock == Clock::Synced;
        if is_timed {
            let sent = envelope.timestamp;
            let events = envelope.payload.events.iter();
            let happened = events.map(|event| event.timestamp).min();
            let span = Span {
                context: *parent,
                parent: None,
                kind: SpanKind::Producer,
                name: "publish events".into(),
                times: (moment(happened.unwrap_or(sent).min(sent)), moment(sent)),
                attributes: attributes(),
                links: Vec::new(),
                failed: false,
            };
            on.queue.put(Service::Agent, span);
        }
        let context = parent.child(export::id()?);
        let span = Span {
            context,
            parent: is_timed.then_some(*parent),
            kind: SpanKind::Consumer,
            name: "receive events".into(),
            times: (*at, clock::now_ns()),
            attributes: attributes(),
            links: Vec::new(),
            failed: false,
        };
        on.queue.put(Service::Relay, span);
        Some(context)
    }

    /// Events are on disk.
    pub(crate) fn committed(&self, commit: &Commit) {
        if let Some(times) = commit.times {
            self.passed("commit", &commit.events, || times);
        }
    }

    /// When something begins that events will be through, if anybody wants to know.
    pub(crate) fn begun(&self) -> Option<Moment> {
        self.0.as_ref().map(|_| clock::now_ns())
    }

    /// Events that were at it since `begun` are through with `work` now.
    pub(crate) fn done(&self, work: &'static str, begun: Option<Moment>, events: &[StoredEvent]) {
        if let Some(begun) = begun {
            self.passed(work, events, || (begun, clock::now_ns()));
        }
    }

    fn passed(
        &self,
        work: &'static str,
        events: &[StoredEvent],
        times: impl Fn() -> (Moment, Moment),
    ) {
        let Some(on) = &self.0 else {
            return;
        };
        for (parent, events) in traced(events) {
            let Some(id) = export::id() else {
                return;
            };
            let position = events.first().map_or(0, |event| event.position);
            let span = Span {
                context: parent.child(id),
                parent: Some(parent),
                kind: SpanKind::Internal,
                name: work.into(),
                times: times(),
                attributes: vec![
                    KeyValue::new("lekiwi.events", events.len() as i64),
                    KeyValue::new("lekiwi.log.position", position as i64),
                ],
                links: Vec::new(),
                failed: false,
            };
            on.queue.put(Service::Relay, span);
        }
    }

    /// A request came. It takes part in its caller's trace; without one it may begin one.
    pub(crate) fn asked(&self, headers: &HeaderMap) -> Option<Asked> {
        let on = self.0.as_ref()?;
        let mut said = headers.get_all(TRACEPARENT).iter();
        let parent = match (said.next(), said.next()) {
            (Some(value), None) => value.to_str().ok().and_then(TraceParent::parse),
            _ => None,
        };
        let context = match parent {
            Some(parent) if parent.is_sampled => parent.child(export::id()?),
            Some(_) => return None,
            None => export::begin(on.sample)?,
        };
        Some(Asked {
            queue: on.queue.clone(),
            parent,
            context,
            at: clock::now_ns(),
        })
    }

    /// What an answer with these events links to.
    pub(crate) fn linked(&self, events: &[StoredEvent]) -> Option<Linked> {
        self.0.as_ref()?;
        let links: Vec<_> = traced(events)
            .map(|(context, _)| context)
            .take(MAX_LINKS)
            .collect();
        (!links.is_empty()).then_some(Linked(links))
    }
}

impl Asked {
    /// The request to `route` was answered.
    pub(crate) fn answered(
        self,
        method: &'static str,
        route: &'static str,
        status: StatusCode,
        links: Option<&Linked>,
    ) {
        let span = Span {
            context: self.context,
            parent: self.parent,
            kind: SpanKind::Server,
            name: format!("{method} {route}").into(),
            times: (self.at, clock::now_ns()),
            attributes: vec![
                KeyValue::new("http.request.method", method),
                KeyValue::new("http.route", route),
                KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
            ],
            links: links.map(|Linked(links)| links.clone()).unwrap_or_default(),
            failed: status.is_server_error(),
        };
        self.queue.put(Service::Relay, span);
    }
}

fn moment(timestamp: Timestamp) -> Moment {
    timestamp.as_ms().saturating_mul(1_000_000)
}

/// The traces that events of the log belong to, each with those of them that one message brought.
fn traced(events: &[StoredEvent]) -> impl Iterator<Item = (TraceParent, &[StoredEvent])> {
    let together = |a: &StoredEvent, b: &StoredEvent| {
        a.event.metadata == b.event.metadata && a.event.source == b.event.source
    };
    let chunks = events.chunk_by(together);
    chunks.filter_map(|chunk| Some((in_metadata(&chunk.first()?.event.metadata)?, chunk)))
}

/// Of metadata that the relay made itself; no text within it has a quotation mark that is not escaped.
fn in_metadata(metadata: &str) -> Option<TraceParent> {
    let (_, rest) = metadata.split_once(r#""traceparent":""#)?;
    TraceParent::parse(rest.split_once('"')?.0).filter(|context| context.is_sampled)
}

/// The metadata of events that a robot reported.
pub(crate) fn metadata(ordinal: u32, context: Option<TraceParent>) -> Arc<str> {
    match context {
        None => format!(r#"{{"ordinal":{ordinal}}}"#).into(),
        Some(context) => format!(r#"{{"ordinal":{ordinal},"{TRACEPARENT}":"{context}"}}"#).into(),
    }
}
