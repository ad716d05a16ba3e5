//! What holds for the detector of teleoperation whatever comes, at whatever time.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lekiwi_agent_core::teleop::{
    Connection, Detector, Event, GAP, MAX_CONNECTIONS, MAX_MEDIA, MAX_REPORTS, MediaSession,
    Report, Sample,
};
use lekiwi_protocol::message::{Operator, OperatorKind, SourceKind, StopReason, kind};
use lekiwi_protocol::profile::{PortRole, Teleop, TeleopPort};
use proptest::prelude::*;
use uuid::Uuid;

const PORTS: [(u16, PortRole); 4] = [
    (5555, PortRole::Control),
    (5556, PortRole::Observation),
    (8000, PortRole::Control),
    (8443, PortRole::Page),
];

fn signatures() -> Teleop {
    let port = |(port, role)| TeleopPort {
        port,
        role,
        what: format!("port {port}"),
    };
    Teleop {
        ports: PORTS.map(port).into(),
        local_input: true,
        ..Teleop::default()
    }
}

/// What one connection did since the last look.
#[derive(Debug, Clone)]
struct Step {
    open: bool,
    commands: u32,
    sent: u64,
    last_data_ms: u64,
}

#[derive(Debug, Clone)]
struct Look {
    pause_ms: u64,
    steps: Vec<Step>,
    moves: u32,
    media: Option<Vec<u64>>,
    report: Option<(Option<u8>, u32)>,
}

fn step() -> impl Strategy<Value = Step> {
    let commands = prop_oneof![Just(0), 0_u32..3, 0_u32..40, any::<u32>()];
    let parts = (prop::bool::weighted(0.9), commands, 0_u64..3, 0_u64..1500);
    parts.prop_map(|(open, commands, sent, last_data_ms)| Step {
        open,
        commands,
        sent,
        last_data_ms,
    })
}

fn look(peers: usize) -> impl Strategy<Value = Look> {
    let pause = prop_oneof![8 => Just(500_u64), 2 => 0_u64..1500, 1 => 0_u64..700_000];
    let moves = prop_oneof![5 => Just(0_u32), 1 => 0_u32..100];
    let media = prop::option::weighted(0.2, prop::collection::vec(0_u64..4, 0..3));
    let report = prop::option::weighted(0.1, (prop::option::of(0_u8..5), 0_u32..30));
    let steps = prop::collection::vec(step(), peers);
    (pause, steps, moves, media, report).prop_map(|(pause_ms, steps, moves, media, report)| Look {
        pause_ms,
        steps,
        moves,
        media,
        report,
    })
}

/// Times in which something is done, and times of silence, long enough for sessions to end.
fn looks(peers: usize) -> impl Strategy<Value = Vec<Look>> {
    let phase = (any::<bool>(), prop::collection::vec(look(peers), 1..70));
    prop::collection::vec(phase, 0..5).prop_map(|phases| {
        let looks = phases.into_iter().flat_map(|(is_silent, mut looks)| {
            for look in looks.iter_mut().filter(|_| is_silent) {
                look.moves = 0;
                look.report = None;
                look.steps.iter_mut().for_each(|step| step.commands = 0);
            }
            looks
        });
        looks.collect()
    })
}

/// From where and at which port each peer is: a few hosts, and the robot itself.
fn world() -> impl Strategy<Value = (Vec<(u8, usize)>, Vec<Look>)> {
    let peers = prop::collection::vec((0_u8..4, 0..PORTS.len()), 1..8);
    peers.prop_flat_map(|peers| {
        let count = peers.len();
        (Just(peers), looks(count))
    })
}

fn address(from: u8) -> IpAddr {
    match from {
        0 => [127, 0, 0, 1].into(),
        from => [10, 0, 0, from].into(),
    }
}

fn connection(id: u64, port: usize, from: u8) -> Connection {
    Connection {
        id,
        port: PORTS[port].0,
        remote: address(from),
        is_loopback: from == 0,
        data_segs_in: 0,
        bytes_acked: 0,
        last_data_recv: Duration::ZERO,
        rtt: Duration::ZERO,
        min_rtt: Duration::ZERO,
    }
}

/// A world that is looked at; what is said is held against what was done.
struct World {
    now: Instant,
    detector: Detector,
    peers: Vec<(u8, usize)>,
    open: Vec<Option<Connection>>,
    next_id: u64,
    session: Option<Uuid>,
    sessions: BTreeSet<Uuid>,
    /// Everybody who was ever there.
    present: BTreeSet<String>,
    has_sent: bool,
    has_read: bool,
}

impl World {
    fn new(peers: Vec<(u8, usize)>) -> Self {
        Self {
            now: Instant::now(),
            detector: Detector::new("robot", &signatures()),
            open: vec![None; peers.len()],
            peers,
            next_id: 1,
            session: None,
            sessions: BTreeSet::new(),
            present: BTreeSet::new(),
            has_sent: false,
            has_read: false,
        }
    }

    fn look(&mut self, look: &Look) -> Option<Event> {
        self.now += Duration::from_millis(look.pause_ms);
        let peers = self.open.iter_mut().zip(&look.steps).zip(&self.peers);
        for ((slot, step), (from, port)) in peers {
            if !step.open {
                *slot = None;
                continue;
            }
            let is_new = slot.is_none();
            let open = slot.get_or_insert_with(|| {
                self.next_id += 1;
                let new = connection(self.next_id, *port, *from);
                Connection {
                    data_segs_in: u32::MAX - 20,
                    ..new
                }
            });
            open.data_segs_in = open.data_segs_in.wrapping_add(step.commands);
            open.bytes_acked += step.sent;
            open.last_data_recv = Duration::from_millis(step.last_data_ms);
            self.has_sent |= step.commands > 0 && !is_new;
            self.has_read |= step.sent > 0;
            self.present.insert(address(*from).to_string());
        }
        if look.moves > 0 {
            self.present.insert("local".to_owned());
            self.has_sent = true;
        }
        let media: Option<Vec<MediaSession>> = look.media.as_ref().map(|readers| {
            let reader = |(index, sent): (usize, &u64)| MediaSession {
                id: index as u64,
                remote: address(1),
                path: "front".to_owned(),
                bytes_sent: *sent,
            };
            readers.iter().enumerate().map(reader).collect()
        });
        self.has_read |= media.is_some();
        if let Some((from, commands)) = look.report {
            let operator = Operator {
                id: format!("user {from:?}"),
                kind: OperatorKind::User,
                source_kind: SourceKind::Human,
            };
            self.present.insert(operator.id.clone());
            self.has_sent |= commands > 0;
            let report = Report {
                operator,
                address: from.map(address),
                commands,
            };
            self.detector.report(self.now, &report);
        }
        let connections: Vec<Connection> = self.open.iter().flatten().copied().collect();
        let sample = Sample {
            connections: &connections,
            moves: look.moves,
            media: media.as_deref(),
            ..Sample::default()
        };
        self.detector.observe(self.now, sample, &mut Uuid::new_v4)
    }

    /// Holds an event against what is known.
    fn judge(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let data = &event.data;
        let control = data.evidence.control.as_ref();
        let commands = control.is_some_and(|control| control.score > 0.0);
        let drives = (commands || data.evidence.local_input.is_some()) && self.has_sent;
        prop_assert!((0.0..=1.0).contains(&data.confidence));
        let is_stop = event.kind == kind::TELEOPERATION_STOPPED;
        prop_assert_eq!(data.ended.is_some(), is_stop);
        let is_change = event.kind == kind::OPERATOR_CHANGED;
        prop_assert_eq!(data.previous.is_some(), is_change);
        let present = self.present.len();
        prop_assert!(!data.contention || present >= 2, "contention with nobody");
        match event.kind {
            kind::TELEOPERATION_STARTED => {
                prop_assert_eq!(self.session, None, "two starts in a row");
                prop_assert!(drives, "started without commands");
                prop_assert!(self.sessions.insert(data.session), "a session came back");
                self.session = Some(data.session);
            }
            kind::TELEOPERATION_STOPPED => {
                prop_assert_eq!(self.session.take(), Some(data.session));
            }
            kind::OPERATOR_CHANGED => {
                prop_assert_eq!(self.session, Some(data.session));
                prop_assert!(drives, "taken over without commands");
                prop_assert!(present >= 2, "taken over by nobody");
            }
            kind::OBSERVING => {
                prop_assert_eq!(self.session, None);
                prop_assert!(data.evidence.video.is_some() && self.has_read && !commands);
            }
            other => prop_assert!(false, "no such event: {}", other),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Events come with evidence and in their order, whatever is done at whatever time.
    #[test]
    fn events_have_evidence_and_sessions_an_order((peers, looks) in world()) {
        let mut world = World::new(peers);
        for look in &looks {
            if let Some(event) = world.look(look) {
                world.judge(&event)?;
                let is_stop = event.kind == kind::TELEOPERATION_STOPPED;
                let gap = Duration::from_millis(look.pause_ms) > GAP;
                prop_assert!(!(is_stop && gap), "unwatched time is no silence");
            }
            let driving = world.detector.driving();
            prop_assert_eq!(driving.is_some(), world.session.is_some());
            let deadline = world.detector.poll_timeout();
            prop_assert_eq!(deadline.is_some(), driving.is_some());
            // A deadline that has passed has had its consequence.
            prop_assert!(deadline.is_none_or(|deadline| deadline > world.now));
            prop_assert!(driving.is_none_or(|driving| driving.since <= world.now));
        }
        let end = world.detector.end(world.now);
        prop_assert_eq!(end.is_some(), world.session.is_some());
        if let Some(end) = end {
            world.judge(&end)?;
            prop_assert_eq!(end.data.ended.unwrap().reason, StopReason::NotWatched);
        }
    }

    /// Connections that are closed within three seconds start nothing, however many there are and whatever
    /// comes through them.
    #[test]
    fn short_connections_start_nothing(
        rounds in prop::collection::vec(prop::collection::vec(any::<u16>(), 1..6), 1..40),
        hosts in 1_u8..4,
    ) {
        let mut detector = Detector::new("robot", &signatures());
        let mut now = Instant::now();
        for (round, counts) in rounds.iter().enumerate() {
            let mut sum = 0;
            for count in counts {
                sum += u32::from(*count);
                let host = |host: u8| {
                    let id = (round as u64) << 8 | u64::from(host);
                    let open = connection(id, usize::from(host) % 3, host);
                    Connection { data_segs_in: sum, ..open }
                };
                let connections: Vec<Connection> = (0..hosts).map(host).collect();
                let sample = Sample { connections: &connections, ..Sample::default() };
                now += Duration::from_millis(500);
                let event = detector.observe(now, sample, &mut Uuid::new_v4);
                prop_assert!(event.is_none(), "{:?}", event);
            }
        }
    }

    /// More than there is room for is left out.
    #[test]
    fn a_crowd_is_bounded(
        looks in prop::collection::vec((0_u64..3000, 0_usize..200, any::<u32>()), 1..30),
    ) {
        let mut detector = Detector::new("robot", &signatures());
        let mut now = Instant::now();
        for (pause, count, commands) in looks {
            now += Duration::from_millis(pause);
            let ids = 0..count as u64;
            let open = |id: u64| Connection {
                remote: [10, 0, 1, id as u8].into(),
                data_segs_in: commands,
                bytes_acked: commands.into(),
                last_data_recv: Duration::from_millis(u64::from(commands)),
                ..connection(id, id as usize % PORTS.len(), 1)
            };
            let connections: Vec<Connection> = ids.clone().map(open).collect();
            let reader = |id: u64| MediaSession {
                id,
                remote: [10, 0, 2, id as u8].into(),
                path: "é".repeat(100),
                bytes_sent: commands.into(),
            };
            let media: Vec<MediaSession> = ids.map(reader).collect();
            for index in 0..count.min(20) {
                let operator = Operator {
                    id: format!("{index}{}", "é".repeat(100)),
                    kind: OperatorKind::User,
                    source_kind: SourceKind::Policy,
                };
                let report = Report { operator, address: None, commands };
                detector.report(now, &report);
            }
            let sample = Sample {
                connections: &connections,
                moves: commands,
                media: Some(&media),
                ..Sample::default()
            };
            detector.observe(now, sample, &mut Uuid::new_v4);
            let picture = detector.picture(now);
            let room = MAX_CONNECTIONS + MAX_MEDIA + MAX_REPORTS + 1;
            prop_assert!(picture.connections.len() <= MAX_CONNECTIONS);
            prop_assert!(picture.candidates.len() <= room);
            prop_assert!(detector.streams().len() <= PORTS.len() + MAX_MEDIA);
            prop_assert!(picture.candidates.iter().all(|c| c.operator.id.len() <= 64));
        }
    }
}
