//! A new robot is found: by the relay and by a person, by multicast DNS, by DHCP and by a scan. Everything
//! runs on a network of its own, with real programs; needs root.

mod crowd;
mod mdns;
mod support;
mod unannounced;
