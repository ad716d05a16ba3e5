//! A day without a relay, on a virtual clock: the agent's own debouncer, outbox, window and drain against a
//! real database; the link and the relay at its other end are made up. And what a day writes to the card.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests"
)]

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;
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
    Ack, Backlog, EventBatch, Heartbeat, Priority, SeqRange, Telemetry, Thinned, kind, metric,
    ranges,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

const START_MS: u64 = 1_795_000_000_000;
const SAMPLE_MS: u64 = 2_000;
const HOUR_MS: u64 = 3_600_000;
const OUTAGE_MS: u64 = 24 * HOUR_MS;
/// Bytes a second, one way: a mobile link on a bad day.
const LINK_BYTES_PER_MS: u64 = 6;
const LATENCY_MS: u64 = 300;
/// More than come in a day.
const MOST_SAMPLES: usize = 20_000;
/// What envelope, topic, MQTT and TLS add to a payload.
const OVERHEAD_BYTES: u64 = 300;

fn shipped() -> Config {
    let text = format!(
        "version: 1\nrobot_id: kiwi-01\nrelay: {{https: \"https://127.0.0.1:1\", ca_fingerprint: \"sha256:{}\"}}\n",
        "0".repeat(64)
    );
    config::parse(&text, "test", &Environment::default(), "")
        .unwrap()
        .config
}

/// Numbers that look like a robot at work, the same at each run.
struct Sensors(u64);

impl Sensors {
    fn random(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % 10_000) as f64 / 10_000.0
    }

    fn read(&mut self, ms: u64, busy: bool) -> Vec<(&'static str, f64)> {
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
enum Message {
    Heartbeat { due_ms: u64 },
    Telemetry,
    Events(Priority, EventBatch),
    Backlog(Backlog),
}

/// One way of a link: messages queue up before it and take their time.
#[derive(Default)]
struct Wire {
    free_at_ms: u64,
    arriving: VecDeque<(u64, Message)>,
    /// When how much was handed over, of late samples.
    late: Vec<(u64, u64)>,
}

impl Wire {
    fn send(&mut self, ms: u64, payload: &impl Serialize, message: Message) {
        let bytes = serde_json::to_vec(payload).unwrap().len() as u64 + OVERHEAD_BYTES;
        if matches!(message, Message::Backlog(_)) {
            self.late.push((ms, bytes));
        }
        self.free_at_ms = self.free_at_ms.max(ms) + bytes / LINK_BYTES_PER_MS;
        self.arriving
            .push_back((self.free_at_ms + LATENCY_MS, message));
    }

    fn arrived(&mut self, ms: u64) -> Option<Message> {
        self.arriving
            .pop_front_if(|(at, _)| *at <= ms)
            .map(|(_, message)| message)
    }
}

/// The relay: it takes down what it hears, commits, and answers a moment later.
struct Relay {
    events: BTreeMap<(Uuid, u64), (Priority, String)>,
    /// In the order of their arrival.
    event_order: Vec<(Priority, u64)>,
    samples: Vec<(u64, Timestamp)>,
    /// By number.
    seen: Vec<bool>,
    stream: Option<Uuid>,
    twice: u64,
    events_after_samples: u64,
    heartbeat_delays_ms: Vec<u64>,
    thinned: u64,
    answers: VecDeque<(u64, Ack)>,
}

impl Relay {
    fn new() -> Self {
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

    fn hear(&mut self, ms: u64, message: Message) {
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
struct Robot {
    outbox: Outbox,
    debouncer: Debouncer,
    window: Window<Progress>,
    drain: Drain,
    sensors: Sensors,
    start: Instant,
    ms: u64,
    next_heartbeat_ms: u64,
    kept: u64,
    events: u64,
}

impl Robot {
    fn new(path: &Path, bounds: Bounds) -> Self {
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

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_ms(START_MS + self.ms)
    }

    fn event(&mut self, kind: &str) {
        self.events += 1;
        let data = json!({ "n": self.events, "why": "so that it has a usual size" });
        self.outbox.append(kind, self.wall(), data);
    }

    fn sample(&mut self, busy: bool) {
        let now = self.now();
        for (name, value) in self.sensors.read(self.ms, busy) {
            self.debouncer.observe(now, name, value);
        }
        while self.debouncer.poll_alert().is_some() {
            self.event(kind::RESOURCE_ALERT);
        }
    }

    /// One look at the sensors while nobody listens.
    fn offline(&mut self, busy: bool) {
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

    fn connect(&mut self) {
        self.debouncer.told(self.now());
        self.window.link_up();
        self.drain.link_up();
        let wall = self.wall();
        self.outbox.outage_over(wall);
        self.next_heartbeat_ms = self.ms;
    }

    fn online(&mut self, wire: &mut Wire) {
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

    fn send_events(&mut self, wire: &mut Wire) -> bool {
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

    fn acknowledged(&mut self, ack: &Ack) -> usize {
        let now = self.now();
        let events = self.outbox.acknowledge(ack);
        self.window.acknowledged(now, events);
        let samples = self.outbox.acknowledge_late(ack);
        self.drain.acknowledged(now, samples);
        events + samples
    }
}

/// Runs a test again in a process where nobody else takes memory.
fn in_own_process(test: &str, run: impl FnOnce()) {
    const CHILD: &str = "OUTAGE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return run();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

fn database_bytes(path: &Path) -> u64 {
    let folder = path.parent().unwrap();
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

/// What came of a day without a relay.
struct Day {
    robot: Robot,
    relay: Relay,
    wire: Wire,
    /// Samples when the link came back.
    late: u64,
    grown_bytes: u64,
    database_bytes: u64,
    drain_s: u64,
    acknowledged: usize,
}

fn day_without_a_relay(bounds: Bounds) -> Day {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("agent.db");
    let mut robot = Robot::new(&path, bounds);
    let (mut wire, mut relay) = (Wire::default(), Relay::new());
    // Whatever is allocated once is there after an hour.
    while robot.ms < HOUR_MS {
        robot.offline(true);
    }
    let before = resident_bytes();
    let mut most = before;
    while robot.ms < OUTAGE_MS {
        robot.offline(true);
        match robot.ms / SAMPLE_MS {
            n if n % 900 == 0 => robot.event("teleoperation.started"),
            n if n % 400 == 0 => robot.event(kind::SETUP_PROGRESS),
            n if n % 300 == 0 => robot.event("service.changed"),
            _ => {}
        }
        if robot.ms.is_multiple_of(HOUR_MS) {
            most = most.max(resident_bytes());
        }
    }
    robot.connect();
    let (late, database_bytes) = (robot.outbox.late(), database_bytes(&path));
    let mut acknowledged = 0;
    let connected_ms = robot.ms;
    while !(robot.outbox.is_empty() && robot.outbox.late() == 0) {
        robot.online(&mut wire);
        while let Some(message) = wire.arrived(robot.ms) {
            relay.hear(robot.ms, message);
        }
        while let Some((_, ack)) = relay.answers.pop_front_if(|(at, _)| *at <= robot.ms) {
            acknowledged += robot.acknowledged(&ack);
        }
        if robot.ms.is_multiple_of(60_000) {
            most = most.max(resident_bytes());
        }
        robot.ms += 100;
        assert!(
            robot.ms < connected_ms + 3 * HOUR_MS,
            "the drain never ends"
        );
    }
    Day {
        late,
        grown_bytes: most - before,
        database_bytes,
        drain_s: (robot.ms - connected_ms) / 1_000,
        acknowledged,
        robot,
        relay,
        wire,
    }
}

impl Day {
    fn print(&self, what: &str) {
        println!(
            "{what}: {} samples measured, {} kept in a database of {} KiB, {} events; drained in {} s; heartbeats at \
             most {} ms late; memory grew by {} KiB",
            self.robot.kept,
            self.late,
            self.database_bytes / 1_024,
            self.robot.events,
            self.drain_s,
            self.relay.heartbeat_delays_ms.iter().max().unwrap(),
            self.grown_bytes / 1_024,
        );
    }

    /// What holds whatever the bounds are.
    fn check(&self) {
        let Self {
            robot, relay, wire, ..
        } = self;
        // Everything once, in order, events before samples and the urgent ones first.
        assert_eq!(relay.twice, 0);
        assert_eq!(relay.samples.len() as u64, self.late);
        assert!(relay.samples.windows(2).all(|pair| pair[0] < pair[1]));
        let told = relay
            .events
            .values()
            .filter(|(_, kind)| kind == kind::THINNED)
            .count() as u64;
        assert_eq!(relay.events.len() as u64, robot.events + told);
        assert_eq!(self.acknowledged, relay.events.len() + relay.samples.len());
        assert_eq!(robot.kept, self.late + relay.thinned);
        // Those of the outage come in the order of priority and number; later ones are of the drain.
        let outage = relay.event_order.len() as u64 - relay.events_after_samples;
        let order = &relay.event_order[..usize::try_from(outage).unwrap()];
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "{order:?}");
        assert!(order.len() > 150, "{}", order.len());
        // Heartbeats in time, late samples within their rate.
        assert!(relay.heartbeat_delays_ms.len() as u64 >= self.drain_s / 30);
        let most = *relay.heartbeat_delays_ms.iter().max().unwrap();
        assert!(most <= 5_000, "a heartbeat was {most} ms late");
        let (first, last) = (wire.late[0].0, wire.late[wire.late.len() - 1].0);
        let bytes: u64 = wire.late.iter().map(|(_, bytes)| bytes).sum();
        let seconds = (last - first) / 1_000 + 1;
        let rate = u64::from(Drain::RATE_BYTES_PER_S);
        // Twice for the envelope around small messages.
        assert!(
            bytes <= 2 * rate * seconds + 4 * u64::from(Drain::BURST_BYTES),
            "{bytes} B in {seconds} s"
        );
        // The first and the last moment of the outage are there.
        let ms = |(_, timestamp): &(u64, Timestamp)| timestamp.as_ms() - START_MS;
        assert_eq!(ms(&relay.samples[0]), SAMPLE_MS);
        assert!(OUTAGE_MS - ms(&relay.samples[relay.samples.len() - 1]) <= 60_000);
        // A robot has 5 MiB in all.
        assert!(
            self.grown_bytes <= 512 * 1_024,
            "memory grew by {} B",
            self.grown_bytes
        );
    }
}

#[test]
fn a_day_without_a_relay_fits_and_is_told_in_order_afterwards() {
    in_own_process(
        "a_day_without_a_relay_fits_and_is_told_in_order_afterwards",
        || {
            let day = day_without_a_relay(Bounds::DISK);
            day.print("24 h, bounds as shipped");
            day.check();
            assert_eq!(day.late, day.robot.kept, "nothing had to be thinned out");
            assert!(day.database_bytes <= 5 << 20, "{}", day.database_bytes);
        },
    );
}

#[test]
fn with_little_room_the_oldest_hours_are_told_coarsely_and_the_last_one_fully() {
    let test = "with_little_room_the_oldest_hours_are_told_coarsely_and_the_last_one_fully";
    in_own_process(test, day_with_little_room);
}

fn day_with_little_room() {
    let bounds = Bounds {
        max_bytes: 1 << 20,
        max_sample_bytes: 128 * 1_024,
    };
    let day = day_without_a_relay(bounds);
    day.print("24 h, 128 KiB for samples");
    day.check();
    assert!(day.late < day.robot.kept / 4);
    assert!(day.database_bytes <= 2 << 20, "{}", day.database_bytes);
    let mut in_hour = [0_u64; 24];
    for (_, timestamp) in &day.relay.samples {
        let hour = (timestamp.as_ms() - START_MS - 1) / HOUR_MS;
        in_hour[usize::try_from(hour).unwrap()] += 1;
    }
    println!("samples in each hour: {in_hour:?}");
    // As many as before, up to the debouncer's own irregularity.
    assert!(
        in_hour.windows(2).all(|pair| pair[0] * 9 <= pair[1] * 10),
        "{in_hour:?}"
    );
    assert!(in_hour[0] * 8 <= in_hour[23], "{in_hour:?}");
}

/// The kernel's count of what this process had written to block devices.
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.unwrap().parse().unwrap()
}

/// The same test is parent and child: the kernel counts by process. The folder must not be in memory.
#[test]
fn a_day_writes_few_bytes_to_the_card() {
    const CHILD: &str = "OUTAGE_WEAR_TEST";
    const MIB: f64 = 1_048_576.0;
    let Some(what) = std::env::var_os(CHILD) else {
        for (what, most) in [("online", 1.0), ("idle", 12.0), ("busy", 30.0)] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "a_day_writes_few_bytes_to_the_card",
                    "--nocapture",
                ])
                .env(CHILD, what)
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let written = text.lines().find_map(|line| line.split("written ").nth(1));
            let mib: f64 = written.expect("the child's figure").parse().unwrap();
            println!("{what}: {mib:.2} MiB a day");
            assert!(
                mib > 0.0,
                "expected a folder on a disk, got one in memory (hint: set TMPDIR)"
            );
            assert!(
                mib <= most,
                "{what}: expected at most {most} MiB a day, got {mib:.2}"
            );
        }
        return;
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut robot = Robot::new(&folder.path().join("agent.db"), Bounds::DISK);
    let before = written_bytes();
    while robot.ms < OUTAGE_MS {
        if what == "online" {
            // Telemetry goes out as it comes; an event every hour is kept and acknowledged.
            robot.ms += SAMPLE_MS;
            let (now, wall) = (robot.now(), robot.wall());
            robot.outbox.look_after_samples(now, wall);
            if robot.ms.is_multiple_of(HOUR_MS) {
                robot.event("service.changed");
                let all: SeqRange = [1, robot.events];
                let stream = robot.outbox.stream();
                robot.outbox.acknowledge(&Ack {
                    acks: BTreeMap::from([(stream, vec![all])]),
                });
            }
        } else {
            robot.offline(what == "busy");
        }
    }
    let wall = robot.wall();
    robot.outbox.close(wall);
    drop(robot.outbox);
    println!("written {}", (written_bytes() - before) as f64 / MIB);
}
