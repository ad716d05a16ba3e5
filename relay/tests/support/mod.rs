//! A relay in this process, with a certificate authority, real TLS and real MQTT clients.
#![expect(dead_code, reason = "each test program uses its own part")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lekiwi_protocol::{Org, RelayId, RobotId, Root};
use lekiwi_relay::broker::{Broker, BrokerError, Config, StoreAuthority};
use lekiwi_relay::clock;
use lekiwi_relay::ingest::{Handle, Ingest, Settings, own_source};
use lekiwi_relay::live::{Todo, Watcher};
use lekiwi_relay::metrics::Metrics;
use lekiwi_relay::protect::Protect;
use lekiwi_relay::store::records::{Certificate, CertificateKind, NewEvent};
use lekiwi_relay::store::{Batch, Store};
use lekiwi_relay_core::Policy;
use lekiwi_relay_core::history::Retention;
use lekiwi_relay_core::protect::Limits;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SerialNumber,
};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, Filter, LastWill, Packet, PubAckReason, Publish, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What is to be done next for a listener of the live stream.
pub(crate) async fn next(watcher: &Watcher) -> Vec<Todo> {
    tokio::time::timeout(PATIENCE, watcher.next(10_000))
        .await
        .expect("something in time")
        .unwrap()
}

/// A client's certificate and key.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    pub(crate) der: Vec<u8>,
    pub(crate) serial: String,
}

/// A certificate authority.
pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn issue(&self, name: &str, org: &str, unit: &str, serial: u64) -> Identity {
        let key = KeyPair::generate().unwrap();
        let server = unit == "server";
        let mut params = CertificateParams::new(if server {
            vec!["localhost".to_owned()]
        } else {
            vec![]
        })
        .unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, org);
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, unit);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![if server {
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        }];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            der: cert.der().to_vec(),
            serial: format!("{serial:x}"),
        }
    }

    pub(crate) fn tls(&self, identity: &Identity) -> TlsConfiguration {
        tls(&self.pem, identity)
    }

    /// A client of whichever broker has a certificate of this authority and listens on `port`.
    pub(crate) fn options(&self, port: u16, identity: &Identity, client_id: &str) -> MqttOptions {
        options(&self.pem, port, identity, client_id)
    }
}

fn tls(ca_pem: &str, identity: &Identity) -> TlsConfiguration {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes())
                .collect::<Result<_, _>>()
                .unwrap(),
            PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    TlsConfiguration::Rustls(Arc::new(config))
}

/// A client of whichever broker has a certificate of the authority and listens on `port`.
pub(crate) fn options(
    ca_pem: &str,
    port: u16,
    identity: &Identity,
    client_id: &str,
) -> MqttOptions {
    let mut options = MqttOptions::new(client_id, "localhost", port);
    options.set_transport(Transport::Tls(tls(ca_pem, identity)));
    options.set_keep_alive(Duration::from_secs(15));
    options.set_clean_start(true);
    options.set_max_packet_size(Some(512 * 1024));
    options.set_outgoing_inflight_upper_limit(100);
    options
}

/// A running relay.
pub(crate) struct Relay {
    pub(crate) ca: Ca,
    pub(crate) dir: TempDir,
    pub(crate) root: Root,
    pub(crate) store: Store,
    pub(crate) handle: Handle,
    pub(crate) broker: Arc<Broker>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) protect: Arc<Protect>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    next_serial: std::sync::atomic::AtomicU64,
}

pub(crate) async fn start_broker(
    dir: &Path,
    ca: &Ca,
    store: &Store,
    metrics: &Arc<Metrics>,
    listen: &str,
    protect: Arc<Protect>,
) -> Result<(Broker, lekiwi_relay::broker::Inputs), BrokerError> {
    let server = ca.issue("localhost", "default", "server", 1);
    std::fs::write(dir.join("ca.pem"), &ca.pem).unwrap();
    std::fs::write(dir.join("server.pem"), &server.cert_pem).unwrap();
    std::fs::write(dir.join("server.key"), &server.key_pem).unwrap();
    let config = Config {
        listen: listen.parse().unwrap(),
        certificate: dir.join("server.pem"),
        key: dir.join("server.key"),
        client_ca: dir.join("ca.pem"),
        root: Root::default(),
    };
    let authority = Arc::new(StoreAuthority::new(
        store.clone(),
        Org::default(),
        "relay:r1".into(),
    ));
    Broker::start(config, authority, metrics.clone(), protect).await
}

impl Relay {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("relay.db");
        Self::start_with(dir, Ca::new(), &database).await
    }

    pub(crate) async fn start_with(dir: TempDir, ca: Ca, database: &Path) -> Self {
        Self::start_by(Policy::Open, dir, ca, database).await
    }

    pub(crate) async fn start_by(
        registration: Policy,
        dir: TempDir,
        ca: Ca,
        database: &Path,
    ) -> Self {
        Self::start_all(registration, Limits::default(), dir, ca, database).await
    }

    /// One that does not trust this machine.
    pub(crate) async fn start_limited(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("relay.db");
        let limits = Limits {
            trusted: Vec::new(),
            ..limits
        };
        Self::start_all(Policy::Open, limits, dir, Ca::new(), &database).await
    }

    async fn start_all(
        registration: Policy,
        limits: Limits,
        dir: TempDir,
        ca: Ca,
        database: &Path,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        let (store, commits) = Store::open(database, metrics.clone()).unwrap();
        let settings = Settings {
            root: Root::default(),
            relay_id: RelayId::new("relay-1").unwrap(),
            retention: Retention::default(),
            registration,
            alerts: lekiwi_relay::ingest::alerts::Settings::default(),
            sharing: None,
            traces: Default::default(),
        };
        let (handle, ingest) = Ingest::restore(settings, store.clone(), commits, metrics.clone())
            .await
            .unwrap();
        let protect = Protect::new(limits, metrics.clone());
        let listen = "127.0.0.1:0";
        let (broker, inputs) =
            start_broker(dir.path(), &ca, &store, &metrics, listen, protect.clone())
                .await
                .unwrap();
        let broker = Arc::new(broker);
        let stop = CancellationToken::new();
        let task = tokio::spawn(ingest.run(broker.clone(), inputs, stop.clone()));
        let next_serial = std::sync::atomic::AtomicU64::new(100);
        Self {
            ca,
            dir,
            root: Root::default(),
            store,
            handle,
            broker,
            metrics,
            protect,
            stop,
            task,
            next_serial,
        }
    }

    /// Stops everything in order; the folder and the authority remain.
    pub(crate) async fn stop(self) -> (TempDir, Ca) {
        self.stop.cancel();
        self.task.await.unwrap();
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.close())
            .await
            .unwrap();
        (self.dir, self.ca)
    }

    async fn enrol(&self, name: &str, kind: CertificateKind) -> Identity {
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        let identity = self.ca.issue(name, "default", kind.as_str(), serial);
        self.store
            .insert_certificate(Certificate {
                serial: identity.serial.clone(),
                common_name: name.to_owned(),
                kind,
                key: [0; 32],
                not_before_ms: 0,
                not_after_ms: u64::from(u32::MAX) * 1_000,
                revoked_ms: None,
                der: identity.der.clone(),
            })
            .await
            .unwrap();
        identity
    }

    pub(crate) async fn robot(&self, id: &str) -> Identity {
        self.robot_as(id, serde_json::json!({})).await
    }

    /// A robot whose enrolment said `data`; in the log, and in the picture.
    pub(crate) async fn robot_as(&self, id: &str, data: serde_json::Value) -> Identity {
        let identity = self.enrol(id, CertificateKind::Robot).await;
        self.store.submit(Batch {
            events: vec![NewEvent {
                aggregate_type: "robot",
                aggregate_id: id.into(),
                source: own_source(&RelayId::new("r1").unwrap()),
                stream: uuid::Uuid::new_v4(),
                seq: 1,
                kind: lekiwi_protocol::message::kind::REGISTERED.into(),
                ts_ms: 7,
                received_ms: 8,
                data: data.to_string().into(),
                metadata: "{}".into(),
            }],
            ..Batch::default()
        });
        until("the robot is registered", async || {
            self.view(id)
                .is_some_and(|view| view.status.registered_at.is_some())
        })
        .await;
        identity
    }

    pub(crate) async fn consumer(&self, name: &str) -> Identity {
        self.enrol(&format!("consumer:{name}"), CertificateKind::Consumer)
            .await
    }

    pub(crate) fn tls(&self, identity: &Identity) -> TlsConfiguration {
        self.ca.tls(identity)
    }

    pub(crate) fn options(&self, identity: &Identity, client_id: &str) -> MqttOptions {
        self.ca.options(self.port(), identity, client_id)
    }

    pub(crate) fn port(&self) -> u16 {
        self.broker.address().unwrap().port()
    }

    pub(crate) async fn connect(&self, identity: &Identity, client_id: &str) -> Client {
        Client::connect(self.options(identity, client_id))
            .await
            .unwrap()
    }

    /// The refusals on record, as `client topic: reason`, oldest first.
    pub(crate) async fn refused(&self) -> Vec<String> {
        let mut rows = self.store.refused(100).await.unwrap();
        rows.reverse();
        rows.into_iter()
            .map(|row| format!("{} {}: {}", row.client, row.topic, row.reason))
            .collect()
    }

    /// Waits until the refusal is on record.
    pub(crate) async fn refusal(&self, expected: &str) {
        let deadline = clock::monotonic() + PATIENCE;
        loop {
            let refused = self.refused().await;
            if refused.iter().any(|line| line == expected) {
                return;
            }
            assert!(
                clock::monotonic() < deadline,
                "expected {expected:?}, got {refused:#?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn view(&self, id: &str) -> Option<lekiwi_protocol::api::RobotView> {
        self.handle.robot(&RobotId::new(id).unwrap())
    }
}

/// Waits until `what` says yes.
pub(crate) async fn until(description: &str, mut what: impl AsyncFnMut() -> bool) {
    let deadline = clock::monotonic() + PATIENCE;
    while !what().await {
        assert!(
            clock::monotonic() < deadline,
            "did not come about: {description}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An MQTT 5 client whose event loop runs by itself.
pub(crate) struct Client {
    pub(crate) client: AsyncClient,
    packets: mpsc::UnboundedReceiver<Packet>,
    /// Messages that came while an answer was waited for.
    waiting: std::collections::VecDeque<Publish>,
    deaf: Arc<AtomicBool>,
    pub(crate) events: JoinHandle<ConnectionError>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.events.abort();
    }
}

async fn run(
    mut events: EventLoop,
    packets: mpsc::UnboundedSender<Packet>,
    deaf: Arc<AtomicBool>,
) -> ConnectionError {
    loop {
        if deaf.load(Ordering::Relaxed) {
            // Keeps the socket open and never reads again.
            std::future::pending::<()>().await;
        }
        match events.poll().await {
            Ok(Event::Incoming(packet)) => {
                let _ = packets.send(packet);
            }
            Ok(Event::Outgoing(_)) => {}
            Err(error) => return error,
        }
    }
}

impl Client {
    pub(crate) async fn connect(options: MqttOptions) -> Result<Self, ConnectionError> {
        let (client, mut events) = AsyncClient::new(options, 100);
        loop {
            if let Event::Incoming(Packet::ConnAck(ack)) = events.poll().await? {
                assert_eq!(ack.code, ConnectReturnCode::Success);
                break;
            }
        }
        let (sender, packets) = mpsc::unbounded_channel();
        let deaf = Arc::new(AtomicBool::new(false));
        Ok(Self {
            client,
            packets,
            waiting: std::collections::VecDeque::new(),
            events: tokio::spawn(run(events, sender, deaf.clone())),
            deaf,
        })
    }

    /// Waits until the broker has ended the connection.
    pub(crate) async fn ended(mut self) {
        let ended = async { while self.packets.recv().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended)
            .await
            .expect("the connection's end");
    }

    /// Reads at most one more packet, and keeps the connection open.
    pub(crate) fn stop_reading(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// The next packet that is not an answer to a ping.
    async fn packet(&mut self) -> Packet {
        let packet = async {
            loop {
                match self.packets.recv().await.expect("a connection") {
                    Packet::PingResp(_) => {}
                    packet => return packet,
                }
            }
        };
        tokio::time::timeout(PATIENCE, packet)
            .await
            .expect("a packet in time")
    }

    /// Publishes with QoS 1 and gives the broker's answer.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: impl Into<Vec<u8>>,
        retain: bool,
    ) -> PubAckReason {
        self.client
            .publish(topic, QoS::AtLeastOnce, retain, payload.into())
            .await
            .unwrap();
        loop {
            match self.packet().await {
                Packet::PubAck(ack) => return ack.reason,
                Packet::Publish(publish) => self.waiting.push_back(publish),
                _ => {}
            }
        }
    }

    /// Subscribes and gives the broker's answer.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> SubscribeReasonCode {
        self.client
            .subscribe_many([Filter::new(filter, QoS::AtLeastOnce)])
            .await
            .unwrap();
        loop {
            match self.packet().await {
                Packet::SubAck(ack) => return ack.return_codes[0],
                Packet::Publish(publish) => self.waiting.push_back(publish),
                _ => {}
            }
        }
    }

    /// The next message.
    pub(crate) async fn message(&mut self) -> Publish {
        if let Some(publish) = self.waiting.pop_front() {
            return publish;
        }
        loop {
            if let Packet::Publish(publish) = self.packet().await {
                return publish;
            }
        }
    }

    /// The messages that came so far, and were not taken yet.
    pub(crate) fn heard(&mut self) -> Vec<Publish> {
        while let Ok(packet) = self.packets.try_recv() {
            if let Packet::Publish(publish) = packet {
                self.waiting.push_back(publish);
            }
        }
        self.waiting.drain(..).collect()
    }

    /// Goes without a word.
    pub(crate) fn vanish(self) {
        drop(self);
    }
}

pub(crate) fn will(topic: &str, payload: String) -> LastWill {
    LastWill::new(topic, payload, QoS::AtLeastOnce, true, None)
}

pub(crate) fn from(robot: &str, rest: &str) -> String {
    format!("fleet/v1/default/robots/{robot}/from/{rest}")
}

pub(crate) fn envelope(robot: &str, kind: &str, payload: &serde_json::Value) -> String {
    serde_json::json!({
        "type": kind, "robot_id": robot, "timestamp": "2026-11-21T03:52:00.000Z", "sequence": 1, "payload": payload,
    })
    .to_string()
}

pub(crate) fn connection(robot: &str, session: u128, state: &str) -> String {
    let session = uuid::Uuid::from_u128(session);
    envelope(
        robot,
        "connection",
        &serde_json::json!({ "session": session, "state": state }),
    )
}

pub(crate) fn events(robot: &str, stream: u128, seqs: std::ops::RangeInclusive<u64>) -> String {
    let events: Vec<_> = seqs
        .map(|seq| serde_json::json!({ "seq": seq, "type": "agent.started", "timestamp": "2026-11-21T03:52:00.000Z" }))
        .collect();
    let stream = uuid::Uuid::from_u128(stream);
    envelope(
        robot,
        "events",
        &serde_json::json!({ "stream": stream, "ordinal": 1, "events": events }),
    )
}
