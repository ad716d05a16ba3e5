//! Simulated robots over the real contract: real keys, real enrolment, real mutual TLS, MQTT 5, and numbered
//! events that are kept until acknowledged, on disk in the agent's own outbox where robots are killed. Used by
//! the `fleet`, `soak` and `bench_relay` programs.
//!
//! A simulated robot costs one task and one connection; what it leaves out is the machine (its telemetry
//! is made up) and commands, nothing of the wire. `scenario` says what each does and when, and is pure.

mod admin;
mod identity;
mod kept;
mod picture;
mod robot;
mod scenario;
mod simulation;
mod wire;

pub use admin::Admin;
pub use identity::{Identity, enrol_all};
pub use kept::Kept;
pub use robot::{Counters, Pulse, Pulses, Site, Told, run};
pub use scenario::{Pace, Scenario, Schedule, Step};
pub use simulation::{Moves, Plan, Report, Simulation, Tally, compare};
pub use wire::{Endpoint, Wire};
