//! Watches machines of the local network ask for addresses: their questions go to everybody. Nothing is
//! sent, and a DHCP server on the same machine is not disturbed. Needs `CAP_NET_RAW`.

use std::io::{self, Read};

use lekiwi_protocol::discovery::dhcp::Asked;
use nix::libc;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

/// Why nobody is watched.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// The system does not let us.
    #[error("expected the capability to open packet sockets (CAP_NET_RAW)")]
    Capability(#[source] io::Error),
    /// Something else.
    #[error("cannot open a packet socket")]
    Socket(#[source] io::Error),
}

impl DhcpError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Capability(_) => Some(
                "a drop-in of lekiwi-relay.service gives it: AmbientCapabilities=CAP_NET_RAW, \
                 CapabilityBoundingSet=CAP_NET_RAW, RestrictAddressFamilies=AF_PACKET",
            ),
            Self::Socket(_) => None,
        }
    }
}

/// Hears the questions.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<Socket>,
}

impl Watch {
    /// Listens on all interfaces from now on.
    ///
    /// # Errors
    /// When the system does not let us.
    #[expect(
        deprecated,
        reason = "what replaces `AsyncFd::new` is unsafe; the socket is owned, and stays the same"
    )]
    pub fn open() -> Result<Self, DhcpError> {
        let open = || {
            // The kernel takes the protocol in network order, and leaves the Ethernet header away.
            let ip = i32::from(u16::try_from(libc::ETH_P_IP).unwrap_or_default().to_be());
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(ip)))?;
            socket.set_nonblocking(true)?;
            socket.attach_filter(&FILTER)?;
            AsyncFd::new(socket)
        };
        match open() {
            Ok(socket) => Ok(Self { socket }),
            Err(error) => Err(match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES | libc::EAFNOSUPPORT) => {
                    DhcpError::Capability(error)
                }
                _ => DhcpError::Socket(error),
            }),
        }
    }

    /// The next machine that asks.
    ///
    /// # Errors
    /// When the socket fails, for good.
    pub async fn next(&self) -> io::Result<Asked> {
        let mut packet = [0; 1500];
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| socket.get_ref().read(&mut packet)) {
                Ok(Ok(length)) => {
                    if let Some(asked) = Asked::read(packet.get(..length).unwrap_or_default()) {
                        return Ok(asked);
                    }
                }
                // An interface went down; others go on.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// The kernel's filter: UDP, no later fragment, to port 67. What the relay does not need to see does not
/// wake it. Codes as in `linux/bpf_common.h`.
const FILTER: [SockFilter; 9] = [
    // The protocol is UDP.
    SockFilter::new(0x30, 0, 0, 9),
    SockFilter::new(0x15, 0, 5, 17),
    // No offset of a fragment.
    SockFilter::new(0x28, 0, 0, 6),
    SockFilter::new(0x45, 3, 0, 0x1fff),
    // The port behind the header.
    SockFilter::new(0xb1, 0, 0, 0),
    SockFilter::new(0x48, 0, 0, 2),
    SockFilter::new(0x15, 1, 0, 67),
    // Refused, and taken whole.
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, 0xffff),
];
