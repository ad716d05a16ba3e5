//! TCP to the relay, for the link and for enrolment: names resolved, and remembered for the day when there
//! is no DNS; both families of addresses raced (RFC 8305); through an HTTP proxy where there is one.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{SndBuf, TcpUserTimeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::Address;
use crate::http;

/// Head start of one address before the next is tried beside it (RFC 8305, connection attempt delay).
const HEAD_START: Duration = Duration::from_millis(250);
/// Longest wait for any address of an endpoint: two round trips of a link with two seconds of delay.
const PATIENCE: Duration = Duration::from_secs(6);
/// Longest wait for the DNS when addresses are remembered.
const DNS_HEAD_START: Duration = Duration::from_secs(2);
/// Sent data that nobody acknowledges for so long ends the connection, also where the kernel alone would
/// go on for a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// What the kernel takes before the network does. Small, so that a ping is not stuck behind minutes of
/// backlog on a slow link.
const SEND_BUFFER_BYTES: usize = 16 * 1024;
/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;
/// Largest answer of a proxy.
const MAX_HEAD_BYTES: usize = 4096;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, and none is remembered.
    #[error("expected an address of {host}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No address takes the connection.
    #[error(transparent)]
    Refused(#[from] io::Error),
    /// No address answers.
    #[error("expected a TCP connection within {} s", PATIENCE.as_secs())]
    Slow,
    /// The proxy does not connect.
    #[error("expected the proxy at {proxy} to connect, got {answer:?}")]
    Proxy {
        /// Which.
        proxy: Address,
        /// The first line of its answer.
        answer: String,
    },
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Refused(error) => error,
            other => Self::other(other),
        }
    }
}

/// Makes connections; remembers where names led to.
#[derive(Debug, Default)]
pub struct Dialer {
    proxy: Option<Address>,
    remembered: Mutex<Vec<(Address, Vec<SocketAddr>)>>,
}

impl Dialer {
    /// `proxy` is asked to CONNECT instead, and resolves the names.
    #[must_use]
    pub fn new(proxy: Option<Address>) -> Self {
        Self {
            proxy,
            remembered: Mutex::default(),
        }
    }

    /// A connection to `to`, bounded in time.
    ///
    /// # Errors
    /// When there is none.
    pub async fn dial(&self, to: &Address) -> Result<TcpStream, DialError> {
        let dial = async {
            let Some(proxy) = &self.proxy else {
                return race(self.resolve(to).await?).await;
            };
            let mut stream = race(self.resolve(proxy).await?).await?;
            tunnel(&mut stream, proxy, to).await?;
            Ok(stream)
        };
        timeout(PATIENCE, dial)
            .await
            .unwrap_or(Err(DialError::Slow))
    }

    async fn resolve(&self, name: &Address) -> Result<Vec<SocketAddr>, DialError> {
        let known = self.recall(name);
        let lookup = async {
            let found = lookup_host((name.host.as_str(), name.port)).await?;
            Ok(found.take(MOST_ADDRESSES).collect())
        };
        let limit = match known {
            Some(_) => DNS_HEAD_START,
            None => PATIENCE,
        };
        let found: io::Result<Vec<SocketAddr>> = timeout(limit, lookup)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match (found, known) {
            (Ok(found), _) if !found.is_empty() => {
                let found = interleaved(&found);
                self.remember(name, &found);
                Ok(found)
            }
            (_, Some(known)) => {
                log::debug!(
                    "{} does not resolve; its last addresses are tried",
                    name.host
                );
                Ok(known)
            }
            (found, None) => Err(DialError::Unresolved {
                host: name.host.clone(),
                source: found.err().unwrap_or(io::ErrorKind::NotFound.into()),
            }),
        }
    }

    fn recall(&self, name: &Address) -> Option<Vec<SocketAddr>> {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = remembered.iter().find(|(known, _)| known == name);
        known.map(|(_, addresses)| addresses.clone())
    }

    /// As many as there are endpoints, which are few.
    fn remember(&self, name: &Address, addresses: &[SocketAddr]) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|(known, _)| known != name);
        remembered.push((name.clone(), addresses.to_vec()));
    }
}

/// The families by turns, beginning with the one that the system prefers (RFC 8305, section 4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else {
        return Vec::new();
    };
    let (preferred, other): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses
        .iter()
        .partition(|address| address.is_ipv6() == first.is_ipv6());
    let mut other = other.into_iter();
    let mut mixed = Vec::with_capacity(addresses.len());
    for address in preferred {
        mixed.push(address);
        mixed.extend(other.next());
    }
    mixed.extend(other);
    mixed
}

/// The first address that takes the connection; each has a head start over the next, until it fails.
async fn race(addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
    let mut waiting = addresses.into_iter().peekable();
    let mut running = JoinSet::new();
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            running.spawn(connect(address));
        }
        let head_start = tokio::time::sleep(HEAD_START);
        tokio::select! {
            done = running.join_next() => match done {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => refused = error,
                Some(Err(_)) => {}
                None => return Err(refused.into()),
            },
            () = head_start, if waiting.peek().is_some() => {}
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // What is said together is written together: nothing is gained by waiting for more.
    socket.set_nodelay(true)?;
    let limit = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&socket, TcpUserTimeout, &limit)?;
    setsockopt(&socket, SndBuf, &SEND_BUFFER_BYTES)?;
    socket.connect(address).await
}

async fn tunnel(stream: &mut TcpStream, proxy: &Address, to: &Address) -> Result<(), DialError> {
    let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Nobody behind the proxy speaks before we do, so what ends with the head is all of it.
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD_BYTES {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let line = http::first_line(&head);
    let is_yes = matches!(http::status(&line), Some(200..=299));
    if is_yes && head.ends_with(b"\r\n\r\n") {
        return Ok(());
    }
    Err(DialError::Proxy {
        proxy: proxy.clone(),
        answer: line,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock;

    fn address(host: &str, port: u16) -> Address {
        Address {
            host: host.to_owned(),
            port,
        }
    }

    fn chain(error: DialError) -> String {
        crate::driver::chain(&error)
    }

    #[test]
    fn families_take_turns() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let cases: [(&[&str], &[&str]); 4] = [
            (&[], &[]),
            (&["[::1]:1"], &["[::1]:1"]),
            (
                &["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"],
                &["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"],
            ),
            (
                &["1.1.1.1:1", "[::1]:1", "[::2]:1"],
                &["1.1.1.1:1", "[::1]:1", "[::2]:1"],
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(interleaved(&parse(given)), parse(expected));
        }
    }

    /// TEST-NET-1 goes nowhere, or is refused at once where there is no route: the second address wins in
    /// both cases.
    #[tokio::test]
    async fn a_silent_address_costs_a_head_start() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let good = listener.local_addr().unwrap();
        let started = clock::now();
        let stream = race(vec!["192.0.2.1:9".parse().unwrap(), good])
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert!(started.elapsed() < Duration::from_secs(2));
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_refusal_starts_the_next_at_once_and_the_last_one_is_said() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let good = listener.local_addr().unwrap();
        let bad: SocketAddr = "127.0.0.1:1".parse().unwrap();
        race(vec![bad, bad, good]).await.unwrap();
        assert_eq!(
            race(vec![bad, bad]).await.map_err(chain).unwrap_err(),
            "Connection refused (os error 111)"
        );
    }

    #[tokio::test]
    async fn a_name_is_remembered_and_an_unknown_one_is_said() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let there = listener.local_addr().unwrap();
        let gone = address("gone.invalid", there.port());
        let dialer = Dialer::default();
        let error = chain(dialer.dial(&gone).await.unwrap_err());
        assert!(
            error.starts_with("expected an address of gone.invalid: "),
            "{error}"
        );
        dialer.remember(&gone, &[there]);
        dialer.dial(&gone).await.unwrap();
    }

    /// A proxy that answers with this, after it read the request; what it was asked.
    async fn proxied(answer: &'static str) -> (Result<TcpStream, DialError>, String, u16) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let dialer = Dialer::new(Some(address("127.0.0.1", port)));
        let dialed = dialer.dial(&address("relay.example", 8883)).await;
        (dialed, proxy.await.unwrap(), port)
    }

    #[tokio::test]
    async fn a_proxy_connects_by_name_or_its_answer_is_said() {
        let (dialed, request, _) =
            proxied("HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n").await;
        dialed.unwrap();
        assert_eq!(
            request,
            "CONNECT relay.example:8883 HTTP/1.1\r\nHost: relay.example:8883\r\n\r\n"
        );
        for answer in [
            "HTTP/1.1 403 Forbidden\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "SSH-2.0-x\r\n\r\n",
            "",
        ] {
            let (dialed, _, port) = proxied(answer).await;
            let line = answer.lines().next().unwrap_or_default();
            assert_eq!(
                chain(dialed.unwrap_err()),
                format!("expected the proxy at 127.0.0.1:{port} to connect, got {line:?}")
            );
        }
    }
}
