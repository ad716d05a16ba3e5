//! Proxy-DHCP on sockets. What is answered is decided in [`super::dhcp`].

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::dhcp::{self, CLIENT_PORT, PXE_PORT};
use super::unit::Event;
use crate::clock;

const MAX_DATAGRAM: usize = 1500;

/// One of the two ports.
pub(super) struct Server {
    /// Bound to the boards' interface.
    pub(super) socket: UdpSocket,
    /// Which port it is.
    pub(super) port: u16,
    /// Where boot files are.
    pub(super) address: Ipv4Addr,
    /// Who is told.
    pub(super) desk: Arc<Desk>,
}

impl Server {
    /// Answers until `stopping`.
    pub(super) async fn run(self, stopping: CancellationToken) {
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            let received = tokio::select! {
                () = stopping.cancelled() => return,
                received = self.socket.recv_from(&mut buffer) => received,
            };
            let Ok((length, peer)) = received else {
                continue;
            };
            let Ok(request) = dhcp::parse(buffer.get(..length).unwrap_or_default()) else {
                continue;
            };
            let Some(reply) = request.reply(self.port, self.address) else {
                continue;
            };
            let sighting = request.sighting();
            if self
                .desk
                .happened(clock::now(), &sighting, Event::Dhcp)
                .is_err()
            {
                continue;
            }
            // Who asks directly has an address to be answered at.
            let to = if self.port == PXE_PORT {
                peer
            } else {
                (reply.to, CLIENT_PORT).into()
            };
            if let Err(error) = self.socket.send_to(&reply.bytes, to).await {
                self.desk
                    .trouble(format!("DHCP answer to {}: {error}", request.mac));
            }
        }
    }
}
