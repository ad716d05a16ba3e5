//! The real program as a child, and everything about it that can be seen from outside.

mod alerts;
mod attacks;
mod audit;
mod common;
mod configuration;
mod connections;
mod deploy;
mod enrolment;
#[expect(clippy::unwrap_used, reason = "tests")]
mod external;
mod factor;
mod gateway;
mod http;
#[expect(clippy::unwrap_used, reason = "tests")]
mod identity;
mod keys;
mod limits;
#[expect(clippy::unwrap_used, reason = "tests")]
#[path = "../support/mosquitto.rs"]
mod mosquitto;
mod observability;
mod oidc;
mod openapi;
mod past;
mod people;
mod permissions;
#[path = "../support/port.rs"]
mod port;
mod program;
mod prometheus;
#[expect(clippy::unwrap_used, reason = "tests")]
mod rollover;
#[path = "../support/secrets.rs"]
mod secrets;
mod slow;
mod standing;
#[expect(clippy::unwrap_used, reason = "tests")]
#[path = "../support/mod.rs"]
mod support;
mod traces;
