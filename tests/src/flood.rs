//! The cheapest MQTT 5 clients there can be, so that a benchmark measures the broker: packets are encoded
//! once, written as they are, and only counted when they come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Connect, Filter, Packet, Publish, Subscribe};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fleet::{Endpoint, Identity};

/// A connection past CONNACK.
async fn connect(
    identity: &Identity,
    client_id: &str,
    endpoint: &Endpoint,
) -> Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(endpoint.host.clone())?;
    let mut stream = TlsConnector::from(Arc::new(identity.client_config()?))
        .connect(name, tcp)
        .await?;
    let connect = Packet::Connect(
        Connect {
            keep_alive: 600,
            client_id: client_id.to_owned(),
            clean_start: true,
            properties: None,
        },
        None,
        None,
    );
    stream.write_all(&encode(&connect)?).await?;
    let mut answer = bytes::BytesMut::new();
    loop {
        ensure!(
            stream.read_buf(&mut answer).await? > 0,
            "the broker closed the connection of {client_id}"
        );
        match Packet::read(&mut answer, None) {
            Ok(Packet::ConnAck(ack)) => {
                ensure!(
                    ack.code == rumqttc::v5::mqttbytes::v5::ConnectReturnCode::Success,
                    "expected {client_id} to be accepted, got {:?}",
                    ack.code
                );
                return Ok(stream);
            }
            Ok(other) => bail!("expected CONNACK, got {other:?}"),
            Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {}
            Err(error) => return Err(error).context("expected CONNACK"),
        }
    }
}

fn encode(packet: &Packet) -> Result<bytes::BytesMut> {
    let mut buffer = bytes::BytesMut::new();
    packet.write(&mut buffer, None)?;
    Ok(buffer)
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
    let mut stream = connect(&identity, identity.id.as_str(), &endpoint).await?;
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
    let mut stream = connect(&identity, identity.id.as_str(), &endpoint).await?;
    let mut subscribe = Subscribe::new(Filter::new(filter, QoS::AtMostOnce), None);
    subscribe.pkid = 1;
    stream
        .write_all(&encode(&Packet::Subscribe(subscribe))?)
        .await?;
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
