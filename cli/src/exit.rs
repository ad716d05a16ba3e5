//! How the program ends. The numbers are public: scripts rely on them.

use std::process::ExitCode;

/// Exit codes of `lekiwi`. Wrong usage ends with 2, as the command line parser does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All went well; a closed pipe and Ctrl-C count as that.
    Success = 0,
    /// The relay refused, or something failed; the message says what.
    Failure = 1,
    /// Nobody is logged in, or the session has ended.
    NotLoggedIn = 3,
    /// There is no such robot or token.
    NotFound = 4,
    /// The relay's certificate is not of the expected authority.
    Untrusted = 5,
    /// The relay cannot be reached (`EX_UNAVAILABLE`).
    Unavailable = 69,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
