//! The fleet's MQTT broker: the [`Embedded`] one, or an [`External`] one of which the relay is a client. The `driver`
//! starts it; `ingest` reads its [`Inputs`] and publishes through the [`Broker`], and neither knows which it is.

mod authority;
mod embedded;
mod external;
mod tap;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use lekiwi_protocol::api::{Claim, ConnectionView};
use lekiwi_protocol::{FromRobot, RobotId, Topic};
use lekiwi_relay_core::Link;
use tokio::sync::{mpsc, watch};

pub use self::authority::{Authority, ClientCert, Denied, StoreAuthority};
pub use self::embedded::{Config, Embedded};
pub use self::external::{Address, AddressError, External, Membership};
use crate::metrics::Metrics;
use crate::protect::Protect;
use crate::store::records::Refused;
use crate::traces::Arrived;

/// Why the broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address cannot be had.
    #[error("cannot listen for MQTT on {address}: {}", problem(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate, key or authority file is not usable.
    #[error("cannot set up TLS for MQTT: {0}")]
    Tls(String),
    /// There is no key for the relay's own certificate.
    #[error("cannot make a key for the broker")]
    Key(#[source] rcgen::Error),
}

fn problem(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address in use",
        io::ErrorKind::AddrNotAvailable => "address not available",
        io::ErrorKind::PermissionDenied => "permission denied",
        _ => "the system refused",
    }
}

/// What the broker tells ingest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A robot published, and may.
    Message {
        /// Who; proved by its certificate.
        robot: RobotId,
        /// On which topic.
        from: FromRobot,
        /// What.
        payload: Bytes,
        /// When the relay received it.
        received_ms: u64,
        /// The trace that it belongs to, if that is kept.
        trace: Option<Box<Arrived>>,
    },
    /// A robot's connection stands.
    Connected {
        /// Who.
        robot: RobotId,
        /// The connection.
        link: Link,
        /// When.
        received_ms: u64,
    },
    /// A robot's connection is over; may arrive after the next one stands.
    Disconnected {
        /// Who.
        robot: RobotId,
        /// The connection.
        link: Link,
        /// When.
        received_ms: u64,
    },
}

/// The receiving ends of the tap.
#[derive(Debug)]
pub struct Inputs {
    /// Births, deaths and states: never dropped.
    pub urgent: mpsc::Receiver<Input>,
    /// Telemetry, heartbeats, events.
    pub bulk: mpsc::Receiver<Input>,
    /// What was turned away.
    pub refused: mpsc::Receiver<Refused>,
}

/// A running broker, or the way to one; ends when dropped.
#[derive(Debug)]
pub enum Broker {
    /// In this process.
    Embedded(Box<Embedded>),
    /// Somewhere else.
    External(External),
}

impl Broker {
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
        let (embedded, inputs) = Embedded::start(config, authority, metrics, protect).await?;
        Ok((Self::Embedded(Box::new(embedded)), inputs))
    }

    /// Becomes a client of an external broker, and stays one whenever that is there. What robots say arrives at [`Inputs`].
    ///
    /// # Errors
    /// When the system has no random numbers for a key.
    pub fn join(
        membership: Membership,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Inputs), BrokerError> {
        let (external, inputs) = External::join(membership, metrics)?;
        Ok((Self::External(external), inputs))
    }

    /// Where it listens, the real port when port 0 was asked for; nowhere in this process when it is external.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Embedded(broker) => Some(broker.address()),
            Self::External(_) => None,
        }
    }

    /// Where it is, when that is not in this process.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&Address> {
        match self {
            Self::Embedded(_) => None,
            Self::External(broker) => Some(broker.address()),
        }
    }

    /// Publishes in the relay's own name. `retain` keeps it for later subscribers. Whom it does not reach is not told
    /// later, but for what the relay retains of itself and of alerts.
    pub async fn publish(&self, topic: &Topic, payload: Vec<u8>, retain: bool) {
        match self {
            Self::Embedded(broker) => broker.publish(topic, payload, retain).await,
            Self::External(broker) => broker.publish(topic, payload, retain),
        }
    }

    /// Whether consumers hear `robot`, by what it last said it is. When they begin to, they get what the
    /// robot has retained; when they cease to, they are told that it went. An external broker gives them everything.
    pub async fn admit(&self, robot: &RobotId, admitted: bool, judged: Option<Claim>) {
        if let Self::Embedded(broker) = self {
            broker.admit(robot, admitted, judged).await;
        }
    }

    /// Disconnects every client whose certificate says `common_name`. Revoke first: the client comes back at once. An
    /// external broker keeps it until its certificate ends, or is in a list of revoked ones that it was given.
    pub async fn disconnect(&self, common_name: &str) {
        match self {
            Self::Embedded(broker) => broker.disconnect(common_name).await,
            Self::External(broker) => {
                tracing::warn!(client = common_name, broker = %broker.address(), "its certificate is revoked, but only the broker can disconnect it");
            }
        }
    }

    /// How many clients are connected, as far as this process has their connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        match self {
            Self::Embedded(broker) => broker.connections(),
            Self::External(_) => 0,
        }
    }

    /// The first `most` of them by id, of those whose id is beyond `after`.
    #[must_use]
    pub fn connected(&self, after: &str, most: usize) -> Vec<ConnectionView> {
        match self {
            Self::Embedded(broker) => broker.connected(after, most),
            Self::External(_) => Vec::new(),
        }
    }

    /// What keeps robots from being heard, if anything does.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        match self {
            Self::Embedded(broker) if broker.is_listening() => None,
            Self::Embedded(_) => Some("the broker does not listen any more".to_owned()),
            Self::External(broker) => broker.missing(),
        }
    }

    /// Whether an external one is there.
    #[must_use]
    pub fn is_up(&self) -> Option<watch::Receiver<bool>> {
        match self {
            Self::Embedded(_) => None,
            Self::External(broker) => Some(broker.is_up()),
        }
    }

    /// Whether this relay takes its part of what is shared with others on the same broker.
    pub fn take_share(&self, takes: bool) {
        if let Self::External(broker) = self {
            broker.take_share(takes);
        }
    }

    /// Takes no more connections; those that stand end with the runtime.
    pub fn stop_listening(&self) {
        if let Self::Embedded(broker) = self {
            broker.stop_listening();
        }
    }

    /// Lets go of everybody, or of the external broker. Waits for that, a few seconds at most.
    pub async fn stop(&self) {
        match self {
            Self::Embedded(broker) => broker.stop().await,
            Self::External(broker) => broker.stop().await,
        }
    }
}
