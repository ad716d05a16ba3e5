//! Simulated robots over the real contract: real keys, real enrolment, real mutual TLS, MQTT 5, and the
//! agent's own durable outbox for numbered events. Used by the `fleet`, `soak` and `bench_relay` programs.
//!
//! A simulated robot costs one task and one connection; what it leaves out is the machine (its telemetry
//! is made up), nothing of the wire.

mod admin;
mod identity;
mod robot;

pub use admin::Admin;
pub use identity::{Identity, enrol_all};
pub use robot::{Counters, Emission, Endpoint, Options, Pulse, Pulses, run};
