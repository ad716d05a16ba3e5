//! The way of every message: parse, refuse or take, into the picture, to the live stream and to the
//! store; after the commit, acknowledge. One task; it never waits for the disk.
//!
//! `main` wires it so:
//! ```text
//! let (store, commits) = Store::open(&path, metrics.clone())?;
//! let (handle, ingest) = Ingest::restore(settings, store, commits, metrics.clone()).await?;
//! let (broker, inputs) = Broker::start(config, Arc::new(StoreAuthority::new(store, org, source)), metrics).await?;
//! let broker = Arc::new(broker);
//! let task = tokio::spawn(ingest.run(broker.clone(), inputs, stop.clone()));
//! // … handle goes to the HTTP interface; at the end: stop.cancel(); task.await; store.close()
//! ```

pub mod alerts;
mod backlog;
mod check;
mod commands;
mod decision;
mod folded;
mod handle;
mod leading;
mod measured;
mod overload;
mod own;
mod twins;
mod upkeep;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use lekiwi_protocol::limits::MAX_METRICS;
use lekiwi_protocol::message::{
    Ack, CommandStatus, ConnectionState, EventBatch, Registration, RelayBirth, State, Telemetry,
};
use lekiwi_protocol::trace::TraceParent;
use lekiwi_protocol::{
    Clock, Envelope, FromRobot, MessageType, RelayId, RobotId, Root, Timestamp, ToRobot,
};
use lekiwi_relay_core::commands::Commands;
use lekiwi_relay_core::history::Retention;
use lekiwi_relay_core::protect::Overload;
use lekiwi_relay_core::twins::Twins;
use lekiwi_relay_core::{Fleet, Input as Heard, LivePayload, Output, Policy};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::check::{Refusal, check_events, envelope};
pub(crate) use self::commands::send;
use self::decision::Desk;
pub use self::decision::{DecideError, Decision};
use self::folded::{acknowledgements, folded};
pub use self::handle::Handle;
use self::upkeep::{Upkeep, pictures};
use crate::broker::{Broker, Input, Inputs};
use crate::clock;
use crate::live::Collector;
use crate::metrics::{MessageLabels, Metrics};
use crate::store::records::{Commit, NewEvent, OWN_SOURCE, Refused, StoredEvent};
use crate::store::{Batch, Health, Store, StoreError};
use crate::traces::{Arrived, Traces, metadata};

/// Messages taken at once. Also the longest time that readers of the picture wait: well below 1 ms.
const TURN: usize = 256;
const TICK: Duration = Duration::from_millis(250);
/// Bytes of a refused payload that are kept.
const KEPT_PAYLOAD: usize = 512;

/// The source of the events that `relay` makes itself.
#[must_use]
pub fn own_source(relay: &RelayId) -> Arc<str> {
    format!("{OWN_SOURCE}{relay}").into()
}

/// What ingest is told by configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefix and organisation.
    pub root: Root,
    /// This relay.
    pub relay_id: RelayId,
    /// How long telemetry is kept.
    pub retention: Retention,
    /// How newcomers are taken.
    pub registration: Policy,
    /// What is watched.
    pub alerts: alerts::Settings,
    /// Whether this relay leads those that share its log; alone on it, it does.
    pub sharing: Option<watch::Receiver<bool>>,
    /// What is told of messages whose trace is kept.
    pub traces: Traces,
}

/// The task, before it runs.
#[derive(Debug)]
pub struct Ingest {
    settings: Settings,
    store: Store,
    commits: mpsc::Receiver<Commit>,
    fleet: Arc<RwLock<Fleet>>,
    live: Collector,
    desk: Desk,
    alert_desk: alerts::Desk,
    /// What robots are told to do.
    commands: Commands,
    /// Which configuration they should have.
    twins: Twins,
    metrics: Arc<Metrics>,
    overload: Arc<Mutex<Overload>>,
    /// Why the log of several relays cannot be followed, while it cannot.
    behind: watch::Sender<Option<String>>,
    /// The relay's own name in the log.
    source: Arc<str>,
    /// The relay's own events: a new numbering at each start.
    stream: Uuid,
    seq: u64,
    /// What this turn wants written.
    batch: Batch,
    /// Whether this relay writes what all relays on its log see, and speaks to robots.
    leads: bool,
    upkeep: Upkeep,
}

impl Ingest {
    /// Builds the picture from the store: the last snapshots, and the events since.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn restore(
        settings: Settings,
        store: Store,
        commits: mpsc::Receiver<Commit>,
        metrics: Arc<Metrics>,
    ) -> Result<(Handle, Self), StoreError> {
        let mut fleet = Fleet::new(settings.registration);
        for (picture, position) in pictures(&store).await? {
            fleet.restore(picture, position);
        }
        loop {
            let events = store.events(fleet.position(), 10_000).await?;
            if events.is_empty() {
                break;
            }
            for stored in events {
                let received = Timestamp::from_ms(stored.event.received_ms);
                fleet.handle(received, folded(&stored));
            }
        }
        let leads = settings.sharing.is_none();
        fleet.lead(Timestamp::from_ms(clock::now_ms()), leads);
        fleet.begin();
        let (alert_requests, alert_desk) =
            alerts::Desk::restore(&settings.alerts, &store, &fleet).await?;
        let commands = commands::restore(&store).await?;
        let twins = twins::restore(&store).await?;
        let fleet = Arc::new(RwLock::new(fleet));
        let (live, collector) = crate::live::channel(&metrics, &settings.traces);
        let (decisions, desk) = Desk::new();
        let overload = Arc::<Mutex<Overload>>::default();
        let behind = watch::channel(None).0;
        let handle = Handle {
            fleet: fleet.clone(),
            live,
            decisions,
            alerts: alert_desk.alerts.clone(),
            alert_requests,
            overload: overload.clone(),
            behind: behind.subscribe(),
        };
        let ingest = Self {
            source: own_source(&settings.relay_id),
            settings,
            store,
            commits,
            fleet,
            live: collector,
            desk,
            alert_desk,
            commands,
            twins,
            metrics,
            overload,
            behind,
            stream: Uuid::new_v4(),
            seq: 0,
            batch: Batch::default(),
            leads,
            upkeep: Upkeep::default(),
        };
        Ok((handle, ingest))
    }

    /// Runs until `stop` is cancelled; then writes the last pictures and says goodbye.
    pub async fn run(mut self, broker: Arc<Broker>, mut inputs: Inputs, stop: CancellationToken) {
        let mut turn = Vec::with_capacity(TURN);
        let mut urgent = Vec::new();
        let mut refused = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut health = self.store.health();
        let (mut log, mut office) = self.follow();
        self.announce(&broker, true).await;
        // Who is heard: the picture says it before anybody speaks.
        self.apply(&broker, Vec::new()).await;
        self.metrics.leads.set(self.leads.into());
        self.lead_alerts(&broker, self.leads).await;
        loop {
            // Fair, so that no source can starve another; each takes a bounded turn.
            tokio::select! {
                () = stop.cancelled() => break,
                1.. = inputs.urgent.recv_many(&mut urgent, TURN) => self.messages(&broker, &mut urgent).await,
                1.. = inputs.bulk.recv_many(&mut turn, TURN) => self.messages(&broker, &mut turn).await,
                Some(request) = self.desk.requests.recv() => self.decide(request),
                Some(request) = self.alert_desk.requests.recv() => self.decree(request),
                Some(events) = log.next() => self.logged(&broker, &events).await,
                leads = office.leads(self.leads) => self.lead(&broker, leads).await,
                Some(commit) = self.commits.recv() => self.committed(&broker, commit).await,
                1.. = inputs.refused.recv_many(&mut refused, TURN) => self.batch.refused.append(&mut refused),
                _ = ticks.tick() => self.tick(&broker).await,
                Ok(()) = health.changed() => {
                    let writing = *health.borrow_and_update() == Health::Writing;
                    broker.take_share(writing);
                    self.announce(&broker, writing).await;
                }
            }
            self.submit();
        }
        self.announce(&broker, false).await;
        broker.stop_listening();
        self.upkeep.hurry();
        self.tick(&broker).await;
        self.submit();
    }

    async fn announce(&self, broker: &Broker, online: bool) {
        let birth = RelayBirth {
            relay_id: self.settings.relay_id.clone(),
            online,
            timestamp: Timestamp::from_ms(clock::now_ms()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        match serde_json::to_vec(&birth) {
            Ok(json) => {
                broker
                    .publish(
                        &self.settings.root.relay(&self.settings.relay_id),
                        json,
                        true,
                    )
                    .await
            }
            Err(error) => tracing::error!(%error, "the relay's birth cannot be serialised"),
        }
    }

    /// One turn: parse without the lock, apply with it.
    async fn messages(&mut self, broker: &Broker, turn: &mut Vec<Input>) {
        let mut heard = Vec::with_capacity(turn.len());
        for input in turn.drain(..) {
            match input {
                Input::Connected {
                    robot,
                    link,
                    received_ms,
                } => heard.push((received_ms, Heard::LinkUp(robot, link))),
                Input::Disconnected {
                    robot,
                    link,
                    received_ms,
                } => heard.push((received_ms, Heard::LinkDown(robot, link))),
                Input::Message {
                    robot,
                    from,
                    payload,
                    received_ms,
                    trace,
                } => match self.parse(&robot, &from, &payload, received_ms, trace.as_deref()) {
                    Ok(message) => heard.push((received_ms, message)),
                    Err(refusal) => self.refuse(&robot, from, &payload, received_ms, refusal),
                },
            }
        }
        self.apply(broker, heard).await;
    }

    /// Feeds the picture and carries out what follows.
    async fn apply(&mut self, broker: &Broker, heard: Vec<(u64, Heard)>) {
        let now = Timestamp::from_ms(clock::now_ms());
        let steady = Timestamp::from_ms(clock::steady_ms());
        let mut announcements = Vec::new();
        let mut standings = Vec::new();
        {
            let fleet = self.fleet.clone();
            let mut fleet = fleet.write().unwrap_or_else(PoisonError::into_inner);
            let watched = self.alert_desk.alerts.clone();
            let mut watched = watched.write().unwrap_or_else(PoisonError::into_inner);
            for (received_ms, message) in heard {
                fleet.handle(Timestamp::from_ms(received_ms), message);
            }
            if fleet.poll_timeout().is_some_and(|due| due <= now) {
                fleet.handle_timeout(now);
            }
            while let Some(output) = fleet.poll_output() {
                match output {
                    Output::Live {
                        robot,
                        sequence,
                        payload,
                    } => {
                        if let LivePayload::Connection(connection) = &payload {
                            let online = connection.state == ConnectionState::Online;
                            self.commands.connection(now, &robot, online);
                            self.twins.connection(now, &robot, online);
                        }
                        alerts::heed(&mut watched, &fleet, steady, &robot, &payload);
                        self.live.message(now, robot, sequence, payload);
                    }
                    Output::Event { robot, kind, data } => {
                        if kind == lekiwi_protocol::message::kind::STALE {
                            watched.stale(steady, &robot);
                        }
                        self.own_event(now, &robot, kind, &data);
                    }
                    Output::Announce(envelope) => announcements.push(envelope),
                    Output::Standing {
                        robot,
                        admitted,
                        judged,
                        tell,
                    } => {
                        if !admitted {
                            watched.forget(&robot);
                        }
                        standings.push((robot, admitted, judged, tell));
                    }
                }
            }
        }
        self.live.flush();
        for envelope in announcements {
            let topic = self
                .settings
                .root
                .from_robot(&envelope.robot_id, FromRobot::Connection);
            broker.publish(&topic, envelope.to_json(), true).await;
        }
        for (robot, admitted, judged, tell) in standings {
            broker.admit(&robot, admitted, judged).await;
            if let Some(registration) = tell {
                self.tell(broker, &robot, registration).await;
            }
        }
        self.look_after_commands(broker, now).await;
        self.look_after_twins(broker, now).await;
        self.look_after_alerts(now);
    }

    fn parse(
        &mut self,
        robot: &RobotId,
        from: &FromRobot,
        payload: &Bytes,
        received_ms: u64,
        trace: Option<&Arrived>,
    ) -> Result<Heard, Refusal> {
        let Some(expected) = MessageType::of_topic(from) else {
            return Err((
                "unsupported",
                format!("expected a topic that this relay serves, got from/{from}"),
            ));
        };
        let heard = match expected {
            MessageType::Telemetry => {
                let envelope: Envelope<Telemetry> = envelope(expected, robot, payload)?;
                envelope
                    .payload
                    .check()
                    .map_err(|error| ("metrics", error.to_string()))?;
                Heard::Telemetry(envelope)
            }
            MessageType::Heartbeat => {
                let envelope = envelope(expected, robot, payload)?;
                measured::heartbeat(&self.metrics, &envelope, clock::now_ms());
                Heard::Heartbeat(envelope)
            }
            MessageType::Connection => Heard::Connection(envelope(expected, robot, payload)?),
            MessageType::Factsheet => {
                Heard::Factsheet(Box::new(envelope(expected, robot, payload)?))
            }
            MessageType::State => {
                let envelope: Envelope<State> = envelope(expected, robot, payload)?;
                if envelope.payload.resources.len() > MAX_METRICS {
                    let got = envelope.payload.resources.len();
                    return Err((
                        "metrics",
                        format!("expected at most {MAX_METRICS} metrics, got {got}"),
                    ));
                }
                Heard::State(Box::new(envelope))
            }
            MessageType::Events => {
                let envelope: Envelope<EventBatch> = envelope(expected, robot, payload)?;
                check_events(&envelope.payload)?;
                let trace = self.settings.traces.received(trace, &envelope);
                self.robot_events(robot, envelope.payload, received_ms, trace);
                Heard::Heard(robot.clone())
            }
            MessageType::Backlog => {
                let envelope = envelope(expected, robot, payload)?;
                self.robot_backlog(robot, envelope, received_ms)?;
                Heard::Heard(robot.clone())
            }
            MessageType::Response => {
                let envelope: Envelope<CommandStatus> = envelope(expected, robot, payload)?;
                self.answered(robot, from, envelope, received_ms)?;
                Heard::Heard(robot.clone())
            }
            MessageType::Reported => {
                let envelope = envelope(expected, robot, payload)?;
                self.reported(envelope, received_ms)?
            }
            // A robot has no topic of this type.
            MessageType::Ack
            | MessageType::Registration
            | MessageType::Command
            | MessageType::Desired => {
                return Err((
                    "unsupported",
                    format!("expected a message of a robot, got {expected}"),
                ));
            }
        };
        self.metrics
            .messages
            .get_or_create(&MessageLabels {
                kind: expected.as_str(),
            })
            .inc();
        Ok(heard)
    }

    fn robot_events(
        &mut self,
        robot: &RobotId,
        batch: EventBatch,
        received_ms: u64,
        trace: Option<TraceParent>,
    ) {
        let id: Arc<str> = robot.as_str().into();
        let metadata = metadata(batch.ordinal, trace);
        for event in batch.events {
            self.batch.events.push(NewEvent {
                aggregate_type: "robot",
                aggregate_id: id.clone(),
                source: id.clone(),
                stream: batch.stream,
                seq: event.seq,
                kind: event.kind.into(),
                ts_ms: event.timestamp.as_ms(),
                received_ms,
                data: event.data.to_string().into(),
                metadata: metadata.clone(),
            });
        }
    }

    fn refuse(
        &mut self,
        robot: &RobotId,
        from: FromRobot,
        payload: &Bytes,
        at_ms: u64,
        (kind, reason): Refusal,
    ) {
        self.metrics.refuse(kind);
        // What all relays hear, one of them writes down.
        if !self.leads && !matches!(from, FromRobot::Events | FromRobot::Backlog) {
            return;
        }
        self.batch.refused.push(Refused {
            at_ms,
            client: robot.as_str().into(),
            topic: self
                .settings
                .root
                .from_robot(robot, from)
                .to_string()
                .into(),
            kind,
            reason,
            payload: payload[..payload.len().min(KEPT_PAYLOAD)].to_vec(),
            payload_bytes: payload.len() as u64,
        });
    }

    /// Events are safe: their makers may forget them.
    async fn committed(&mut self, broker: &Broker, commit: Commit) {
        self.settings.traces.committed(&commit);
        if self.settings.sharing.is_none() {
            self.logged(broker, &commit.events).await;
        }
        measured::events(&self.metrics, &commit.events, clock::now_ms());
        for (robot, ack) in acknowledgements(&commit) {
            self.acknowledge(broker, &robot, ack).await;
        }
    }

    /// The log's next events: into the picture, and to the live stream.
    async fn logged(&mut self, broker: &Broker, events: &[StoredEvent]) {
        let begun = self.settings.traces.begun();
        let mut heard = Vec::with_capacity(events.len());
        for stored in events {
            if let Some(robot) = stored.told_as() {
                self.live.event(robot, stored);
            }
            let robot = stored.robot();
            self.requested(robot.as_ref(), stored);
            self.configured(robot.as_ref(), stored);
            heard.push((stored.event.received_ms, folded(stored)));
        }
        self.apply(broker, heard).await;
        self.settings.traces.done("fold", begun, events);
        self.committed_alerts(broker, events).await;
        self.look_after_alerts(Timestamp::from_ms(clock::now_ms()));
        self.answer(events);
    }

    async fn acknowledge(&self, broker: &Broker, robot: &RobotId, payload: Ack) {
        let json = to(robot, MessageType::Ack, payload).to_json();
        let topic = self.settings.root.to_robot(robot, ToRobot::Ack);
        broker.publish(&topic, json, false).await;
    }

    async fn tell(&self, broker: &Broker, robot: &RobotId, payload: Registration) {
        let json = to(robot, MessageType::Registration, payload).to_json();
        let topic = self.settings.root.to_robot(robot, ToRobot::Registration);
        broker.publish(&topic, json, false).await;
    }
}

/// A message to a robot, of now.
fn to<P>(robot: &RobotId, message_type: MessageType, payload: P) -> Envelope<P> {
    Envelope {
        message_type,
        robot_id: robot.clone(),
        timestamp: Timestamp::from_ms(clock::now_ms()),
        sequence: 0,
        clock: Clock::Synced,
        payload,
    }
}
