//! An MQTT broker of the fleet's own, such as Mosquitto, of which the relay is an MQTT 5 client. Whatever robots say
//! comes by one subscription; births, goodbyes and wills say who is connected.
//!
//! One connection: brokers that take the client id from the certificate, as `deploy/mosquitto` does, know each certificate
//! once. It begins anew each time, without a session: what must not be lost waits with the robots until the relay itself
//! acknowledges it, and what the fleet looks like is in the retained messages.
//!
//! Of several relays on one broker and one log, all hear what makes the picture; each event and late sample goes to one of
//! them, by a shared subscription, which a relay leaves while its store cannot write.
//!
//! Invariants: publishing never waits; a message is acknowledged to the broker when it is read, and the next one is not
//! read before ingest has taken it; what the relay retains of itself and of alerts is said again on each connection.

mod address;
mod retained;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lekiwi_protocol::limits::MAX_PAYLOAD_BYTES;
use lekiwi_protocol::message::RelayBirth;
use lekiwi_protocol::topic::Path;
use lekiwi_protocol::{RelayId, Root, Timestamp, Topic};
use rcgen::{KeyPair, PublicKeyData};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, LastWill, Packet, PubAckReason, Publish, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, MqttOptions};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::address::{Address, AddressError};
use self::retained::Retained;
use super::tap::Tap;
use super::{BrokerError, Input, Inputs};
use crate::clock;
use crate::identity::authority::{Authority, AuthorityError, Subject};
use crate::metrics::Metrics;
use crate::store::records::Refused;
use crate::traces::Arrived;

/// Messages on their way to the broker. What finds no room is given up; all but retained ones are said again anyway.
const QUEUE: usize = 16_384;
/// A broker that is gone is noticed within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT_S: u64 = 10;
/// Room for topic and properties around the largest payload.
const MAX_PACKET_BYTES: u32 = MAX_PAYLOAD_BYTES as u32 + 4_096;
/// The first pause before the next attempt, and the longest; each is random between half of it and all.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The relay's certificate for the broker is made anew for each connection, and its key lives in memory only.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Time for the goodbye.
const FAREWELL: Duration = Duration::from_secs(3);
/// Bytes of a refused payload that are kept for inspection.
const KEPT_PAYLOAD: usize = 512;

/// What each of several relays hears, below `from/`: the picture.
const HEARD_BY_ALL: [&str; 7] = [
    "connection",
    "factsheet",
    "state",
    "heartbeat",
    "telemetry",
    "reported",
    "cmd/+",
];
/// What one of them hears: what is for the log and for history only.
const SHARED: [&str; 2] = ["events", "backlog"];
/// The group of those who share.
const GROUP: &str = "$share/relays";

/// Whose client of which broker.
#[derive(Debug)]
pub struct Membership {
    /// The broker.
    pub address: Address,
    /// This relay.
    pub relay_id: RelayId,
    /// Prefix and organisation.
    pub root: Root,
    /// The fleet's authority: it signs the relay's certificate, and the broker's must be of it.
    pub authority: Arc<Authority>,
    /// Whether other relays may be there, on the same log.
    pub is_shared: bool,
}

impl Membership {
    /// What this relay alone subscribes to. Corrections of what robots retained are the relay's own words.
    fn filters(&self) -> Vec<Filter> {
        let filter = |path| Filter {
            nolocal: true,
            ..Filter::new(path, QoS::AtLeastOnce)
        };
        if !self.is_shared {
            return vec![filter(self.root.all_robots())];
        }
        let heard = HEARD_BY_ALL.into_iter();
        heard
            .map(|level| filter(self.root.all_robots_from(level)))
            .collect()
    }

    /// What it shares with the others.
    fn shared_filters(&self) -> Vec<String> {
        if !self.is_shared {
            return Vec::new();
        }
        let shared = SHARED.into_iter();
        shared
            .map(|level| format!("{GROUP}/{}", self.root.all_robots_from(level)))
            .collect()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Away {
    #[error("cannot make the relay's certificate: {0}")]
    Certificate(#[from] AuthorityError),
    #[error("cannot use the relay's certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("the broker refused a subscription: {0:?}")]
    Subscription(SubscribeReasonCode),
}

/// What is said to the broker.
#[derive(Debug)]
enum Link {
    Up(AsyncClient),
    Down {
        reason: String,
    },
    /// The relay stops.
    Over,
}

#[derive(Debug)]
struct Out {
    link: Link,
    /// What the relay retains, by topic; an empty one clears what an earlier connection retained.
    kept: BTreeMap<String, Vec<u8>>,
    /// Whether it takes its part of what is shared.
    takes_share: bool,
}

#[derive(Debug)]
struct Shared {
    address: Address,
    out: Mutex<Out>,
    is_up: watch::Sender<bool>,
    /// What is shared with other relays.
    shared_filters: Vec<String>,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins or ceases to take its part of what is shared.
    fn share(&self, client: &AsyncClient, takes: bool) {
        if takes {
            let filters = self.shared_filters.iter();
            let filters = filters.map(|path| Filter::new(path.clone(), QoS::AtLeastOnce));
            let filters: Vec<Filter> = filters.collect();
            if !filters.is_empty() && client.try_subscribe_many(filters).is_err() {
                self.metrics.shed("broker", 1);
            }
            return;
        }
        for path in &self.shared_filters {
            if client.try_unsubscribe(path.clone()).is_err() {
                self.metrics.shed("broker", 1);
            }
        }
    }

    fn say(&self, client: &AsyncClient, topic: String, payload: Vec<u8>, retain: bool) -> bool {
        // What is not retained is sent again until it is answered.
        let qos = if retain {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        let fits = client.try_publish(topic, qos, retain, payload).is_ok();
        if !fits {
            self.metrics.shed("broker", 1);
        }
        fits
    }
}

/// An external broker.
#[derive(Debug)]
pub struct External {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for External {
    fn drop(&mut self) {
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }
}

impl External {
    pub(super) fn join(
        membership: Membership,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Inputs), BrokerError> {
        let key =
            KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(BrokerError::Key)?;
        let (tap, inputs) = Tap::new(metrics.clone());
        let shared = Arc::new(Shared {
            address: membership.address.clone(),
            out: Mutex::new(Out {
                link: Link::Down {
                    reason: "no connection yet".to_owned(),
                },
                kept: BTreeMap::new(),
                takes_share: true,
            }),
            is_up: watch::channel(false).0,
            shared_filters: membership.shared_filters(),
            metrics,
        });
        let member = Member {
            membership,
            key,
            tap,
            shared: shared.clone(),
            retained: Retained::default(),
        };
        let task = Mutex::new(Some(tokio::spawn(member.run())));
        Ok((Self { shared, task }, inputs))
    }

    fn task(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    pub(super) fn publish(&self, topic: &Topic, payload: Vec<u8>, retain: bool) {
        let out = &mut *self.shared.out();
        let text = topic.to_string();
        // What robots retain is theirs: said again later, it might overtake a newer word of theirs.
        let is_own = matches!(topic.path, Path::Relay(_) | Path::Alert(_));
        if retain && is_own {
            out.kept.insert(text.clone(), payload.clone());
        }
        if let Link::Up(client) = &out.link {
            let is_cleared = payload.is_empty();
            if self.shared.say(client, text.clone(), payload, retain) && is_cleared {
                out.kept.remove(&text);
            }
        }
    }

    pub(super) fn missing(&self) -> Option<String> {
        let out = self.shared.out();
        let reason = match &out.link {
            Link::Up(_) => return None,
            Link::Down { reason } => reason,
            Link::Over => "the relay has left it",
        };
        Some(format!(
            "the broker at {} is away: {reason}",
            self.shared.address
        ))
    }

    /// Whether the broker is there.
    pub(super) fn is_up(&self) -> watch::Receiver<bool> {
        self.shared.is_up.subscribe()
    }

    /// Whether it takes its part of what is shared; the others have it while it does not.
    pub(super) fn take_share(&self, takes: bool) {
        let out = &mut *self.shared.out();
        if std::mem::replace(&mut out.takes_share, takes) != takes
            && let Link::Up(client) = &out.link
        {
            self.shared.share(client, takes);
        }
    }

    /// Says goodbye after all that was published.
    pub(super) async fn stop(&self) {
        let Some(mut task) = self.task().take() else {
            return;
        };
        let last = std::mem::replace(&mut self.shared.out().link, Link::Over);
        if let Link::Up(client) = last
            && client.try_disconnect().is_ok()
            && tokio::time::timeout(FAREWELL, &mut task).await.is_ok()
        {
            return;
        }
        task.abort();
    }
}

/// The task that has the connection.
struct Member {
    membership: Membership,
    key: KeyPair,
    tap: Tap,
    shared: Arc<Shared>,
    retained: Retained,
}

impl Member {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = clock::monotonic();
            let away = match self.session().await {
                Ok(never) => match never {},
                Err(away) => away,
            };
            if self.is_over(&away.to_string()) {
                return;
            }
            if clock::monotonic().saturating_duration_since(began) > MAX_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(random_part(pause)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Notes that there is no connection; whether there is to be none any more.
    fn is_over(&self, reason: &str) -> bool {
        let out = &mut *self.shared.out();
        let address = &self.shared.address;
        self.shared.metrics.broker_up.set(0);
        self.shared.is_up.send_replace(false);
        match &out.link {
            Link::Over => return true,
            Link::Down { reason: known } if known == reason => {}
            Link::Up(_) | Link::Down { .. } => {
                tracing::warn!(%address, reason, "the broker is away; robots keep their events");
            }
        }
        out.link = Link::Down {
            reason: reason.to_owned(),
        };
        false
    }

    /// One connection, to its end.
    async fn session(&mut self) -> Result<std::convert::Infallible, Away> {
        let (client, mut events) = AsyncClient::new(self.options()?, QUEUE);
        loop {
            match events.poll().await? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    // The queue is empty.
                    let _ = client.try_subscribe_many(self.membership.filters());
                }
                Event::Incoming(Packet::SubAck(ack)) => {
                    let mut codes = ack.return_codes.into_iter();
                    let refused =
                        codes.find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                    match refused {
                        Some(code) => return Err(Away::Subscription(code)),
                        None => self.up(&client),
                    }
                }
                Event::Incoming(Packet::Publish(message)) => self.heard(message).await,
                Event::Incoming(Packet::PubAck(ack))
                    if !matches!(
                        ack.reason,
                        PubAckReason::Success | PubAckReason::NoMatchingSubscribers
                    ) =>
                {
                    tracing::warn!(reason = ?ack.reason, "the broker refused a message of the relay: its access rules lack one");
                }
                _ => {}
            }
        }
    }

    fn up(&self, client: &AsyncClient) {
        let out = &mut *self.shared.out();
        if matches!(out.link, Link::Over | Link::Up(_)) {
            return;
        }
        let say = |topic: &String, payload: &Vec<u8>| {
            self.shared
                .say(client, topic.clone(), payload.clone(), true)
        };
        out.kept
            .retain(|topic, payload| !(say(topic, payload) && payload.is_empty()));
        if out.takes_share {
            self.shared.share(client, true);
        }
        out.link = Link::Up(client.clone());
        self.shared.metrics.broker_up.set(1);
        self.shared.is_up.send_replace(true);
        tracing::info!(address = %self.shared.address, "connected to the broker");
    }

    fn options(&self) -> Result<MqttOptions, Away> {
        let Membership {
            address,
            relay_id,
            root,
            authority,
            is_shared: _,
        } = &self.membership;
        let subject = Subject::Relay(relay_id.clone());
        let issued = authority.issue(
            &subject,
            root.org(),
            &self.key.subject_public_key_info(),
            clock::now_ms(),
            CERTIFICATE_LIFETIME,
        )?;
        let mut roots = rustls::RootCertStore::empty();
        for root in authority.roots() {
            roots.add(root)?;
        }
        let mut chain = vec![CertificateDer::from(issued.der)];
        chain.extend(authority.path());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                chain,
                PrivatePkcs8KeyDer::from(self.key.serialize_der()).into(),
            )?;
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        let mut options =
            MqttOptions::new(subject.common_name(), address.host.clone(), address.port);
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))));
        options.set_network_options(network);
        options.set_connection_timeout(CONNECT_TIMEOUT_S);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_start(true);
        options.set_max_packet_size(Some(MAX_PACKET_BYTES));
        let death = RelayBirth {
            relay_id: relay_id.clone(),
            online: false,
            timestamp: Timestamp::from_ms(clock::now_ms()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // Texts and a time always become JSON.
        let death = serde_json::to_vec(&death).unwrap_or_default();
        let topic = root.relay(relay_id).to_string();
        options.set_last_will(LastWill::new(topic, death, QoS::AtLeastOnce, true, None));
        Ok(options)
    }

    async fn heard(&mut self, message: Publish) {
        let now_ms = clock::now_ms();
        let Publish {
            topic,
            payload,
            retain,
            properties,
            ..
        } = message;
        let topic = String::from_utf8_lossy(&topic);
        let (robot, from) = match Topic::parse(&topic) {
            Ok(Topic {
                path: Path::From(robot, from),
                ..
            }) => (robot, from),
            Ok(_) => return,
            Err(error) => return self.refuse(&topic, "topic", error.to_string(), &payload),
        };
        if payload.len() > MAX_PAYLOAD_BYTES {
            let reason = format!(
                "expected at most {MAX_PAYLOAD_BYTES} bytes, got {}",
                payload.len()
            );
            return self.refuse(&topic, "oversized", reason, &payload);
        }
        let Some(received_ms) = self.retained.heard(&robot, &from, &payload, retain, now_ms) else {
            return;
        };
        let said = properties.iter().flat_map(|it| &it.user_properties);
        let trace = Arrived::read(said.map(|(name, value)| (name.as_str(), value.as_str())));
        let input = Input::Message {
            robot,
            from,
            payload,
            received_ms,
            trace,
        };
        self.tap.message(input).await;
    }

    fn refuse(&self, topic: &str, kind: &'static str, reason: String, payload: &[u8]) {
        self.shared.metrics.refuse(kind);
        // Who it was, the broker knows.
        let client = topic.split('/').nth(4).unwrap_or_default();
        self.tap.refused(Refused {
            at_ms: clock::now_ms(),
            client: client.into(),
            topic: topic.chars().take(256).collect::<String>().into(),
            kind,
            reason,
            payload: payload[..payload.len().min(KEPT_PAYLOAD)].to_vec(),
            payload_bytes: payload.len() as u64,
        });
    }
}

/// Between half of `pause` and all of it, so that relays do not come back at the same time.
fn random_part(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers it is all of it.
    match getrandom::fill(&mut byte) {
        Ok(()) => pause / 2 + pause / 2 * u32::from(byte[0]) / 255,
        Err(_) => pause,
    }
}
