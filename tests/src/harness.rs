//! Starts each real component as a child on a free port of the loopback interface, and stops it with the
//! test whatever happens: on drop, on panic, and when the test process itself is killed.
//!
//! A component that is missing fails the test with the command that installs it; nothing is skipped.

mod agent;
mod avahi;
mod board;
mod browser;
pub mod card;
mod faulty;
mod fleet;
mod mosquitto;
mod namespace;
mod postgres;
mod process;
mod relay;
mod servo_bus;
mod shell;
mod tree;

pub use agent::{Agent, ticks, write_config};
pub use avahi::Avahi;
pub use board::{Board, BoardOptions, HOST};
pub use browser::Browser;
pub use faulty::{Fault, FaultyProxy};
pub use fleet::Fleet;
pub use mosquitto::Mosquitto;
pub use namespace::{Host, Lan};
pub use postgres::Postgres;
pub use process::{Process, free_port, program, target, wait_until};
pub use relay::{Relay, RelayOptions};
pub use servo_bus::ServoBus;
pub use shell::Shell;
pub use tree::robot_tree;
