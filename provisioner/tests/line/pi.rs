//! A board's firmware, as far as a network sees it: DHCP with its identifier, TFTP below its serial number. It is
//! strict: what a Raspberry Pi would not take, it does not take.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::net::{LINE, board};

/// Longest wait for any answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One board.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pi {
    /// Where it stands, from 0; also its last address byte.
    pub(crate) number: u8,
    /// 3, 4 or 5.
    pub(crate) model: u8,
}

/// A DHCP answer, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) head: Vec<u8>,
    pub(crate) sname_and_file: Vec<u8>,
    pub(crate) options: BTreeMap<u8, Vec<u8>>,
}

impl Pi {
    pub(crate) fn serial(self) -> String {
        format!("10000000abcdef{:02x}", self.number)
    }

    pub(crate) fn folder(self) -> String {
        format!("abcdef{:02x}", self.number)
    }

    pub(crate) fn key(self) -> String {
        self.folder()
    }

    pub(crate) fn mac(self) -> [u8; 6] {
        match self.model {
            3 => [0xb8, 0x27, 0xeb, 0xcd, 0xef, self.number],
            4 => [0xdc, 0xa6, 0x32, 0, 0, self.number],
            _ => [0x2c, 0xcf, 0x67, 0, 0, self.number],
        }
    }

    pub(crate) fn address(self) -> Ipv4Addr {
        board(self.number)
    }

    fn guid(self) -> Vec<u8> {
        let mut guid = vec![0];
        match self.model {
            3 => guid.extend([0x44; 16]),
            model => {
                guid.extend([b'R', b'P', b'i', b'0' + model]);
                let revision: u32 = if model == 4 { 0x00c0_3111 } else { 0x00d0_4170 };
                guid.extend(revision.to_le_bytes());
                guid.extend(&self.mac()[2..]);
                guid.extend(u32::from_be_bytes([0xab, 0xcd, 0xef, self.number]).to_le_bytes());
            }
        }
        guid
    }

    /// A DHCP message of the firmware: 1 discovers, 3 requests.
    pub(crate) fn dhcp(self, kind: u8) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&self.xid());
        bytes[28..34].copy_from_slice(&self.mac());
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        for (code, value) in [
            (53, &[kind][..]),
            (
                55,
                &[1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135],
            ),
            (93, &[0, 0]),
            (94, &[1, 2, 1]),
            (97, &self.guid()),
            (60, b"PXEClient:Arch:00000:UNDI:002001"),
        ] {
            bytes.extend([code, value.len() as u8]);
            bytes.extend_from_slice(value);
        }
        bytes.push(255);
        bytes.resize(bytes.len().max(320), 0);
        bytes
    }

    fn xid(self) -> [u8; 4] {
        [0x26, 0xf3, self.model, self.number]
    }

    /// Asks everybody on the network, and gives the answer of whoever says where to boot from.
    pub(crate) fn discover(self, socket: &UdpSocket) -> Offer {
        socket
            .send_to(&self.dhcp(1), (Ipv4Addr::BROADCAST, 67))
            .expect("sent");
        self.offer(socket)
    }

    /// Waits for the answer with its number.
    pub(crate) fn offer(self, socket: &UdpSocket) -> Offer {
        let mut buffer = [0; 1500];
        loop {
            let (length, _) = socket.recv_from(&mut buffer).unwrap_or_else(|error| {
                panic!("expected an answer to board {}: {error}", self.number)
            });
            let bytes = &buffer[..length];
            if length >= 240 && bytes[0] == 2 && bytes[4..8] == self.xid() {
                return Offer::parse(bytes);
            }
        }
    }

    /// The file below its serial number, as firmware fetches it: the size first, given up, then all of it.
    pub(crate) fn tftp(self, file: &str) -> Result<Vec<u8>, String> {
        let name = format!("{}/{file}", self.folder());
        let size = tftp_size(self.address(), &name)?;
        let got = tftp(
            self.address(),
            &name,
            &[("tsize", "0"), ("blksize", "1024")],
        )?;
        assert_eq!(got.len(), size, "{name}");
        Ok(got)
    }

    /// A report to the line; the HTTP status.
    pub(crate) fn says(self, step: &str, detail: &str) -> u16 {
        let mac = self.mac().map(|byte| format!("{byte:02x}")).join(":");
        let body = format!(
            r#"{{"step":"{step}","detail":"{detail}","mac":"{mac}","board":"Raspberry Pi {}","memory_kib":3884340}}"#,
            self.model
        );
        let path = format!("/units/{}/step", self.serial());
        http(self.address(), (LINE, 8080).into(), "POST", &path, &body).0
    }

    /// Something from the line.
    pub(crate) fn gets(self, path: &str) -> (u16, Vec<u8>) {
        http(self.address(), (LINE, 8080).into(), "GET", path, "")
    }
}

/// Where boards listen for DHCP.
pub(crate) fn dhcp_socket(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bound");
    socket.set_broadcast(true).expect("broadcasts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    socket
}

impl Offer {
    fn parse(bytes: &[u8]) -> Self {
        let mut options = BTreeMap::new();
        let mut rest = &bytes[240..];
        while let [code, length, tail @ ..] = rest {
            match *code {
                255 => break,
                0 => rest = &rest[1..],
                code => {
                    let (value, tail) = tail.split_at(usize::from(*length));
                    options.insert(code, value.to_vec());
                    rest = tail;
                }
            }
        }
        Self {
            head: bytes[..44].to_vec(),
            sname_and_file: bytes[44..236].to_vec(),
            options,
        }
    }

    /// The boot server, if firmware would take the answer.
    pub(crate) fn boot_server(&self) -> Option<Ipv4Addr> {
        let menu = self.options.get(&43)?;
        let wanted = b"Raspberry Pi Boot";
        menu.windows(wanted.len()).find(|part| part == wanted)?;
        let server = <[u8; 4]>::try_from(self.options.get(&54)?.as_slice()).ok()?;
        Some(server.into())
    }
}

/// A read request as it goes over the wire.
pub(crate) fn read_request(name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![0, 1];
    let words = [name, "octet"].into_iter();
    for word in words.chain(options.iter().flat_map(|(name, value)| [*name, *value])) {
        bytes.extend(word.as_bytes());
        bytes.push(0);
    }
    bytes
}

fn tftp_socket(from: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    socket
}

/// Sends a request to the line and waits for the answer. What is lost on the way is sent again, as firmware does.
fn ask(socket: &UdpSocket, request: &[u8], buffer: &mut [u8]) -> (usize, SocketAddr) {
    let brief = Duration::from_secs(1);
    socket.set_read_timeout(Some(brief)).expect("a limit");
    for _ in 0..PATIENCE.as_secs() {
        socket.send_to(request, (LINE, 69)).expect("sent");
        if let Ok(answer) = socket.recv_from(buffer) {
            socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
            return answer;
        }
    }
    panic!("no answer within {PATIENCE:?}");
}

/// An error message as `code text`.
fn refusal(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[4..]);
    format!("{} {}", bytes[3], text.trim_end_matches('\0'))
}

/// The size of a file, as firmware asks for it.
pub(crate) fn tftp_size(from: Ipv4Addr, name: &str) -> Result<usize, String> {
    let options = tftp_options(from, name, &[("tsize", "0"), ("blksize", "1024")])?;
    Ok(options["tsize"].parse().expect("a size"))
}

/// What the server agrees to; the transfer is given up then.
pub(crate) fn tftp_options(
    from: Ipv4Addr,
    name: &str,
    options: &[(&str, &str)],
) -> Result<BTreeMap<String, String>, String> {
    let socket = tftp_socket(from);
    let mut buffer = [0; 2048];
    let (length, server) = ask(&socket, &read_request(name, options), &mut buffer);
    if buffer[1] == 5 {
        return Err(refusal(&buffer[..length]));
    }
    assert_eq!(buffer[..2], [0, 6], "options are agreed to");
    socket
        .send_to(b"\0\x05\0\0Early terminate\0", server)
        .expect("sent");
    let words: Vec<String> = buffer[2..length]
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).to_lowercase())
        .collect();
    let pairs = words.chunks_exact(2);
    Ok(pairs
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect())
}

/// A whole file.
pub(crate) fn tftp(
    from: Ipv4Addr,
    name: &str,
    options: &[(&str, &str)],
) -> Result<Vec<u8>, String> {
    let socket = tftp_socket(from);
    let (mut got, mut block_size, mut block) = (Vec::new(), 512, 1_u16);
    let mut buffer = [0; 2048];
    let mut answer = Ok(ask(&socket, &read_request(name, options), &mut buffer));
    loop {
        let (length, server) =
            answer.map_err(|error| format!("block {block} of {name}: {error}"))?;
        let number = u16::from_be_bytes([buffer[2], buffer[3]]);
        match buffer[1] {
            5 => return Err(refusal(&buffer[..length])),
            6 => {
                let words: Vec<_> = buffer[2..length].split(|byte| *byte == 0).collect();
                for pair in words.chunks_exact(2) {
                    if pair[0].eq_ignore_ascii_case(b"blksize") {
                        block_size = String::from_utf8_lossy(pair[1]).parse().expect("a size");
                    }
                }
                socket.send_to(&[0, 4, 0, 0], server).expect("sent");
            }
            3 if number == block => {
                got.extend_from_slice(&buffer[4..length]);
                let acknowledgement = [&[0, 4], &buffer[2..4]].concat();
                socket.send_to(&acknowledgement, server).expect("sent");
                if length - 4 < block_size {
                    return Ok(got);
                }
                block += 1;
            }
            _ => {}
        }
        answer = socket.recv_from(&mut buffer);
    }
}

/// One HTTP request from an address: status and body.
pub(crate) fn http(
    from: Ipv4Addr,
    to: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, Vec<u8>) {
    // The board's own address must be the one that the line sees.
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a socket");
    let address = |at: SocketAddr| nix::sys::socket::SockaddrStorage::from(at);
    let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
    nix::sys::socket::bind(raw, &address((from, 0).into())).expect("bound");
    nix::sys::socket::connect(raw, &address(to)).expect("the line answers");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer
        .windows(4)
        .position(|part| part == b"\r\n\r\n")
        .expect("headers");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), answer[end + 4..].to_vec())
}
