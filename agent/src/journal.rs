//! Where log lines go: to the journal with their fields under systemd, to a terminal as text, coloured
//! only there. `LEKIWI_LOG` is the level of the agent's own lines: error, warn, info, debug or trace.

use std::io::{IsTerminal, Write, stderr};

use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::clock;

/// Starts logging. Returns what is wrong with `level`, if anything.
pub fn start(level: Option<&str>, no_color: bool) -> Option<String> {
    let parsed = level.map(str::parse::<LevelFilter>);
    let (filter, complaint) = match parsed {
        None => (LevelFilter::Info, None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(_)) => {
            let got = level.unwrap_or_default();
            let complaint =
                format!("LEKIWI_LOG: expected error, warn, info, debug or trace, got {got:?}");
            (LevelFilter::Info, Some(complaint))
        }
    };
    let journal = connected_to_journal()
        .then(JournalLog::new)
        .and_then(Result::ok);
    let colour = stderr().is_terminal() && !no_color;
    // A second logger in one process is refused by `log`; the first stays.
    let _ = log::set_boxed_logger(Box::new(Logger { journal, colour }));
    log::set_max_level(filter);
    complaint
}

/// Another level from now on.
pub fn set_level(filter: LevelFilter) {
    log::set_max_level(filter);
}

struct Logger {
    journal: Option<JournalLog>,
    colour: bool,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_heard(log::max_level(), metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match &self.journal {
            Some(journal) => journal.log(record),
            // A closed terminal is no reason to stop.
            None => drop(writeln!(stderr().lock(), "{}", line(record, self.colour))),
        }
    }

    fn flush(&self) {}
}

/// Libraries are heard when they warn, or when everything was asked for.
fn is_heard(filter: LevelFilter, metadata: &Metadata<'_>) -> bool {
    let own = metadata.target().starts_with("lekiwi");
    let filter = if own || filter == LevelFilter::Trace {
        filter
    } else {
        filter.min(LevelFilter::Warn)
    };
    metadata.level() <= filter
}

fn line(record: &Record<'_>, colour: bool) -> String {
    let (word, code) = match record.level() {
        Level::Error => ("error", 31),
        Level::Warn => ("warn ", 33),
        Level::Info => ("info ", 32),
        Level::Debug => ("debug", 34),
        Level::Trace => ("trace", 35),
    };
    let word = if colour {
        format!("\u{1b}[{code}m{word}\u{1b}[0m")
    } else {
        word.to_owned()
    };
    format!("{} {word} {}", clock::wall(), record.args())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_heard_only_when_they_warn() {
        let enabled = |target: &str, level| {
            let metadata = Metadata::builder().target(target).level(level).build();
            is_heard(LevelFilter::Debug, &metadata)
        };
        assert!(enabled("lekiwi_agent::driver", Level::Debug));
        assert!(!enabled("rumqttc::v5", Level::Info));
        assert!(enabled("rumqttc::v5", Level::Warn));
    }

    #[test]
    fn colours_are_only_for_terminals() {
        let record = |colour| {
            line(
                &Record::builder()
                    .level(Level::Warn)
                    .args(format_args!("hot"))
                    .build(),
                colour,
            )
        };
        assert!(record(false).ends_with(" warn  hot"), "{}", record(false));
        assert!(record(true).ends_with("\u{1b}[33mwarn \u{1b}[0m hot"));
    }
}
