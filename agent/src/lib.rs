//! The Lekiwi Heartbeat agent: one process and one thread on a robot. The binary `lekiwi-agent` is a
//! thin edge over this library; the simulator and the end-to-end tests reuse [`outbox`].
//!
//! Decisions are in `lekiwi-agent-core` (pure); this crate owns the sockets, files and the clock.

pub mod clock;
pub mod config;
pub mod identity;
pub mod machine;
pub mod outbox;
mod storage;
pub mod telemetry;
