//! Which addresses a webhook may lead to. A relay stands in networks that strangers do not: whoever chooses where it sends
//! something must not reach what only it can. Asked of the address that is connected to, not of the name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Services of clouds that tell a machine its secrets, beside those at link-local addresses.
const METADATA: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// How far a webhook may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Addresses of the internet.
    Internet,
    /// Those of this machine and of its networks as well.
    Local,
}

impl Reach {
    /// Whether it may connect to this address.
    #[must_use]
    pub fn allows(self, address: IpAddr) -> bool {
        let address = inner(address);
        let never = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => {
                v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()
            }
        };
        if never || METADATA.contains(&address) {
            return false;
        }
        let is_local = match address {
            IpAddr::V4(v4) => {
                let [first, second, ..] = v4.octets();
                let is_carriers = first == 100 && (64..128).contains(&second);
                v4.is_private() || v4.is_loopback() || is_carriers || first >= 240
            }
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
        };
        self == Self::Local || !is_local
    }
}

/// The address of version 4 in one of version 6, where there is one.
fn inner(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let embedded = match v6.segments() {
        // Translated (RFC 6052), and 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => v6.to_ipv4_mapped(),
    };
    embedded.map_or(address, IpAddr::V4)
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = *self;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (allowed, refused): (Vec<SocketAddr>, Vec<SocketAddr>) =
                found.partition(|address| reach.allows(address.ip()));
            if let ([], [first, ..]) = (allowed.as_slice(), refused.as_slice()) {
                return Err(
                    format!("expected an address of the internet, got {}", first.ip()).into(),
                );
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_relay_can_reach_is_refused() {
        let allowed = |reach: Reach, text: &str| reach.allows(text.parse().unwrap());
        for never in [
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "224.0.0.1",
        ] {
            assert!(!allowed(Reach::Local, never), "{never}");
            assert!(!allowed(Reach::Internet, never), "{never}");
        }
        for local in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd12::1",
            "64:ff9b::7f00:1",
        ] {
            assert!(allowed(Reach::Local, local), "{local}");
            assert!(!allowed(Reach::Internet, local), "{local}");
        }
        for outside in [
            "93.184.215.14",
            "2606:2800:21f::1",
            "172.32.0.1",
            "64:ff9b::5db8:d70e",
        ] {
            assert!(allowed(Reach::Internet, outside), "{outside}");
        }
    }
}
