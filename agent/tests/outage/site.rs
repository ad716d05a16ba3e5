//! A robot without its machine: sensors, the agent's cores and its real outbox, a link and a relay.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use lekiwi_agent::config::{self, Config, Environment};
use lekiwi_agent::outbox::{Limit, Outbox};
use lekiwi_agent_core::backlog::Drain;
use lekiwi_agent_core::debounce::Debouncer;
use lekiwi_agent_core::outbox::{
    Bounds, Cursor, EVENT_PATIENCE, MAX_EVENTS_ON_THE_WAY, Progress, Window,
};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::limits::{HEARTBEAT, MAX_EVENTS_PER_MESSAGE};
use lekiwi_protocol::message::{
    Ack, Backlog, EventBatch, Heartbeat, Priority, Telemetry, Thinned, kind, metric, ranges,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

pub(crate) const START_MS: u64 = 1_795_000_000_000;
pub(crate) const SAMPLE_MS: u64 = 2_000;
pub(crate) const HOUR_MS: u64 = 3_600_000;
/// Bytes a second, one way: a mobile link on a bad day.
const LINK_BYTES_PER_MS: u64 = 6;
const LATENCY_MS: u64 = 300;
/// More than come in a day.
const MOST_SAMPLES: usize = 20_000;
/// What envelope, topic, MQTT and TLS add to a payload.
const OVERHEAD_BYTES: u64 = 300;

pub(crate) fn shipped() -> Config {
    let text = format!(
        "version: 1\nrobot_id: kiwi-01\nrelay: {{https: \"https://127.0.0.1:1\", ca_fingerprint: \"sha256:{}\"}}\n",
        "0".repeat(64)
    );
    config::parse(&text, "test", &Environment::default(), "")
        .unwrap()
        .config
}

/// Numbers that look like a robot at work, the same at each run.
pub(crate) struct Sensors(u64);

impl Sensors {
    pub(crate) fn random(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % 10_000) as f64 / 10_000.0
    }

    pub(crate) fn read(&mut self, ms: u64, busy: bool) -> Vec<(&'static str, f64)> {
        let hours = ms as f64 / HOUR_MS as f64;
        let noise = self.random();
        let cpu = if busy {
            20.0 + 70.0 * noise
        } else {
            2.0 + 3.0 * noise
        };
        let round = |value: f64| (value * 10.0).round() / 10.0;
        vec![
            (metric::CPU_PERCENT, round(cpu)),
            (
                metric::MEMORY_PERCENT,
                round(30.0 + 8.0 * hours.sin() + self.random()),
            ),
            (metric::DISK_PERCENT, round(40.0 + hours / 10.0)),
            (
                metric::TEMPERATURE_C,
                round(45.0 + cpu / 5.0 + self.random()),
            ),
            (
                metric::NET_RX_BYTES_PER_S,
                if busy {
                    (noise * 100_000.0).round()
                } else {
                    40.0
                },
            ),
            (metric::NET_TX_BYTES_PER_S, 55.0),
            (metric::UPTIME_S, (ms / 1_000) as f64),
        ]
    }
}

/// What goes over the link.
pub(crate) enum Message {
    Heartbeat { due_ms: u64 },
    Telemetry,
    Events(Priority, EventBatch),
    Backlog(Backlog),
}

/// One way of a link: messages queue up before it and take their time.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) free_at_ms: u64,
    pub(crate) arriving: VecDeque<(u64, Message)>,
    /// When how much was handed over, of late samples.
    pub(crate) late: Vec<(u64, u64)>,
}

impl Wire {
    pub(crate) fn send(&mut self, ms: u64, payload: &impl Serialize, message: Message) {
        let bytes = serde_json::to_vec(payload).unwrap().len() as u64 + OVERHEAD_BYTES;
        if matches!(message, Message::Backlog(_)) {
            self.late.push((ms, bytes));
        }
        self.free_at_ms = self.free_at_ms.max(ms) + bytes / LINK_BYTES_PER_MS;
        self.arriving
            .push_back((self.free_at_ms + LATENCY_MS, message));
    }

    pub(crate) fn arrived(&mut self, ms: u64) -> Option<Message> {
        self.arriving
            .pop_front_if(|(at, _)| *at <= ms)
            .map(|(_, message)| message)
    }
}

/// The relay: it takes down what it hears, commits, and answers a moment later.
pub(crate) struct Relay {
    pub(crate) events: BTreeMap<(Uuid, u64), (Priority, String)>,
    /// In the order of their arrival.
    pub(crate) event_order: Vec<(Priority, u64)>,
    pub(crate) samples: Vec<(u64, Timestamp)>,
    /// By number.
    pub(crate) seen: Vec<bool>,
    pub(crate) stream: Option<Uuid>,
    pub(crate) twice: u64,
    pub(crate) events_after_samples: u64,
    pub(crate) heartbeat_delays_ms: Vec<u64>,
    pub(crate) thinned: u64,
    pub(crate) answers: VecDeque<(u64, Ack)>,
}

impl Relay {
    pub(crate) fn new() -> Self {
        // Memory is taken before it is measured: what grows afterwards is the robot's.
        let mut samples = vec![(0, Timestamp::default()); MOST_SAMPLES];
        samples.clear();
        Self {
            events: BTreeMap::new(),
            event_order: Vec::new(),
            samples,
            seen: vec![false; MOST_SAMPLES],
            stream: None,
            twice: 0,
            events_after_samples: 0,
            heartbeat_delays_ms: Vec::new(),
            thinned: 0,
            answers: VecDeque::new(),
        }
    }

    pub(crate) fn hear(&mut self, ms: u64, message: Message) {
        let ack = |stream: Uuid, seqs: Vec<u64>| Ack {
            acks: BTreeMap::from([(stream, ranges(seqs))]),
        };
        match message {
            Message::Heartbeat { due_ms } => self.heartbeat_delays_ms.push(ms - due_ms),
            Message::Telemetry => {}
            Message::Events(priority, batch) => {
                for event in &batch.events {
                    let key = (batch.stream, event.seq);
                    if event.kind == kind::THINNED {
                        self.thinned += Thinned::deserialize(&event.data).unwrap().samples;
                    }
                    self.event_order.push((priority, event.seq));
                    let earlier = self.events.insert(key, (priority, event.kind.clone()));
                    self.twice += u64::from(earlier.is_some());
                    self.events_after_samples += u64::from(!self.samples.is_empty());
                }
                let seqs = batch.events.iter().map(|event| event.seq).collect();
                self.answers
                    .push_back((ms + LATENCY_MS, ack(batch.stream, seqs)));
            }
            Message::Backlog(backlog) => {
                assert_eq!(*self.stream.get_or_insert(backlog.stream), backlog.stream);
                for sample in &backlog.samples {
                    let seen = &mut self.seen[usize::try_from(sample.seq).unwrap()];
                    self.twice += u64::from(std::mem::replace(seen, true));
                    self.samples.push((sample.seq, sample.timestamp));
                }
                let seqs = backlog.samples.iter().map(|sample| sample.seq).collect();
                self.answers
                    .push_back((ms + LATENCY_MS, ack(backlog.stream, seqs)));
            }
        }
    }
}

/// The agent's cores and its real outbox, driven as its driver does.
pub(crate) struct Robot {
    pub(crate) outbox: Outbox,
    pub(crate) debouncer: Debouncer,
    pub(crate) window: Window<Progress>,
    pub(crate) drain: Drain,
    pub(crate) sensors: Sensors,
    pub(crate) start: Instant,
    pub(crate) ms: u64,
    pub(crate) next_heartbeat_ms: u64,
    pub(crate) kept: u64,
    pub(crate) events: u64,
}

impl Robot {
    pub(crate) fn new(path: &Path, bounds: Bounds) -> Self {
        Self {
            outbox: Outbox::with_bounds(path, Timestamp::from_ms(START_MS), bounds),
            debouncer: Debouncer::new(shipped().metrics),
            window: Window::new(MAX_EVENTS_ON_THE_WAY, EVENT_PATIENCE),
            drain: Drain::default(),
            sensors: Sensors(0x9E37_79B9_7F4A_7C15),
            start: Instant::now(),
            ms: 0,
            next_heartbeat_ms: 0,
            kept: 0,
            events: 0,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_ms(START_MS + self.ms)
    }

    pub(crate) fn event(&mut self, kind: &str) {
        self.events += 1;
        let data = json!({ "n": self.events, "why": "so that it has a usual size" });
        self.outbox.append(kind, self.wall(), data);
    }

    pub(crate) fn sample(&mut self, busy: bool) {
        let now = self.now();
        for (name, value) in self.sensors.read(self.ms, busy) {
            self.debouncer.observe(now, name, "", value);
        }
        while self.debouncer.poll_alert().is_some() {
            self.event(kind::RESOURCE_ALERT);
        }
    }

    /// One look at the sensors while nobody listens.
    pub(crate) fn offline(&mut self, busy: bool) {
        self.ms += SAMPLE_MS;
        self.sample(busy);
        let (now, wall) = (self.now(), self.wall());
        if let Some(telemetry) = self.debouncer.poll_output(now) {
            self.kept += 1;
            self.outbox.keep(now, wall, &telemetry.metrics);
        }
        self.outbox.look_after_samples(now, wall);
        if self.ms.is_multiple_of(HOUR_MS) {
            self.outbox.expire(wall, Timestamp::from_ms(START_MS));
        }
    }

    pub(crate) fn connect(&mut self) {
        self.debouncer.told(self.now());
        self.window.link_up();
        self.drain.link_up();
        let wall = self.wall();
        self.outbox.outage_over(wall);
        self.next_heartbeat_ms = self.ms;
    }

    pub(crate) fn online(&mut self, wire: &mut Wire) {
        let (now, ms) = (self.now(), self.ms);
        if ms.is_multiple_of(SAMPLE_MS) {
            self.sample(true);
            let wall = self.wall();
            self.outbox.look_after_samples(now, wall);
        }
        if self.next_heartbeat_ms <= ms {
            let due_ms = self.next_heartbeat_ms;
            self.next_heartbeat_ms += u64::try_from(HEARTBEAT.as_millis()).unwrap();
            let heartbeat = Heartbeat {
                session: Uuid::nil(),
                uptime_s: ms / 1_000,
            };
            wire.send(ms, &heartbeat, Message::Heartbeat { due_ms });
        }
        if let Some(telemetry) = self.debouncer.poll_output(now) {
            let telemetry: Telemetry = telemetry;
            wire.send(ms, &telemetry, Message::Telemetry);
        }
        self.window.handle_timeout(now);
        let is_all = self.send_events(wire);
        self.drain.handle_timeout(now);
        while is_all && let Some((after, room)) = self.drain.poll_output(now) {
            let late = self.outbox.late_after(after, room, Drain::MESSAGE_BYTES);
            let Some((backlog, bytes)) = late else {
                break;
            };
            let (last, count) = (backlog.samples.last().unwrap().seq, backlog.samples.len());
            self.drain.sent(now, last, count, bytes);
            wire.send(ms, &backlog.clone(), Message::Backlog(backlog));
        }
    }

    pub(crate) fn send_events(&mut self, wire: &mut Wire) -> bool {
        while let Some((mut progress, room)) = self.window.poll_output() {
            let limit = Limit {
                events: room.min(MAX_EVENTS_PER_MESSAGE),
                ..Limit::default()
            };
            let Some((priority, batch)) = self.outbox.pending_after(&progress, limit) else {
                return true;
            };
            let count = batch.events.len();
            let seq = batch.events.last().unwrap().seq;
            let ordinal = batch.ordinal;
            progress.advance(priority, Cursor { ordinal, seq });
            self.window.sent(self.now(), progress, count);
            wire.send(self.ms, &batch.clone(), Message::Events(priority, batch));
        }
        false
    }

    pub(crate) fn acknowledged(&mut self, ack: &Ack) -> usize {
        let now = self.now();
        let events = self.outbox.acknowledge(ack);
        self.window.acknowledged(now, events);
        let samples = self.outbox.acknowledge_late(ack);
        self.drain.acknowledged(now, samples);
        events + samples
    }
}
