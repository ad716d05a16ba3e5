//! The relay: MQTT in, one picture of the fleet out.

pub mod broker;
pub mod clock;
pub mod files;
pub mod identity;
pub mod metrics;
pub mod people;
pub mod store;
