//! The exit codes of `lekiwi-agent`: part of its interface, after `sysexits.h`.

/// Why the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// As asked.
    Success = 0,
    /// In a way that has no code of its own.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// `status`: no agent runs. `run`: another one does.
    Unavailable = 69,
    /// Try again later: the relay could not be reached in time.
    TryAgain = 75,
    /// The relay refused, or is not the right one.
    Refused = 77,
    /// The configuration is wrong. The unit does not restart on this one.
    Config = 78,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
