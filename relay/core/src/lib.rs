//! The relay's pure core: what the fleet looks like, and what follows from what robots say. No IO, no
//! runtime, no clock; `relay/src/ingest.rs` feeds it and carries its outputs out.
//!
//! * [`fleet::Fleet`] is the picture of all robots, with the rules of presence.
//! * [`commands::Commands`] is the queue of what robots are told to do.
//! * [`twins::Twins`] is which configuration they should have, and have.

pub mod commands;
pub mod fleet;
mod robot;
pub mod twins;

pub use fleet::{Enrolment, Fleet, Input, Link, LivePayload, Output, Policy};
