//! The relay's pure core: what the fleet looks like, and what follows from what robots say. No IO, no
//! runtime, no clock; `relay/src/ingest.rs` feeds it and carries its outputs out.
//!
//! * [`fleet::Fleet`] is the picture of all robots, with the rules of presence.
//! * [`commands::Commands`] is the queue of what robots are told to do.
//! * [`gateway`] is who is told what of it live, how often and in which order.
//! * [`history`] is telemetry over time: how it is packed, rolled up and read.
//! * [`alerts::Alerts`] judges rules over what robots say.
//! * [`Past`] is the picture of an earlier position of the log.
//! * [`policy::allow`] says who may do what.
//! * [`protect::Guard`] is whom the relay lets in, and how much it takes of them.
//! * [`refusals::Refusals`] says which refusals are worth an entry in the audit.
//! * [`twins::Twins`] is which configuration they should have, and have.

pub mod alerts;
pub mod commands;
pub mod fleet;
mod freshness;
pub mod gateway;
pub mod history;
mod past;
pub mod policy;
pub mod protect;
mod recorded;
pub mod refusals;
mod robot;
pub mod twins;

pub use fleet::{Counts, Fleet, Input, Link, LivePayload, Output, Policy};
pub use past::Past;
pub use recorded::{Enrolment, Fact, What};
pub use robot::Picture;
