//! Finding robots and relays on a local network: DNS-SD over multicast DNS (RFC 6762, RFC 6763) for
//! IPv4, and what DHCP broadcasts give away. Pure: packets and time in, packets out; `lekiwi-discovery`
//! has the sockets, and agent, relay and command line use both.
//!
//! * [`ad`]: what a robot and a relay say of themselves. No secrets: everybody on the network reads it.
//! * [`responder`]: says it, on one interface.
//! * [`browser`]: hears it.
//! * [`network`]: which addresses a scan may ask.
//! * [`dhcp`]: machines that ask for an address.
//! * [`name`], [`packet`]: the format. Whatever comes from the network is read here and nowhere else;
//!   a packet that is not understood is an error and never a panic.

pub mod ad;
pub mod browser;
pub mod dhcp;
pub mod name;
pub mod network;
pub mod packet;
pub mod responder;

use core::net::Ipv4Addr;

/// Where everybody listens.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// The port of multicast DNS. Who asks from another one is answered directly and briefly.
pub const PORT: u16 = 5353;
