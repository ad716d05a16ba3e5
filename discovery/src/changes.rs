//! The moment when the networks of this machine change: the kernel says it (netlink, which needs no
//! privilege), nothing is polled. For the agent's link, and for [`crate::presence`].

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

/// What may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Interfaces and their IPv4 addresses.
    Interfaces,
    /// These, IPv6 addresses, and the routes of both.
    Everything,
}

impl Scope {
    fn groups(self) -> u32 {
        let groups = match self {
            Self::Interfaces => libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR,
            Self::Everything => {
                libc::RTMGRP_LINK
                    | libc::RTMGRP_IPV4_IFADDR
                    | libc::RTMGRP_IPV6_IFADDR
                    | libc::RTMGRP_IPV4_ROUTE
                    | libc::RTMGRP_IPV6_ROUTE
            }
        };
        u32::try_from(groups).unwrap_or_default()
    }
}

/// Says when something changes.
#[derive(Debug)]
pub struct Changes {
    socket: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the kernel gives no such socket.
    #[expect(
        deprecated,
        reason = "what replaces `AsyncFd::new` is unsafe; the socket is owned, and stays the same"
    )]
    pub fn open(scope: Scope) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, scope.groups()))?;
        Ok(Self {
            socket: AsyncFd::new(socket)?,
        })
    }

    /// Ends when something changed. Cancel-safe.
    pub async fn changed(&self) {
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
