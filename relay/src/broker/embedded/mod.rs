//! The embedded MQTT broker: TLS with client certificates, MQTT 3.1.1 and 5 on one port. Nothing
//! outside this folder knows that it is rmqtt.
//!
//! Invariants: a client is who its certificate says, and no certificate is admitted that the
//! [`Authority`] does not know; a robot writes only its own `from/#`, by publish and by will; what a
//! hook refused is counted and reported; consumers get messages of admitted robots only; a subscriber that does not read is disconnected; publishing
//! never waits for ingest, but for births, deaths and states, which must not be lost.

mod admission;
mod clients;
mod gate;
mod hooks;
mod retained;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::Claim;
use lekiwi_protocol::message::{Connection, ConnectionState};
use lekiwi_protocol::{Envelope, RobotId, Root, Topic};
use rmqtt::codec::types::{Publish as CodecPublish, QoS};
use rmqtt::context::ServerContext;
use rmqtt::hook::Type;
use rmqtt::net::Builder;
use rmqtt::router::{DefaultRouter, Router};
use rmqtt::server::MqttServer;
use rmqtt::session::SessionState;
use rmqtt::types::{ClientId, From, Id, Message, Publish, Reason, Retain, SubscribeReturn};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::admission::Admission;
use self::clients::Clients;
use self::gate::{Change, Gate, GatedRouter};
use self::retained::Retained;
use super::tap::Tap;
use super::{Authority, BrokerError, Inputs};
use crate::clock;
use crate::metrics::Metrics;
use crate::protect::Protect;

/// A subscriber that has not emptied its queue for so long is disconnected.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// From here on that is said.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Messages that wait for a client at most.
const MAX_QUEUE: usize = 20_000;
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Time for clients to be sent away when the relay stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where and with which files to listen.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Server certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authorities whose client certificates are accepted, PEM.
    pub client_ca: PathBuf,
    /// Prefix and organisation.
    pub root: Root,
}

/// A running broker; stops when dropped.
pub struct Embedded {
    context: ServerContext,
    clients: Arc<Clients>,
    gate: Arc<Gate>,
    retained: Retained,
    router: DefaultRouter,
    root: Root,
    address: SocketAddr,
    own: Id,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop_listening();
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Embedded {
    /// Listens and serves until dropped. What robots say arrives at [`Inputs`].
    ///
    /// # Errors
    /// When the address is taken or a TLS file is not usable.
    pub async fn start(
        config: Config,
        authority: Arc<dyn Authority>,
        metrics: Arc<Metrics>,
        protect: Arc<Protect>,
    ) -> Result<(Self, Inputs), BrokerError> {
        let (tap, inputs) = Tap::new(metrics.clone());
        let listener = listener(&config)?;
        let address = listener.local_addr().map_err(|error| BrokerError::Listen {
            address: config.listen,
            source: io_error(error),
        })?;
        // Overload is judged by our own queues, not by the machine's load average.
        let context = ServerContext::new().busy_check_enable(false).build().await;
        let gate = Arc::new(Gate::default());
        let retained = Retained::new(gate.clone());
        *context.extends.retain_mut().await = Box::new(retained.clone());
        let router = DefaultRouter::new(Some(context.clone()));
        *context.extends.router_mut().await = Box::new(GatedRouter {
            inner: router.clone(),
            gate: gate.clone(),
        });
        *context.extends.fitter_mgr_mut().await = Box::new(Admission(protect.clone()));
        let clients = Arc::new(Clients::default());
        let hooks = hooks::Hooks {
            root: config.root.clone(),
            authority,
            gate: gate.clone(),
            tap,
            clients: clients.clone(),
            metrics: metrics.clone(),
            protect,
        };
        let register = context.extends.hook_mgr().register();
        for hook in [
            Type::ClientAuthenticate,
            Type::ClientConnected,
            Type::ClientDisconnected,
            Type::ClientSubscribeCheckAcl,
            Type::MessagePublishCheckAcl,
            Type::MessagePublish,
            Type::MessageDelivered,
            Type::MessageDropped,
        ] {
            register.add(hook, Box::new(hooks.clone())).await;
        }
        register.start().await;
        metrics.broker_up.set(1);
        let server = MqttServer::new(context.clone())
            .listener_by_id(listener, address.port())
            .build();
        let serve = tokio::spawn(async move {
            if let Err(error) = server.run().await {
                tracing::error!(%error, "the broker ended");
            }
        });
        let watch = tokio::spawn(watch_subscribers(context.clone(), clients.clone(), metrics));
        let own = Id::new(
            context.node.id(),
            0,
            None,
            None,
            ClientId::from_static(gate::OWN_CLIENT),
            None,
        );
        Ok((
            Self {
                context,
                clients,
                gate,
                retained,
                router,
                root: config.root,
                address,
                own,
                tasks: vec![serve, watch],
            },
            inputs,
        ))
    }

    /// Where it listens; the real port when port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Publishes in the relay's own name. `retain` keeps it for later subscribers.
    pub async fn publish(&self, topic: &Topic, payload: Vec<u8>, retain: bool) {
        let packet = CodecPublish {
            dup: false,
            retain,
            qos: QoS::AtMostOnce,
            topic: topic.to_string().into(),
            packet_id: None,
            payload: payload.into(),
            properties: None,
        };
        let publish = Publish::new(
            Box::new(packet),
            None,
            None,
            i64::try_from(clock::now_ms()).ok(),
        );
        self.forward(From::from_system(self.own.clone()), publish)
            .await;
    }

    /// Whether consumers hear `robot`, by what it last said it is. When they begin to, they get what the
    /// robot has retained; when they cease to, they are told that it went.
    pub async fn admit(&self, robot: &RobotId, admitted: bool, judged: Option<Claim>) {
        match self.gate.judge(robot, admitted, judged) {
            Change::Opened => {
                for retain in self.retained(robot, "+") {
                    let mut publish = retain.publish;
                    publish.retain = false;
                    // By way of the gate it might wait for the next verdict, which comes after this one.
                    if self.gate.is_open(robot)
                        && let Err(error) = self.deliver(retain.from, &publish).await
                    {
                        tracing::warn!(%robot, %error, "could not tell consumers of it");
                    }
                }
            }
            Change::Expelled => {
                if let Some((from, publish)) = self.farewell(robot)
                    && let Err(error) = self.deliver(from, &publish).await
                {
                    tracing::warn!(%robot, %error, "could not tell consumers that it went");
                }
            }
            Change::None => {}
        }
    }

    fn retained(&self, robot: &RobotId, level: &str) -> Vec<Retain> {
        let filter = format!("{}/robots/{robot}/from/{level}", self.root);
        // The filter is one of the contract.
        let kept = self.retained.kept(&filter).unwrap_or_default();
        kept.into_iter().map(|(_, retain)| retain).collect()
    }

    /// The death of a robot that was shown as online, as its will would say it.
    fn farewell(&self, robot: &RobotId) -> Option<(From, Publish)> {
        let retain = self.retained(robot, "connection").pop()?;
        let mut envelope: Envelope<Connection> =
            serde_json::from_slice(&retain.publish.payload).ok()?;
        if envelope.payload.state != ConnectionState::Online {
            return None;
        }
        envelope.payload.state = ConnectionState::ConnectionBroken;
        let mut publish = retain.publish;
        publish.retain = false;
        publish.payload = envelope.to_json().into();
        Some((retain.from, publish))
    }

    /// Past the gate, which is closed for this robot.
    async fn deliver(&self, from: From, publish: &Publish) -> rmqtt::Result<()> {
        let mut relations = self.router.matches(from.id.clone(), &publish.topic).await?;
        if let Some(relations) = relations.remove(&self.context.node.id()) {
            let shared = self.context.extends.shared().await;
            // Whom it cannot reach is not there any more.
            let _ = shared.forwards_to(from, publish, relations, None).await;
        }
        Ok(())
    }

    async fn forward(&self, from: From, publish: Publish) {
        let topic = publish.topic.clone();
        if let Err(error) =
            SessionState::forwards(&self.context, from, publish, false, Some(Duration::ZERO)).await
        {
            tracing::warn!(%topic, %error, "could not publish");
        }
    }

    /// See [`Broker::disconnect`](super::Broker::disconnect).
    pub async fn disconnect(&self, common_name: &str) {
        for id in self.clients.of(common_name) {
            if let Err(error) = kick(&self.context, &id).await {
                tracing::warn!(client = %id.client_id, %error, "could not disconnect");
            }
        }
    }

    /// Takes no more connections; those that stand end with the runtime.
    pub fn stop_listening(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }

    /// Stops listening and lets go of everybody, upon which agents come back after a random time. Waits for them to be
    /// gone, [`FAREWELL`] at most.
    pub async fn stop(&self) {
        self.stop_listening();
        for id in self.clients.ids() {
            let entry = self.context.extends.shared().await.entry(id);
            if let Some(tx) = entry.tx() {
                // It may have gone by itself meanwhile. MQTT's "server shutting down" is spelled so; rmqtt closes the
                // connection before it would say it, as it does with all reasons.
                let _ = tx.unbounded_send(Message::Closed(Reason::ConnectRemoteClose));
            }
        }
        let gone = async {
            while self.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(FAREWELL, gone).await.is_err() {
            tracing::warn!(
                clients = self.connections(),
                "cut MQTT clients that did not go in time"
            );
        }
    }
}

async fn kick(context: &ServerContext, id: &Id) -> rmqtt::Result<()> {
    let entry = context.extends.shared().await.entry(id.clone());
    entry.try_lock().await?.kick(true, true, true).await?;
    Ok(())
}

fn io_error(error: rmqtt::Error) -> io::Error {
    error
        .downcast::<io::Error>()
        .unwrap_or_else(|error| io::Error::other(error.to_string()))
}

fn listener(config: &Config) -> Result<rmqtt::net::Listener, BrokerError> {
    let text = |path: &PathBuf| Some(path.to_string_lossy().into_owned());
    Builder::new()
        .name("lekiwi")
        .laddr(config.listen)
        .reuseaddr(Some(true))
        .backlog(4_096)
        .nodelay(true)
        .allow_anonymous(false)
        .collect_cert_info(true)
        .tls_cross_certificate(true)
        .tls_client_ca_certs(text(&config.client_ca))
        .tls_cert(text(&config.certificate))
        .tls_key(text(&config.key))
        // Well above the contract's limit, so that our own check refuses, counts and keeps it.
        .max_packet_size(256 * 1024)
        .max_clientid_len(128)
        .max_topic_levels(16)
        .max_subscriptions(64)
        .max_topic_aliases(0)
        .allow_zero_keepalive(false)
        .max_keepalive(3_600)
        .max_qos_allowed(QoS::AtLeastOnce)
        // The defaults lose most of a burst without a word.
        .max_inflight(NonZeroU16::new(1_024).unwrap_or(NonZeroU16::MIN))
        .max_mqueue_len(MAX_QUEUE)
        .send_timeout(Duration::from_secs(5))
        .handshake_timeout(Duration::from_secs(15))
        // Nothing waits in the broker for a client that went: the contract's own queues do that.
        .session_expiry_interval(Duration::from_secs(1))
        .max_session_expiry_interval(Duration::from_secs(1))
        .message_expiry_interval(Duration::ZERO)
        .bind()
        .map_err(|error| BrokerError::Listen {
            address: config.listen,
            source: io_error(error),
        })?
        .tls()
        .map_err(|error| BrokerError::Tls(format!("{error:#}")))
}

/// What a consumer was asked.
struct Question {
    since: std::time::Instant,
    answer: oneshot::Receiver<Vec<rmqtt::Result<SubscribeReturn>>>,
    is_slow: bool,
}

/// Puts a question into each consumer's queue and waits for its turn to come. A session that does not
/// get there is stuck writing to a client that does not read, and its queue grows without a bound.
async fn watch_subscribers(context: ServerContext, clients: Arc<Clients>, metrics: Arc<Metrics>) {
    let mut asked: HashMap<Id, Question> = HashMap::new();
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    loop {
        ticks.tick().await;
        let now = clock::monotonic();
        let ids = clients.ids();
        asked.retain(|id, _| ids.contains(id));
        for id in ids {
            match asked.get_mut(&id) {
                Some(question) => {
                    let waited = now.saturating_duration_since(question.since);
                    let answer = question.answer.try_recv();
                    if !matches!(answer, Err(oneshot::error::TryRecvError::Empty)) {
                        asked.remove(&id);
                    } else if waited > STALLED_AFTER {
                        asked.remove(&id);
                        metrics.stalled.inc();
                        tracing::warn!(client = %id.client_id, "disconnected: it does not read what it subscribed to");
                        cut_off(&context, &clients, &id).await;
                    } else if waited > SLOW_AFTER && !question.is_slow {
                        question.is_slow = true;
                        clients.slow(&metrics, &id, waiting(&context, &id).await);
                    }
                }
                None if hooks::is_consumer(&id.client_id) => {
                    let waiting = waiting(&context, &id).await;
                    if waiting > MAX_QUEUE / 2 {
                        clients.slow(&metrics, &id, waiting);
                    }
                    let entry = context.extends.shared().await.entry(id.clone());
                    let (question, answer) = oneshot::channel();
                    if entry.tx().is_some_and(|tx| {
                        tx.unbounded_send(Message::Subscribes(Vec::new(), Some(question)))
                            .is_ok()
                    }) {
                        let question = Question {
                            since: now,
                            answer,
                            is_slow: false,
                        };
                        asked.insert(id, question);
                    }
                }
                None => {}
            }
        }
    }
}

/// Messages that wait for the client in its queue.
async fn waiting(context: &ServerContext, id: &Id) -> usize {
    let entry = context.extends.shared().await.entry(id.clone());
    let session = entry.session();
    session.map_or(0, |session| session.deliver_queue().len())
}

/// Ends a session that does not listen even to us: no more messages reach its queue from now on, and
/// it goes when its write times out.
async fn cut_off(context: &ServerContext, clients: &Clients, id: &Id) {
    let entry = context.extends.shared().await.entry(id.clone());
    if let Ok(mut locked) = entry.try_lock().await
        && let Ok(Some((_, tx))) = locked.remove().await
    {
        // Heard when it gets that far.
        let _ = tx.unbounded_send(Message::Closed(Reason::from_static("does not read")));
    }
    clients.left(id);
}
