//! A process of ROS 2 as its middlewares make one: a participant of DDS that announces its nodes, some of which
//! write velocities. For tests of `lekiwi-agent-ros2`. Says on stdout, as JSON lines, when it did what:
//! `{"did": "first", "at": milliseconds since the epoch}`, and `work` once a second while it writes. Ends with SIGTERM, and
//! leaves the domain then.
//!
//! `ros2_node [--domain N] [--gid 24] [--stamped] [--seconds N] NODE[:TOPIC:RATE]…`

#![expect(
    clippy::disallowed_methods,
    reason = "a program by itself, with the machine's clock"
)]

use std::error::Error;
use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustdds::bytes::Bytes;
use rustdds::no_key::{DataWriter, SerializerAdapter};
use rustdds::policy::{Durability, History, Reliability};
use rustdds::{
    DomainParticipant, QosPolicies, QosPolicyBuilder, RTPSEntity, RepresentationIdentifier,
    TopicKind,
};
use tokio::signal::unix::{SignalKind, signal};

const TWIST: &str = "geometry_msgs::msg::dds_::Twist_";
const STAMPED: &str = "geometry_msgs::msg::dds_::TwistStamped_";
/// Six numbers of eight bytes: a robot that stands still.
const TWIST_BYTES: usize = 48;
/// After a time, and an empty name of a frame.
const STAMPED_BYTES: usize = TWIST_BYTES + 16;

/// Writes bytes as they are.
struct Raw;

impl SerializerAdapter<Vec<u8>> for Raw {
    type Error = std::io::Error;

    fn output_encoding() -> RepresentationIdentifier {
        RepresentationIdentifier::CDR_LE
    }

    fn to_bytes(value: &Vec<u8>) -> Result<Bytes, Self::Error> {
        Ok(Bytes::copy_from_slice(value))
    }
}

struct Options {
    domain: u16,
    gid_bytes: usize,
    is_stamped: bool,
    seconds: Option<u64>,
    nodes: Vec<Node>,
}

struct Node {
    namespace: String,
    name: String,
    /// Topic and commands a second.
    writes: Option<(String, u32)>,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        domain: 0,
        gid_bytes: 16,
        is_stamped: false,
        seconds: None,
        nodes: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or("expected a value");
        match argument.as_str() {
            "--domain" => options.domain = value()?.parse()?,
            "--gid" => options.gid_bytes = value()?.parse()?,
            "--seconds" => options.seconds = Some(value()?.parse()?),
            "--stamped" => options.is_stamped = true,
            node => options.nodes.push(parse(node)?),
        }
    }
    Ok(options)
}

fn parse(text: &str) -> Result<Node, Box<dyn Error>> {
    let mut parts = text.split(':');
    let full = parts.next().unwrap_or_default();
    let (namespace, name) = full.rsplit_once('/').unwrap_or(("", full));
    let writes = match (parts.next(), parts.next()) {
        (Some(topic), Some(rate)) => Some((topic.to_owned(), rate.parse()?)),
        _ => None,
    };
    Ok(Node {
        namespace: if namespace.is_empty() { "/" } else { namespace }.to_owned(),
        name: name.to_owned(),
        writes,
    })
}

fn did(what: &str) -> Result<(), Box<dyn Error>> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{{\"did\": \"{what}\", \"at\": {at}}}")?;
    Ok(out.flush()?)
}

fn reliable(durability: Durability) -> QosPolicies {
    QosPolicyBuilder::new()
        .durability(durability)
        .reliability(Reliability::Reliable {
            max_blocking_time: rustdds::Duration::ZERO,
        })
        .history(History::KeepLast { depth: 10 })
        .build()
}

fn writer(
    participant: &DomainParticipant,
    topic: &str,
    type_name: &str,
    qos: &QosPolicies,
) -> Result<DataWriter<Vec<u8>, Raw>, Box<dyn Error>> {
    let topic = participant.create_topic(
        topic.to_owned(),
        type_name.to_owned(),
        qos,
        TopicKind::NoKey,
    )?;
    let publisher = participant.create_publisher(qos)?;
    Ok(publisher.create_datawriter_no_key(&topic, Some(qos.clone()))?)
}

/// `ParticipantEntitiesInfo`, in CDR.
fn announcement(
    participant: [u8; 16],
    gid_bytes: usize,
    nodes: &[(&Node, Vec<[u8; 16]>)],
) -> Vec<u8> {
    let gid = |bytes: &mut Vec<u8>, gid: [u8; 16]| {
        bytes.extend(gid);
        bytes.resize(bytes.len() + gid_bytes - 16, 0);
    };
    let number = |bytes: &mut Vec<u8>, number: usize| {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(u32::try_from(number).unwrap_or_default().to_le_bytes());
    };
    let mut bytes = Vec::new();
    gid(&mut bytes, participant);
    number(&mut bytes, nodes.len());
    for (node, writers) in nodes {
        for text in [&node.namespace, &node.name] {
            number(&mut bytes, text.len() + 1);
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        number(&mut bytes, 0);
        number(&mut bytes, writers.len());
        for writer in writers {
            gid(&mut bytes, *writer);
        }
    }
    bytes
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let participant = DomainParticipant::new(options.domain)?;
    let (type_name, bytes) = match options.is_stamped {
        true => (STAMPED, STAMPED_BYTES),
        false => (TWIST, TWIST_BYTES),
    };
    let (mut announced, mut writers) = (Vec::new(), Vec::new());
    for node in &options.nodes {
        let mut guids = Vec::new();
        if let Some((topic, rate)) = &node.writes {
            let topic = format!("rt{topic}");
            let writer = writer(
                &participant,
                &topic,
                type_name,
                &reliable(Durability::Volatile),
            )?;
            guids.push(writer.guid().to_bytes());
            writers.push((writer, Duration::from_secs(1) / *rate));
        }
        announced.push((node, guids));
    }
    let announce = writer(
        &participant,
        "ros_discovery_info",
        "rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_",
        &reliable(Durability::TransientLocal),
    )?;
    let guid = participant.guid().to_bytes();
    announce.write(announcement(guid, options.gid_bytes, &announced), None)?;
    did("ready")?;

    let (stop, stopped) = channel::<()>();
    std::thread::spawn(move || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            signal(SignalKind::terminate())?.recv().await;
            // Whoever does not hear it has ended.
            let _ = stop.send(());
            Ok(())
        })
    });
    let start = Instant::now();
    let end = options
        .seconds
        .map(|seconds| start + Duration::from_secs(seconds));
    let mut due: Vec<Instant> = writers.iter().map(|_| start).collect();
    let (mut is_first, mut said) = (true, start);
    loop {
        let next = due.iter().min().copied().into_iter().chain(end).min();
        let wait = next.map_or(Duration::from_secs(3600), |at| {
            at.saturating_duration_since(Instant::now())
        });
        let now = match stopped.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => Instant::now(),
            _ => break,
        };
        if end.is_some_and(|end| end <= now) {
            break;
        }
        for ((writer, interval), due) in writers.iter().zip(&mut due) {
            if *due <= now {
                writer.write(vec![0; bytes], None)?;
                *due += *interval;
            }
        }
        if is_first && !writers.is_empty() {
            did("first")?;
            is_first = false;
        }
        if !writers.is_empty() && said.elapsed() >= Duration::from_secs(1) {
            did("work")?;
            said = Instant::now();
        }
    }
    did("sent")?;
    drop((writers, announce, participant));
    did("closed")
}
