//! How the program ends. The numbers are public: units and scripts rely on them.

use std::process::ExitCode;

/// Exit codes of `lekiwi-relay`. Wrong usage ends with 2, as the command line parser does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well, SIGTERM and Ctrl-C included.
    Success = 0,
    /// Something failed; the message says what.
    Failure = 1,
    /// An address is taken, or another relay runs on the same data folder (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// The configuration is wrong (`EX_CONFIG`); starting again will not help.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
