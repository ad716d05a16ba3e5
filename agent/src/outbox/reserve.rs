//! Room on the disk that is kept for the moment when there is no other. Giving up samples writes a little
//! before it frees anything, and what the log holds by then has to find its place in the database.

use std::fs;
use std::path::{Path, PathBuf};

/// What SQLite's log grows to before it begins anew.
const BYTES: usize = 256 * 1024;

/// A file without content of its own.
#[derive(Debug)]
pub(super) struct Reserve(PathBuf);

impl Reserve {
    /// Beside the database; not there until it is filled.
    pub(super) fn beside(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push(".reserve");
        Self(name.into())
    }

    /// Takes the room, unless it is taken. Says whether it is.
    pub(super) fn fill(&self) -> bool {
        if fs::metadata(&self.0).is_ok_and(|file| file.len() == BYTES as u64) {
            return true;
        }
        let taken = fs::write(&self.0, vec![0; BYTES]);
        if taken.is_err() {
            self.release();
        }
        taken.is_ok()
    }

    /// Gives the room back.
    pub(super) fn release(&self) {
        // It may not be there.
        let _ = fs::remove_file(&self.0);
    }
}
