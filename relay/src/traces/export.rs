//! The way of spans to the collector: a bounded queue and a task that empties it, by OTLP over HTTP. Whatever finds no room,
//! or is not taken, is counted and gone; nobody waits for it.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lekiwi_protocol::RelayId;
use lekiwi_protocol::trace::{Sample, TraceParent};
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Moment;
use crate::config::traces::TracesConfig;
use crate::logging::Seldom;
use crate::metrics::Metrics;
use crate::{clock, tls};

/// Spans that may wait.
const QUEUE: usize = 4_096;
/// Spans that are sent at once.
const MOST: usize = 512;
/// How long the first waits for others.
const PAUSE: Duration = Duration::from_secs(1);
/// For one attempt, and for all of them.
const TIMEOUT: Duration = Duration::from_secs(5);
/// At the end, for all that waits.
const FAREWELL: Duration = Duration::from_secs(3);

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// There is no TLS.
    #[error("cannot set up TLS for traces")]
    Tls(#[from] rustls::Error),
    /// The client cannot be made.
    #[error("cannot set up HTTP for traces")]
    Http(#[from] reqwest::Error),
    /// The exporter does not take its configuration.
    #[error("cannot set up the export of traces")]
    Exporter(#[from] ExporterBuildError),
}

/// In whose name a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Agent,
    Relay,
}

/// A span that is over.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) context: TraceParent,
    pub(super) parent: Option<TraceParent>,
    pub(super) kind: SpanKind,
    pub(super) name: Cow<'static, str>,
    pub(super) times: (Moment, Moment),
    pub(super) attributes: Vec<KeyValue>,
    pub(super) links: Vec<TraceParent>,
    pub(super) failed: bool,
}

/// The sending end.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    spans: mpsc::Sender<(Service, Span)>,
    metrics: Arc<Metrics>,
}

impl Queue {
    pub(super) fn put(&self, service: Service, span: Span) {
        if self.spans.try_send((service, span)).is_err() {
            self.metrics.spans_dropped.inc();
        }
    }
}

/// A span's id; none without random numbers.
pub(super) fn id() -> Option<NonZeroU64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    NonZeroU64::new(u64::from_ne_bytes(bytes))
}

/// The first span of a trace, if that is kept.
pub(super) fn begin(sample: Sample) -> Option<TraceParent> {
    let mut bytes = [0; 24];
    if sample == Sample::NONE {
        return None;
    }
    getrandom::fill(&mut bytes).ok()?;
    TraceParent::begin(bytes, sample)
}

pub(super) fn start(
    config: &TracesConfig,
    relay: &RelayId,
    metrics: &Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(Queue, JoinHandle<()>), TracesError> {
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client(tls::system_roots())?)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .user_agent(concat!("lekiwi-relay/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let endpoint = format!(
        "{}/v1/traces",
        config.endpoint.as_str().trim_end_matches('/')
    );
    let exporter = |resource: Resource| {
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(http.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&endpoint)
            .with_timeout(TIMEOUT)
            .build()?;
        exporter.set_resource(&resource);
        Ok::<_, ExporterBuildError>(exporter)
    };
    let named = |name| Resource::builder_empty().with_service_name(name);
    let of_relay = named("lekiwi-relay").with_attributes([
        KeyValue::new("service.instance.id", relay.to_string()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ]);
    let (sender, spans) = mpsc::channel(QUEUE);
    let exporting = Exporting {
        spans,
        agent: exporter(named("lekiwi-agent").build())?,
        relay: exporter(of_relay.build())?,
        scope: InstrumentationScope::builder("lekiwi-relay").build(),
        metrics: metrics.clone(),
        failures: Seldom::default(),
    };
    let queue = Queue {
        spans: sender,
        metrics: metrics.clone(),
    };
    tracing::info!(collector = %config.endpoint, "traces are exported");
    Ok((queue, tokio::spawn(exporting.run(stop))))
}

/// Waits for the end, but not for a collector that does not answer.
pub(super) async fn ended(mut exporting: JoinHandle<()>) {
    if tokio::time::timeout(FAREWELL, &mut exporting)
        .await
        .is_err()
    {
        exporting.abort();
    }
}

struct Exporting {
    spans: mpsc::Receiver<(Service, Span)>,
    agent: opentelemetry_otlp::SpanExporter,
    relay: opentelemetry_otlp::SpanExporter,
    scope: InstrumentationScope,
    metrics: Arc<Metrics>,
    failures: Seldom,
}

impl Exporting {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        while stop.run_until_cancelled(self.gather(&mut batch)).await == Some(true) {
            self.export(&mut batch).await;
        }
        self.spans.close();
        loop {
            self.export(&mut batch).await;
            if self.spans.recv_many(&mut batch, MOST).await == 0 {
                return;
            }
        }
    }

    /// Waits for a span, and then a moment for others; whether any can come.
    async fn gather(&mut self, batch: &mut Vec<(Service, Span)>) -> bool {
        if self.spans.recv_many(batch, MOST).await == 0 {
            return false;
        }
        let others = async {
            while batch.len() < MOST {
                let room = MOST - batch.len();
                if self.spans.recv_many(batch, room).await == 0 {
                    break;
                }
            }
        };
        // Whether there were enough of them does not matter.
        let _ = tokio::time::timeout(PAUSE, others).await;
        true
    }

    async fn export(&self, batch: &mut Vec<(Service, Span)>) {
        let (agent, relay): (Vec<_>, Vec<_>) = batch
            .drain(..)
            .partition(|(service, _)| *service == Service::Agent);
        for (exporter, spans) in [(&self.agent, agent), (&self.relay, relay)] {
            let count = spans.len() as u64;
            if count == 0 {
                continue;
            }
            let spans = spans.into_iter().map(|(_, span)| self.data(span)).collect();
            match exporter.export(spans).await {
                Ok(()) => drop(self.metrics.spans_exported.inc_by(count)),
                Err(error) => {
                    self.metrics.spans_dropped.inc_by(count);
                    if let Some(unsaid) = self.failures.may_say(clock::monotonic()) {
                        tracing::warn!(%error, unsaid, "the collector takes no traces; these are dropped");
                    }
                }
            }
        }
    }

    fn data(&self, span: Span) -> SpanData {
        let (start, end) = span.times;
        let mut links = SpanLinks::default();
        let link = |link| Link::new(context(link, true), Vec::new(), 0);
        links.links = span.links.into_iter().map(link).collect();
        SpanData {
            span_context: context(span.context, false),
            parent_span_id: span.parent.map_or(SpanId::INVALID, span_id),
            parent_span_is_remote: matches!(span.kind, SpanKind::Consumer | SpanKind::Server),
            span_kind: span.kind,
            name: span.name,
            start_time: at(start),
            // A clock that was set back ends nothing before it began.
            end_time: at(end.max(start)),
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: if span.failed {
                Status::error("")
            } else {
                Status::Unset
            },
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn span_id(of: TraceParent) -> SpanId {
    SpanId::from_bytes(of.span_id.get().to_be_bytes())
}

fn context(of: TraceParent, is_remote: bool) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(of.trace_id.get().to_be_bytes()),
        span_id(of),
        TraceFlags::SAMPLED,
        is_remote,
        TraceState::NONE,
    )
}

fn at(moment: Moment) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(moment)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_finds_no_room_is_counted_and_nobody_waits() {
        // Whoever connects waits for ever.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let config = TracesConfig {
            endpoint: url.parse().unwrap(),
            sample: Sample::NONE,
        };
        let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
        let relay = RelayId::new("r1").unwrap();
        let (queue, exporting) = start(&config, &relay, &metrics, stop.clone()).unwrap();
        // On one thread nothing is sent before the test waits.
        for _ in 0..QUEUE + 10 {
            let span = Span {
                context: begin(Sample::new(1.0).unwrap()).unwrap(),
                parent: None,
                kind: SpanKind::Internal,
                name: "work".into(),
                times: (2, 1),
                attributes: Vec::new(),
                links: Vec::new(),
                failed: false,
            };
            queue.put(Service::Relay, span);
        }
        assert_eq!(metrics.spans_dropped.get(), 10);
        stop.cancel();
        let begun = clock::monotonic();
        ended(exporting).await;
        assert!(begun.elapsed() < 2 * FAREWELL);
        assert_eq!(metrics.spans_exported.get(), 0);
    }
}
