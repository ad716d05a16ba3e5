//! The sockets of `lekiwi_protocol::discovery`, for agent, relay and command line. Linux, IPv4.
//!
//! * [`presence`]: one task that is there on every network of this machine, says a service and hears
//!   others. It runs beside other responders of multicast DNS on the same machine.
//! * [`robots`]: those heard, as a list.
//! * [`scan`]: asks every address of a network directly.
//! * [`dhcp`]: watches machines ask for addresses; needs a capability.
//! * [`changes`]: the kernel says when a network changes.
//! * [`neighbours`]: Ethernet addresses of those who were talked to.

pub mod changes;
mod clock;
pub mod dhcp;
mod interfaces;
pub mod neighbours;
pub mod presence;
pub mod robots;
pub mod scan;

use core::net::Ipv4Addr;
use std::time::Instant;

use lekiwi_protocol::discovery::browser::{Browser, Instance};

/// A service that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is called; with a number behind it where another one had the name first.
    pub name: String,
    /// Its texts, once they came.
    pub txt: Vec<u8>,
    /// Where it is.
    pub addresses: Vec<Ipv4Addr>,
    /// When it was last heard.
    pub heard: Instant,
}

fn found(browser: &Browser, kind: &str) -> Vec<Found> {
    let of_instance = |instance: &Instance| Found {
        name: instance.name.first(),
        txt: instance.txt.clone().unwrap_or_default(),
        addresses: browser.addresses(instance),
        heard: instance.heard,
    };
    browser.instances(kind).map(of_instance).collect()
}
