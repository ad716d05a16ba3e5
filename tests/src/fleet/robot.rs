//! One simulated robot.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use lekiwi_agent::outbox::{Limit, Outbox};
use lekiwi_protocol::message::{
    Ack, Connection, ConnectionState, Deployment, Factsheet, Hardware, Heartbeat, Network, State,
    Telemetry, Teleoperation,
};
use lekiwi_protocol::{
    Clock, Envelope, FromRobot, MessageType, MetricName, RobotId, Root, Timestamp, limits,
};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval_at};
use uuid::Uuid;

use super::identity::Identity;

/// Where the broker is.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Host name or address, as in the broker's certificate.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What a robot does while it is connected.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Time between telemetry messages; none when absent.
    pub telemetry: Option<Duration>,
    /// Numbered events; none when absent.
    pub emission: Option<Emission>,
}

/// Numbered events from a durable outbox.
#[derive(Debug, Clone)]
pub struct Emission {
    /// Time between two events; when absent, what waits is sent and nothing is added.
    pub every: Option<Duration>,
    /// The folder of the outbox and of the counter that the check compares with.
    pub folder: PathBuf,
}

/// What all robots of a simulation did.
#[derive(Debug, Default)]
pub struct Counters {
    /// Robots connected now.
    pub online: AtomicU64,
    /// Connections made.
    pub connections: AtomicU64,
    /// Messages handed to the connection.
    pub messages: AtomicU64,
    /// Events appended to outboxes.
    pub emitted: AtomicU64,
    /// Acknowledgements received.
    pub acknowledgements: AtomicU64,
}

/// A heartbeat by robot and sequence.
pub type Pulse = (RobotId, u64);

/// When each heartbeat was sent, for whoever measures its way.
pub type Pulses = Arc<Mutex<HashMap<Pulse, Instant>>>;

/// Drives one robot until `stop` turns true, then says goodbye.
///
/// # Errors
/// When its identity or outbox is unusable; a lost connection is retried for ever.
pub async fn run(
    identity: Arc<Identity>,
    endpoint: Endpoint,
    options: Options,
    counters: Arc<Counters>,
    pulses: Option<Pulses>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let tls = Arc::new(identity.client_config()?);
    let mut robot = Robot {
        root: Root::default(),
        id: identity.id.clone(),
        session: Uuid::new_v4(),
        boot_id: Uuid::new_v4(),
        started: Instant::now(),
        sequence: 0,
        outbox: options.emission.as_ref().map(Emitter::open).transpose()?,
        counters,
        pulses,
    };
    while !*stop.borrow() && !robot.is_drained(&options) {
        robot.session = Uuid::new_v4();
        robot.sequence = 0;
        robot
            .connection(&endpoint, Arc::clone(&tls), &options, &mut stop)
            .await;
        let jitter = Duration::from_millis(u64::from(Uuid::new_v4().as_fields().0) % 3_000);
        tokio::select! {
            () = tokio::time::sleep(jitter) => {}
            _ = stop.changed() => {}
        }
    }
    Ok(())
}

struct Robot {
    root: Root,
    id: RobotId,
    session: Uuid,
    boot_id: Uuid,
    started: Instant,
    sequence: u64,
    outbox: Option<Emitter>,
    counters: Arc<Counters>,
    pulses: Option<Pulses>,
}

/// The outbox, how far it has counted, and what was emitted by another witness than the outbox.
struct Emitter {
    outbox: Outbox,
    journal: std::fs::File,
    emitted: u64,
}

impl Emitter {
    fn open(emission: &Emission) -> Result<Self> {
        std::fs::create_dir_all(&emission.folder)?;
        let outbox = Outbox::open(&emission.folder.join("agent.db"), now());
        let journal = std::fs::File::options()
            .create(true)
            .append(true)
            .open(emission.folder.join("emitted"))?;
        let emitted = outbox.last_seq();
        Ok(Self {
            outbox,
            journal,
            emitted,
        })
    }
}

impl Robot {
    /// One connection, from CONNECT to its end.
    async fn connection(
        &mut self,
        endpoint: &Endpoint,
        tls: Arc<rustls::ClientConfig>,
        options: &Options,
        stop: &mut watch::Receiver<bool>,
    ) {
        let (client, eventloop) = AsyncClient::new(self.mqtt_options(endpoint, tls), 64);
        let (packets, mut incoming) = mpsc::channel(64);
        // The event loop polls in a task of its own: a timer that cancels `poll` would cancel a connect.
        let poller = tokio::spawn(poll(eventloop, packets));
        let start = tokio::time::Instant::now();
        // Spread over the period, as a fleet's robots are.
        let phase = f64::from(self.id_phase()) / 65_536.0;
        let ticker = move |every: Duration| {
            let mut ticker = interval_at(start + every.mul_f64(phase), every);
            ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticker
        };
        let never = Duration::from_secs(365 * 24 * 3600);
        let mut heartbeat = ticker(options.heartbeat);
        let mut telemetry = ticker(options.telemetry.unwrap_or(never));
        let every = options
            .emission
            .as_ref()
            .and_then(|emission| emission.every);
        let mut emission = ticker(every.unwrap_or(never));
        let mut resend = ticker(Duration::from_secs(5));
        let mut online = false;
        loop {
            tokio::select! {
                packet = incoming.recv() => match packet {
                    Some(Packet::ConnAck(_)) => {
                        online = true;
                        self.counters.online.fetch_add(1, Ordering::Relaxed);
                        self.counters.connections.fetch_add(1, Ordering::Relaxed);
                        self.birth(&client);
                        self.send_events(&client);
                    }
                    Some(Packet::Publish(publish)) => self.receive(&publish.topic, &publish.payload),
                    Some(_) => {}
                    None => break,
                },
                _ = heartbeat.tick(), if online => self.heartbeat(&client),
                _ = telemetry.tick(), if online && options.telemetry.is_some() => self.telemetry(&client),
                _ = emission.tick(), if every.is_some() => {
                    self.emit();
                    if online {
                        self.send_events(&client);
                    }
                }
                _ = resend.tick(), if online => self.send_events(&client),
                _ = stop.changed() => {
                    self.goodbye(&client, &mut incoming).await;
                    break;
                }
            }
            if online && self.is_drained(options) {
                self.goodbye(&client, &mut incoming).await;
                break;
            }
        }
        if online {
            self.counters.online.fetch_sub(1, Ordering::Relaxed);
        }
        poller.abort();
    }

    async fn goodbye(&mut self, client: &AsyncClient, incoming: &mut mpsc::Receiver<Packet>) {
        let offline = Connection {
            session: self.session,
            state: ConnectionState::Offline,
        };
        self.publish(
            client,
            FromRobot::Connection,
            MessageType::Connection,
            &offline,
        );
        let _ = client.try_disconnect();
        // The event loop ends by itself once DISCONNECT is out.
        let ended = async { while incoming.recv().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), ended).await;
    }

    /// Whether this robot was to send what waits, and nothing waits any more.
    fn is_drained(&self, options: &Options) -> bool {
        let draining = options.emission.as_ref().is_some_and(|e| e.every.is_none());
        draining && self.outbox.as_ref().is_some_and(|e| e.outbox.is_empty())
    }

    fn id_phase(&self) -> u16 {
        self.boot_id.as_fields().1
    }

    fn mqtt_options(&self, endpoint: &Endpoint, tls: Arc<rustls::ClientConfig>) -> MqttOptions {
        let mut options = MqttOptions::new(self.id.as_str(), &endpoint.host, endpoint.port);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        options.set_keep_alive(limits::KEEP_ALIVE);
        options.set_clean_start(true);
        options.set_connection_timeout(20);
        options.set_max_packet_size(Some(
            u32::try_from(limits::MAX_PAYLOAD_BYTES).unwrap_or(u32::MAX) + 1024,
        ));
        options.set_outgoing_inflight_upper_limit(16);
        let will = self.envelope(
            MessageType::Connection,
            0,
            &Connection {
                session: self.session,
                state: ConnectionState::ConnectionBroken,
            },
        );
        let topic = self
            .root
            .from_robot(&self.id, FromRobot::Connection)
            .to_string();
        options.set_last_will(LastWill::new(topic, will, QoS::AtLeastOnce, true, None));
        options
    }

    fn envelope<P: Serialize>(
        &self,
        message_type: MessageType,
        sequence: u64,
        payload: &P,
    ) -> Vec<u8> {
        Envelope {
            message_type,
            robot_id: self.id.clone(),
            timestamp: now(),
            sequence,
            clock: Clock::Synced,
            payload,
        }
        .to_json()
    }

    /// Publishes without waiting; a full queue loses telemetry as on a robot, events are sent again.
    fn publish<P: Serialize>(
        &mut self,
        client: &AsyncClient,
        from: FromRobot,
        kind: MessageType,
        payload: &P,
    ) {
        let retained = from.is_retained();
        let qos = match from {
            FromRobot::Heartbeat | FromRobot::Telemetry => QoS::AtMostOnce,
            _ => QoS::AtLeastOnce,
        };
        let body = self.envelope(kind, self.sequence, payload);
        self.sequence += 1;
        let topic = self.root.from_robot(&self.id, from).to_string();
        if client.try_publish(topic, qos, retained, body).is_ok() {
            self.counters.messages.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn birth(&mut self, client: &AsyncClient) {
        let _ = client.try_subscribe(self.root.robot_inbox(&self.id), QoS::AtMostOnce);
        let session = self.session;
        self.publish(
            client,
            FromRobot::Connection,
            MessageType::Connection,
            &Connection {
                session,
                state: ConnectionState::Online,
            },
        );
        let factsheet = Factsheet {
            uuid: self.boot_id,
            profile: "generic".to_owned(),
            identification: None,
            hardware: Hardware {
                serial: self.id.to_string(),
                model: "simulated robot".to_owned(),
                architecture: std::env::consts::ARCH.to_owned(),
                cores: 4,
                memory_bytes: 4 << 30,
                ..Hardware::default()
            },
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_target: "simulated".to_owned(),
            capabilities: Vec::new(),
            boot_id: self.boot_id,
        };
        self.publish(
            client,
            FromRobot::Factsheet,
            MessageType::Factsheet,
            &factsheet,
        );
        let state = State {
            session,
            aliases: Vec::new(),
            activity: lekiwi_protocol::message::Activity::Idle,
            operating_mode: lekiwi_protocol::message::OperatingMode::Automatic,
            teleoperation: Teleoperation::default(),
            network: Network {
                hostname: self.id.to_string(),
                ip_addresses: vec!["127.0.0.1".to_owned()],
                ..Network::default()
            },
            deployment: Deployment {
                os_version: "simulated".to_owned(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                installed_packages: None,
            },
            resources: self.metrics(),
            uptime_s: self.started.elapsed().as_secs(),
            health: None,
            services: Vec::new(),
            battery: None,
            throttling: None,
            clock: None,
        };
        self.publish(client, FromRobot::State, MessageType::State, &state);
    }

    fn heartbeat(&mut self, client: &AsyncClient) {
        let sequence = self.sequence;
        if let Some(pulses) = &self.pulses
            && let Ok(mut pulses) = pulses.lock()
        {
            pulses.insert((self.id.clone(), sequence), Instant::now());
        }
        let heartbeat = Heartbeat {
            session: self.session,
            uptime_s: self.started.elapsed().as_secs(),
        };
        self.publish(
            client,
            FromRobot::Heartbeat,
            MessageType::Heartbeat,
            &heartbeat,
        );
    }

    fn telemetry(&mut self, client: &AsyncClient) {
        let metrics = self.metrics();
        self.publish(
            client,
            FromRobot::Telemetry,
            MessageType::Telemetry,
            &Telemetry { metrics },
        );
    }

    /// Made-up values that move: each metric swings with its own period and phase.
    fn metrics(&self) -> std::collections::BTreeMap<MetricName, f64> {
        use lekiwi_protocol::message::metric::{
            CPU_PERCENT, DISK_PERCENT, MEMORY_PERCENT, TEMPERATURE_C,
        };
        let t = self.started.elapsed().as_secs_f64() + f64::from(self.id_phase());
        let swing = |period: f64, low: f64, high: f64| {
            let value = low + (high - low) * (0.5 + 0.5 * (t / period).sin());
            (value * 10.0).round() / 10.0
        };
        [
            (CPU_PERCENT, swing(7.0, 2.0, 80.0)),
            (MEMORY_PERCENT, swing(61.0, 30.0, 45.0)),
            (DISK_PERCENT, swing(997.0, 40.0, 41.0)),
            (TEMPERATURE_C, swing(31.0, 41.0, 63.0)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((MetricName::new(name).ok()?, value)))
        .collect()
    }

    /// Appends one numbered event.
    fn emit(&mut self) {
        let Some(emitter) = &mut self.outbox else {
            return;
        };
        let data = serde_json::json!({ "n": emitter.emitted + 1 });
        emitter.emitted =
            tokio::task::block_in_place(|| emitter.outbox.append("soak.tick", now(), data));
        // A line survives the death of this process, if not of the machine: that is enough for a soak.
        let _ = writeln!(emitter.journal, "{}", emitter.emitted);
        self.counters.emitted.fetch_add(1, Ordering::Relaxed);
    }

    fn send_events(&mut self, client: &AsyncClient) {
        let Some(emitter) = &mut self.outbox else {
            return;
        };
        let batch = tokio::task::block_in_place(|| emitter.outbox.pending(Limit::default()));
        if let Some(batch) = batch {
            self.publish(client, FromRobot::Events, MessageType::Events, &batch);
        }
    }

    fn receive(&mut self, topic: &[u8], payload: &[u8]) {
        let Ok(topic) = lekiwi_protocol::Topic::parse(&String::from_utf8_lossy(topic)) else {
            return;
        };
        if !matches!(
            topic.path,
            lekiwi_protocol::topic::Path::To(_, lekiwi_protocol::ToRobot::Ack)
        ) {
            return;
        }
        if let (Some(emitter), Ok(envelope)) = (
            &mut self.outbox,
            Envelope::<Ack>::parse(MessageType::Ack, &self.id, payload),
        ) {
            self.counters
                .acknowledgements
                .fetch_add(1, Ordering::Relaxed);
            tokio::task::block_in_place(|| emitter.outbox.acknowledge(&envelope.payload));
        }
    }
}

/// Forwards packets until the connection ends; dropping the sender says so.
async fn poll(mut eventloop: EventLoop, packets: mpsc::Sender<Packet>) {
    while let Ok(event) = eventloop.poll().await {
        if let Event::Incoming(packet) = event
            && packets.send(packet).await.is_err()
        {
            return;
        }
    }
}

/// The simulator's clock is this machine's.
fn now() -> Timestamp {
    SystemTime::now().into()
}
