//! The agent against real peers: an EST server over TLS, and Mosquitto over mutual TLS.
#![expect(clippy::unwrap_used, reason = "tests")]

mod broker;
mod commands;
mod configuration;
mod doctor;
mod enrolment;
mod estop;
mod health;
mod local;
mod migration;
mod privileged;
mod reload;
mod starved;
mod support;
mod teleop;
mod trust;
mod usage;
