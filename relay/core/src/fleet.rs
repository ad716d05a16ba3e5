//! The picture of all robots, and the rules of presence. Pure: `handle` takes what was heard, with the
//! relay's receive time; `poll_output` gives what follows; `poll_timeout` says when to call
//! `handle_timeout`. The robots' own clocks decide nothing here.
//!
//! Invariants:
//! * A death takes a robot offline only when its session is the last birth's; any other death is
//!   discarded, and the birth said again over it.
//! * An event is folded once, however often it comes: its log position decides.
//! * Only what registered robots measure becomes part of the picture; see [`registration`](self::Policy).
//! * A robot that is connected and silent for longer than 2.5 heartbeats is stale, exactly once.
//! * Of several relays that hear the same, the one that leads tells the log and the robots; see [`Fleet::lead`].

mod counts;
mod registration;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use lekiwi_protocol::api::{Claim, RobotView};
use lekiwi_protocol::message::{
    Connection, ConnectionState, Factsheet, Heartbeat, Metrics, Registration, Reported, State,
    Telemetry, kind,
};
use lekiwi_protocol::{Clock, Envelope, MessageType, MetricName, RobotId, Timestamp};

pub use self::counts::Counts;
pub use self::registration::Policy;
use crate::recorded::Fact;
use crate::robot::{Picture, Robot};

/// One connection of a client, to tell it from the next one of the same client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link {
    /// When it began.
    pub since_ms: u64,
    /// The client's port.
    pub port: u16,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The broker says that a connection of the robot stands.
    LinkUp(RobotId, Link),
    /// The broker says that it is over.
    LinkDown(RobotId, Link),
    /// Birth, goodbye or will.
    Connection(Envelope<Connection>),
    /// What the robot is.
    Factsheet(Box<Envelope<Factsheet>>),
    /// How it is, whole.
    State(Box<Envelope<State>>),
    /// It lives.
    Heartbeat(Envelope<Heartbeat>),
    /// Metrics that moved.
    Telemetry(Envelope<Telemetry>),
    /// Which configuration it has.
    Reported {
        /// Whose.
        robot: RobotId,
        /// What it says.
        reported: Reported,
    },
    /// Something that changes nothing yet, such as events on their way to the log.
    Heard(RobotId),
    /// An event about a robot that is in the log.
    Logged(Fact),
    /// An event of something else than a robot is in the log at this place.
    Position(u64),
}

/// What listeners of the live stream are told.
#[derive(Debug, Clone, PartialEq)]
pub enum LivePayload {
    /// Birth, goodbye or death, also when the relay found out by itself.
    Connection(Connection),
    /// What the robot is.
    Factsheet(Box<Factsheet>),
    /// How it is.
    State(Box<State>),
    /// It lives.
    Heartbeat(Heartbeat),
    /// Metrics that moved.
    Telemetry(Metrics),
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Tell the live stream.
    Live {
        /// Whose.
        robot: RobotId,
        /// The sender's count.
        sequence: u64,
        /// The message.
        payload: LivePayload,
    },
    /// Write an event of the relay's own into the log.
    Event {
        /// About whom.
        robot: RobotId,
        /// What happened.
        kind: &'static str,
        /// Details.
        data: serde_json::Value,
    },
    /// Publish this, retained, on the robot's `from/connection`: the broker holds something else.
    Announce(Envelope<Connection>),
    /// Whether consumers hear the robot, after each factsheet and each change.
    Standing {
        /// Whose.
        robot: RobotId,
        /// Whether they do.
        admitted: bool,
        /// What its last factsheet said: what was judged.
        judged: Option<Claim>,
        /// Tell the robot this, where it can hear it.
        tell: Option<Registration>,
    },
}

/// All robots.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) robots: BTreeMap<RobotId, Robot>,
    /// One deadline for each connected robot, possibly too early: it is looked at again when due.
    deadlines: BinaryHeap<Reverse<(Timestamp, RobotId)>>,
    outputs: VecDeque<Output>,
    /// Robots with readings that history has not seen.
    fresh: Vec<RobotId>,
    /// Every event up to here is folded.
    position: u64,
    policy: Policy,
    /// Whether the log and the robots are told; another relay may do that instead.
    leads: bool,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new(Policy::default())
    }
}

impl Fleet {
    /// An empty picture of a relay that leads; `policy` says how newcomers are taken.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            robots: BTreeMap::new(),
            deadlines: BinaryHeap::new(),
            outputs: VecDeque::new(),
            fresh: Vec::new(),
            position: 0,
            policy,
            leads: true,
        }
    }

    /// Puts a robot back as a snapshot had it, not connected. Called before any input.
    pub fn restore(&mut self, picture: impl Into<Picture>, position: u64) {
        self.position = self.position.max(position);
        let robot = Robot::restored(picture.into());
        self.robots.insert(robot.id.clone(), robot);
    }

    /// The log position up to which events are folded.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes one thing that was heard at `now`.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::LinkUp(id, link) => self.robot(&id).link = Some(link),
            Input::LinkDown(id, link) => self.link_down(now, &id, link),
            Input::Connection(envelope) => self.connection(now, envelope),
            Input::Factsheet(envelope) => {
                let robot = self.heard(now, &envelope.robot_id);
                robot.set_factsheet(now, envelope.payload.clone());
                robot.changed = true;
                self.identified(now, &envelope.robot_id, (&envelope.payload).into());
                let Envelope {
                    robot_id,
                    sequence,
                    payload,
                    ..
                } = *envelope;
                self.live(
                    robot_id,
                    sequence,
                    LivePayload::Factsheet(Box::new(payload)),
                );
            }
            Input::State(envelope) => {
                let robot = self.heard(now, &envelope.robot_id);
                let admitted = robot.is_admitted();
                robot.set_state(now, &envelope.payload);
                robot.changed = true;
                if admitted {
                    robot.replace(now, &envelope.payload.resources);
                    self.freshen(&envelope.robot_id);
                }
                self.live(
                    envelope.robot_id,
                    envelope.sequence,
                    LivePayload::State(Box::new(envelope.payload)),
                );
            }
            Input::Heartbeat(envelope) => {
                self.heard(now, &envelope.robot_id)
                    .set_uptime(envelope.payload.uptime_s);
                self.live(
                    envelope.robot_id,
                    envelope.sequence,
                    LivePayload::Heartbeat(envelope.payload),
                );
            }
            Input::Telemetry(envelope) => {
                let robot = self.heard(now, &envelope.robot_id);
                if !robot.is_admitted() {
                    return;
                }
                robot.merge(now, &envelope.payload.metrics);
                self.freshen(&envelope.robot_id);
                self.live(
                    envelope.robot_id,
                    envelope.sequence,
                    LivePayload::Telemetry(envelope.payload.metrics),
                );
            }
            Input::Reported { robot, reported } => {
                let known = self.heard(now, &robot);
                known.reported = Some(reported);
                known.changed = true;
            }
            Input::Heard(id) => {
                self.heard(now, &id);
            }
            Input::Logged(fact) => self.logged(fact),
            Input::Position(position) => self.position = self.position.max(position),
        }
    }

    /// Marks the robots stale that were silent for too long.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(Reverse((due, _))) = self.deadlines.peek() {
            if *due > now {
                return;
            }
            let Some(Reverse((_, id))) = self.deadlines.pop() else {
                return;
            };
            let Some(robot) = self.robots.get_mut(&id) else {
                continue;
            };
            robot.watched = false;
            if !robot.is_connected() || robot.stale {
                continue;
            }
            if robot.stale_at() > now {
                robot.watched = true;
                self.deadlines.push(Reverse((robot.stale_at(), id)));
                continue;
            }
            robot.stale = true;
            robot.changed = true;
            let data = serde_json::json!({ "last_seen": robot.last_seen });
            self.record(&id, kind::STALE, data);
        }
    }

    /// When `handle_timeout` may have something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.deadlines.peek().map(|Reverse((due, _))| *due)
    }

    /// The next thing that follows from what was heard.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// One robot.
    #[must_use]
    pub fn view(&self, id: &RobotId) -> Option<RobotView> {
        self.robots.get(id).map(Robot::view)
    }

    /// Whether what this robot measures is taken: it is registered, and nothing speaks against it.
    #[must_use]
    pub fn is_admitted(&self, id: &RobotId) -> bool {
        self.robots.get(id).is_some_and(Robot::is_admitted)
    }

    /// Whether history takes a late value of this robot's metric: it has the metric, or room for one more.
    pub fn takes_late(&mut self, id: &RobotId, name: &MetricName) -> bool {
        self.robots
            .get_mut(id)
            .is_some_and(|robot| robot.takes_late(name))
    }

    /// All robots, by id.
    pub fn views(&self) -> impl Iterator<Item = RobotView> {
        self.robots.values().map(Robot::view)
    }

    /// Hands every reading that history has not seen to `keep`.
    pub fn take_samples(&mut self, mut keep: impl FnMut(&RobotId, &MetricName, Timestamp, f64)) {
        for id in std::mem::take(&mut self.fresh) {
            if let Some(robot) = self.robots.get_mut(&id) {
                for (name, at, value) in robot.take_fresh() {
                    keep(&id, name, at, value);
                }
            }
        }
    }

    /// The robots that changed by more than telemetry since the last call.
    pub fn take_changed(&mut self) -> Vec<Picture> {
        self.robots
            .values_mut()
            .filter(|robot| robot.changed)
            .map(|robot| {
                robot.changed = false;
                robot.picture()
            })
            .collect()
    }

    fn robot(&mut self, id: &RobotId) -> &mut Robot {
        self.robots
            .entry(id.clone())
            .or_insert_with(|| Robot::new(id.clone()))
    }

    /// Notes that the robot was heard, which ends staleness and sets its next deadline.
    fn heard(&mut self, now: Timestamp, id: &RobotId) -> &mut Robot {
        let deadlines = &mut self.deadlines;
        let robot = self
            .robots
            .entry(id.clone())
            .or_insert_with(|| Robot::new(id.clone()));
        robot.last_seen = robot.last_seen.max(Some(now));
        robot.confirm(now);
        // The log has no word for the end of a silence; the next picture shows it.
        robot.changed |= std::mem::take(&mut robot.stale);
        if robot.is_connected() && !robot.watched {
            robot.watched = true;
            deadlines.push(Reverse((robot.stale_at(), id.clone())));
        }
        robot
    }

    fn freshen(&mut self, id: &RobotId) {
        if let Some(robot) = self.robots.get_mut(id)
            && !robot.fresh
        {
            robot.fresh = true;
            self.fresh.push(id.clone());
        }
    }

    /// Puts an event of the relay's own on its way into the log.
    fn record(&mut self, robot: &RobotId, kind: &'static str, data: serde_json::Value) {
        if self.leads {
            self.outputs.push_back(Output::Event {
                robot: robot.clone(),
                kind,
                data,
            });
        }
    }

    fn live(&mut self, robot: RobotId, sequence: u64, payload: LivePayload) {
        self.outputs.push_back(Output::Live {
            robot,
            sequence,
            payload,
        });
    }

    fn connection(&mut self, now: Timestamp, envelope: Envelope<Connection>) {
        let Connection { session, state } = envelope.payload;
        let id = envelope.robot_id.clone();
        let robot = self.robot(&id);
        // It went while this relay was not there.
        let mut is_unheard = robot.birth.is_none() && state != ConnectionState::Online;
        if is_unheard {
            robot.birth = Some(envelope.clone());
            let known = &robot.recorded;
            is_unheard =
                known.session() == Some(session) && known.connection() == ConnectionState::Online;
        }
        let current = robot.session() == Some(session);
        match state {
            ConnectionState::Online => {
                if current && robot.is_connected() {
                    self.heard(now, &id);
                    return;
                }
                robot.connection = state;
                robot.birth = Some(envelope.clone());
                robot.changed = true;
                self.heard(now, &id);
                self.record(
                    &id,
                    kind::CONNECTED,
                    serde_json::json!({ "session": session }),
                );
                self.live(
                    id,
                    envelope.sequence,
                    LivePayload::Connection(envelope.payload),
                );
            }
            ConnectionState::Offline | ConnectionState::ConnectionBroken if !current => {
                // A death of an older connection, now retained by the broker over the birth.
                if robot.is_connected()
                    && let Some(birth) = robot.birth.clone()
                    && self.leads
                {
                    self.outputs.push_back(Output::Announce(birth));
                }
            }
            ConnectionState::Offline | ConnectionState::ConnectionBroken => {
                if robot.is_connected() || is_unheard {
                    // A will is the broker's word: the robot itself was not heard.
                    if state == ConnectionState::Offline {
                        robot.last_seen = robot.last_seen.max(Some(now));
                    }
                    self.gone(&id, envelope.sequence, envelope.payload);
                }
            }
        }
    }

    fn link_down(&mut self, now: Timestamp, id: &RobotId, link: Link) {
        let robot = self.robot(id);
        if robot.link != Some(link) {
            return;
        }
        robot.link = None;
        if !robot.is_connected() {
            return;
        }
        // Neither goodbye nor will came: say for it what it could not.
        let Some(session) = robot.session() else {
            return;
        };
        let payload = Connection {
            session,
            state: ConnectionState::ConnectionBroken,
        };
        self.outputs.push_back(Output::Announce(Envelope {
            message_type: MessageType::Connection,
            robot_id: id.clone(),
            timestamp: now,
            sequence: 0,
            clock: Clock::Synced,
            payload: payload.clone(),
        }));
        self.gone(id, 0, payload);
    }

    fn gone(&mut self, id: &RobotId, sequence: u64, payload: Connection) {
        let robot = self.robot(id);
        robot.connection = payload.state;
        robot.stale = false;
        robot.changed = true;
        let data = serde_json::json!({ "session": payload.session, "state": payload.state });
        self.record(id, kind::DISCONNECTED, data);
        self.live(id.clone(), sequence, LivePayload::Connection(payload));
    }
}
