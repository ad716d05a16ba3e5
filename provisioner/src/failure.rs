//! What went wrong, with its hint. `main` prints it, once.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            error: error.into(),
            hint: None,
        }
    }

    /// A file that could not be `did` (`read`, `written`, …).
    pub(crate) fn file(did: &str, path: &Path, source: io::Error) -> Self {
        Self::new(format!("{} could not be {did}: {source}", path.display()))
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: Option<impl Into<String>>) -> Self {
        self.hint = hint.map(Into::into);
        self
    }

    /// Whoever read our output has had enough.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The whole chain, once, and what to do about it.
    pub(crate) fn explain(&self) -> String {
        let mut text = format!("error: {}", self.error);
        let mut source = self.error.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n  (hint: {hint})");
        }
        text
    }
}

/// The output could not be written.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error)
    }
}
