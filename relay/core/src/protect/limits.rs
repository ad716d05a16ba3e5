//! The numbers, and whom they are not for.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::bucket::Rate;

/// Seconds' worth of messages that may come at once, such as those of an outage.
const BURST_S: u32 = 10;

/// How large a fleet the limits are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tier {
    /// A desk: 100 connections.
    Development,
    /// A site: 2,000 connections.
    Production,
    /// As many as one relay was measured with: 10,000 robots, and room for those that come back before they were missed.
    #[default]
    HighPerformance,
}

/// What one relay takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// MQTT clients at once.
    pub mqtt_connections: usize,
    /// HTTPS connections at once.
    pub https_connections: usize,
    /// Connections at once of one address, on all ports.
    pub connections_per_address: usize,
    /// Messages a second of one MQTT client; ten seconds' worth at once.
    pub messages_per_s: u32,
    /// Messages a second of all clients of one address; ten seconds' worth at once.
    pub messages_per_s_per_address: u32,
    /// Requests a second of one person, API key or robot over HTTPS; ten seconds' worth at once.
    pub requests_per_s: u32,
    /// Requests a second of all at one address; ten seconds' worth at once.
    pub requests_per_s_per_address: u32,
    /// How long the first ban lasts, each further one being twice as long; zero for none.
    pub ban: Duration,
    /// Who is only counted, and never limited or banned for its address.
    pub trusted: Vec<Network>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(Tier::default())
    }
}

impl Limits {
    /// Those of a tier, with this machine trusted.
    #[must_use]
    pub fn of(tier: Tier) -> Self {
        let (mqtt, https, per_address, messages_per_address, requests_per_address) = match tier {
            Tier::Development => (100, 100, 50, 1_000, 500),
            Tier::Production => (2_000, 2_000, 500, 10_000, 1_000),
            Tier::HighPerformance => (20_000, 16_384, 4_096, 100_000, 5_000),
        };
        Self {
            mqtt_connections: mqtt,
            https_connections: https,
            connections_per_address: per_address,
            messages_per_s: 100,
            messages_per_s_per_address: messages_per_address,
            requests_per_s: 200,
            requests_per_s_per_address: requests_per_address,
            ban: Duration::from_secs(60),
            trusted: vec![
                Network {
                    address: Ipv4Addr::new(127, 0, 0, 0).into(),
                    bits: 8,
                },
                Network {
                    address: Ipv6Addr::LOCALHOST.into(),
                    bits: 128,
                },
            ],
        }
    }

    /// Whether `address` is only counted.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.has(address))
    }

    pub(super) fn messages(&self) -> Rate {
        rate(self.messages_per_s)
    }

    pub(super) fn messages_of_address(&self) -> Rate {
        rate(self.messages_per_s_per_address)
    }

    pub(super) fn requests(&self) -> Rate {
        rate(self.requests_per_s)
    }

    pub(super) fn requests_of_address(&self) -> Rate {
        rate(self.requests_per_s_per_address)
    }
}

const fn rate(per_s: u32) -> Rate {
    Rate {
        burst: per_s.saturating_mul(BURST_S),
        per_s,
    }
}

/// Addresses with a common beginning, as `192.0.2.0/24` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// What is no [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an address or a network such as 192.0.2.0/24, got {0:?}")]
pub struct NetworkError(String);

impl Network {
    fn has(self, address: IpAddr) -> bool {
        // A network of all addresses shifts everything out.
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing
                    .checked_shr(32 - u32::from(self.bits))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing
                    .checked_shr(128 - u32::from(self.bits))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|bits| *bits <= most)
                .ok_or_else(error)?,
        };
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn networks_have_the_addresses_that_begin_so() {
        for (network, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("10.0.0.0/8", "::ffff:10.255.0.1", "11.0.0.0"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::", "127.0.0.1"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.has(inside.parse().unwrap()), "{network} {inside}");
            assert!(!parsed.has(outside.parse().unwrap()), "{network} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_said() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "here",
            "10.0.0/8",
        ] {
            assert_eq!(
                text.parse::<Network>().unwrap_err().to_string(),
                format!("expected an address or a network such as 192.0.2.0/24, got {text:?}")
            );
        }
    }

    #[test]
    fn every_tier_trusts_this_machine_only() {
        for tier in [Tier::Development, Tier::Production, Tier::HighPerformance] {
            let limits = Limits::of(tier);
            for (address, trusted) in [
                ("127.0.0.9", true),
                ("::1", true),
                ("::ffff:127.0.0.1", true),
                ("10.0.0.1", false),
                ("fe80::1", false),
            ] {
                assert_eq!(
                    limits.trusts(address.parse().unwrap()),
                    trusted,
                    "{address}"
                );
            }
        }
    }
}
