//! One MQTT 5 connection over mutual TLS. Made by the driver for each attempt, with a will of its own;
//! a task polls it, and tells the driver what happened. Nothing reconnects here: the lifecycle decides.
//!
//! Invariants: publishing never waits (a full queue is told, not waited for); at most [`IN_FLIGHT`]
//! QoS 1 messages are unanswered; an emergency stop waits for nothing that the driver has not done yet;
//! after [`Link::leave`] the goodbye is on the wire before the socket closes.

use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::limits::{KEEP_ALIVE, MAX_PAYLOAD_BYTES};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, Packet};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::Address;
use crate::estop::Estop;

/// Unanswered QoS 1 messages. Small: the library keeps a slot for each.
const IN_FLIGHT: u16 = 16;
/// Messages from the driver to the socket.
const QUEUE: usize = 32;
/// Messages from the socket to the driver. Enough for all that a relay sends at once, so that an emergency
/// stop behind it is read at once as well.
const INBOX: usize = 128;
/// Room for topic and properties around the largest payload.
const MAX_PACKET_BYTES: u32 = MAX_PAYLOAD_BYTES as u32 + 4096;
/// Longest time until TCP, TLS and MQTT agree.
const CONNECT_TIMEOUT_S: u64 = 10;
/// Longest wait for the broker to close after DISCONNECT.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What happened on the connection.
#[derive(Debug)]
pub enum LinkEvent {
    /// The broker accepted it.
    Up,
    /// A message came.
    Message {
        /// Where.
        topic: String,
        /// What.
        payload: Vec<u8>,
    },
    /// It is over, or never began.
    Down(LinkError),
    /// The goodbye is out, the connection closed.
    Left,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[error("expected a lasting connection to the broker at {address}")]
pub struct LinkError {
    /// Where.
    pub address: Address,
    /// What the MQTT library said.
    #[source]
    pub source: Box<ConnectionError>,
}

impl LinkError {
    /// Whether the broker does not take this certificate.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            *self.source,
            ConnectionError::ConnectionRefused(
                ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword
            )
        )
    }
}

/// Who connects where, and what is said when the connection breaks.
pub struct Opening {
    /// Client id, which is the robot's id.
    pub client_id: String,
    /// The broker.
    pub address: Address,
    /// Certificates.
    pub tls: ClientConfig,
    /// Topic and payload of the will, retained.
    pub will: (String, Vec<u8>),
    /// The one subscription.
    pub inbox: String,
    /// What begins emergency stops, and their topic.
    pub estop: (Estop, String),
}

/// The connection.
pub struct Link {
    client: AsyncClient,
    inbox: String,
    events: mpsc::Receiver<LinkEvent>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Begins to connect; [`Self::next`] tells how it went.
    #[must_use]
    pub fn open(opening: Opening) -> Self {
        let Opening {
            client_id,
            address,
            tls,
            will,
            inbox,
            estop,
        } = opening;
        let mut options = MqttOptions::new(client_id, &address.host, address.port);
        let (will_topic, will_payload) = will;
        let tls = TlsConfiguration::Rustls(Arc::new(tls));
        options
            .set_transport(Transport::tls_with_config(tls))
            .set_clean_start(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_connection_timeout(CONNECT_TIMEOUT_S)
            .set_max_packet_size(Some(MAX_PACKET_BYTES))
            .set_outgoing_inflight_upper_limit(IN_FLIGHT)
            .set_last_will(LastWill::new(
                will_topic,
                will_payload,
                QoS::AtLeastOnce,
                true,
                None,
            ));
        let (client, event_loop) = AsyncClient::new(options, QUEUE);
        let (sender, events) = mpsc::channel(INBOX);
        let task = tokio::spawn(poll(event_loop, address, sender, estop));
        Self {
            client,
            inbox,
            events,
            task,
        }
    }

    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> LinkEvent {
        // The sender lives until it sent Down or Left, after which the driver drops the link.
        match self.events.recv().await {
            Some(event) => event,
            None => LinkEvent::Left,
        }
    }

    /// Subscribes to the robot's inbox. Says whether the queue took it.
    pub fn subscribe(&self) -> bool {
        self.client
            .try_subscribe(self.inbox.as_str(), QoS::AtMostOnce)
            .is_ok()
    }

    /// Queues a message. Says whether the queue took it.
    pub fn publish(&self, topic: String, payload: Vec<u8>, delivery: Delivery) -> bool {
        let (qos, retain) = match delivery {
            Delivery::Once => (QoS::AtMostOnce, false),
            Delivery::Acknowledged => (QoS::AtLeastOnce, false),
            Delivery::Retained => (QoS::AtLeastOnce, true),
        };
        self.client.try_publish(topic, qos, retain, payload).is_ok()
    }

    /// Disconnects after what is queued; [`LinkEvent::Left`] tells when it is done.
    pub fn leave(&self) -> bool {
        self.client.try_disconnect().is_ok()
    }
}

/// How a message is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0.
    Once,
    /// QoS 1.
    Acknowledged,
    /// QoS 1, kept by the broker for later subscribers.
    Retained,
}

async fn poll(
    mut event_loop: EventLoop,
    address: Address,
    events: mpsc::Sender<LinkEvent>,
    (estop, estop_topic): (Estop, String),
) {
    loop {
        let event = match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => LinkEvent::Up,
            // Ahead of all that waits for the driver.
            Ok(Event::Incoming(Packet::Publish(publish))) if publish.topic == estop_topic => {
                estop.begin(&publish.payload);
                continue;
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => LinkEvent::Message {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload.to_vec(),
            },
            Ok(Event::Outgoing(Outgoing::Disconnect)) => break,
            Ok(_) => continue,
            Err(source) => {
                let source = Box::new(source);
                let _ = events
                    .send(LinkEvent::Down(LinkError { address, source }))
                    .await;
                return;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
    // The broker closes; until then the socket stays open, so that no reset overtakes the goodbye.
    let closed = async { while event_loop.poll().await.is_ok() {} };
    let _ = tokio::time::timeout(LAST_WORDS, closed).await;
    let _ = events.send(LinkEvent::Left).await;
}
