//! MQTT through the port of HTTPS, for robots in networks that let nothing else out. What a client wants
//! stands in its first message (TLS's ALPN: `mqtt`). Its connection is handed to the broker as it came: TLS,
//! client certificate and all, so that nothing is trusted here, and nothing is different there.

use std::io::{self, Cursor};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Chain, Join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// How MQTT is called in TLS, by IANA.
const MQTT: &[u8] = b"mqtt";
/// Largest first message that is waited for; one with keys against quantum computers has about 1,700.
const MAX_HELLO_BYTES: usize = 16 * 1024;
/// For each direction of a connection; a robot's message is smaller.
const BUFFER_BYTES: usize = 2048;
/// Longest wait for the broker's last words to a robot that closed.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A connection whose first bytes were read, and are read again by whom it is given to.
pub(super) type Rewound = Join<Chain<Cursor<Vec<u8>>, OwnedReadHalf>, OwnedWriteHalf>;

/// A connection and what its client said first.
pub(super) struct Greeted {
    stream: TcpStream,
    hello: Vec<u8>,
    /// Whether it is for the broker.
    pub(super) is_mqtt: bool,
}

impl Greeted {
    /// Reads the client's first message. Not bounded in time.
    ///
    /// # Errors
    /// When the connection ends first, or says too much.
    pub(super) async fn read(mut stream: TcpStream) -> io::Result<Self> {
        let (mut acceptor, mut hello) = (Acceptor::default(), Vec::new());
        let is_mqtt = loop {
            let seen = hello.len();
            if seen > MAX_HELLO_BYTES {
                return Err(io::Error::other("expected a shorter first message"));
            }
            if stream.read_buf(&mut hello).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut new = hello.get(seen..).unwrap_or_default();
            while acceptor.read_tls(&mut new)? > 0 {}
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let wanted = accepted.client_hello().alpn();
                    break wanted.is_some_and(|mut names| names.any(|name| name == MQTT));
                }
                // No TLS: whoever accepts it tells the client so.
                Err(_) => break false,
            }
        };
        Ok(Self {
            stream,
            hello,
            is_mqtt,
        })
    }

    /// The connection as if nothing had been read.
    pub(super) fn rewound(self) -> Rewound {
        let (reader, writer) = self.stream.into_split();
        tokio::io::join(Cursor::new(self.hello).chain(reader), writer)
    }

    /// Carries everything between the client and the broker, until one of them ends. `behind` is told the address that the
    /// broker sees; what it gives is kept as long.
    ///
    /// # Errors
    /// When the broker is not there, or a connection breaks.
    pub(super) async fn hand_to<T>(
        mut self,
        broker: SocketAddr,
        behind: impl FnOnce(SocketAddr) -> T,
    ) -> io::Result<()> {
        let mut broker = TcpStream::connect(reachable(broker)).await?;
        // Said before the broker hears of it.
        let _behind = behind(broker.local_addr()?);
        broker.set_nodelay(true)?;
        broker.write_all(&self.hello).await?;
        let (client_reader, client_writer) = self.stream.split();
        let (broker_reader, broker_writer) = broker.split();
        let up = carry(client_reader, broker_writer);
        let down = carry(broker_reader, client_writer);
        tokio::pin!(up, down);
        tokio::select! {
            result = &mut down => result,
            result = &mut up => {
                let _ = tokio::time::timeout(LAST_WORDS, down).await;
                result
            }
        }
    }
}

async fn carry(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BUFFER_BYTES, from);
    tokio::io::copy_buf(&mut from, &mut to).await?;
    to.shutdown().await
}

/// A listener on every address is reached by loopback.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, listener.port())
}
