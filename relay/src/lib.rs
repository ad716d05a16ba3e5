//! The relay: MQTT in, one picture of the fleet out.

pub mod broker;
pub mod clock;
pub mod ingest;
pub mod live;
pub mod metrics;
pub mod store;
