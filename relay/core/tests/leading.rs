//! Two relays on one log that hear the same robots: whoever leads, and whenever it dies, the log learns of each session once, and
//! at last what is true.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, VecDeque};

use lekiwi_protocol::limits::STALE_AFTER;
use lekiwi_protocol::message::{Connection, ConnectionState, Heartbeat, kind};
use lekiwi_protocol::{Clock, Envelope, MessageType, RobotId, Timestamp};
use lekiwi_relay_core::{Fact, Fleet, Input, Output, What};
use proptest::prelude::*;
use serde_json::Value;
use uuid::Uuid;

const ROBOTS: u8 = 3;

fn robot(n: u8) -> RobotId {
    RobotId::new(&format!("kiwi-{n}")).unwrap()
}

fn envelope<P>(n: u8, message_type: MessageType, payload: P) -> Envelope<P> {
    Envelope {
        message_type,
        robot_id: robot(n),
        timestamp: Timestamp::default(),
        sequence: 0,
        clock: Clock::Synced,
        payload,
    }
}

fn connection(n: u8, session: u128, state: ConnectionState) -> Input {
    let session = Uuid::from_u128(session);
    let payload = Connection { session, state };
    Input::Connection(envelope(n, MessageType::Connection, payload))
}

fn heartbeat(n: u8) -> Input {
    let payload = Heartbeat {
        session: Uuid::nil(),
        uptime_s: 1,
    };
    Input::Heartbeat(envelope(n, MessageType::Heartbeat, payload))
}

fn what(kind: &str, data: &Value) -> What {
    let session = || data["session"].as_str().unwrap().parse().unwrap();
    match kind {
        kind::CONNECTED => What::Connected { session: session() },
        kind::DISCONNECTED => What::Disconnected {
            session: session(),
            state: serde_json::from_value(data["state"].clone()).unwrap(),
        },
        kind::STALE => What::Stale,
        other => panic!("expected a word of presence, got {other}"),
    }
}

/// A relay: its picture, how much of the log it has read, and what it writes.
struct Relay {
    fleet: Fleet,
    read: usize,
    writing: VecDeque<(RobotId, What)>,
}

/// Both, the log, and what is true.
struct World {
    now: Timestamp,
    log: Vec<Fact>,
    relays: [Relay; 2],
    leader: usize,
    sessions: BTreeMap<u8, (u128, ConnectionState)>,
    next_session: u128,
}

impl Relay {
    fn new(leads: bool) -> Self {
        let mut fleet = Fleet::default();
        fleet.lead(Timestamp::default(), leads);
        fleet.begin();
        Self {
            fleet,
            read: 0,
            writing: VecDeque::new(),
        }
    }

    fn read(&mut self, log: &[Fact]) {
        for fact in &log[self.read..] {
            self.fleet.handle(fact.at, Input::Logged(fact.clone()));
        }
        self.read = log.len();
        self.drain();
    }

    fn hear(&mut self, now: Timestamp, input: Input) {
        self.fleet.handle(now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.fleet.poll_output() {
            if let Output::Event { robot, kind, data } = output {
                self.writing.push_back((robot, what(kind, &data)));
            }
        }
    }
}

impl World {
    fn hear(&mut self, input: &Input) {
        for relay in &mut self.relays {
            relay.hear(self.now, input.clone());
        }
    }

    fn commit(&mut self, most: usize) {
        for _ in 0..most {
            let Some((robot, what)) = self.relays[self.leader].writing.pop_front() else {
                return;
            };
            let position = self.log.len() as u64 + 1;
            self.log.push(Fact {
                robot,
                position,
                at: self.now,
                what,
            });
        }
    }

    /// The leader dies with what it was about to write; the other one leads, and it comes back.
    fn fail_over(&mut self) {
        let dead = self.leader;
        self.leader = 1 - dead;
        self.relays[dead] = Relay::new(false);
        let (log, now) = (&self.log, self.now);
        let next = &mut self.relays[self.leader];
        next.read(log);
        next.fleet.lead(now, true);
        next.drain();
        let back = &mut self.relays[dead];
        back.read(log);
        // What the broker keeps of each robot.
        for (n, (session, state)) in &self.sessions {
            back.hear(now, connection(*n, *session, *state));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Birth(u8),
    End(u8, ConnectionState),
    Heartbeat(u8),
    Wait,
    Commit(usize),
    Read(usize),
    FailOver,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        Just(ConnectionState::Offline),
        Just(ConnectionState::ConnectionBroken)
    ];
    prop_oneof![
        3 => (0..ROBOTS).prop_map(Step::Birth),
        3 => (0..ROBOTS, end).prop_map(|(n, state)| Step::End(n, state)),
        1 => (0..ROBOTS).prop_map(Step::Heartbeat),
        1 => Just(Step::Wait),
        4 => (1_usize..4).prop_map(Step::Commit),
        3 => (0_usize..2).prop_map(Step::Read),
        2 => Just(Step::FailOver),
    ]
}

proptest! {
    #[test]
    fn whoever_leads_the_log_has_each_session_once_and_learns_the_truth(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut world = World {
            now: Timestamp::from_ms(1),
            log: Vec::new(),
            relays: [Relay::new(true), Relay::new(false)],
            leader: 0,
            sessions: BTreeMap::new(),
            next_session: 1,
        };
        for step in steps {
            world.now = world.now.plus(std::time::Duration::from_millis(1));
            match step {
                Step::Birth(n) => {
                    let session = world.next_session;
                    world.next_session += 1;
                    world.sessions.insert(n, (session, ConnectionState::Online));
                    world.hear(&connection(n, session, ConnectionState::Online));
                }
                Step::End(n, state) => {
                    let Some((session, known)) = world.sessions.get_mut(&n) else {
                        continue;
                    };
                    if *known != ConnectionState::Online {
                        continue;
                    }
                    *known = state;
                    let said = connection(n, *session, state);
                    world.hear(&said);
                }
                Step::Heartbeat(n) => world.hear(&heartbeat(n)),
                Step::Wait => {
                    world.now = world.now.plus(STALE_AFTER);
                    for relay in &mut world.relays {
                        relay.fleet.handle_timeout(world.now);
                        relay.drain();
                    }
                }
                Step::Commit(most) => world.commit(most),
                Step::Read(number) => world.relays[number].read(&world.log),
                Step::FailOver => world.fail_over(),
            }
            prop_assert!(world.relays[1 - world.leader].writing.is_empty(), "one of them writes");
        }
        // Whoever leads knows what the one before it heard; the log has it at last.
        world.commit(usize::MAX);
        let (mut begun, mut presence) = (Vec::new(), BTreeMap::new());
        for fact in &world.log {
            match fact.what {
                What::Connected { session } => {
                    prop_assert!(!begun.contains(&session), "{session} began twice");
                    begun.push(session);
                    presence.insert(fact.robot.clone(), (session, ConnectionState::Online));
                }
                What::Disconnected { session, state } => {
                    let known = presence.entry(fact.robot.clone()).or_insert((session, state));
                    if known.0 == session {
                        known.1 = state;
                    }
                }
                _ => {}
            }
        }
        for (n, (session, state)) in &world.sessions {
            let known = presence.get(&robot(*n)).copied();
            let truth = (Uuid::from_u128(*session), *state);
            let is_known = known == Some(truth);
            // Nobody who lives heard it: it came and went before the one that leads did.
            let was_heard = known.is_some_and(|(known, _)| known == truth.0) || *state == ConnectionState::Online;
            prop_assert!(is_known || !was_heard, "{n}: expected {truth:?} in the log, got {known:?}");
        }
    }
}
