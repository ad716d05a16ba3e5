//! What the program says to a person at a terminal, or to a script behind a pipe. Logs are elsewhere
//! (`logging`); secrets go only through here.

use std::io::{IsTerminal, Write};

/// Writes to standard output. A reader that went away is no error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes to standard error, beside the log.
pub fn note(text: &str) {
    let mut out = std::io::stderr().lock();
    // Nobody is left to tell.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Whether a person reads [`note`].
#[must_use]
pub fn note_is_read() -> bool {
    std::io::stderr().is_terminal()
}

/// Prints an error with its causes, and what to do about it.
pub fn error(error: &dyn std::error::Error, hint: Option<&str>) {
    let mut text = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if let Some(hint) = hint {
        text = format!("{text}\n  (hint: {hint})");
    }
    note(&format!("{text}\n"));
}
