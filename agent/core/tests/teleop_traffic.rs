//! Traffic as it was measured, as tables: what comes through which connection when, and what is said of it.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use lekiwi_agent_core::teleop::{Connection, Detector, Event, MediaSession, Report, Sample};
use lekiwi_protocol::message::{Operator, OperatorKind, SourceKind};
use lekiwi_protocol::profile::{PortRole, Teleop, TeleopPort};
use uuid::Uuid;

const TICK_MS: u64 = 500;

fn signatures() -> Teleop {
    let ports = [
        (5555, PortRole::Control, "commands"),
        (5556, PortRole::Observation, "observations"),
        (8000, PortRole::Control, "web control"),
        (8442, PortRole::Control, "VR headset"),
        (8443, PortRole::Page, "VR page"),
        (8554, PortRole::Video, "RTSP"),
    ];
    let port = |(port, role, what): (u16, PortRole, &str)| TeleopPort {
        port,
        role,
        what: what.to_owned(),
    };
    Teleop {
        ports: ports.into_iter().map(port).collect(),
        local_input: true,
        ..Teleop::default()
    }
}

/// A connection from 10.0.0.`from` (0 is the robot itself), open in `open`, with commands every `every_ms` in
/// `sending`, and pictures out if it `reads`.
#[derive(Clone)]
struct Peer {
    port: u16,
    from: u8,
    open: std::ops::Range<u64>,
    sending: std::ops::Range<u64>,
    every_ms: u64,
    reads: bool,
}

fn peer(port: u16, from: u8, open: std::ops::Range<u64>) -> Peer {
    Peer {
        port,
        from,
        open,
        sending: 0..0,
        every_ms: 1,
        reads: false,
    }
}

impl Peer {
    fn sends(self, sending: std::ops::Range<u64>, every_ms: u64) -> Self {
        Self {
            sending,
            every_ms,
            ..self
        }
    }

    fn reads(self) -> Self {
        Self {
            reads: true,
            ..self
        }
    }

    /// When the last command before `ms` came, and how many came until then.
    fn sent(&self, ms: u64) -> (u64, u64) {
        let until = ms.min(self.sending.end.saturating_sub(1));
        match until.checked_sub(self.sending.start) {
            Some(span) if self.sending.start < self.sending.end => {
                let count = span / self.every_ms;
                (self.sending.start + count * self.every_ms, count + 1)
            }
            _ => (self.open.start, 0),
        }
    }

    fn at(&self, id: usize, ms: u64) -> Option<Connection> {
        // Found by a dump once a second.
        let found = self.open.start.next_multiple_of(1000);
        if !(found..self.open.end).contains(&ms) {
            return None;
        }
        let (last, count) = self.sent(ms);
        Some(Connection {
            id: id as u64,
            port: self.port,
            remote: match self.from {
                0 => [127, 0, 0, 1].into(),
                from => [10, 0, 0, from].into(),
            },
            is_loopback: self.from == 0,
            // Greetings came before.
            data_segs_in: 3_u32.wrapping_add(count as u32),
            bytes_acked: if self.reads { ms } else { 0 },
            last_data_recv: Duration::from_millis(ms - last),
            rtt: Duration::from_micros(1500),
            min_rtt: Duration::from_micros(700),
        })
    }
}

/// What happens beside connections.
#[derive(Default)]
struct Beside {
    /// Moves at each sample of these times.
    moves: std::ops::Range<u64>,
    /// Nobody looks.
    stopped: std::ops::Range<u64>,
    reports: Vec<(u64, Report)>,
}

fn told(event: &Event) -> String {
    let data = &event.data;
    let mut text = format!(
        "{} {}",
        event.kind.trim_start_matches("teleoperation."),
        data.operator.id
    );
    if data.operator.kind != OperatorKind::Ip {
        write!(
            text,
            " ({:?}, {:?})",
            data.operator.kind, data.operator.source_kind
        )
        .unwrap();
    }
    if let Some(previous) = &data.previous {
        write!(text, " after {}", previous.id).unwrap();
    }
    write!(text, " {:.2}", data.confidence).unwrap();
    if let Some(control) = &data.evidence.control {
        write!(text, ", {}/s at {}", control.commands_per_s, control.what).unwrap();
    }
    if let Some(video) = &data.evidence.video {
        write!(text, ", reads {}", video.streams.join(" and ")).unwrap();
    }
    if data.contention {
        text.push_str(", contention");
    }
    if let Some(ended) = &data.ended {
        write!(
            text,
            "; {} after {} ms, longest gap {} ms",
            ended.reason.as_str(),
            ended.duration_ms,
            ended.longest_gap_ms
        )
        .unwrap();
    }
    text
}

/// Plays `peers` for so long; looks as the agent does, twice a second and at deadlines.
fn play(peers: &[Peer], beside: &Beside, until_ms: u64) -> Vec<(u64, Event)> {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut detector = Detector::new("robot", &signatures());
    let mut events = Vec::new();
    let mut ms = 0;
    while ms <= until_ms {
        if !beside.stopped.contains(&ms) {
            let open = peers.iter().enumerate();
            let open: Vec<_> = open.filter_map(|(id, peer)| peer.at(id, ms)).collect();
            for (when, report) in &beside.reports {
                if (ms.saturating_sub(TICK_MS)..ms).contains(when) {
                    detector.report(at(ms), report);
                }
            }
            let sample = Sample {
                connections: &open,
                moves: if beside.moves.contains(&ms) { 7 } else { 0 },
                ..Sample::default()
            };
            let event = detector.observe(at(ms), sample, &mut Uuid::new_v4);
            events.extend(event.map(|event| (ms, event)));
        }
        let deadline = detector.poll_timeout().map(|deadline| {
            u64::try_from(deadline.saturating_duration_since(start).as_millis()).unwrap()
        });
        let tick = ms + TICK_MS;
        ms = deadline
            .filter(|d| (ms + 1..tick).contains(d))
            .unwrap_or(tick);
    }
    events
}

fn check(peers: &[Peer], beside: &Beside, until_ms: u64, expected: &Expect) {
    let events = play(peers, beside, until_ms);
    let lines = events
        .iter()
        .map(|(ms, event)| format!("{ms} {}\n", told(event)));
    expected.assert_eq(&lines.collect::<String>());
}

fn lekiwi(from: u8, open: std::ops::Range<u64>, sending: std::ops::Range<u64>) -> [Peer; 2] {
    [
        peer(5555, from, open.clone()).sends(sending, 33),
        peer(5556, from, open).reads(),
    ]
}

#[test]
fn lerobot_at_30_hz_starts_within_5_s_and_stops_3_s_after_it_left() {
    check(
        &lekiwi(2, 300..20_000, 300..20_000),
        &Beside::default(),
        40_000,
        &expect![[r#"
            4000 started 10.0.0.2 0.89, 30.5/s at commands, reads observations
            23000 stopped 10.0.0.2 0.89, 30/s at commands, reads observations; closed after 17973 ms, longest gap 31 ms
        "#]],
    );
}

#[test]
fn silence_stops_a_stream_after_10_s_to_the_millisecond_and_the_picture_holds_nothing() {
    check(
        &lekiwi(2, 300..90_000, 300..20_000),
        &Beside::default(),
        60_000,
        &expect![[r#"
            4000 started 10.0.0.2 0.89, 30.5/s at commands, reads observations
            29968 stopped 10.0.0.2 0.89, 30/s at commands, reads observations; silence after 18468 ms, longest gap 31 ms
            32468 observing 10.0.0.2 0.44, reads observations
        "#]],
    );
}

#[test]
fn an_idle_client_is_nobody_until_it_reads() {
    check(
        &[peer(5555, 2, 0..60_000)],
        &Beside::default(),
        60_000,
        &expect![[r#""#]],
    );
    check(
        &lekiwi(2, 0..60_000, 0..0),
        &Beside::default(),
        80_000,
        &expect![[r#"
            5000 observing 10.0.0.2 0.44, reads observations
        "#]],
    );
}

#[test]
fn one_command_a_second_starts_within_10_s_and_stops_30_s_after_the_last() {
    check(
        &[peer(8000, 2, 700..120_000).sends(900..30_000, 1000)],
        &Beside::default(),
        90_000,
        &expect![[r#"
            7000 started 10.0.0.2 0.52, 1/s at web control
            59900 stopped 10.0.0.2 0.52, 1/s at web control; silence after 27900 ms, longest gap 600 ms
        "#]],
    );
}

#[test]
fn the_pings_of_an_open_socket_hold_no_session() {
    let commands = peer(8442, 2, 0..200_000).sends(0..30_000, 14);
    // The same connection cannot send two things here: a second one has the pings.
    let pings = peer(8442, 2, 0..200_000).sends(0..200_000, 20_000);
    check(
        &[commands, pings],
        &Beside::default(),
        80_000,
        &expect![[r#"
            3000 started 10.0.0.2 0.84, 71.5/s at VR headset
            39988 stopped 10.0.0.2 0.84, 71/s at VR headset; silence after 29488 ms, longest gap 12 ms
        "#]],
    );
}

#[test]
fn pictures_out_scans_and_health_checks_start_nothing() {
    // 5555 as PUB of a camera: greetings came in, pictures go out.
    let camera = peer(5555, 2, 0..120_000).reads();
    let dashboard = peer(8442, 3, 0..120_000).reads();
    let mut peers = vec![camera, dashboard];
    // A request a second, each through a connection of its own that is open for 1.2 s.
    let checks = (0..100).map(|n| {
        let at = n * 1000;
        peer(8000, 4, at..at + 1200).sends(at..at + 1000, 50)
    });
    peers.extend(checks);
    // A ping every 20 s through one that stays.
    peers.push(peer(8442, 5, 0..120_000).sends(0..120_000, 20_000));
    // A page that loads in a burst.
    peers.push(peer(8000, 6, 10_000..120_000).sends(10_000..11_500, 40));
    check(&peers, &Beside::default(), 120_000, &expect![[r#""#]]);
}

#[test]
fn a_second_operator_takes_over_and_two_at_once_are_in_contention() {
    let first = lekiwi(2, 0..60_000, 0..20_000);
    let second = lekiwi(3, 5_000..60_000, 20_000..50_000);
    check(
        &[first, second].concat(),
        &Beside::default(),
        70_000,
        &expect![[r#"
            3000 started 10.0.0.2 0.89, 30/s at commands, reads observations
            23500 operator_changed 10.0.0.3 after 10.0.0.2 0.89, 30.5/s at commands, reads observations
            59997 stopped 10.0.0.3 0.89, 30.5/s at commands, reads observations; silence after 49497 ms, longest gap 32 ms
        "#]],
    );
    let first = lekiwi(2, 0..30_000, 0..30_000);
    let second = lekiwi(3, 10_000..20_000, 10_000..20_000);
    check(
        &[first, second].concat(),
        &Beside::default(),
        40_000,
        &expect![[r#"
            3000 started 10.0.0.2 0.89, 30/s at commands, reads observations
            33000 stopped 10.0.0.2 0.89, 30/s at commands, reads observations, contention; closed after 28969 ms, longest gap 32 ms
        "#]],
    );
}

#[test]
fn commands_from_the_robot_itself_are_those_of_the_bridges_client() {
    let browser = peer(8000, 9, 0..30_000).sends(0..30_000, 100);
    let bridge = peer(5555, 0, 0..90_000).sends(200..30_000, 100);
    check(
        &[browser, bridge.clone()],
        &Beside::default(),
        40_000,
        &expect![[r#"
            3000 started 10.0.0.9 0.84, 20/s at commands
            35000 stopped 10.0.0.9 0.84, 20/s at commands; closed after 28900 ms, longest gap 0 ms
        "#]],
    );
    // Without a client it is the robot's own.
    check(
        &[bridge],
        &Beside::default(),
        15_000,
        &expect![[r#"
        3500 started local (Local, Unknown) 0.80, 10/s at commands
    "#]],
    );
}

#[test]
fn keys_and_sticks_start_within_10_s_and_a_stick_may_be_held_still() {
    let beside = Beside {
        moves: 3_000..20_000,
        ..Beside::default()
    };
    check(
        &[],
        &beside,
        60_000,
        &expect![[r#"
        8000 started local (Local, Human) 0.60
        49500 stopped local (Local, Human) 0.60; silence after 16500 ms, longest gap 0 ms
    "#]],
    );
    let once = Beside {
        moves: 3_000..4_000,
        ..Beside::default()
    };
    check(&[], &once, 60_000, &expect![[r#""#]]);
}

#[test]
fn a_report_names_the_operator_of_an_address_and_counts_by_itself() {
    let report = |address: Option<IpAddr>, commands| Report {
        operator: Operator {
            id: "alice".to_owned(),
            kind: OperatorKind::User,
            source_kind: SourceKind::Human,
        },
        address,
        commands,
    };
    let named = Beside {
        reports: vec![(2_000, report(Some([10, 0, 0, 2].into()), 0))],
        ..Beside::default()
    };
    let driving = lekiwi(2, 0..10_000, 0..10_000);
    check(
        &driving,
        &named,
        20_000,
        &expect![[r#"
        3000 started alice (User, Human) 0.89, 30/s at commands, reads observations
        13000 stopped alice (User, Human) 0.89, 30/s at commands, reads observations; closed after 8971 ms, longest gap 32 ms
    "#]],
    );
    let by_itself = Beside {
        reports: (0..20).map(|n| (n * 500, report(None, 15))).collect(),
        ..Beside::default()
    };
    check(
        &[],
        &by_itself,
        30_000,
        &expect![[r#"
            2500 started alice (User, Human) 0.80, 30/s at reported
            20000 stopped alice (User, Human) 0.80, 30/s at reported; silence after 9500 ms, longest gap 0 ms
        "#]],
    );
}

#[test]
fn time_in_which_nobody_looked_is_no_silence() {
    let stopped = |stopped| Beside {
        stopped,
        ..Beside::default()
    };
    // Ten minutes, and the commands went on: the same session.
    check(
        &lekiwi(2, 0..900_000, 0..900_000),
        &stopped(10_000..610_000),
        630_000,
        &expect![[r#"
            3000 started 10.0.0.2 0.89, 30/s at commands, reads observations
        "#]],
    );
    // They ended meanwhile: the ten seconds begin when somebody looks again.
    check(
        &lekiwi(2, 0..900_000, 0..300_000),
        &stopped(10_000..610_000),
        630_000,
        &expect![[r#"
            3000 started 10.0.0.2 0.89, 30/s at commands, reads observations
            620442 stopped 10.0.0.2 0.89, 30/s at commands, reads observations; silence after 8971 ms, longest gap 32 ms
            622942 observing 10.0.0.2 0.44, reads observations
        "#]],
    );
    // What came meanwhile starts nothing by itself.
    check(
        &[peer(5555, 2, 0..900_000).sends(5_000..600_000, 33)],
        &stopped(2_000..610_000),
        630_000,
        &expect![[r#""#]],
    );
}

#[test]
fn a_pause_is_the_longest_gap() {
    let mut peers = lekiwi(2, 0..40_000, 0..10_000).to_vec();
    peers.push(peer(5555, 2, 0..40_000).sends(16_000..40_000, 33));
    check(
        &peers,
        &Beside::default(),
        60_000,
        &expect![[r#"
        3000 started 10.0.0.2 0.89, 30/s at commands, reads observations
        43000 stopped 10.0.0.2 0.89, 30.5/s at commands, reads observations; closed after 38996 ms, longest gap 6001 ms
    "#]],
    );
}

#[test]
fn readers_of_the_media_server_look_on() {
    let start = Instant::now();
    let mut detector = Detector::new("robot", &signatures());
    let mut said = Vec::new();
    for second in 0..12 {
        let now = start + Duration::from_secs(second);
        let rtsp = peer(8554, 4, 0..100_000).at(1, second * 1000).unwrap();
        let session = MediaSession {
            id: 7,
            remote: [10, 0, 0, 4].into(),
            path: "front".to_owned(),
            bytes_sent: second * 10_000,
        };
        let sample = Sample {
            connections: &[rtsp],
            moves: 0,
            media: Some(&[session]),
            ..Sample::default()
        };
        let event = detector.observe(now, sample, &mut Uuid::new_v4);
        said.extend(event.map(|event| format!("{second} s {}", told(&event))));
    }
    assert_eq!(said, ["5 s observing 10.0.0.4 0.44, reads front"]);
    assert_eq!(detector.streams(), ["front"]);
    assert_eq!(detector.driving(), None);
}

#[test]
fn a_detector_that_is_stopped_ends_its_session() {
    let start = Instant::now();
    let mut detector = Detector::new("robot", &signatures());
    let peers = lekiwi(2, 0..10_000, 0..10_000);
    for tick in 0..12 {
        let ms = tick * TICK_MS;
        let open = peers.iter().enumerate();
        let open: Vec<_> = open.filter_map(|(id, peer)| peer.at(id, ms)).collect();
        let sample = Sample {
            connections: &open,
            ..Sample::default()
        };
        detector.observe(start + Duration::from_millis(ms), sample, &mut Uuid::new_v4);
    }
    let driving = detector.driving().unwrap();
    assert_eq!(driving.operator.id, "10.0.0.2");
    let end = detector.end(start + Duration::from_millis(5_800)).unwrap();
    assert!(told(&end).contains("not_watched"), "{}", told(&end));
    assert_eq!(detector.driving(), None);
    assert_eq!(detector.end(start + Duration::from_secs(6)), None);
}
