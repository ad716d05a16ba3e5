//! The Lekiwi Heartbeat agent: one process and one thread on a robot. The binary `lekiwi-agent` is a
//! thin edge over this library; the simulator and the end-to-end tests reuse [`outbox`].
//!
//! Decisions are in `lekiwi-agent-core` (pure); this crate owns the sockets, files and the clock. A
//! panic ends the agent, which systemd starts again (`docs/decisions/0008-the-agent-aborts.md`).

pub mod clock;
pub mod commands;
pub mod config;
pub mod dial;
pub mod discovery;
pub mod doctor;
pub mod driver;
pub mod estop;
pub mod exit;
pub mod hardware;
pub mod health;
mod http;
pub mod identity;
pub mod ipc;
pub mod journal;
pub mod link;
mod lookup;
pub mod machine;
mod memory;
pub mod migration;
pub mod outbox;
pub mod profiles;
mod program;
pub mod ros;
pub mod scrub;
pub mod setup;
mod storage;
pub mod telemetry;
pub mod teleop;
mod trust;
