//! Logs: to standard error, text for people (coloured on a terminal) or JSON for collectors. What to log
//! is chosen by `LEKIWI_RELAY_LOG`, in the syntax of `tracing`'s `EnvFilter`.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// Time between two lines of a kind that may come often.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets a line into the log now and then, and counts those between.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether something that happened at `now` may be said: how often the like was not, since the last line.
    pub(crate) fn may_say(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < PAUSE)
        {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn what_comes_often_is_said_now_and_then_with_how_often_it_was() {
        let (start, seldom) = (clock::monotonic(), Seldom::default());
        let said = (0..250).filter_map(|tenth| {
            let unsaid = seldom.may_say(start + Duration::from_millis(100 * tenth))?;
            Some((tenth, unsaid))
        });
        assert_eq!(said.collect::<Vec<_>>(), [(0, 0), (100, 99), (200, 99)]);
    }
}
