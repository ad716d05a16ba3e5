//! The Lekiwi Heartbeat agent: one process and one thread on a robot. The binary `lekiwi-agent` is a
//! thin edge over this library; the simulator and the end-to-end tests reuse [`outbox`].
//!
//! Decisions are in `lekiwi-agent-core` (pure); this crate owns the sockets, files and the clock. The
//! agent unwinds on panic: a fault in one task (an enrolment, a local caller) must not take the robot's
//! presence with it.

pub mod clock;
pub mod config;
pub mod dial;
pub mod discovery;
pub mod driver;
pub mod exit;
pub mod hardware;
pub mod health;
pub mod identity;
pub mod ipc;
pub mod journal;
pub mod link;
pub mod machine;
pub mod outbox;
pub mod profiles;
pub mod scrub;
pub mod setup;
mod storage;
pub mod telemetry;
