//! Machines that ask for an address: what DHCPDISCOVER and DHCPREQUEST broadcasts (RFC 2131) give away.
//! Reads IPv4 packets as a packet socket gives them; bounded, whoever sends them.

use core::net::Ipv4Addr;
use std::fmt;
use std::time::{Duration, Instant};

/// Most machines that are kept; the one unheard for longest goes first.
const MOST: usize = 256;
/// How long a machine is kept after it was last heard.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Prefixes that the Raspberry Pi makers' boards have.
const RASPBERRY_PI: [[u8; 3]; 7] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0xd8, 0x3a, 0xdd],
    [0x2c, 0xcf, 0x67],
    [0x28, 0xcd, 0xc1],
    [0x88, 0xa2, 0x9e],
];

const UDP: u8 = 17;
const SERVER_PORT: u16 = 67;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const HOST_NAME: u8 = 12;
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
/// Most options of a packet that are looked at.
const MAX_OPTIONS: usize = 64;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether the makers of the Raspberry Pi gave it.
    #[must_use]
    pub fn is_raspberry_pi(&self) -> bool {
        RASPBERRY_PI.iter().any(|prefix| self.0.starts_with(prefix))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A machine that asked for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its Ethernet address.
    pub mac: Mac,
    /// What it calls itself; empty when it does not say, or says something that is no host name.
    pub host_name: String,
    /// The address that it wants, if it knows one.
    pub wants: Option<Ipv4Addr>,
}

impl Asked {
    /// Reads an IPv4 packet; `None` when it is anything else than a machine's question for an address.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let [version_and_length, ..] = packet else {
            return None;
        };
        let header = usize::from(version_and_length & 0x0f) * 4;
        let is_udp = version_and_length >> 4 == 4 && header >= 20 && packet.get(9) == Some(&UDP);
        // Only whole packets: a fragment has no port.
        let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
        let udp = packet.get(header..)?;
        let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
        if !is_udp || fragment != 0 || port != SERVER_PORT {
            return None;
        }
        Self::read_bootp(udp.get(8..)?)
    }

    fn read_bootp(message: &[u8]) -> Option<Self> {
        // A question, over Ethernet, with an address of six bytes.
        if message.get(..3)? != [1, 1, 6] || message.get(236..240)? != COOKIE {
            return None;
        }
        let mac = Mac(message.get(28..34)?.try_into().ok()?);
        let mut asked = Self {
            mac,
            host_name: String::new(),
            wants: None,
        };
        let mut kind = None;
        let mut rest = message.get(240..)?;
        for _ in 0..MAX_OPTIONS {
            let Some((code, behind)) = rest.split_first() else {
                break;
            };
            match code {
                0 => {
                    rest = behind;
                    continue;
                }
                255 => break,
                _ => {}
            }
            let (length, behind) = behind.split_first()?;
            let (value, more) = behind.split_at_checked(usize::from(*length))?;
            rest = more;
            match *code {
                MESSAGE_TYPE => kind = value.first().copied(),
                HOST_NAME => asked.host_name = host_name(value),
                REQUESTED_ADDRESS => {
                    asked.wants = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
                }
                _ => {}
            }
        }
        matches!(kind, Some(DISCOVER | REQUEST)).then_some(asked)
    }
}

/// A host name, or nothing.
fn host_name(value: &[u8]) -> String {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    match std::str::from_utf8(value) {
        Ok(name) if value.iter().all(allowed) => name.to_ascii_lowercase(),
        _ => String::new(),
    }
}

/// Who asked lately.
#[derive(Debug, Default)]
pub struct Seen(Vec<(Instant, Asked)>);

impl Seen {
    /// Keeps who asked; gives whether it is new.
    pub fn note(&mut self, now: Instant, asked: Asked) -> bool {
        self.forget(now);
        let known = self.0.iter().position(|(_, known)| known.mac == asked.mac);
        if let Some(known) = known {
            self.0.remove(known);
        } else if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push((now, asked));
        known.is_none()
    }

    /// All of them, the one heard last at the end, with when that was.
    pub fn all(&mut self, now: Instant) -> impl Iterator<Item = &(Instant, Asked)> {
        self.forget(now);
        self.0.iter()
    }

    fn forget(&mut self, now: Instant) {
        self.0
            .retain(|(at, _)| now.saturating_duration_since(*at) < KEPT);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn discover(mac: [u8; 6], options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 240];
        message[..3].copy_from_slice(&[1, 1, 6]);
        message[28..34].copy_from_slice(&mac);
        message[236..].copy_from_slice(&COOKIE);
        message.extend_from_slice(options);
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[9] = UDP;
        packet[22..24].copy_from_slice(&SERVER_PORT.to_be_bytes());
        packet.extend(message);
        packet
    }

    const PI: [u8; 6] = [0xdc, 0xa6, 0x32, 1, 2, 3];

    #[test]
    fn a_raspberry_pi_asks() {
        let options = b"\x35\x01\x01\x00\x0c\x07Kiwi-01\x32\x04\x0a\x00\x00\x07\xff";
        let asked = Asked::read(&discover(PI, options)).unwrap();
        assert_eq!(asked.mac.to_string(), "dc:a6:32:01:02:03");
        assert!(asked.mac.is_raspberry_pi());
        assert_eq!(asked.host_name, "kiwi-01");
        assert_eq!(asked.wants, Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert!(!Mac([0x52, 0x54, 0, 1, 2, 3]).is_raspberry_pi());
    }

    #[test]
    fn anything_else_is_not_listed() {
        let good = discover(PI, b"\x35\x01\x03");
        assert!(Asked::read(&good).is_some());
        let changed = |at: usize, to: u8| {
            let mut packet = good.clone();
            packet[at] = to;
            Asked::read(&packet)
        };
        // IPv6, TCP, a fragment, another port, an answer, another cookie, DHCPINFORM.
        for (at, to) in [
            (0, 0x65),
            (9, 6),
            (7, 1),
            (23, 68),
            (28, 2),
            (264, 0),
            (270, 8),
        ] {
            assert_eq!(changed(at, to), None, "{at}");
        }
        assert_eq!(Asked::read(&discover(PI, b"\x35\x01\x01\x0c\xffx")), None);
        let shell = Asked::read(&discover(PI, b"\x35\x01\x01\x0c\x04\x1b[2J")).unwrap();
        assert_eq!(shell.host_name, "");
    }

    #[test]
    fn a_flood_of_machines_is_bounded() {
        let mut seen = Seen::default();
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let asked = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Asked {
                mac: Mac([0xdc, 0xa6, a, b, c, d]),
                host_name: String::new(),
                wants: None,
            }
        };
        for n in 0..100_000 {
            assert!(seen.note(start, asked(n)));
        }
        assert!(!seen.note(start, asked(99_999)));
        assert_eq!(seen.all(start).count(), MOST);
        assert_eq!(seen.all(start + KEPT).count(), 0);
    }

    proptest! {
        #[test]
        fn noise_is_read_or_not(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Asked::read(&noise);
            let _ = Asked::read(&discover(PI, &noise));
        }
    }
}
