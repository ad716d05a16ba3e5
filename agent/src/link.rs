//! One MQTT 5 connection over mutual TLS. Made by the driver for each attempt, with a will of its own and
//! the endpoints to try, the next beside the first when that is slow; a task of its own has the socket, and
//! tells the driver what happened. Nothing reconnects here: the lifecycle decides.
//!
//! Invariants: publishing never waits (a full queue is told, not waited for); a dead connection is noticed
//! within 25 s (see [`wire`]); an emergency stop waits for nothing that the driver has not done yet; after [`Link::leave`]
//! the goodbye is on the wire before the socket closes; MQTT begins on one endpoint at a time, since the broker
//! would take a second one for this robot's next session.

mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use lekiwi_agent_core::race::{HEAD_START, Race};
use lekiwi_protocol::trace::TraceParent;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{timeout, timeout_at};
use tokio_rustls::client::TlsStream;

use crate::clock;
use crate::config::Address;
use crate::dial::{DialError, Dialer};
use crate::estop::Estop;
use crate::identity::Tls;
pub use wire::SessionError;
use wire::{Heard, Request, Wire};

/// Messages from the driver to the socket.
const QUEUE: usize = 32;
/// Messages from the socket to the driver. Enough for all that a relay sends at once, so that an emergency
/// stop behind it is read at once as well.
const INBOX: usize = 128;
/// Longest time until TCP, TLS and MQTT are there.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest wait for MQTT while others are on their way: a round trip on a network that is hardly one.
const PATIENCE_BESIDE: Duration = Duration::from_secs(6);
/// Longest wait for the broker to close after DISCONNECT.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What is read at once.
const READ_BYTES: usize = 4096;

/// What happened on the connection.
#[derive(Debug)]
pub enum LinkEvent {
    /// An endpoint did not work; the next one is tried.
    Failed(LinkError),
    /// The broker accepted it.
    Up(Established),
    /// A message came.
    Message {
        /// Where.
        topic: String,
        /// What.
        payload: Vec<u8>,
    },
    /// It is over, or never began: there is no other endpoint to try.
    Down(LinkError),
    /// The goodbye is out, the connection closed.
    Left,
}

/// A connection that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Established {
    /// By which endpoint.
    pub endpoint: usize,
    /// What TCP took to it.
    pub latency: Duration,
    /// This robot's address on it.
    pub local: IpAddr,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[error("expected a lasting connection to the broker at {}", route.address)]
pub struct LinkError {
    /// Where.
    pub route: Route,
    /// What went wrong.
    #[source]
    pub source: Trouble,
}

impl LinkError {
    /// Whether the broker does not take this certificate.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.source,
            Trouble::Session(SessionError::Refused(
                ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword
            ))
        )
    }
}

/// What goes wrong with connections.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// No TCP.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Whoever answers is not this robot's relay, or has a new certificate of somebody else.
    #[error("expected a certificate of the pinned authority for {host}")]
    Untrusted {
        /// The name that it must be for.
        host: String,
        /// What TLS found.
        #[source]
        source: io::Error,
    },
    /// TLS or MQTT do not answer.
    #[error("expected TLS and MQTT to agree within {} s", PATIENCE.as_secs())]
    Slow,
    /// Another endpoint had TLS first, although this one is the better.
    #[error("expected TLS within {} s, before another endpoint had it", HEAD_START.as_secs())]
    Overtaken,
    /// The session ended.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The connection broke, or TLS did not begin.
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// The network took the address away.
    #[error("expected to keep the address {0}, which is gone")]
    Vanished(IpAddr),
}

/// An endpoint to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it is called.
    pub endpoint: usize,
    /// Where it is.
    pub address: Address,
}

/// How brokers are reached.
#[derive(Debug, Clone)]
pub struct Way {
    /// TCP.
    pub dialer: Arc<Dialer>,
    /// TLS: certificates, and sessions to resume.
    pub tls: Tls,
}

/// Who connects where, and what is said when the connection breaks.
pub struct Opening {
    /// Client id, which is the robot's id.
    pub client_id: String,
    /// The endpoints, the best first; at least one.
    pub routes: Vec<Route>,
    /// How to get there.
    pub way: Way,
    /// Topic and payload of the will, retained.
    pub will: (String, Vec<u8>),
    /// The one subscription.
    pub inbox: String,
    /// What begins emergency stops, and their topic.
    pub estop: (Estop, String),
}

/// The connection.
pub struct Link {
    inbox: String,
    requests: mpsc::Sender<Request>,
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
        let (requests, asked) = mpsc::channel(QUEUE);
        let (sender, events) = mpsc::channel(INBOX);
        let inbox = opening.inbox.clone();
        Self {
            task: tokio::spawn(run(opening, asked, sender)),
            inbox,
            requests,
            events,
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
        self.ask(Request::Subscribe(self.inbox.clone()))
    }

    /// Queues a message, as the first one of `trace`. Says whether the queue took it.
    pub fn publish(
        &self,
        topic: String,
        payload: Vec<u8>,
        delivery: Delivery,
        trace: Option<TraceParent>,
    ) -> bool {
        self.ask(Request::Publish {
            topic,
            payload,
            delivery,
            trace,
        })
    }

    /// There is a reason to believe that the connection is dead: it must answer soon, or is. Says whether
    /// the queue took it.
    pub fn probe(&self) -> bool {
        self.ask(Request::Probe)
    }

    /// Disconnects after what is queued; [`LinkEvent::Left`] tells when it is done.
    pub fn leave(&self) -> bool {
        self.ask(Request::Disconnect)
    }

    fn ask(&self, request: Request) -> bool {
        self.requests.try_send(request).is_ok()
    }

    /// One that goes nowhere, and what takes the topics of all that waits in its queue.
    #[cfg(test)]
    pub(crate) fn stuck() -> (Self, impl FnMut() -> Vec<String>) {
        let (requests, mut asked) = mpsc::channel(QUEUE);
        let (_, events) = mpsc::channel(1);
        let link = Self {
            inbox: String::new(),
            requests,
            events,
            task: tokio::spawn(async {}),
        };
        let take = move || {
            let topics = std::iter::from_fn(|| match asked.try_recv().ok()? {
                Request::Publish { topic, .. } => Some(topic),
                other => Some(format!("{other:?}")),
            });
            topics.collect()
        };
        (link, take)
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

/// How long `route` takes to a finished TLS handshake, which shows that the relay itself answers; the
/// connection is closed again. The latency is that of TCP alone.
///
/// # Errors
/// When it does not work now.
pub async fn look(way: &Way, route: &Route) -> Result<Duration, LinkError> {
    // One that needs longer than that would lose the race.
    let looked = timeout(HEAD_START, async {
        let (stream, latency) = secure(way, &route.address).await?;
        drop(stream);
        Ok(latency)
    });
    looked
        .await
        .unwrap_or(Err(Trouble::Slow))
        .map_err(|source| LinkError {
            route: route.clone(),
            source,
        })
}

async fn run(
    opening: Opening,
    mut requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<LinkEvent>,
) {
    let mut race = Race::new(opening.routes.len());
    let mut running = JoinSet::new();
    loop {
        while let Some(index) = race.poll_begin(clock::now()) {
            let (way, to) = (opening.way.clone(), opening.routes[index].address.clone());
            running.spawn(async move { (index, secure_in_time(way, to).await) });
        }
        let next = race.poll_timeout();
        let (index, secured) = tokio::select! {
            Some(Ok(secured)) = running.join_next() => secured,
            () = tokio::time::sleep_until(next.unwrap_or_else(clock::now).into()), if next.is_some() => continue,
            else => return,
        };
        let error = |index: usize, source| LinkError {
            route: opening.routes[index].clone(),
            source,
        };
        let begun = match secured {
            Ok(secured) => {
                // Others do not wait for one that has TLS and says nothing more.
                let others = race.running().len() > 1 || race.poll_timeout().is_some();
                let most = if others { PATIENCE_BESIDE } else { PATIENCE };
                Session::begin(&opening, secured, most).await
            }
            Err(source) => Err(source),
        };
        race.failed(index);
        let mut session = match begun {
            Ok(session) => session,
            Err(source) => {
                let error = error(index, source);
                // Who is refused by one is refused by all: they share what they know about robots.
                let is_last = race.is_lost() || error.is_refusal();
                let event = match is_last {
                    true => LinkEvent::Down(error),
                    false => LinkEvent::Failed(error),
                };
                if events.send(event).await.is_err() || is_last {
                    return;
                }
                continue;
            }
        };
        drop(running);
        for slower in race.running().iter().filter(|slower| **slower < index) {
            let overtaken = LinkEvent::Failed(error(*slower, Trouble::Overtaken));
            if events.send(overtaken).await.is_err() {
                return;
            }
        }
        let local = session.stream.get_ref().0.local_addr();
        let up = LinkEvent::Up(Established {
            endpoint: opening.routes[index].endpoint,
            latency: session.latency,
            local: local.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip()),
        });
        if events.send(up).await.is_err() {
            return;
        }
        let last = match session.serve(&mut requests, &events, &opening.estop).await {
            Ok(()) => LinkEvent::Left,
            Err(source) => LinkEvent::Down(error(index, source)),
        };
        let _ = events.send(last).await;
        return;
    }
}

/// A connection with TLS, on which nothing was said yet.
struct Secured {
    stream: TlsStream<TcpStream>,
    latency: Duration,
    /// What is left for MQTT, from when it begins.
    left: Duration,
}

async fn secure_in_time(way: Way, to: Address) -> Result<Secured, Trouble> {
    let until = clock::now() + PATIENCE;
    let secured = timeout_at(until.into(), secure(&way, &to)).await;
    let left = until.saturating_duration_since(clock::now());
    let (stream, latency) = secured.unwrap_or(Err(Trouble::Slow))?;
    Ok(Secured {
        stream,
        latency,
        left,
    })
}

/// TCP and TLS to `to`, and what TCP took.
async fn secure(way: &Way, to: &Address) -> Result<(TlsStream<TcpStream>, Duration), Trouble> {
    let began = clock::now();
    let tcp = way.dialer.dial(to).await?;
    let latency = clock::now().saturating_duration_since(began);
    let name = ServerName::try_from(to.host.clone()).map_err(io::Error::other)?;
    let stream = way.tls.connect(name, tcp).await.map_err(|error| {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        match tls {
            Some(rustls::Error::InvalidCertificate(_)) => Trouble::Untrusted {
                host: to.host.clone(),
                source: error,
            },
            _ => Trouble::Broken(error),
        }
    })?;
    Ok((stream, latency))
}

/// A socket and what is said on it.
struct Session {
    stream: TlsStream<TcpStream>,
    latency: Duration,
    wire: Wire,
    came: BytesMut,
    out: BytesMut,
}

impl Session {
    /// Until the broker accepts it.
    async fn begin(opening: &Opening, secured: Secured, most: Duration) -> Result<Self, Trouble> {
        let (topic, payload) = opening.will.clone();
        let will = LastWill::new(topic, payload, QoS::AtLeastOnce, true, None);
        let mut out = BytesMut::new();
        let client_id = opening.client_id.clone();
        let mut session = Self {
            stream: secured.stream,
            latency: secured.latency,
            wire: Wire::open(clock::now(), client_id, will, &mut out),
            came: BytesMut::new(),
            out,
        };
        let agreed = timeout(secured.left.min(most), session.accepted()).await;
        agreed.unwrap_or(Err(Trouble::Slow))?;
        Ok(session)
    }

    async fn accepted(&mut self) -> Result<(), Trouble> {
        self.stream.write_all_buf(&mut self.out).await?;
        self.stream.flush().await?;
        loop {
            read(&mut self.stream, &mut self.came).await?;
            let now = clock::now();
            self.wire.heard(now);
            // Nothing else comes before it.
            if self
                .wire
                .next(now, &mut self.came, &mut self.out)?
                .is_some()
            {
                return Ok(());
            }
        }
    }

    /// Until the driver leaves, or it breaks.
    async fn serve(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
        events: &mpsc::Sender<LinkEvent>,
        (estop, estop_topic): &(Estop, String),
    ) -> Result<(), Trouble> {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let (wire, came, out) = (&mut self.wire, &mut self.came, &mut self.out);
        let mut is_flushed = true;
        loop {
            while let Some(heard) = wire.next(clock::now(), came, out)? {
                if let Heard::Message { topic, payload } = heard {
                    if topic == *estop_topic {
                        // Ahead of all that waits for the driver.
                        estop.begin(&payload);
                        continue;
                    }
                    // An error means that the driver is gone, which the requests' end says as well.
                    let _ = events.send(LinkEvent::Message { topic, payload }).await;
                }
            }
            let wake = tokio::time::sleep_until(wire.poll_timeout().into());
            let (has_output, has_room) = (!out.is_empty(), wire.takes_requests(out));
            tokio::select! {
                result = read(&mut reader, came) => {
                    result?;
                    wire.heard(clock::now());
                }
                flushed = write(&mut writer, out), if has_output || !is_flushed => {
                    is_flushed = flushed?;
                    if !out.is_empty() {
                        wire.progressed(clock::now());
                    }
                    if is_flushed {
                        // A backlog needed more room than is needed now.
                        *out = BytesMut::new();
                    }
                }
                request = requests.recv(), if has_room => {
                    if !take(request, requests, wire, out) {
                        break;
                    }
                }
                () = wake => wire.handle_timeout(clock::now(), out)?,
            }
        }
        writer.write_all_buf(out).await?;
        writer.flush().await?;
        // The broker closes; until then the socket stays open, so that no reset overtakes the goodbye.
        let closed = async {
            while read(&mut reader, came).await.is_ok() {
                came.clear();
            }
        };
        let _ = timeout(LAST_WORDS, closed).await;
        Ok(())
    }
}

/// Writes a request and all that was asked for together with it, so that they leave in one packet; whether
/// there is more to come.
fn take(
    first: Option<Request>,
    requests: &mut mpsc::Receiver<Request>,
    wire: &mut Wire,
    out: &mut BytesMut,
) -> bool {
    let mut next = first;
    loop {
        // Nobody can ask any more when the driver is gone.
        let request = next.unwrap_or(Request::Disconnect);
        let is_last = matches!(request, Request::Disconnect);
        wire.handle_request(clock::now(), request, out);
        if is_last {
            return false;
        }
        next = match wire.takes_requests(out) {
            true => requests.try_recv().ok(),
            false => None,
        };
        if next.is_none() {
            return true;
        }
    }
}

/// Writes a part, or when nothing is left, sees to it that all is on its way; whether it is. Cancel-safe.
async fn write(to: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> io::Result<bool> {
    if out.is_empty() {
        to.flush().await?;
        return Ok(true);
    }
    to.write_buf(out).await?;
    Ok(false)
}

/// Reads what there is, at least one byte. Cancel-safe.
async fn read(from: &mut (impl AsyncRead + Unpin), into: &mut BytesMut) -> io::Result<()> {
    into.reserve(READ_BYTES);
    let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed it");
    match from.read_buf(into).await {
        Ok(0) => Err(closed()),
        Ok(_) => Ok(()),
        // Without TLS's own goodbye, which many servers leave out.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(closed()),
        Err(error) => Err(error),
    }
}
