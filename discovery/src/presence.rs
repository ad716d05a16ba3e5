//! Being there: one task with a pair of sockets on each network of this machine. It costs nothing while
//! nobody speaks.
//!
//! The first socket of a pair hears the group, the second one sends, and hears what comes to this machine
//! alone: it is bound to the address, so that it is preferred to a responder of the system that is bound
//! to all of them.

use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lekiwi_protocol::discovery::ad::Service;
use lekiwi_protocol::discovery::browser::Browser;
use lekiwi_protocol::discovery::packet::{MAX_PACKET, Packet};
use lekiwi_protocol::discovery::responder::{Heard, Output, Responder};
use lekiwi_protocol::discovery::{GROUP, PORT};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::changes::{Changes, Scope};
use crate::interfaces::{Interface, list};
use crate::{Found, clock, found};

/// Packets that wait to be looked at; more are dropped, as on the wire.
const QUEUE: usize = 64;
/// When a network that could not be used is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Something that a person may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It is there on this interface.
    On {
        /// The interface.
        interface: String,
        /// The address that it has there.
        address: Ipv4Addr,
    },
    /// It is not there on this interface any more.
    Off {
        /// The interface.
        interface: String,
    },
    /// Another machine has the name of this one.
    Conflict {
        /// Its address.
        other: Ipv4Addr,
        /// What this one is called instead.
        instead: String,
    },
    /// An interface cannot be used.
    Trouble {
        /// The interface.
        interface: String,
        /// Why.
        reason: String,
    },
}

impl std::fmt::Display for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::On { interface, address } => {
                write!(f, "to be found on {interface} as {address}")
            }
            Self::Off { interface } => write!(f, "not to be found on {interface} any more"),
            Self::Conflict { other, instead } => write!(
                f,
                "another machine at {other} has this one's name; this one is called {instead:?}"
            ),
            Self::Trouble { interface, reason } => {
                write!(f, "not to be found on {interface}: {reason}")
            }
        }
    }
}

/// What to be there for.
pub struct Purpose {
    /// What to say, if anything.
    pub service: Option<Service>,
    /// Which types to hear.
    pub hear: &'static [&'static str],
    /// Who is told the news.
    pub tell: Box<dyn FnMut(&News) + Send>,
}

enum Command {
    Update(Service),
    Found(&'static str, oneshot::Sender<Vec<Found>>),
}

/// A running task. It says goodbye when this is dropped, if the runtime goes on for a moment;
/// [`Self::leave`] waits for it.
#[derive(Debug)]
pub struct Presence {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Presence {
    /// Begins, on the networks that there are and on those to come.
    #[must_use]
    pub fn start(purpose: Purpose) -> Self {
        let (commands, receiver) = mpsc::channel(8);
        let task = tokio::spawn(run(purpose, receiver));
        Self { commands, task }
    }

    /// Says something else from now on.
    pub fn update(&self, service: Service) {
        // The task takes commands at once; a full queue means that it has ended.
        let _ = self.commands.try_send(Command::Update(service));
    }

    /// What was heard of a type.
    pub async fn found(&self, kind: &'static str) -> Vec<Found> {
        let (answer, found) = oneshot::channel();
        let _ = self.commands.send(Command::Found(kind, answer)).await;
        found.await.unwrap_or_default()
    }

    /// Takes back what was said.
    pub async fn leave(self) {
        drop(self.commands);
        // A task that panicked has left as well.
        let _ = self.task.await;
    }
}

struct Incoming {
    index: u32,
    direct: bool,
    from: SocketAddrV4,
    packet: Packet,
}

struct Segment {
    interface: Interface,
    socket: Arc<UdpSocket>,
    responder: Option<Responder>,
    _readers: JoinSet<()>,
}

struct Task {
    purpose: Purpose,
    browser: Option<Browser>,
    segments: Vec<Segment>,
    incoming: mpsc::Sender<Incoming>,
    troubles: Vec<News>,
    retry: Option<Instant>,
}

async fn run(purpose: Purpose, mut commands: mpsc::Receiver<Command>) {
    let (incoming, mut packets) = mpsc::channel(QUEUE);
    let browser = (!purpose.hear.is_empty()).then(|| Browser::new(purpose.hear, clock::now()));
    let mut task = Task {
        purpose,
        browser,
        segments: Vec::new(),
        incoming,
        troubles: Vec::new(),
        retry: None,
    };
    let changes = Changes::open(Scope::Interfaces).map_err(|error| {
        task.trouble(
            "networks to come",
            format!("the kernel does not tell: {error}"),
        );
    });
    let changed = async || match &changes {
        Ok(changes) => changes.changed().await,
        Err(()) => std::future::pending().await,
    };
    task.look();
    loop {
        let wake = task.next_wake();
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(packet) = packets.recv() => task.heard(&packet),
            command = commands.recv() => match command {
                Some(command) => task.command(command),
                None => break,
            },
            () = changed() => task.look(),
            () = timer => task.timers(),
        }
        task.send();
    }
    for responder in task
        .segments
        .iter_mut()
        .filter_map(|s| s.responder.as_mut())
    {
        responder.goodbye();
    }
    task.send();
}

fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX / 2)
}

impl Task {
    fn next_wake(&self) -> Option<Instant> {
        let responders = self.segments.iter().filter_map(|s| s.responder.as_ref());
        let browser = self.browser.as_ref().filter(|_| !self.segments.is_empty());
        responders
            .filter_map(Responder::poll_timeout)
            .chain(browser.and_then(Browser::poll_timeout))
            .chain(self.retry)
            .min()
    }

    fn timers(&mut self) {
        let now = clock::now();
        for responder in self
            .segments
            .iter_mut()
            .filter_map(|s| s.responder.as_mut())
        {
            if responder.poll_timeout().is_some_and(|at| at <= now) {
                responder.handle_timeout(now);
            }
        }
        if let Some(browser) = &mut self.browser {
            browser.handle_timeout(now);
        }
        if self.retry.take_if(|at| *at <= now).is_some() {
            self.look();
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Update(service) => {
                let now = clock::now();
                for responder in self
                    .segments
                    .iter_mut()
                    .filter_map(|s| s.responder.as_mut())
                {
                    responder.update(now, service.clone());
                }
                self.purpose.service = Some(service);
            }
            Command::Found(kind, answer) => {
                let heard = self.browser.as_ref().map(|browser| found(browser, kind));
                // Who asked may have gone.
                let _ = answer.send(heard.unwrap_or_default());
            }
        }
    }

    fn heard(&mut self, incoming: &Incoming) {
        let now = clock::now();
        let Incoming {
            index,
            direct,
            from,
            packet,
        } = incoming;
        let segment = self
            .segments
            .iter_mut()
            .find(|s| s.interface.index == *index);
        let heard = Heard {
            from: *from,
            direct: *direct,
            packet,
        };
        if let Some(responder) = segment.and_then(|segment| segment.responder.as_mut()) {
            responder.handle_packet(now, heard, &mut random);
        }
        if let Some(browser) = &mut self.browser {
            browser.handle_packet(now, *from, packet);
        }
    }

    /// Carries out what the cores want. A packet that cannot be sent is lost, as on the wire.
    fn send(&mut self) {
        let mut news = Vec::new();
        for segment in &mut self.segments {
            let Some(responder) = &mut segment.responder else {
                continue;
            };
            while let Some(output) = responder.poll_output() {
                match output {
                    Output::Multicast(bytes) => to_group(&segment.socket, &bytes),
                    Output::Unicast(to, bytes) => {
                        send_to(&segment.socket, &bytes, to);
                    }
                    Output::Conflict { other, instead } => {
                        news.push(News::Conflict { other, instead });
                    }
                }
            }
        }
        if let Some(browser) = &mut self.browser {
            while let Some(bytes) = browser.poll_output() {
                for segment in &self.segments {
                    to_group(&segment.socket, &bytes);
                }
            }
        }
        for news in news {
            (self.purpose.tell)(&news);
        }
    }

    /// Leaves networks that have gone or changed, joins new ones.
    fn look(&mut self) {
        let (now, interfaces) = (clock::now(), list());
        let (stay, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.segments)
            .into_iter()
            .partition(|segment| interfaces.contains(&segment.interface));
        self.segments = stay;
        for segment in gone {
            (self.purpose.tell)(&News::Off {
                interface: segment.interface.name,
            });
        }
        let own: Vec<Ipv4Addr> = interfaces.iter().map(|i| i.home.address).collect();
        let mut failed = false;
        for interface in interfaces {
            if self.segments.iter().any(|s| s.interface == interface) {
                continue;
            }
            let (name, address) = (interface.name.clone(), interface.home.address);
            match self.join(interface, own.clone(), now) {
                Ok(segment) => {
                    self.segments.push(segment);
                    self.troubles.retain(|trouble| {
                        !matches!(trouble, News::Trouble { interface, .. } if *interface == name)
                    });
                    (self.purpose.tell)(&News::On {
                        interface: name,
                        address,
                    });
                    if let Some(browser) = &mut self.browser {
                        browser.ask_again(now);
                    }
                }
                Err(error) => {
                    failed = true;
                    self.trouble(&name, in_words(&error));
                }
            }
        }
        for responder in self
            .segments
            .iter_mut()
            .filter_map(|s| s.responder.as_mut())
        {
            responder.set_own(own.clone());
        }
        self.retry = failed.then(|| now + RETRY);
    }

    /// Once, until it is another one.
    fn trouble(&mut self, interface: &str, reason: String) {
        let interface = interface.to_owned();
        let news = News::Trouble { interface, reason };
        if !self.troubles.contains(&news) {
            (self.purpose.tell)(&news);
            self.troubles.push(news);
        }
    }

    fn join(&self, interface: Interface, own: Vec<Ipv4Addr>, now: Instant) -> io::Result<Segment> {
        let home = interface.home;
        let group = bound(GROUP)?;
        // Only what comes in by this interface, whatever other sockets join.
        group.set_multicast_all_v4(false)?;
        group.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(interface.index))?;
        let own_socket = bound(home.address)?;
        own_socket.set_multicast_if_v4(&home.address)?;
        own_socket.set_multicast_ttl_v4(255)?;
        own_socket.set_ttl_v4(255)?;
        let group = Arc::new(UdpSocket::from_std(group.into())?);
        let socket = Arc::new(UdpSocket::from_std(own_socket.into())?);
        let mut readers = JoinSet::new();
        let index = interface.index;
        readers.spawn(read(group, index, false, self.incoming.clone()));
        readers.spawn(read(socket.clone(), index, true, self.incoming.clone()));
        let service = self.purpose.service.clone();
        Ok(Segment {
            responder: service.map(|service| Responder::new(service, home, own, now, &mut random)),
            interface,
            socket,
            _readers: readers,
        })
    }
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("another program has UDP port {PORT} for itself"),
        _ => error.to_string(),
    }
}

/// A socket that shares the port with other responders of this machine.
fn bound(address: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((address, PORT)).into())?;
    Ok(socket)
}

fn to_group(socket: &UdpSocket, bytes: &[u8]) {
    send_to(socket, bytes, SocketAddrV4::new(GROUP, PORT));
}

/// At once or not at all: a datagram that does not fit is lost, as on the wire.
fn send_to(socket: &UdpSocket, bytes: &[u8], to: SocketAddrV4) {
    let _ = SockRef::from(socket).send_to(bytes, &SocketAddr::from(to).into());
}

async fn read(socket: Arc<UdpSocket>, index: u32, direct: bool, incoming: mpsc::Sender<Incoming>) {
    let mut bytes = vec![0; MAX_PACKET];
    loop {
        let (length, from) = match socket.recv_from(&mut bytes).await {
            Ok((length, SocketAddr::V4(from))) => (length, from),
            Ok(_) => continue,
            // An error of an earlier packet, such as a port that nobody listens on.
            Err(_) => {
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Ok(packet) = Packet::parse(bytes.get(..length).unwrap_or_default()) else {
            continue;
        };
        let packet = Incoming {
            index,
            direct,
            from,
            packet,
        };
        if incoming.send(packet).await.is_err() {
            return;
        }
    }
}
