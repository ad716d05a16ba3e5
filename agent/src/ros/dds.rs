//! Takes part in a domain of ROS 2 as a participant of DDS that only listens: to `ros_discovery_info`, where nodes
//! are announced, and to the profile's topics with commands. By UDP alone, so that nodes on this machine do not
//! write to us through shared memory, where we would see nothing.
//!
//! A thread of its own sleeps until something arrives, for the library's sources are woken by no runtime of ours.
//! Commands are counted and not read: a reader takes the type of the first writer that is found, whichever it is.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lekiwi_agent_core::ros::{Commander, Domain, Guid, Order, Prefix, lost};
use lekiwi_protocol::profile::is_node;
use rustdds::dds::{CreateError, ReadError};
use rustdds::mio1::{Events, Interest, Poll, Token, Waker};
use rustdds::no_key::{Decode, DefaultDecoder, DeserializerAdapter, SimpleDataReader};
use rustdds::policy::{Durability, History, Reliability};
use rustdds::{
    DomainParticipant, DomainParticipantBuilder, DomainParticipantStatusEvent,
    DomainParticipantStatusListener, GUID, QosPolicies, QosPolicyBuilder, RepresentationIdentifier,
    StatusEvented, Subscriber, TopicKind,
};
use tokio::sync::Notify;

use super::RosError;
use crate::clock;
use crate::driver::chain;
use crate::machine::Machine;

/// How nodes are announced.
const NODES_TOPIC: &str = "ros_discovery_info";
const NODES_TYPE: &str = "rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_";
/// What ROS puts before the names of topics.
const TOPIC_PREFIX: &str = "rt";
/// Samples that wait for us: with the library's default of one, two writers hide each other's.
const DEPTH: i32 = 64;
/// Enough for a burst; the default asks for 8 MiB a socket.
const SOCKET_BYTES: usize = 256 * 1024;
/// Longest announcement that is read.
const MAX_MESSAGE: usize = 64 * 1024;
/// Time between two looks for new addresses, at which the library does not look again by itself.
const ADDRESSES_EVERY: Duration = Duration::from_secs(30);
/// How long all nodes take at most to be found.
const SETTLED: Duration = Duration::from_secs(10);
/// The same for those of a new participant, while the old one's are believed.
const HANDOVER: Duration = Duration::from_secs(5);
/// A reader by wall-clock time takes nothing after the clock was set back: then a new one does.
const EMPTY_READS: u32 = 16;

const STOP: Token = Token(0);
const STATUS: Token = Token(1);
const NODES: Token = Token(2);
/// The readers of the topics with commands follow.
const COMMANDS: usize = 3;

/// What is known of a domain of ROS 2, kept up to date while this lives.
pub struct Ros {
    shared: Arc<Shared>,
    waker: Waker,
    opened: Instant,
}

struct Shared {
    domain_id: u16,
    topics: Vec<String>,
    domain: Mutex<Domain>,
    changed: Notify,
    stop: AtomicBool,
}

impl fmt::Debug for Ros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = &self.shared.domain_id;
        f.debug_struct("Ros").field("domain", domain).finish()
    }
}

impl Ros {
    /// Takes part in the domain `domain`, and listens to `topics`. What fails later is in the log, and tried again.
    ///
    /// # Errors
    /// When the machine gives no thread.
    pub fn open(domain: u16, topics: &[String]) -> Result<Self, RosError> {
        let poll = Poll::new().map_err(RosError::Thread)?;
        let waker = Waker::new(poll.registry(), STOP).map_err(RosError::Thread)?;
        let shared = Arc::new(Shared {
            domain_id: domain,
            topics: topics.to_owned(),
            domain: Mutex::default(),
            changed: Notify::new(),
            stop: AtomicBool::new(false),
        });
        let listener = Listener {
            shared: Arc::clone(&shared),
            poll,
            next: None,
        };
        thread::Builder::new()
            .name("ros2".to_owned())
            .spawn(move || listener.run())
            .map_err(RosError::Thread)?;
        Ok(Self {
            shared,
            waker,
            opened: clock::now(),
        })
    }

    /// Whether this is what is looked for.
    #[must_use]
    pub fn is_of(&self, domain: u16, topics: &[String]) -> bool {
        self.shared.domain_id == domain && self.shared.topics == topics
    }

    /// Which domain it is.
    #[must_use]
    pub fn domain(&self) -> u16 {
        self.shared.domain_id
    }

    /// Nodes came or went. For one who waits; cancel-safe.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Whether all nodes that there are had time to be found.
    #[must_use]
    pub fn is_settled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.opened) >= SETTLED
    }

    /// Whether there is a node that a profile calls `wanted`.
    #[must_use]
    pub fn has_node(&self, wanted: &str) -> bool {
        self.shared
            .domain()
            .nodes()
            .any(|node| is_node(node, wanted))
    }

    /// Who writes commands, and how many since the last call.
    #[must_use]
    pub fn take_commanders(&self) -> Vec<Commander> {
        self.shared.domain().take_commanders()
    }
}

impl Drop for Ros {
    /// The thread ends by itself: leaving the domain takes it a moment, for which nobody waits.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Without it the thread ends at its next look for addresses.
        let _ = self.waker.wake();
    }
}

impl Shared {
    fn domain(&self) -> MutexGuard<'_, Domain> {
        // Whole after each call: a panic elsewhere takes nothing from it.
        self.domain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Why there is no participant.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error("expected a participant of DDS in the domain {0}")]
    Create(u16, #[source] CreateError),
    #[error("expected to be woken by DDS")]
    Poll(#[source] io::Error),
}

/// The thread.
struct Listener {
    shared: Arc<Shared>,
    poll: Poll,
    /// What a new participant has found, until it counts.
    next: Option<(Instant, Domain)>,
}

impl Listener {
    fn run(mut self) {
        let mut events = Events::with_capacity(16);
        let (mut complaint, mut has_joined) = (None, false);
        while !self.shared.is_stopped() {
            match Participant::join(&self.shared, &self.poll) {
                Ok(participant) => {
                    complaint = None;
                    // It may have taken a while to join: others are found from now on.
                    self.next = has_joined.then(|| (clock::now(), Domain::default()));
                    has_joined = true;
                    self.listen(participant, &mut events);
                }
                Err(error) => {
                    let text = chain(&error);
                    if complaint.as_ref() != Some(&text) {
                        log::warn!("ROS 2 is not seen: {text}");
                        complaint = Some(text);
                    }
                    // A poll that fails is tried again as one that has nothing.
                    let _ = self.poll.poll(&mut events, Some(ADDRESSES_EVERY));
                }
            }
        }
    }

    /// Until it is stopped, or has to take part anew.
    fn listen(&mut self, mut participant: Participant, events: &mut Events) {
        let mut next_look = clock::now() + ADDRESSES_EVERY;
        loop {
            let now = clock::now();
            let handover = self.next.as_ref().map(|(since, _)| *since + HANDOVER);
            let due = handover.map_or(next_look, |at| at.min(next_look));
            let wait = due.saturating_duration_since(now);
            if let Err(error) = self.poll.poll(events, Some(wait))
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::warn!("ROS 2 is not seen for a while: {error}");
                thread::sleep(Duration::from_secs(1));
            }
            if self.shared.is_stopped() {
                return;
            }
            let now = clock::now();
            let next = self.next.as_mut().map(|(_, domain)| domain);
            let is_changed = match next {
                Some(domain) => {
                    participant.take(now, events, &self.poll, domain);
                    false
                }
                None => {
                    let mut domain = self.shared.domain();
                    participant.take(now, events, &self.poll, &mut domain);
                    domain.poll_change()
                }
            };
            let next = self.next.take_if(|(since, _)| *since + HANDOVER <= now);
            let is_handover = next.is_some();
            if let Some((_, domain)) = next {
                *self.shared.domain() = domain;
            }
            if is_changed || is_handover {
                self.shared.changed.notify_one();
            }
            if next_look <= now {
                next_look = now + ADDRESSES_EVERY;
                if participant.misses_address() {
                    log::info!("a new address: ROS 2 is joined anew");
                    return;
                }
            }
        }
    }
}

/// Taking part in a domain.
struct Participant {
    status: DomainParticipantStatusListener,
    nodes: Reader,
    commands: Vec<Commands>,
    addresses: Vec<String>,
    subscriber: Subscriber,
    // Last: readers end before what they are of.
    participant: DomainParticipant,
}

/// A topic with commands, and its reader once there is a writer.
struct Commands {
    name: String,
    type_name: String,
    reader: Option<Reader>,
    writers: Vec<Guid>,
    empty_reads: u32,
}

type Reader = SimpleDataReader<Message, Raw>;

impl Participant {
    fn join(shared: &Shared, poll: &Poll) -> Result<Self, JoinError> {
        let domain = shared.domain_id;
        let create = |error| JoinError::Create(domain, error);
        let addresses = addresses();
        let participant = DomainParticipantBuilder::new(domain)
            .socket_receive_buffer_size(SOCKET_BYTES)
            .socket_send_buffer_size(SOCKET_BYTES)
            .build()
            .map_err(create)?;
        let subscriber = participant
            .create_subscriber(&QosPolicies::qos_none())
            .map_err(create)?;
        let mut status = participant.status_listener();
        let registry = poll.registry();
        registry
            .register(status.as_status_source_mio1(), STATUS, Interest::READABLE)
            .map_err(JoinError::Poll)?;
        let qos = QosPolicyBuilder::new()
            .durability(Durability::TransientLocal)
            .reliability(Reliability::Reliable {
                max_blocking_time: rustdds::Duration::ZERO,
            })
            .history(History::KeepLast { depth: DEPTH })
            .build();
        let nodes = reader(
            &participant,
            &subscriber,
            NODES_TOPIC,
            NODES_TYPE,
            &qos,
            poll,
            NODES,
        )?;
        let commands = shared.topics.iter().map(|topic| Commands {
            name: format!("{TOPIC_PREFIX}{topic}"),
            type_name: String::new(),
            reader: None,
            writers: Vec::new(),
            empty_reads: 0,
        });
        Ok(Self {
            status,
            nodes,
            commands: commands.collect(),
            addresses,
            subscriber,
            participant,
        })
    }

    /// Whether this machine has got an address since.
    fn misses_address(&self) -> bool {
        let is_new = |address: &String| !self.addresses.contains(address);
        addresses().iter().any(is_new)
    }

    /// Takes what has arrived.
    fn take(&mut self, now: Instant, events: &Events, poll: &Poll, domain: &mut Domain) {
        let has = |token| events.iter().any(|event| event.token() == token);
        let mut statuses = Vec::new();
        if has(STATUS) {
            statuses.extend(std::iter::from_fn(|| self.status.try_recv_status()));
        }
        // What somebody said before it was lost is readable by now, and taken first: it would count for ever after.
        let is_news = !statuses.is_empty();
        if has(NODES) || is_news {
            self.take_nodes(domain);
        }
        for topic in 0..self.commands.len() {
            let is_called = has(Token(COMMANDS + topic));
            if is_called || is_news {
                self.take_commands(now, topic, is_called, poll, domain);
            }
        }
        let mut presence = Vec::new();
        for status in statuses {
            presence.extend(present(&status));
            self.take_status(now, status, poll, domain);
        }
        for prefix in lost(&presence) {
            domain.participant_lost(prefix);
        }
    }

    fn take_nodes(&mut self, domain: &mut Domain) {
        self.nodes.drain_read_notifications();
        while let Some((writer, message)) = next(&self.nodes) {
            let [prefix @ .., _, _, _, _] = writer;
            if let Err(error) = domain.announced(prefix, &message.bytes, message.order) {
                log::debug!("{NODES_TOPIC}: {error}");
            }
        }
    }

    /// `is_called`: the reader said that there is something.
    fn take_commands(
        &mut self,
        now: Instant,
        topic: usize,
        is_called: bool,
        poll: &Poll,
        domain: &mut Domain,
    ) {
        let commands = &mut self.commands[topic];
        let Some(reader) = &commands.reader else {
            return;
        };
        reader.drain_read_notifications();
        let mut count = 0;
        while let Some((writer, _)) = next(reader) {
            domain.commanded(now, writer, topic);
            count += 1;
        }
        match count {
            0 => commands.empty_reads += u32::from(is_called),
            _ => commands.empty_reads = 0,
        }
        if commands.empty_reads >= EMPTY_READS {
            self.read(topic, poll);
        }
    }

    fn take_status(
        &mut self,
        now: Instant,
        status: DomainParticipantStatusEvent,
        poll: &Poll,
        domain: &mut Domain,
    ) {
        match status {
            DomainParticipantStatusEvent::ParticipantLost { id, .. } => {
                for commands in &mut self.commands {
                    commands
                        .writers
                        .retain(|writer| writer[..12] != *id.as_ref());
                }
            }
            DomainParticipantStatusEvent::WriterDetected { writer } => {
                let named = |commands: &Commands| commands.name == writer.topic_name;
                let Some(topic) = self.commands.iter().position(named) else {
                    return;
                };
                let guid = writer.guid.to_bytes();
                domain.writer_found(now, guid, topic);
                let commands = &mut self.commands[topic];
                if commands.type_name != writer.type_name && commands.writers.is_empty() {
                    commands.type_name = writer.type_name;
                    self.read(topic, poll);
                } else if commands.type_name != writer.type_name {
                    let (name, first) = (&commands.name, &commands.type_name);
                    let other = &writer.type_name;
                    log::info!("{name} is read as {first}, and not what is written as {other}");
                    return;
                }
                let writers = &mut self.commands[topic].writers;
                if !writers.contains(&guid) {
                    writers.push(guid);
                }
            }
            DomainParticipantStatusEvent::WriterLost { guid, .. } => {
                let guid = guid.to_bytes();
                for commands in &mut self.commands {
                    commands.writers.retain(|writer| *writer != guid);
                }
                domain.writer_lost(guid);
            }
            _ => {}
        }
    }

    /// Reads the topic from now on, by its writers' type.
    fn read(&mut self, topic: usize, poll: &Poll) {
        // Every writer can be read so, however it offers its commands.
        let qos = QosPolicyBuilder::new()
            .durability(Durability::Volatile)
            .best_effort()
            .history(History::KeepLast { depth: DEPTH })
            .build();
        let commands = &mut self.commands[topic];
        commands.empty_reads = 0;
        // Before the new one has its token.
        commands.reader = None;
        let opened = reader(
            &self.participant,
            &self.subscriber,
            &commands.name,
            &commands.type_name,
            &qos,
            poll,
            Token(COMMANDS + topic),
        );
        match opened {
            Ok(reader) => commands.reader = Some(reader),
            Err(error) => log::warn!("{} is not seen: {}", commands.name, chain(&error)),
        }
    }
}

/// Whether a status says of a participant that it is there, or that it is not any more.
fn present(status: &DomainParticipantStatusEvent) -> Option<(Prefix, bool)> {
    let (prefix, is_there) = match status {
        DomainParticipantStatusEvent::ParticipantDiscovered { dpd } => (dpd.guid.prefix, true),
        DomainParticipantStatusEvent::ParticipantLost { id, .. } => (*id, false),
        _ => return None,
    };
    Some((Prefix::try_from(prefix.as_ref()).ok()?, is_there))
}

/// Addresses at which other machines may be heard.
fn addresses() -> Vec<String> {
    Machine::default().network().ip_addresses
}

fn reader(
    participant: &DomainParticipant,
    subscriber: &Subscriber,
    name: &str,
    type_name: &str,
    qos: &QosPolicies,
    poll: &Poll,
    token: Token,
) -> Result<Reader, JoinError> {
    let create = |error| JoinError::Create(participant.domain_id(), error);
    let topic = participant
        .create_topic(name.to_owned(), type_name.to_owned(), qos, TopicKind::NoKey)
        .map_err(create)?;
    let mut reader = subscriber
        .create_simple_datareader_no_key(&topic, Some(qos.clone()))
        .map_err(create)?;
    poll.registry()
        .register(&mut reader, token, Interest::READABLE)
        .map_err(JoinError::Poll)?;
    Ok(reader)
}

/// The next sample, and who wrote it.
fn next(reader: &Reader) -> Option<(Guid, Message)> {
    loop {
        match reader.try_take_one() {
            Ok(sample) => return sample.map(|s| (GUID::to_bytes(&s.writer_guid), s.sample)),
            // What cannot be read is not read again.
            Err(ReadError::Deserialization { .. }) => {}
            Err(error) => {
                log::debug!("DDS: {}", chain(&error));
                return None;
            }
        }
    }
}

/// A sample as it came.
struct Message {
    bytes: Vec<u8>,
    order: Order,
}

/// Takes every sample as it is.
struct Raw;

/// Decodes what [`Raw`] takes.
#[derive(Clone)]
struct Whole;

/// A sample that is longer than any of those that are read.
#[derive(Debug, thiserror::Error)]
#[error("expected at most {MAX_MESSAGE} bytes, got {0}")]
struct TooLong(usize);

impl DeserializerAdapter<Message> for Raw {
    type Error = TooLong;
    type Decoded = Message;

    fn supported_encodings() -> &'static [RepresentationIdentifier] {
        &[
            RepresentationIdentifier::CDR_LE,
            RepresentationIdentifier::CDR_BE,
        ]
    }

    fn transform_decoded(decoded: Message) -> Message {
        decoded
    }
}

impl DefaultDecoder<Message> for Raw {
    type Decoder = Whole;
    const DECODER: Whole = Whole;
}

impl Decode<'_, Message> for Whole {
    type Error = TooLong;

    fn decode_bytes(
        self,
        bytes: &[u8],
        encoding: RepresentationIdentifier,
    ) -> Result<Message, TooLong> {
        if bytes.len() > MAX_MESSAGE {
            return Err(TooLong(bytes.len()));
        }
        Ok(Message {
            bytes: bytes.to_vec(),
            order: match encoding {
                RepresentationIdentifier::CDR_BE => Order::Big,
                _ => Order::Little,
            },
        })
    }
}
