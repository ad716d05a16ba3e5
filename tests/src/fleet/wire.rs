//! An MQTT 5 connection that costs little: the codec, TLS, and no task, queue or timer of its own.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use lekiwi_protocol::limits;
use rumqttc::v5::mqttbytes::v5::{Connect, ConnectReturnCode, LastWill, Packet, Publish};
use rumqttc::v5::mqttbytes::{Error, QoS};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the broker is.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Host name or address, as in the broker's certificate.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl std::str::FromStr for Endpoint {
    type Err = anyhow::Error;

    fn from_str(address: &str) -> Result<Self> {
        let (host, port) = address
            .rsplit_once(':')
            .with_context(|| format!("expected host:port, got {address}"))?;
        Ok(Self {
            host: host.to_owned(),
            port: port.parse()?,
        })
    }
}

/// A connection past CONNACK.
#[derive(Debug)]
pub struct Wire {
    stream: TlsStream<TcpStream>,
    incoming: BytesMut,
    outgoing: BytesMut,
    packet_id: u16,
}

impl Wire {
    /// Connects with a clean start.
    ///
    /// # Errors
    /// When the network, TLS or the broker refuses.
    pub async fn connect(
        tls: Arc<rustls::ClientConfig>,
        endpoint: Endpoint,
        client_id: String,
        keep_alive_s: u16,
        will: Option<LastWill>,
    ) -> Result<Self> {
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(endpoint.host)?;
        let mut wire = Self {
            stream: TlsConnector::from(tls).connect(name, tcp).await?,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            packet_id: 0,
        };
        let connect = Connect {
            keep_alive: keep_alive_s,
            client_id,
            clean_start: true,
            properties: None,
        };
        wire.put(&Packet::Connect(connect, will, None))?;
        wire.flush().await?;
        match wire.receive().await? {
            Packet::ConnAck(ack) => {
                ensure!(
                    ack.code == ConnectReturnCode::Success,
                    "expected to be accepted, got {:?}",
                    ack.code
                );
                Ok(wire)
            }
            other => bail!("expected CONNACK, got {other:?}"),
        }
    }

    /// The next packet. May be cancelled.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn receive(&mut self) -> Result<Packet> {
        loop {
            let most = u32::try_from(limits::MAX_PAYLOAD_BYTES * 2)?;
            match Packet::read(&mut self.incoming, Some(most)) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(error).context("expected a packet"),
            }
            self.incoming.reserve(512);
            ensure!(
                self.stream.read_buf(&mut self.incoming).await? > 0,
                "the broker closed the connection"
            );
        }
    }

    /// Adds a packet to what the next [`Self::flush`] writes.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn put(&mut self, packet: &Packet) -> Result<()> {
        packet.write(&mut self.outgoing, None)?;
        Ok(())
    }

    /// [`Self::put`] of a PUBLISH.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn publish(&mut self, topic: String, qos: QoS, retain: bool, body: Vec<u8>) -> Result<()> {
        let mut publish = Publish::new(topic, qos, body, None);
        publish.retain = retain;
        if qos != QoS::AtMostOnce {
            publish.pkid = self.next_id();
        }
        self.put(&Packet::Publish(publish))
    }

    /// A packet id; none that is under way, as long as fewer than 65,535 are.
    pub fn next_id(&mut self) -> u16 {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        self.packet_id
    }

    /// Writes what was put.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn flush(&mut self) -> Result<()> {
        // Taken, so that an idle connection holds no buffer.
        let outgoing = std::mem::take(&mut self.outgoing);
        self.stream.write_all(&outgoing).await?;
        Ok(self.stream.flush().await?)
    }

    /// Ends this side, as who says DISCONNECT must, and waits for the broker's end: what was said last is through.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn close(&mut self) -> Result<()> {
        self.stream.shutdown().await?;
        while self.receive().await.is_ok() {}
        Ok(())
    }

    /// The stream itself, for who reads and writes bytes.
    #[must_use]
    pub fn into_stream(self) -> TlsStream<TcpStream> {
        self.stream
    }
}
