//! The cheapest MQTT 5 clients there can be, so that a benchmark measures the broker: packets are encoded
//! once, written as they are, and only counted when they come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lekiwi_protocol::message::{Ack, Event, EventBatch};
use lekiwi_protocol::{Clock, Envelope, FromRobot, MessageType, RobotId, Root, Timestamp};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, Subscribe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use uuid::Uuid;

use crate::fleet::{Endpoint, Identity, Wire};

/// Longest silence that the broker takes, in seconds: a benchmark's clients do not ping.
const KEEP_ALIVE_S: u16 = 600;

async fn connect(identity: &Identity, endpoint: Endpoint) -> Result<Wire> {
    let client = identity.id.to_string();
    let tls = Arc::new(identity.client_config()?);
    Wire::connect(tls, endpoint, client, KEEP_ALIVE_S, None).await
}

/// Publishes `messages` over and over at QoS 0 until `stop`, as fast as the broker takes them; adds to `sent`.
///
/// # Errors
/// When the broker refuses or closes the connection.
pub async fn publish(
    identity: Arc<Identity>,
    endpoint: Endpoint,
    messages: Vec<(String, Vec<u8>)>,
    sent: Arc<AtomicU64>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut stream = connect(&identity, endpoint).await?.into_stream();
    let mut block = bytes::BytesMut::new();
    for (topic, payload) in &messages {
        let publish = Publish::new(topic.as_str(), QoS::AtMostOnce, payload.clone(), None);
        Packet::Publish(publish).write(&mut block, None)?;
    }
    while !*stop.borrow() {
        stream.write_all(&block).await?;
        sent.fetch_add(messages.len() as u64, Ordering::Relaxed);
    }
    stream.flush().await?;
    Ok(())
}

/// What makes an event safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The broker's PUBACK.
    Broker,
    /// The relay's acknowledgement: it is in the log.
    Log,
}

/// Messages under way of one client.
const WINDOW: u64 = 64;
/// Longest wait for a confirmation.
const PATIENCE: Duration = Duration::from_secs(30);

/// Publishes events at QoS 1, `per_message` in each, with a window of messages under way, until `stop` or until `most` are
/// confirmed; adds what is confirmed to `confirmed`.
///
/// # Errors
/// When the broker closes the connection, or confirms nothing any more.
pub async fn events(
    identity: Arc<Identity>,
    endpoint: Endpoint,
    by: Confirmation,
    per_message: u64,
    most: u64,
    confirmed: Arc<AtomicU64>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let root = Root::default();
    let topic = root.from_robot(&identity.id, FromRobot::Events).to_string();
    let mut wire = connect(&identity, endpoint).await?;
    let mut subscribe = Subscribe::new(
        Filter::new(root.robot_inbox(&identity.id), QoS::AtMostOnce),
        None,
    );
    subscribe.pkid = wire.next_id();
    wire.put(&Packet::Subscribe(subscribe))?;
    let stream = Uuid::new_v4();
    let (mut seq, mut under_way) = (0, 0);
    while !*stop.borrow() && (seq < most || under_way > 0) {
        // In halves, so that packets share their records and system calls.
        if under_way <= WINDOW / 2 * per_message {
            while under_way < WINDOW * per_message && seq < most {
                let events = per_message.min(most - seq);
                let body = batch(&identity.id, stream, seq + 1..=seq + events);
                wire.publish(topic.clone(), QoS::AtLeastOnce, false, body)?;
                seq += events;
                under_way += events;
            }
            wire.flush().await?;
        }
        let packet = tokio::select! {
            packet = tokio::time::timeout(PATIENCE, wire.receive()) => packet,
            _ = stop.changed() => break,
        };
        let count = match packet.context("expected confirmations of events")?? {
            Packet::PubAck(_) if by == Confirmation::Broker => per_message,
            Packet::Publish(publish) if by == Confirmation::Log => {
                acknowledged(&identity.id, stream, &publish)
            }
            _ => 0,
        };
        under_way = under_way.saturating_sub(count);
        confirmed.fetch_add(count, Ordering::Relaxed);
    }
    Ok(())
}

fn batch(robot: &RobotId, stream: Uuid, seqs: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    let timestamp = Timestamp::from(std::time::SystemTime::now());
    let event = |seq| Event {
        seq,
        kind: "soak.tick".to_owned(),
        timestamp,
        data: serde_json::json!({ "n": seq }),
    };
    Envelope {
        message_type: MessageType::Events,
        robot_id: robot.clone(),
        timestamp,
        sequence: *seqs.start(),
        clock: Clock::Synced,
        payload: EventBatch {
            stream,
            ordinal: 1,
            events: seqs.map(event).collect(),
        },
    }
    .to_json()
}

/// How many events of the stream an acknowledgement names; none, where it is something else.
fn acknowledged(robot: &RobotId, stream: Uuid, publish: &Publish) -> u64 {
    if !publish.topic.ends_with(b"/to/ack") {
        return 0;
    }
    let ack = Envelope::<Ack>::parse(MessageType::Ack, robot, &publish.payload);
    let ranges = ack
        .ok()
        .and_then(|mut ack| ack.payload.acks.remove(&stream));
    let ranges = ranges.unwrap_or_default();
    ranges.iter().map(|[from, to]| to - from + 1).sum()
}

/// Subscribes to `filter` at QoS 0 and counts the messages that arrive, until `stop`.
///
/// # Errors
/// When the broker refuses or closes the connection.
pub async fn count(
    identity: Arc<Identity>,
    endpoint: Endpoint,
    filter: String,
    received: Arc<AtomicU64>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut wire = connect(&identity, endpoint).await?;
    let mut subscribe = Subscribe::new(Filter::new(filter, QoS::AtMostOnce), None);
    subscribe.pkid = wire.next_id();
    wire.put(&Packet::Subscribe(subscribe))?;
    wire.flush().await?;
    let mut stream = wire.into_stream();
    let mut buffer = vec![0; 256 * 1024];
    let mut packets = Packets::default();
    while !*stop.borrow() {
        match tokio::time::timeout(Duration::from_millis(200), stream.read(&mut buffer)).await {
            Err(_) => {}
            Ok(Ok(0)) => bail!("the broker closed the subscriber's connection"),
            Ok(read) => {
                received.fetch_add(
                    packets.publishes(buffer.get(..read?).unwrap_or_default()),
                    Ordering::Relaxed,
                );
            }
        }
    }
    Ok(())
}

/// Counts PUBLISH packets in a byte stream without decoding their bodies.
#[derive(Default)]
struct Packets {
    header: Vec<u8>,
    skip: usize,
}

impl Packets {
    fn publishes(&mut self, mut bytes: &[u8]) -> u64 {
        let mut publishes = 0;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let (Some(byte), rest) = (bytes.first(), bytes.get(1..).unwrap_or_default()) else {
                break;
            };
            bytes = rest;
            self.header.push(*byte);
            // Type byte, then the remaining length: seven bits a byte, the top bit says that more follow.
            if self.header.len() > 1 && byte & 0x80 == 0 {
                self.skip = self
                    .header
                    .iter()
                    .skip(1)
                    .rev()
                    .fold(0, |length, b| (length << 7) | usize::from(b & 0x7f));
                publishes += u64::from(self.header.first().is_some_and(|kind| kind >> 4 == 3));
                self.header.clear();
            }
        }
        publishes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_wherever_the_stream_is_cut() {
        let mut stream = bytes::BytesMut::new();
        for length in [0, 1, 125, 200, 20_000] {
            let publish = Publish::new("a/b", QoS::AtMostOnce, vec![0x30; length], None);
            Packet::Publish(publish)
                .write(&mut stream, None)
                .expect("it fits");
            stream.extend_from_slice(&[0xd0, 0]);
        }
        for cut in [1, 2, 3, 7, 1000, stream.len()] {
            let mut packets = Packets::default();
            assert_eq!(
                stream
                    .chunks(cut)
                    .map(|chunk| packets.publishes(chunk))
                    .sum::<u64>(),
                5,
                "cut at {cut}"
            );
        }
    }
}
