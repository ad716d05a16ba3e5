//! The real program as a child, and everything about it that can be seen from outside.

mod alerts;
mod common;
mod configuration;
mod connections;
mod enrolment;
mod gateway;
mod http;
mod limits;
mod openapi;
mod past;
mod program;
mod standing;
