//! One simulated robot: carries out its schedule over one connection, in one task.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use lekiwi_protocol::message::{
    Ack, Backlog, Connection, ConnectionState, Heartbeat, LateSample, Telemetry, kind,
};
use lekiwi_protocol::{Clock, Envelope, FromRobot, MessageType, RobotId, Root, Timestamp, limits};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Disconnect, DisconnectReasonCode, Filter, LastWill, Packet, PingReq, Publish, Subscribe,
};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use super::identity::Identity;
use super::kept::{Kept, Numbered};
use super::picture::Picture;
use super::scenario::{Schedule, Step};
use super::wire::{Endpoint, Wire};

/// Longest time for a connection to be made, and for a message to be written.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time after which what was not acknowledged is sent again.
const RESEND: Duration = Duration::from_secs(5);
/// The first cap of the backoff, and the shortest wait: the agent's.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Most samples that a robot keeps while it is away.
const MAX_LATE: u64 = 1_000;

/// What all robots of a simulation did.
#[derive(Debug, Default)]
pub struct Counters {
    /// Robots connected now.
    pub online: AtomicU64,
    /// Connections made.
    pub connections: AtomicU64,
    /// Connections that were lost, or not made, unasked.
    pub failures: AtomicU64,
    /// Messages handed to the connection.
    pub messages: AtomicU64,
    /// Events numbered.
    pub emitted: AtomicU64,
    /// Robots that have nothing to do any more, are online, and have everything acknowledged.
    pub settled: AtomicU64,
    /// Certificates renewed.
    pub renewals: AtomicU64,
    /// How long each move to a new certificate was without a connection, from goodbye to welcome.
    pub moves: Mutex<Vec<Duration>>,
    /// When the last connection was made, ms after the start.
    pub last_up_ms: AtomicU64,
}

/// A heartbeat by robot and sequence.
pub type Pulse = (RobotId, u64);

/// When each heartbeat was sent, for whoever measures its way.
pub type Pulses = Arc<Mutex<HashMap<Pulse, Instant>>>;

/// What the robots of a simulation share.
#[derive(Debug, Clone)]
pub struct Site {
    /// The broker.
    pub endpoint: Endpoint,
    /// When schedules begin.
    pub start: Instant,
    /// What they did.
    pub counters: Arc<Counters>,
    /// Where heartbeats are noted.
    pub pulses: Option<Pulses>,
    /// Turns true when all are to say goodbye.
    pub stop: watch::Receiver<bool>,
}

/// What a robot has numbered in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The robot.
    pub robot: RobotId,
    /// The stream that its events count in.
    pub stream: Uuid,
    /// The last of them; they begin with 1.
    pub emitted: u64,
}

enum Link {
    /// Not wanted.
    Down,
    /// Wanted, later.
    Waiting(Instant),
    /// In a box, so that its room is given back.
    Dialing(Pin<Box<dyn Future<Output = Result<Wire>> + Send>>),
    Up(Box<Wire>),
    /// Open, and neither read nor written.
    Silent {
        _wire: Box<Wire>,
    },
}

#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum Heard {
    Up(Box<Wire>),
    Packet(Packet),
    Lost,
}

impl Link {
    /// What comes next; never, where nothing can.
    async fn next(&mut self) -> Heard {
        match self {
            Self::Dialing(dial) => match dial.await {
                Ok(wire) => Heard::Up(Box::new(wire)),
                Err(_) => Heard::Lost,
            },
            Self::Up(wire) => wire.receive().await.map_or(Heard::Lost, Heard::Packet),
            Self::Down | Self::Waiting(_) | Self::Silent { .. } => std::future::pending().await,
        }
    }
}

/// Drives one robot until `stop` turns true, then says goodbye.
///
/// # Errors
/// When its identity is unusable; a lost connection is retried for ever.
pub async fn run(
    identity: Arc<Identity>,
    schedule: Schedule,
    kept: Kept,
    mut site: Site,
) -> Result<Told> {
    let mut robot = Robot {
        tls: Arc::new(identity.client_config()?),
        identity: Arc::clone(&identity),
        root: Root::default(),
        picture: Picture::new(identity.id.clone()),
        id: identity.id.clone(),
        session: Uuid::nil(),
        sequence: 0,
        kept,
        late: Numbered::new(),
        link: Link::Down,
        attempts: 0,
        ping_at: site.start,
        is_pinged: false,
        resend_at: site.start,
        is_settled: false,
        renewing: None,
        moved_at: None,
        site: site.clone(),
    };
    let mut schedule = schedule.peekable();
    while !*site.stop.borrow() {
        let step_at = schedule.peek().map(|(at, _)| site.start + *at);
        let due = [step_at, robot.timer()].into_iter().flatten().min();
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = robot.link.next() => robot.heard(heard).await,
            identity = renewed(&mut robot.renewing) => robot.renewed(identity).await?,
            () = wait => {
                let now = Instant::now();
                while let Some((_, step)) = schedule.next_if(|(at, _)| site.start + *at <= now) {
                    robot.step(step).await;
                }
                robot.look_after_link(now).await;
            }
            // An error means that nobody can stop it any more, which is as good.
            _ = site.stop.changed() => break,
        }
        if schedule.peek().is_none() {
            robot.settle();
        }
    }
    robot.goodbye().await;
    let (stream, emitted) = robot.kept.last();
    Ok(Told {
        robot: robot.id,
        stream,
        emitted,
    })
}

/// A renewal that is under way.
type Renewing = Pin<Box<dyn Future<Output = Result<Identity>> + Send>>;

async fn renewed(renewing: &mut Option<Renewing>) -> Result<Identity> {
    match renewing {
        Some(renewing) => renewing.await,
        None => std::future::pending().await,
    }
}

struct Robot {
    tls: Arc<rustls::ClientConfig>,
    identity: Arc<Identity>,
    root: Root,
    id: RobotId,
    picture: Picture,
    session: Uuid,
    sequence: u64,
    kept: Kept,
    late: Numbered<LateSample>,
    link: Link,
    /// Attempts to connect since the last that succeeded.
    attempts: u32,
    ping_at: Instant,
    is_pinged: bool,
    resend_at: Instant,
    is_settled: bool,
    renewing: Option<Renewing>,
    /// When it said goodbye to come back with a new certificate, until it is back.
    moved_at: Option<Instant>,
    site: Site,
}

impl Robot {
    fn timer(&self) -> Option<Instant> {
        match &self.link {
            Link::Waiting(until) => Some(*until),
            Link::Up(_) => Some(self.ping_at.min(self.resend_at)),
            Link::Down | Link::Dialing(_) | Link::Silent { .. } => None,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Connect => {
                if matches!(self.link, Link::Down | Link::Silent { .. }) {
                    self.attempts = 0;
                    self.dial();
                }
            }
            Step::Leave => self.goodbye().await,
            Step::Cut => self.set_link(Link::Down),
            Step::Vanish => match std::mem::replace(&mut self.link, Link::Down) {
                Link::Up(wire) => {
                    self.site.counters.online.fetch_sub(1, Ordering::Relaxed);
                    self.link = Link::Silent { _wire: wire };
                }
                _ => self.link = Link::Down,
            },
            Step::Heartbeat => self.heartbeat().await,
            Step::Telemetry => self.telemetry().await,
            Step::Event => {
                let data = serde_json::json!({ "n": self.kept.last().1 + 1 });
                self.emit("soak.tick", data).await;
            }
            Step::Renew => {
                let identity = Arc::clone(&self.identity);
                self.renewing
                    .get_or_insert_with(|| Box::pin(async move { identity.renew().await }));
            }
            Step::Drive => {
                let data = self.picture.drive(now());
                self.drive(kind::TELEOPERATION_STARTED, data).await;
            }
            Step::Park => {
                let data = self.picture.park(now());
                self.drive(kind::TELEOPERATION_STOPPED, data).await;
            }
        }
    }

    /// Moves to the new certificate as the agent does: with a goodbye.
    async fn renewed(&mut self, identity: Result<Identity>) -> Result<()> {
        self.renewing = None;
        let Ok(identity) = identity else {
            // The relay may be away. The next step asks again.
            self.site.counters.failures.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        self.identity = Arc::new(identity);
        self.tls = Arc::new(self.identity.client_config()?);
        self.site.counters.renewals.fetch_add(1, Ordering::Relaxed);
        if matches!(self.link, Link::Up(_)) {
            self.moved_at = Some(Instant::now());
            self.goodbye().await;
            self.dial();
        }
        Ok(())
    }

    async fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Up(wire) => {
                let counters = &self.site.counters;
                counters.online.fetch_add(1, Ordering::Relaxed);
                counters.connections.fetch_add(1, Ordering::Relaxed);
                let up_ms = u64::try_from(self.site.start.elapsed().as_millis()).unwrap_or(0);
                counters.last_up_ms.fetch_max(up_ms, Ordering::Relaxed);
                if let Some(at) = self.moved_at.take() {
                    let mut moves = counters
                        .moves
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    moves.push(at.elapsed());
                }
                self.attempts = 0;
                self.link = Link::Up(wire);
                self.birth().await;
                self.say_again().await;
            }
            Heard::Packet(Packet::Publish(publish)) => self.receive(&publish),
            Heard::Packet(Packet::PingResp(_)) => self.is_pinged = false,
            Heard::Packet(Packet::Disconnect(_)) | Heard::Lost => self.lost(),
            Heard::Packet(_) => {}
        }
    }

    /// What is due by itself: the next attempt, a ping, what was not acknowledged.
    async fn look_after_link(&mut self, now: Instant) {
        match &self.link {
            Link::Waiting(until) if *until <= now => self.dial(),
            Link::Up(_) => {
                if self.ping_at <= now {
                    if self.is_pinged {
                        return self.lost();
                    }
                    self.is_pinged = true;
                    self.put(|wire| wire.put(&Packet::PingReq(PingReq))).await;
                }
                if self.resend_at <= now {
                    self.say_again().await;
                }
            }
            _ => {}
        }
    }

    fn dial(&mut self) {
        self.session = Uuid::new_v4();
        self.sequence = 0;
        let will = self.envelope(
            MessageType::Connection,
            &Connection {
                session: self.session,
                state: ConnectionState::ConnectionBroken,
            },
        );
        let topic = self.topic(FromRobot::Connection);
        let will = LastWill::new(topic, will, QoS::AtLeastOnce, true, None);
        let connect = Wire::connect(
            Arc::clone(&self.tls),
            self.site.endpoint.clone(),
            self.id.to_string(),
            u16::try_from(limits::KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX),
            Some(will),
        );
        self.set_link(Link::Dialing(Box::pin(async move {
            timeout(PATIENCE, connect).await?
        })));
    }

    /// A connection that is in the way is closed without a word.
    fn set_link(&mut self, link: Link) {
        if matches!(self.link, Link::Up(_)) {
            self.site.counters.online.fetch_sub(1, Ordering::Relaxed);
        }
        self.link = link;
        self.is_pinged = false;
    }

    /// Waits as the agent does: full jitter below a cap that doubles.
    fn lost(&mut self) {
        self.site.counters.failures.fetch_add(1, Ordering::Relaxed);
        let cap = FIRST_BACKOFF
            .saturating_mul(1 << self.attempts.min(8))
            .min(limits::MAX_BACKOFF);
        self.attempts += 1;
        let share = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        let wait = cap.mul_f64(share).max(MIN_BACKOFF);
        self.set_link(Link::Waiting(Instant::now() + wait));
    }

    /// Puts packets and writes them, when there is a connection; a telemetry message that cannot be said is lost.
    async fn put(&mut self, put: impl FnOnce(&mut Wire) -> Result<()>) {
        let Link::Up(wire) = &mut self.link else {
            return;
        };
        let written = async {
            put(wire)?;
            wire.flush().await
        };
        match timeout(PATIENCE, written).await {
            Ok(Ok(())) => self.ping_at = Instant::now() + limits::KEEP_ALIVE * 4 / 5,
            Ok(Err(_)) | Err(_) => self.lost(),
        }
    }

    fn envelope<P: Serialize>(&self, message_type: MessageType, payload: &P) -> Vec<u8> {
        Envelope {
            message_type,
            robot_id: self.id.clone(),
            timestamp: now(),
            sequence: self.sequence,
            clock: Clock::Synced,
            payload,
        }
        .to_json()
    }

    fn topic(&self, from: FromRobot) -> String {
        self.root.from_robot(&self.id, from).to_string()
    }

    async fn publish<P: Serialize>(&mut self, from: FromRobot, kind: MessageType, payload: &P) {
        if !matches!(self.link, Link::Up(_)) {
            return;
        }
        let retained = from.is_retained();
        let qos = match from {
            FromRobot::Heartbeat | FromRobot::Telemetry => QoS::AtMostOnce,
            _ => QoS::AtLeastOnce,
        };
        let body = self.envelope(kind, payload);
        self.sequence += 1;
        let topic = self.topic(from);
        self.site.counters.messages.fetch_add(1, Ordering::Relaxed);
        self.put(|wire| wire.publish(topic, qos, retained, body))
            .await;
    }

    async fn birth(&mut self) {
        let inbox = Filter::new(self.root.robot_inbox(&self.id), QoS::AtMostOnce);
        let mut subscribe = Subscribe::new(inbox, None);
        self.put(|wire| {
            subscribe.pkid = wire.next_id();
            wire.put(&Packet::Subscribe(subscribe))
        })
        .await;
        let online = Connection {
            session: self.session,
            state: ConnectionState::Online,
        };
        self.publish(FromRobot::Connection, MessageType::Connection, &online)
            .await;
        let factsheet = self.picture.factsheet();
        self.publish(FromRobot::Factsheet, MessageType::Factsheet, &factsheet)
            .await;
        self.state().await;
    }

    async fn state(&mut self) {
        let state = self.picture.state(self.session, self.site.start.elapsed());
        self.publish(FromRobot::State, MessageType::State, &state)
            .await;
    }

    async fn heartbeat(&mut self) {
        let Link::Up(_) = self.link else { return };
        if let Some(pulses) = &self.site.pulses
            && let Ok(mut pulses) = pulses.lock()
        {
            pulses.insert((self.id.clone(), self.sequence), Instant::now());
        }
        let heartbeat = Heartbeat {
            session: self.session,
            uptime_s: self.site.start.elapsed().as_secs(),
        };
        self.publish(FromRobot::Heartbeat, MessageType::Heartbeat, &heartbeat)
            .await;
    }

    async fn telemetry(&mut self) {
        let metrics = self.picture.metrics(self.site.start.elapsed());
        if let Link::Up(_) = self.link {
            let telemetry = Telemetry { metrics };
            self.publish(FromRobot::Telemetry, MessageType::Telemetry, &telemetry)
                .await;
        } else if self.late.last < MAX_LATE {
            self.late.append(|seq| LateSample {
                seq,
                timestamp: now(),
                metrics,
            });
        }
    }

    async fn emit(&mut self, kind: &str, data: serde_json::Value) {
        self.kept.append(kind, now(), data);
        self.site.counters.emitted.fetch_add(1, Ordering::Relaxed);
        self.send_kept().await;
    }

    async fn drive(&mut self, kind: &str, data: serde_json::Value) {
        self.emit(kind, data).await;
        self.state().await;
    }

    async fn say_again(&mut self) {
        self.resend_at = Instant::now() + RESEND;
        self.kept.resend();
        self.late.resend();
        self.send_kept().await;
    }

    async fn send_kept(&mut self) {
        while let Link::Up(_) = self.link
            && let Some(batch) = self.kept.unsent()
        {
            self.publish(FromRobot::Events, MessageType::Events, &batch)
                .await;
            if !self.kept.is_counted() {
                break;
            }
        }
        while let Link::Up(_) = self.link {
            let samples = self.late.unsent();
            if samples.is_empty() {
                break;
            }
            let backlog = Backlog {
                stream: self.late.stream,
                ordinal: 1,
                samples,
            };
            self.publish(FromRobot::Backlog, MessageType::Backlog, &backlog)
                .await;
        }
    }

    fn receive(&mut self, publish: &Publish) {
        // Acknowledgements only: a simulated robot takes no commands.
        if !publish.topic.ends_with(b"/to/ack") {
            return;
        }
        let ack = Envelope::<Ack>::parse(MessageType::Ack, &self.id, &publish.payload);
        if let Ok(Envelope { payload, .. }) = ack {
            self.kept.acknowledge(&payload);
            self.late.acknowledge(&payload);
        }
    }

    async fn goodbye(&mut self) {
        let offline = Connection {
            session: self.session,
            state: ConnectionState::Offline,
        };
        self.publish(FromRobot::Connection, MessageType::Connection, &offline)
            .await;
        let leave = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        self.put(|wire| wire.put(&Packet::Disconnect(leave))).await;
        if let Link::Up(wire) = &mut self.link {
            let _ = timeout(Duration::from_secs(2), wire.close()).await;
        }
        self.set_link(Link::Down);
    }

    fn settle(&mut self) {
        let is_online = matches!(self.link, Link::Up(_));
        let is_told = self.kept.is_empty() && self.late.is_empty();
        let is_settled = is_online && is_told && self.renewing.is_none();
        let settled = &self.site.counters.settled;
        match (self.is_settled, is_settled) {
            (false, true) => settled.fetch_add(1, Ordering::Relaxed),
            (true, false) => settled.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        self.is_settled = is_settled;
    }
}

/// The simulator's clock is this machine's.
pub(super) fn now() -> Timestamp {
    SystemTime::now().into()
}
