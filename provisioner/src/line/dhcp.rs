//! Proxy-DHCP for boards that boot from the network: tells a Raspberry Pi where its files are, and gives out no
//! address; that stays with the network's own DHCP server. Pure: a datagram in, a datagram out. The answers are
//! those of dnsmasq with `dhcp-range=…,proxy` and `pxe-service=0,"Raspberry Pi Boot"` (compared in the tests).
//!
//! The packet is read and written here: a library for all of DHCP would bring the DNS protocol along for six
//! fields.

use std::net::Ipv4Addr;

use super::board::{Mac, Serial};
use super::roster::Sighting;

/// Where DHCP servers listen.
pub const SERVER_PORT: u16 = 67;
/// Where DHCP clients listen.
pub const CLIENT_PORT: u16 = 68;
/// Where a boot server is asked directly.
pub const PXE_PORT: u16 = 4011;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const OPTIONS: usize = 240;
const BROADCAST: u16 = 0x8000;
/// Some clients take no smaller packet.
const MIN_PACKET: usize = 300;
const VENDOR: &[u8] = b"PXEClient";
/// What the firmware looks for in option 43.
const BOOT: &[u8] = b"Raspberry Pi Boot";
/// What a Pi 3 has for an identifier, the same on every board.
const PI3_GUID: u32 = 0x4444_4444;

mod code {
    pub(super) const PAD: u8 = 0;
    pub(super) const VENDOR_OPTIONS: u8 = 43;
    pub(super) const MESSAGE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const VENDOR: u8 = 60;
    pub(super) const GUID: u8 = 97;
    pub(super) const END: u8 = 255;
}

/// A question by a board that wants to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    kind: Kind,
    xid: [u8; 4],
    secs: [u8; 2],
    flags: u16,
    ciaddr: Ipv4Addr,
    /// Its Ethernet address.
    pub mac: Mac,
    guid: Option<[u8; 17]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Discover,
    Request,
}

/// An answer, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The datagram.
    pub bytes: Vec<u8>,
    /// The address; broadcast where the client has none, on the DHCP port.
    pub to: Ipv4Addr,
}

/// Why a datagram is not answered. None of these is an error of ours; most are other machines' business.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Not DHCP, or cut short.
    #[error("expected a DHCP request, got {0}")]
    Malformed(&'static str),
    /// Not for us.
    #[error("expected a Raspberry Pi that boots from the network, got {0}")]
    Other(&'static str),
}

/// Reads a datagram. Only requests of a Raspberry Pi's firmware come out.
///
/// # Errors
/// When it is anything else.
pub fn parse(bytes: &[u8]) -> Result<Request, Ignored> {
    let malformed = Ignored::Malformed;
    let (Some(head), Some(options)) = (bytes.get(..OPTIONS), bytes.get(OPTIONS..)) else {
        return Err(malformed("less than 240 bytes"));
    };
    let array = |at: usize| <[u8; 4]>::try_from(&head[at..at + 4]).unwrap_or_default();
    if array(236) != COOKIE {
        return Err(malformed("no DHCP cookie"));
    }
    if head[0] != 1 {
        return Err(Ignored::Other("another server's answer"));
    }
    if head[1..3] != [1, 6] {
        return Err(Ignored::Other("a network that is not Ethernet"));
    }
    if array(24) != [0; 4] {
        return Err(Ignored::Other("a relayed request"));
    }
    let (mut message, mut vendor, mut guid) = (None, None, None);
    let mut rest = options;
    loop {
        rest = match rest {
            [code::END, ..] => break,
            [code::PAD, rest @ ..] => rest,
            [code, length, rest @ ..] if rest.len() >= usize::from(*length) => {
                let (value, rest) = rest.split_at(usize::from(*length));
                match (*code, value) {
                    (code::MESSAGE, [kind]) => message = Some(*kind),
                    (code::VENDOR, value) => vendor = Some(value),
                    (code::GUID, value) => guid = <[u8; 17]>::try_from(value).ok(),
                    _ => {}
                }
                rest
            }
            _ => return Err(malformed("options without an end")),
        };
    }
    let kind = match message {
        Some(1) => Kind::Discover,
        Some(3) => Kind::Request,
        Some(_) => return Err(Ignored::Other("another message")),
        None => return Err(malformed("no message type")),
    };
    if !vendor.is_some_and(|vendor| vendor.starts_with(VENDOR)) {
        return Err(Ignored::Other("a machine that does not boot"));
    }
    let mut mac = Mac([0; 6]);
    mac.0.copy_from_slice(&head[28..34]);
    let request = Request {
        kind,
        xid: array(4),
        secs: [head[8], head[9]],
        flags: u16::from_be_bytes([head[10], head[11]]),
        ciaddr: array(12).into(),
        mac,
        guid,
    };
    if mac.is_raspberry_pi() || request.board().is_some() {
        Ok(request)
    } else {
        Err(Ignored::Other("another computer"))
    }
}

impl Request {
    /// Who asks. The firmware's identifier has `RPi4` or `RPi5`, the revision code, half of the address, and
    /// the last half of the serial number; older ones repeat the serial number four times.
    #[must_use]
    pub fn sighting(&self) -> Sighting {
        let mut sighting = Sighting {
            mac: Some(self.mac),
            board: self.board(),
            ..Sighting::default()
        };
        let words = self.words().unwrap_or_default();
        let repeated = words.iter().all(|word| *word == words[0]) && words[0] != 0;
        if sighting.board.is_some() || (repeated && words[0] != PI3_GUID) {
            sighting.serial = Some(Serial::from_low(words[3]));
            sighting.other_serial = Some(Serial::from_low(words[3].swap_bytes()));
        }
        sighting
    }

    /// `pi4`, `pi5`, …, where the identifier says so.
    fn board(&self) -> Option<String> {
        let guid = self.guid?;
        let name = guid.get(1..5)?;
        let digit = name.strip_prefix(b"RPi")?.first()?;
        if !digit.is_ascii_digit() {
            return None;
        }
        let revision = self.words()?[1];
        let by_revision = (revision >> 23 & 1 == 1).then_some(revision >> 4 & 0xff);
        Some(match by_revision {
            Some(0x08) => "pi3".to_owned(),
            Some(0x0d) => "pi3b+".to_owned(),
            Some(0x11) => "pi4".to_owned(),
            Some(0x13) => "pi400".to_owned(),
            Some(0x14) => "cm4".to_owned(),
            Some(0x17) => "pi5".to_owned(),
            Some(0x18) => "cm5".to_owned(),
            Some(0x19) => "pi500".to_owned(),
            _ => format!("pi{}", char::from(*digit)),
        })
    }

    fn words(&self) -> Option<[u32; 4]> {
        let guid = self.guid?;
        let word = |n: usize| {
            let bytes = guid.get(1 + 4 * n..5 + 4 * n)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        Some([word(0)?, word(1)?, word(2)?, word(3)?])
    }

    /// The answer of the server at `server` to a request that came to its `port`: nothing on the DHCP port
    /// but to a discovery, so that the network's own server is left alone.
    #[must_use]
    pub fn reply(&self, port: u16, server: Ipv4Addr) -> Option<Reply> {
        let kind = match (self.kind, port) {
            (Kind::Discover, _) => 2,
            (Kind::Request, PXE_PORT) => 5,
            (Kind::Request, _) => return None,
        };
        let (mut flags, mut ciaddr) = (self.flags, self.ciaddr);
        if self.kind == Kind::Discover || ciaddr.is_unspecified() {
            ciaddr = Ipv4Addr::UNSPECIFIED;
            flags |= BROADCAST;
        }
        let mut bytes = vec![0; OPTIONS];
        bytes[..4].copy_from_slice(&[2, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&self.xid);
        bytes[8..10].copy_from_slice(&self.secs);
        bytes[10..12].copy_from_slice(&flags.to_be_bytes());
        bytes[12..16].copy_from_slice(&ciaddr.octets());
        bytes[28..34].copy_from_slice(&self.mac.0);
        bytes[236..].copy_from_slice(&COOKIE);
        let mut option = |code: u8, value: &[u8]| {
            bytes.push(code);
            // All values are far shorter than 256 bytes.
            bytes.push(u8::try_from(value.len()).unwrap_or_default());
            bytes.extend_from_slice(value);
        };
        option(code::MESSAGE, &[kind]);
        option(code::SERVER, &server.octets());
        option(code::VENDOR, VENDOR);
        if let Some(guid) = &self.guid {
            option(code::GUID, guid);
        }
        option(code::VENDOR_OPTIONS, &menu());
        bytes.push(code::END);
        bytes.resize(bytes.len().max(MIN_PACKET), 0);
        let to = if ciaddr.is_unspecified() {
            Ipv4Addr::BROADCAST
        } else {
            ciaddr
        };
        Some(Reply { bytes, to })
    }
}

/// Boot from this server without asking others (6), the prompt (10), and a menu with the one entry that the
/// firmware looks for (9).
fn menu() -> Vec<u8> {
    let mut menu = vec![6, 1, 3, 10, 4, 0, b'P', b'X', b'E', 9, 3 + BOOT.len() as u8];
    menu.extend([0, 0, BOOT.len() as u8]);
    menu.extend_from_slice(BOOT);
    menu.push(code::END);
    menu
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
#[path = "dhcp/tests.rs"]
mod tests;
