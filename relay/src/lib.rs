//! The relay: MQTT in, one picture of the fleet out.

pub mod alerts;
pub mod audit;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod driver;
pub mod exit;
pub mod files;
pub mod http;
pub mod identity;
pub mod ingest;
mod leader;
pub mod live;
pub mod logging;
pub mod logs;
pub mod maintenance;
pub mod metrics;
pub mod paths;
pub mod people;
pub mod protect;
pub mod ready;
pub mod store;
mod tls;
pub mod traces;
pub mod ui;
