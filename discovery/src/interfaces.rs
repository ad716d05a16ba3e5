//! The networks that this machine is on, and the moment when that changes: the kernel says it (netlink),
//! nothing is polled.

use core::net::Ipv4Addr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use lekiwi_protocol::discovery::network::Network;
use lekiwi_protocol::discovery::responder::Home;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

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

/// Says when interfaces or their addresses change.
pub(crate) struct Changes {
    socket: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Listens from now on.
    #[expect(
        deprecated,
        reason = "what replaces `AsyncFd::new` is unsafe; the socket is owned, and stays the same"
    )]
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkRoute,
        )?;
        let groups = u32::try_from(libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR);
        bind(
            socket.as_raw_fd(),
            &NetlinkAddr::new(0, groups.unwrap_or_default()),
        )?;
        Ok(Self {
            socket: AsyncFd::new(socket)?,
        })
    }

    /// Ends when something changed.
    pub(crate) async fn changed(&self) {
        loop {
            let Ok(mut ready) = self.socket.readable().await else {
                // The runtime ends.
                return std::future::pending().await;
            };
            let mut changed = false;
            // What has changed is looked up; messages that did not fit were changes as well.
            let mut message = [0; 4096];
            loop {
                let received = recv(
                    self.socket.as_raw_fd(),
                    &mut message,
                    MsgFlags::MSG_DONTWAIT,
                );
                match received {
                    Ok(_) | Err(nix::errno::Errno::ENOBUFS) => changed = true,
                    Err(_) => break,
                }
            }
            ready.clear_ready();
            if changed {
                return;
            }
        }
    }
}
