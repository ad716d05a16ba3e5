//! The socket to the kernel's `NETLINK_SOCK_DIAG`. The kernel answers within the call, so nothing is waited for;
//! the time-out is for kernels that do not.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use lekiwi_agent_core::teleop::diag::{Answer, Family, SocketId, answers, dump, lookup};
use lekiwi_agent_core::teleop::{Connection, MAX_CONNECTIONS};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// What the kernel puts into one datagram at most, when there is room for it.
const DATAGRAM: usize = 8192;
/// Datagrams of one dump; more are no dump of the few ports that a profile has.
const MOST_DATAGRAMS: usize = 1024;

/// Why the kernel does not tell who is connected.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// There is no such socket: an emulated or a very old kernel, or a sandbox.
    #[error("expected a kernel that tells who is connected (NETLINK_SOCK_DIAG)")]
    Unsupported(#[source] io::Error),
    /// The question did not get there, or no answer came.
    #[error("expected an answer of the kernel about connections")]
    Silent(#[source] io::Error),
    /// The question was refused.
    #[error("expected the kernel to say who is connected, it refused")]
    Refused(#[source] io::Error),
    /// The answer has no end.
    #[error("expected at most {MOST_DATAGRAMS} datagrams about connections, got more")]
    Endless,
}

/// A socket that is asked.
#[derive(Debug)]
pub(super) struct Diag(OwnedFd);

impl Diag {
    pub(super) fn open() -> Result<Self, DiagError> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )
        .map_err(|errno| DiagError::Unsupported(errno.into()))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1))
            .map_err(|errno| DiagError::Unsupported(errno.into()))?;
        Ok(Self(socket))
    }

    /// All open connections at `ports`; of more than [`MAX_CONNECTIONS`] those through which data came last.
    pub(super) fn dump(&self, ports: &[u16]) -> Result<Vec<(SocketId, Connection)>, DiagError> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            self.ask(&dump(family, ports))?;
            self.collect(&mut found)?;
        }
        found.sort_by_key(|(_, connection)| connection.last_data_recv);
        found.truncate(MAX_CONNECTIONS);
        Ok(found)
    }

    /// The connection as it is now; `None` when it is closed or closing.
    pub(super) fn lookup(&self, id: &SocketId) -> Result<Option<Connection>, DiagError> {
        self.ask(&lookup(id))?;
        let mut buffer = [0; 1024];
        let length = self.receive(&mut buffer)?;
        match answers(&buffer[..length]).next() {
            Some(Answer::Open(same, connection)) if same.cookie() == id.cookie() => {
                Ok(Some(connection))
            }
            Some(Answer::Refused(errno)) => Err(refused(errno)),
            _ => Ok(None),
        }
    }

    fn ask(&self, message: &[u8]) -> Result<(), DiagError> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), message, &kernel, MsgFlags::empty())
            .map(drop)
            .map_err(|errno| DiagError::Silent(errno.into()))
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, DiagError> {
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                result => return result.map_err(|errno| DiagError::Silent(errno.into())),
            }
        }
    }

    fn collect(&self, found: &mut Vec<(SocketId, Connection)>) -> Result<(), DiagError> {
        let mut buffer = vec![0; DATAGRAM];
        for _ in 0..MOST_DATAGRAMS {
            let length = self.receive(&mut buffer)?;
            for answer in answers(&buffer[..length]) {
                match answer {
                    Answer::Open(id, connection) => found.push((id, connection)),
                    Answer::Done => return Ok(()),
                    // No TCP over this family at all.
                    Answer::Closed => return Ok(()),
                    Answer::Refused(errno) => return Err(refused(errno)),
                }
            }
            if found.len() > 2 * MAX_CONNECTIONS {
                found.sort_by_key(|(_, connection)| connection.last_data_recv);
                found.truncate(MAX_CONNECTIONS);
            }
        }
        Err(DiagError::Endless)
    }
}

fn refused(errno: i32) -> DiagError {
    DiagError::Refused(io::Error::from_raw_os_error(errno))
}

/// How many TCP connections this machine has accepted since it booted: cheaper to ask than who is connected.
pub(super) fn accepted() -> Option<u64> {
    // Taken in one piece, not as it grows.
    let mut text = String::with_capacity(4096);
    let mut file = std::fs::File::open("/proc/net/snmp").ok()?;
    file.read_to_string(&mut text).ok()?;
    passive_opens(&text)
}

/// `PassiveOpens` of the two lines that begin with `Tcp:`, names and values.
fn passive_opens(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let index = names.split(' ').position(|name| name == "PassiveOpens")?;
    values.split(' ').nth(index)?.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn accepted_connections_are_counted_where_the_kernel_says_it() {
        let text = "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoAlgorithm MaxConn ActiveOpens PassiveOpens\n\
                    Tcp: 1 -1 17 42\nUdp: InDatagrams\nUdp: 5\n";
        assert_eq!(passive_opens(text), Some(42));
        assert_eq!(passive_opens("Tcp: A B\nTcp: 1 2\n"), None);
        assert_eq!(passive_opens(""), None);
        let before = accepted().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let _stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _accepted = listener.accept().unwrap();
        assert!(accepted().unwrap() > before);
    }

    /// Commands of both families through real sockets, as the kernel counts them.
    #[test]
    fn connections_are_found_counted_and_gone() {
        let diag = Diag::open().unwrap();
        for host in ["127.0.0.1", "::1"] {
            let listener = TcpListener::bind((host, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(diag.dump(&[port]).unwrap(), [], "nobody is connected");
            let mut client = TcpStream::connect((host, port)).unwrap();
            client.set_nodelay(true).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let found = diag.dump(&[1, port, 9]).unwrap();
            let [(id, connection)] = found[..] else {
                panic!("expected one connection at {host}, got {found:?}");
            };
            assert_eq!((connection.port, connection.data_segs_in), (port, 0));
            assert_eq!(connection.remote, client.local_addr().unwrap().ip());
            assert!(connection.is_loopback);

            let mut byte = [0];
            for _ in 0..5 {
                client.write_all(b"x").unwrap();
                server.read_exact(&mut byte).unwrap();
            }
            server.write_all(b"answer").unwrap();
            client.read_exact(&mut [0; 6]).unwrap();
            let now = diag.lookup(&id).unwrap().unwrap();
            assert_eq!((now.id, now.data_segs_in), (connection.id, 5));
            assert!(now.last_data_recv < Duration::from_secs(1), "{now:?}");
            drop(client);
            // Half closed is closed: no command can come.
            assert_eq!(server.read(&mut byte).unwrap(), 0);
            assert_eq!(diag.lookup(&id).unwrap(), None);
            drop(server);
            assert_eq!(diag.lookup(&id).unwrap(), None);
            // The listener, which such a question also finds, is somebody else.
            assert_eq!(diag.dump(&[port]).unwrap(), []);
        }
    }

    #[test]
    fn of_too_many_connections_the_liveliest_are_kept() {
        let diag = Diag::open().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut pairs = Vec::new();
        for _ in 0..100 {
            let client = TcpStream::connect(address).unwrap();
            pairs.push((client, listener.accept().unwrap().0));
        }
        std::thread::sleep(Duration::from_millis(50));
        let (client, server) = &mut pairs[3];
        client.write_all(b"command").unwrap();
        server.read_exact(&mut [0; 7]).unwrap();
        let found = diag.dump(&[address.port()]).unwrap();
        assert_eq!(found.len(), MAX_CONNECTIONS);
        assert_eq!(found[0].1.data_segs_in, 1);
    }
}
