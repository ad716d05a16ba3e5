//! Traces of events and requests, as a collector gets them from the real program.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::json;
use tempfile::TempDir;

use crate::common::{Relay, wait_for};
use crate::external::{broker, mosquitto, ready};
use crate::gateway::listen;
use crate::port;
use crate::standing::{client, enrol};

const EVENTS: &str = "/api/v1/robots/kiwi-01/events?after=0&limit=1000";

/// A collector: takes OTLP over HTTP, and keeps what it is told.
struct Collector {
    url: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    _runtime: tokio::runtime::Runtime,
}

/// A span, as a reader of traces sees it.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
    kind: SpanKind,
    start_ns: u64,
    end_ns: u64,
    attributes: BTreeMap<String, String>,
    links: Vec<String>,
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Any| match value {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => number.to_string(),
        other => panic!("an attribute that nobody expected: {other:?}"),
    };
    let pair = |pair: &KeyValue| {
        let value = pair.value.as_ref()?.value.as_ref()?;
        Some((pair.key.clone(), text(value)))
    };
    attributes.iter().filter_map(pair).collect()
}

impl Collector {
    fn start() -> Self {
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let kept = requests.clone();
        let take = async move |body: Bytes| {
            let request =
                ExportTraceServiceRequest::decode(body).expect("a request as OTLP has it");
            kept.lock().expect("no panic").push(request);
            StatusCode::OK
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            let app = Router::new().route("/v1/traces", post(take));
            axum::serve(listener, app).await
        });
        Self {
            url,
            requests,
            _runtime: runtime,
        }
    }

    /// All spans so far.
    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().expect("no panic");
        let mut spans = Vec::new();
        for of in requests.iter().flat_map(|request| &request.resource_spans) {
            let resource = texts(&of.resource.as_ref().expect("a resource").attributes);
            for span in of.scope_spans.iter().flat_map(|scope| &scope.spans) {
                spans.push(Span {
                    service: resource["service.name"].clone(),
                    name: span.name.clone(),
                    trace: hex::encode(&span.trace_id),
                    id: hex::encode(&span.span_id),
                    parent: hex::encode(&span.parent_span_id),
                    kind: span.kind(),
                    start_ns: span.start_time_unix_nano,
                    end_ns: span.end_time_unix_nano,
                    attributes: texts(&span.attributes),
                    links: span
                        .links
                        .iter()
                        .map(|link| hex::encode(&link.trace_id))
                        .collect(),
                });
            }
        }
        spans
    }

    /// The spans of this trace, by name, once all of these are there.
    fn trace(&self, id: &str, names: &[&str]) -> BTreeMap<String, Span> {
        wait_for(&format!("{names:?} of {id}"), || {
            let spans = self.spans().into_iter().filter(|span| span.trace == id);
            let spans: BTreeMap<_, _> = spans.map(|span| (span.name.clone(), span)).collect();
            names
                .iter()
                .all(|name| spans.contains_key(*name))
                .then_some(spans)
        })
    }

    /// Options for a relay that exports to this one, and begins no trace by itself.
    fn configure(&self, data: &TempDir) -> String {
        let file = data.path().join("traced.yml");
        let text = format!(
            "version: 1\ntraces: {{endpoint: \"{}\", sample: 0}}\n",
            self.url
        );
        fs::write(&file, text).expect("a file");
        file.to_str().expect("text").to_owned()
    }
}

fn traceparent(trace: u8, flags: &str) -> String {
    format!("00-{}-00000000000000{trace:02x}-{flags}", id(trace))
}

fn id(trace: u8) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e47{trace:02x}")
}

/// An event as the agent sends it, half a second after it happened, with this property.
fn publish(relay: &Relay, seq: u64, clock: &str, property: Option<&str>) {
    let message = json!({
        "type": "events", "robot_id": "kiwi-01", "timestamp": "2026-11-21T03:52:00.500Z", "sequence": 0, "clock": clock,
        "payload": { "stream": uuid::Uuid::from_u128(7), "ordinal": 1, "events": [
            { "seq": seq, "type": "agent.started", "timestamp": "2026-11-21T03:52:00.000Z" },
        ] },
    });
    let mut command = client(relay, "mosquitto_pub", "kiwi-01", "kiwi-01");
    if let Some(value) = property {
        command.args(["-D", "publish", "user-property", "traceparent", value]);
    }
    let sent = command
        .args([
            "-q",
            "1",
            "-t",
            "fleet/v1/default/robots/kiwi-01/from/events",
        ])
        .args(["-m", &message.to_string()])
        .output()
        .expect("mosquitto_pub is installed (apt-get install mosquitto-clients)");
    let complaint = String::from_utf8_lossy(&sent.stderr);
    assert!(sent.status.success(), "{complaint}");
}

fn enrolled(relay: &Relay) -> String {
    enrol(relay, "kiwi-01", "kiwi-01", &relay.token(&[]), "");
    relay.log_in()
}

/// Waits until the log has so many of the robot's own events.
fn logged(relay: &Relay, session: &str, count: usize) {
    wait_for("the event", || {
        let page = relay.curl_as(session, EVENTS, &[]).json();
        let events = page["events"].as_array()?.iter();
        let own = events.filter(|event| event["source"] == "kiwi-01");
        (own.count() == count).then_some(())
    });
}

#[test]
fn an_event_is_one_trace_from_the_agent_to_the_live_client_and_the_answer() {
    let (collector, data) = (Collector::start(), tempfile::tempdir().expect("a folder"));
    let config = collector.configure(&data);
    let relay = Relay::start_with(data, &["--config", &config]);
    let session = enrolled(&relay);
    let watcher = listen(&relay, &session, "?topic=agent.*", "x: y");
    wait_for("the stream", || {
        watcher.text().contains("listening").then_some(())
    });

    publish(&relay, 1, "synced", Some(&traceparent(1, "01")));
    let names = ["publish events", "receive events", "commit", "fold", "push"];
    let spans = collector.trace(&id(1), &names);
    assert_eq!(spans.len(), names.len(), "{spans:#?}");
    let [sent, received, committed, folded, pushed] = names.map(|name| &spans[name]);
    assert_eq!(
        (sent.service.as_str(), sent.kind),
        ("lekiwi-agent", SpanKind::Producer)
    );
    assert_eq!(
        (sent.id.as_str(), sent.parent.as_str()),
        ("0000000000000001", "")
    );
    assert_eq!(sent.end_ns - sent.start_ns, 500_000_000);
    assert_eq!(received.kind, SpanKind::Consumer);
    assert_eq!(received.parent, sent.id);
    assert_eq!(received.attributes["lekiwi.robot.id"], "kiwi-01");
    for span in [committed, folded, pushed] {
        assert_eq!(span.parent, received.id, "{}", span.name);
        assert_eq!(span.attributes["lekiwi.events"], "1");
    }
    for span in [received, committed, folded, pushed] {
        assert_eq!(span.service, "lekiwi-relay");
        assert!(span.start_ns <= span.end_ns);
    }
    assert!(received.start_ns <= committed.start_ns && committed.end_ns <= folded.start_ns);
    assert!(folded.start_ns <= pushed.start_ns && pushed.start_ns <= folded.end_ns);

    // Who reads the event sees its trace, and so does the trace of the request.
    let header = format!("traceparent: {}", traceparent(2, "01"));
    let page = relay.curl_as(&session, EVENTS, &["-H", &header]).json();
    let own = page["events"]
        .as_array()
        .expect("events")
        .last()
        .expect("one");
    let stored = format!("00-{}-{}-01", id(1), received.id);
    assert_eq!(own["metadata"]["traceparent"], stored.as_str());
    let name = "GET /api/v1/robots/{id}/events";
    let answered = &collector.trace(&id(2), &[name])[name];
    assert_eq!(
        (answered.kind, answered.parent.as_str()),
        (SpanKind::Server, "0000000000000002")
    );
    assert_eq!(answered.attributes["http.response.status_code"], "200");
    assert_eq!(answered.links, [id(1)]);
    assert!(watcher.text().contains(&stored));

    // Where the robot does not know the time, its part is not told.
    publish(&relay, 2, "unsynced", Some(&traceparent(3, "01")));
    let spans = collector.trace(&id(3), &["receive events", "commit"]);
    assert_eq!(spans["receive events"].parent, "");
    assert!(!spans.contains_key("publish events"));

    // The same event again is received, and no news.
    publish(&relay, 2, "synced", Some(&traceparent(4, "01")));
    collector.trace(&id(4), &["publish events", "receive events"]);

    // What nobody keeps, and what is no trace.
    let malformed = traceparent(5, "01").to_uppercase();
    let not_kept = traceparent(5, "00");
    for (seq, property) in [(3, None), (4, Some(&not_kept)), (5, Some(&malformed))] {
        publish(&relay, seq, "synced", property.map(String::as_str));
    }
    for header in [&not_kept, &malformed] {
        let header = format!("traceparent: {header}");
        assert_eq!(
            relay.curl_as(&session, EVENTS, &["-H", &header]).status,
            200
        );
    }
    // Nor do strangers begin one.
    let header = format!("traceparent: {}", traceparent(7, "01"));
    for path in [EVENTS, "/health", "/login", "/no"] {
        relay.curl(path, &["-H", &header]);
    }
    publish(&relay, 6, "synced", Some(&traceparent(6, "01")));
    logged(&relay, &session, 6);
    // What waits is sent before the relay is gone.
    let (status, _data) = relay.stop();
    assert_eq!(status.code(), Some(0));
    let spans = collector.spans();
    let traces: std::collections::BTreeSet<_> =
        spans.iter().map(|span| span.trace.clone()).collect();
    assert_eq!(traces, [1, 2, 3, 4, 6].map(id).into());
    let of = |name: &str, trace| {
        let mut spans = spans.iter();
        spans.any(|span| span.name == name && span.trace == id(trace))
    };
    assert!(of("push", 6) && !of("commit", 4) && !of("push", 4));
}

#[test]
fn a_trace_goes_on_across_an_external_broker() {
    let (collector, data) = (Collector::start(), tempfile::tempdir().expect("a folder"));
    let (port, config) = (port::free(), collector.configure(&data));
    let options = ["--broker", &broker(port), "--config", &config];
    let relay = Relay::start_with(data, &options);
    let _mosquitto = mosquitto(&relay, port);
    ready(&relay);
    let session = enrolled(&relay);
    publish(&relay, 1, "synced", Some(&traceparent(1, "01")));
    logged(&relay, &session, 1);
    let spans = collector.trace(
        &id(1),
        &["publish events", "receive events", "commit", "fold"],
    );
    assert_eq!(spans["receive events"].parent, spans["publish events"].id);
    assert_eq!(spans["commit"].parent, spans["receive events"].id);
    assert_eq!(spans["fold"].parent, spans["receive events"].id);
}

#[test]
fn a_collector_that_is_away_is_missed_by_nobody() {
    let data = tempfile::tempdir().expect("a folder");
    let file = data.path().join("traced.yml");
    let text = format!(
        "version: 1\ntraces: {{endpoint: \"http://127.0.0.1:{}\", sample: 1}}\n",
        port::free()
    );
    fs::write(&file, text).expect("a file");
    let relay = Relay::start_with(data, &["--config", file.to_str().expect("text")]);
    let session = enrolled(&relay);
    publish(&relay, 1, "synced", Some(&traceparent(1, "01")));
    logged(&relay, &session, 1);
    wait_for("the count of what was dropped", || {
        let metrics = relay.curl_as(&session, "/metrics", &[]).body;
        let count = metrics
            .lines()
            .find_map(|line| line.strip_prefix("lekiwi_spans_dropped_total "));
        (count?.parse::<u64>().expect("a number") >= 5).then_some(())
    });
    assert!(relay.log().contains("the collector takes no traces"));
    let (status, _data) = relay.stop();
    assert_eq!(status.code(), Some(0));
}
