//! Logs: to standard error, text for people (coloured on a terminal) or JSON for collectors. What to log
//! is chosen by `LEKIWI_RELAY_LOG`, in the syntax of `tracing`'s `EnvFilter`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The variable that chooses what is logged.
pub const FILTER_VARIABLE: &str = "LEKIWI_RELAY_LOG";
/// The broker library reports every client's mistakes as its own errors; ours are counted and kept.
const FILTER: &str = "info,rmqtt=error,rmqtt_net=error,rmqtt_codec=error";

/// Begins logging. Call it once.
pub fn init(format: Format) {
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(FILTER));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
}
