//! Which addresses a scan asks: an IPv4 network, written as `192.168.1.0/24`.

use core::net::Ipv4Addr;
use std::fmt;
use std::str::FromStr;

/// The shortest prefix that is scanned without being asked twice.
pub const SHORTEST_PREFIX: u8 = 20;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: u32,
    prefix: u8,
}

/// Why a text is no [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It is written otherwise.
    #[error("expected a network such as 192.168.1.0/24, got {0:?}")]
    Shape(String),
    /// Bits behind the prefix are set.
    #[error("expected a network's first address, which is {expected}, got {actual}")]
    Bits {
        /// The network that was meant.
        expected: Network,
        /// As written.
        actual: Ipv4Addr,
    },
}

impl Network {
    /// The network of `address`.
    #[must_use]
    pub fn of(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self {
            base: u32::from(address) & mask(prefix),
            prefix,
        }
    }

    /// Whether it has `address`.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }

    /// Whether a scan of it takes minutes: its prefix is shorter than [`SHORTEST_PREFIX`].
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.prefix < SHORTEST_PREFIX
    }

    /// The addresses that machines can have: without the network's own and its broadcast.
    pub fn hosts(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let last = self.base | !mask(self.prefix);
        let (first, last) = match self.prefix {
            31.. => (self.base, last),
            _ => (self.base.saturating_add(1), last.saturating_sub(1)),
        };
        (first..=last).map(Ipv4Addr::from)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let shape = || NetworkError::Shape(text.chars().take(60).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(shape)?;
        let actual: Ipv4Addr = address.parse().map_err(|_| shape())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(shape)?;
        let expected = Self::of(actual, prefix);
        if expected.base != u32::from(actual) {
            return Err(NetworkError::Bits { expected, actual });
        }
        Ok(expected)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn networks_and_their_hosts() {
        for (text, first, last, count) in [
            ("192.168.1.0/24", "192.168.1.1", "192.168.1.254", 254),
            ("10.0.0.0/30", "10.0.0.1", "10.0.0.2", 2),
            ("10.0.0.2/31", "10.0.0.2", "10.0.0.3", 2),
            ("10.0.0.7/32", "10.0.0.7", "10.0.0.7", 1),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.to_string(), text);
            assert_eq!(network.hosts().next().unwrap().to_string(), first);
            assert_eq!(network.hosts().last().unwrap().to_string(), last);
            assert_eq!(network.hosts().count(), count);
        }
        let everything: Network = "0.0.0.0/0".parse().unwrap();
        assert!(everything.is_large() && everything.contains(Ipv4Addr::BROADCAST));
        assert!(!"10.0.0.0/20".parse::<Network>().unwrap().is_large());
        assert!("10.0.0.0/19".parse::<Network>().unwrap().is_large());
    }

    #[test]
    fn wrong_ones_say_what_was_expected() {
        for (text, expected) in [
            (
                "192.168.1.0",
                "expected a network such as 192.168.1.0/24, got \"192.168.1.0\"",
            ),
            (
                "192.168.1.0/33",
                "expected a network such as 192.168.1.0/24, got \"192.168.1.0/33\"",
            ),
            (
                "fe80::/64",
                "expected a network such as 192.168.1.0/24, got \"fe80::/64\"",
            ),
            (
                "192.168.1.7/24",
                "expected a network's first address, which is 192.168.1.0/24, got 192.168.1.7",
            ),
        ] {
            assert_eq!(text.parse::<Network>().unwrap_err().to_string(), expected);
        }
    }
}
