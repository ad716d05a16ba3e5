//! The real program as a child, and everything about it that can be seen from outside.

mod alerts;
mod common;
mod configuration;
mod connections;
mod enrolment;
mod gateway;
mod http;
mod limits;
mod observability;
mod openapi;
mod past;
#[path = "../support/port.rs"]
mod port;
mod program;
mod prometheus;
mod standing;
