//! What is said to the kernel over `NETLINK_SOCK_DIAG` to see who is connected, as bytes: requests are built
//! here and answers read, without a socket. Layouts are those of `linux/sock_diag.h`, `linux/inet_diag.h` and
//! `linux/tcp.h`; all but ports and addresses are in the machine's own byte order.
//!
//! Whatever comes as an answer is read or refused: [`answers`] never reads beyond a message's own length, and
//! `tcp_info`, which grows with the kernel, is read by the length given.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::Connection;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;
/// `struct inet_diag_req_v2`
const REQUEST: usize = 56;
/// `struct inet_diag_msg`
const ANSWER: usize = 72;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ESTABLISHED: u8 = 1;
/// `1 << (INET_DIAG_INFO - 1)`
const WITH_INFO: u8 = 1 << 1;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const BC_JUMP: u8 = 1;
const BC_SPORT_AT_LEAST: u8 = 2;
const BC_SPORT_AT_MOST: u8 = 3;
/// One port in the filter: two comparisons of two operations each, and a jump.
const FILTER_STEP: u16 = 20;
const ENOENT: i32 = 2;
const ESTALE: i32 = 116;

/// Which addresses a dump is of. The kernel answers for one family at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, and IPv4 through it.
    V6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::V4 => AF_INET,
            Self::V6 => AF_INET6,
        }
    }
}

/// A socket as the kernel finds it again: `struct inet_diag_sockid`, word for word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketId {
    family: u8,
    words: [u8; 48],
}

impl SocketId {
    /// The kernel's number of this socket.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        u64_at(&self.words, 40).unwrap_or_default()
    }
}

/// One thing that the kernel answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// An open connection.
    Open(SocketId, Connection),
    /// The socket that was asked for is closed or closing.
    Closed,
    /// No more comes.
    Done,
    /// The request was refused with this `errno`.
    Refused(i32),
}

/// Asks for all open connections of a family at our `ports`, which the kernel filters.
#[must_use]
pub fn dump(family: Family, ports: &[u16]) -> Vec<u8> {
    let filter = filter(ports);
    let mut message = header(
        REQUEST + 4 + filter.len(),
        NLM_F_REQUEST | NLM_F_DUMP,
        family.number(),
    );
    message.extend([0; 48]);
    message.extend(short(4 + filter.len()).to_ne_bytes());
    message.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    message.extend(filter);
    message
}

/// Asks for one connection.
#[must_use]
pub fn lookup(id: &SocketId) -> Vec<u8> {
    let mut message = header(REQUEST, NLM_F_REQUEST, id.family);
    message.extend(id.words);
    message
}

/// The header of both, up to the socket's id.
fn header(length: usize, flags: u16, family: u8) -> Vec<u8> {
    let length = NLMSG_HEADER + length;
    let mut message = Vec::with_capacity(length);
    message.extend(u32::from(short(length)).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence number and sender: one question at a time
    message.extend([family, IPPROTO_TCP, WITH_INFO, 0]);
    message.extend((1_u32 << ESTABLISHED).to_ne_bytes());
    message
}

/// Lengths here are bounded by [`lekiwi_protocol::limits::MAX_TELEOP_PORTS`].
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// The kernel's program for "our port is one of these": it accepts where it ends exactly, and rejects where it
/// jumps further. `yes` and `no` are the bytes to go on by; the port of a comparison stands in the `no` of the
/// operation after it.
fn filter(ports: &[u16]) -> Vec<u8> {
    let mut program = Vec::with_capacity(ports.len() * usize::from(FILTER_STEP));
    let mut op = |code: u8, yes: u8, no: u16| {
        program.extend([code, yes]);
        program.extend(no.to_ne_bytes());
    };
    for (index, port) in ports.iter().enumerate() {
        op(BC_SPORT_AT_LEAST, 8, FILTER_STEP);
        op(0, 0, *port);
        op(BC_SPORT_AT_MOST, 8, 12);
        op(0, 0, *port);
        let after = short(ports.len() - index - 1);
        if after > 0 {
            // To the end: the last port has no jump, which makes up for this one.
            op(BC_JUMP, 4, after * FILTER_STEP);
        }
    }
    program
}

/// What a datagram of the kernel says. What is cut off or of another kind is left out.
pub fn answers(datagram: &[u8]) -> impl Iterator<Item = Answer> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let length = usize::try_from(u32_at(rest, 0)?).ok()?;
            let kind = u16_at(rest, 4)?;
            let message = rest.get(..length).filter(|m| m.len() >= NLMSG_HEADER)?;
            rest = rest.get(aligned(length)..).unwrap_or_default();
            if let Some(answer) = answer(kind, &message[NLMSG_HEADER..]) {
                return Some(answer);
            }
        }
    })
}

fn answer(kind: u16, body: &[u8]) -> Option<Answer> {
    match kind {
        NLMSG_DONE => Some(match i32_at(body, 0) {
            Some(error) if error < 0 => Answer::Refused(error.checked_neg()?),
            _ => Answer::Done,
        }),
        NLMSG_ERROR => match i32_at(body, 0)?.checked_neg()? {
            0 => None,
            ENOENT | ESTALE => Some(Answer::Closed),
            error => Some(Answer::Refused(error)),
        },
        SOCK_DIAG_BY_FAMILY => connection(body),
        _ => None,
    }
}

fn connection(body: &[u8]) -> Option<Answer> {
    let (message, mut attributes) = body.split_at_checked(ANSWER)?;
    if message[1] != ESTABLISHED {
        return Some(Answer::Closed);
    }
    let id = SocketId {
        family: message[0],
        words: message[4..52].try_into().ok()?,
    };
    let mut info = None;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(4..length)?;
        if kind == INET_DIAG_INFO {
            info = Some(value);
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    let info = info?;
    let (local, remote) = (address(&id, 4)?, address(&id, 20)?);
    let micros = |at| u32_at(info, at).map(|us| Duration::from_micros(us.into()));
    Some(Answer::Open(
        id,
        Connection {
            id: id.cookie(),
            port: u16::from_be_bytes(id.words[..2].try_into().ok()?),
            remote,
            is_loopback: remote.is_loopback() || remote == local,
            last_data_recv: Duration::from_millis(u32_at(info, 52)?.into()),
            rtt: micros(68)?,
            bytes_acked: u64_at(info, 120)?,
            min_rtt: micros(148)?,
            data_segs_in: u32_at(info, 152)?,
        },
    ))
}

fn address(id: &SocketId, at: usize) -> Option<IpAddr> {
    let bytes: [u8; 16] = id.words.get(at..at + 16)?.try_into().ok()?;
    match id.family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        AF_INET6 => Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()),
        _ => None,
    }
}

/// Messages and attributes begin at multiples of four.
fn aligned(length: usize) -> usize {
    // A length of nothing must not stand still.
    length.max(4).next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel makes of a filter (`inet_diag_bc_run`).
    fn accepts(program: &[u8], port: u16) -> bool {
        let (mut at, length) = (0, program.len());
        while at < length {
            let (code, yes) = (program[at], usize::from(program[at + 1]));
            let no = usize::from(u16_at(program, at + 2).unwrap());
            let is = match code {
                BC_SPORT_AT_LEAST => port >= u16_at(program, at + 6).unwrap(),
                BC_SPORT_AT_MOST => port <= u16_at(program, at + 6).unwrap(),
                BC_JUMP => false,
                other => panic!("no such operation: {other}"),
            };
            at += if is { yes } else { no };
        }
        at == length
    }

    /// What the kernel asks of a filter before it runs it (`inet_diag_bc_audit`).
    fn audited(program: &[u8]) -> bool {
        let mut starts = vec![];
        let mut at = 0;
        while at < program.len() {
            starts.push(at);
            at += usize::from(program[at + 1]);
        }
        let target = |start: &usize| start + usize::from(u16_at(program, start + 2).unwrap());
        let right =
            |to: usize| starts.contains(&to) || to == program.len() || to == program.len() + 4;
        at == program.len() && starts.iter().all(|start| right(target(start)))
    }

    /// An answer about a connection, as Linux 6 words it.
    fn answer_bytes(family: u8, local: &[u8], remote: &[u8], info_length: usize) -> Vec<u8> {
        let mut info = vec![0; 280];
        info[52..56].copy_from_slice(&32_u32.to_ne_bytes());
        info[68..72].copy_from_slice(&1_500_u32.to_ne_bytes());
        info[120..128].copy_from_slice(&9_000_000_000_u64.to_ne_bytes());
        info[148..152].copy_from_slice(&700_u32.to_ne_bytes());
        info[152..156].copy_from_slice(&30_u32.to_ne_bytes());
        info.truncate(info_length);
        let mut body = vec![family, ESTABLISHED, 0, 0];
        body.extend(5555_u16.to_be_bytes());
        body.extend(40_000_u16.to_be_bytes());
        for address in [local, remote] {
            let mut bytes = [0; 16];
            bytes[..address.len()].copy_from_slice(address);
            body.extend(bytes);
        }
        body.extend([0; 4]);
        body.extend(77_u64.to_ne_bytes());
        body.extend([0; 20]);
        // Another attribute comes first, of an odd length.
        body.extend(5_u16.to_ne_bytes());
        body.extend(8_u16.to_ne_bytes());
        body.extend([1, 0, 0, 0]);
        body.extend(short(4 + info.len()).to_ne_bytes());
        body.extend(INET_DIAG_INFO.to_ne_bytes());
        body.extend(info);
        message(SOCK_DIAG_BY_FAMILY, &body)
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = vec![];
        message.extend(u32::from(short(NLMSG_HEADER + body.len())).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message.resize(aligned(message.len()), 0);
        message
    }

    #[test]
    fn a_connection_is_read_with_its_figures() {
        let bytes = answer_bytes(AF_INET, &[10, 0, 0, 1], &[10, 0, 0, 2], 280);
        let answers: Vec<Answer> = answers(&bytes).collect();
        let [Answer::Open(id, connection)] = answers[..] else {
            panic!("expected a connection, got {answers:?}");
        };
        assert_eq!(id.cookie(), 77);
        let expected = Connection {
            id: 77,
            port: 5555,
            remote: [10, 0, 0, 2].into(),
            is_loopback: false,
            data_segs_in: 30,
            bytes_acked: 9_000_000_000,
            last_data_recv: Duration::from_millis(32),
            rtt: Duration::from_micros(1500),
            min_rtt: Duration::from_micros(700),
        };
        assert_eq!(connection, expected);
        // It is asked for again by the very same words.
        assert_eq!(lookup(&id)[24..72], id.words);
        assert_eq!(lookup(&id).len(), 72);
    }

    #[test]
    fn ipv4_within_ipv6_is_ipv4_and_ones_own_address_is_the_loopback() {
        let mapped = |last| Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets();
        for (remote, is_loopback) in [(2, false), (1, true)] {
            let bytes = answer_bytes(AF_INET6, &mapped(1), &mapped(remote), 280);
            let Some(Answer::Open(_, connection)) = answers(&bytes).next() else {
                panic!("expected a connection");
            };
            assert_eq!(connection.remote, IpAddr::from([10, 0, 0, remote]));
            assert_eq!(connection.is_loopback, is_loopback);
        }
    }

    #[test]
    fn a_kernel_that_knows_less_of_a_connection_is_of_no_use() {
        // Linux before 4.6 has no data_segs_in, which is what all rests on.
        let bytes = answer_bytes(AF_INET, &[10, 0, 0, 1], &[10, 0, 0, 2], 152);
        assert_eq!(answers(&bytes).count(), 0);
        let bytes = answer_bytes(AF_INET, &[10, 0, 0, 1], &[10, 0, 0, 2], 156);
        assert_eq!(answers(&bytes).count(), 1);
    }

    #[test]
    fn ends_and_errors_are_told_apart() {
        let mut bytes = answer_bytes(AF_INET, &[10, 0, 0, 1], &[10, 0, 0, 2], 280);
        bytes.extend(message(NLMSG_DONE, &0_i32.to_ne_bytes()));
        let kinds: Vec<bool> = answers(&bytes).map(|a| a == Answer::Done).collect();
        assert_eq!(kinds, [false, true]);
        for (error, expected) in [
            (-ENOENT, Answer::Closed),
            (-ESTALE, Answer::Closed),
            (-22, Answer::Refused(22)),
        ] {
            let bytes = message(NLMSG_ERROR, &error.to_ne_bytes());
            assert_eq!(answers(&bytes).collect::<Vec<_>>(), [expected]);
        }
        // Closing counts as closed.
        let mut bytes = answer_bytes(AF_INET, &[10, 0, 0, 1], &[10, 0, 0, 2], 280);
        bytes[NLMSG_HEADER + 1] = 8;
        assert_eq!(answers(&bytes).collect::<Vec<_>>(), [Answer::Closed]);
    }

    #[test]
    fn a_dump_has_the_length_it_says_and_wants_what_is_open() {
        let bytes = dump(Family::V6, &[5555, 5556]);
        assert_eq!(u32_at(&bytes, 0), Some(u32::from(short(bytes.len()))));
        assert_eq!(u16_at(&bytes, 4), Some(SOCK_DIAG_BY_FAMILY));
        assert_eq!(bytes[16..20], [AF_INET6, IPPROTO_TCP, WITH_INFO, 0]);
        assert_eq!(u32_at(&bytes, 20), Some(1 << 1));
        assert_eq!(bytes.len(), 16 + 56 + 4 + 36);
    }

    proptest! {
        #[test]
        fn the_filter_lets_exactly_its_ports_through(
            ports in proptest::collection::btree_set(1_u16.., 1..=16),
            others in proptest::collection::vec(any::<u16>(), 0..50),
        ) {
            let ports: Vec<u16> = ports.into_iter().collect();
            let program = filter(&ports);
            prop_assert!(audited(&program));
            let near = ports.iter().flat_map(|p| [p.wrapping_sub(1), *p, p.wrapping_add(1)]);
            for port in near.chain(others) {
                prop_assert_eq!(accepts(&program, port), ports.contains(&port), "{}", port);
            }
        }

        /// Nothing that comes is read beyond its end, or for ever.
        #[test]
        fn any_answer_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(answers(&bytes).count() <= bytes.len() / 4 + 1);
        }

        #[test]
        fn a_damaged_answer_is_read_or_refused(
            at in 0_usize..372, with: u8, cut in 0_usize..372,
        ) {
            let mut bytes = answer_bytes(AF_INET6, &[1; 16], &[2; 16], 280);
            let length = bytes.len();
            bytes[at % length] = with;
            bytes.truncate(length - cut % length);
            prop_assert!(answers(&bytes).count() <= 1 + length / 16);
        }
    }
}
