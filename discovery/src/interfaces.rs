//! The networks that this machine is on.

use core::net::Ipv4Addr;

use lekiwi_protocol::discovery::network::Network;
use lekiwi_protocol::discovery::responder::Home;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

/// Most interfaces that are used.
const MOST: usize = 16;

/// An interface with a cable or a radio link, and its first IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) home: Home,
}

/// All interfaces that reach others by multicast.
pub(crate) fn list() -> Vec<Interface> {
    let needed =
        InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_MULTICAST;
    let mut interfaces: Vec<Interface> = Vec::new();
    for entry in getifaddrs().into_iter().flatten() {
        let usable =
            entry.flags.contains(needed) && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let address = entry
            .address
            .and_then(|a| a.as_sockaddr_in().map(|a| a.ip()));
        let mask = entry
            .netmask
            .and_then(|a| a.as_sockaddr_in().map(|a| a.ip()));
        let known = interfaces
            .iter()
            .any(|known| known.name == entry.interface_name);
        let index = if_nametoindex(entry.interface_name.as_str());
        if let (true, false, Some(address), Ok(index)) = (usable, known, address, index)
            && interfaces.len() < MOST
        {
            let prefix = mask.map_or(32, |mask: Ipv4Addr| u32::from(mask).leading_ones());
            let prefix = u8::try_from(prefix).unwrap_or(32);
            interfaces.push(Interface {
                name: entry.interface_name,
                index,
                home: Home {
                    address,
                    network: Network::of(address, prefix),
                },
            });
        }
    }
    interfaces
}
