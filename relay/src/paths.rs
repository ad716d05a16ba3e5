//! The data folder: what lies where, and that only one relay runs on it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder could not be made or read.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another relay has it.
    #[error("another relay{} runs on {folder}", holder(*pid))]
    Locked {
        /// The data folder.
        folder: PathBuf,
        /// The other relay, where it said so.
        pid: Option<u32>,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// A data folder by path; nothing is opened yet.
#[derive(Debug, Clone)]
pub struct DataFolder {
    own: PathBuf,
    shared: PathBuf,
}

impl DataFolder {
    /// The folder at `path`, all of which is this relay's own.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self::sharing(path, path)
    }

    /// The folder at `path`, of a relay that has authority and uploads in common with others, at `shared`.
    #[must_use]
    pub fn sharing(path: &Path, shared: &Path) -> Self {
        Self {
            own: path.to_owned(),
            shared: shared.to_owned(),
        }
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.own
    }

    /// The store's file.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.own.join("relay.db")
    }

    /// The authority's folder.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.shared.join("ca")
    }

    /// The folder of this relay's certificate.
    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.own.join("ca")
    }

    /// The folder of the key that signs how far the audit goes, and of what it signed last.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.shared.join("audit")
    }

    /// The folder of the logs that robots upload.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.shared.join("logs")
    }

    /// The folder of the lists of packages that robots upload.
    #[must_use]
    pub fn packages(&self) -> PathBuf {
        self.shared.join("packages")
    }

    /// The configuration, if it is nowhere else.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.own.join(crate::config::FILE)
    }

    /// Where the administrator's password goes when nobody is at a terminal.
    #[must_use]
    pub fn admin_password(&self) -> PathBuf {
        self.own.join("admin-password")
    }

    /// Makes the folder (only its owner may look) and takes it for this process until the lock is
    /// dropped.
    ///
    /// # Errors
    /// When it cannot be made, or another relay runs on it.
    pub fn lock(&self) -> Result<Lock, DataError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DataError::Io {
                action,
                path,
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.own)
            .map_err(io("create", &self.own))?;
        let path = self.own.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Only for the message.
                let _ = file.read_to_string(&mut text);
                return Err(DataError::Locked {
                    folder: self.own.clone(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", &path)(error)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(io("write", &path))?;
        Ok(Lock { _file: file })
    }

    /// Whether there is a store yet.
    #[must_use]
    pub fn has_store(&self) -> bool {
        fs::exists(self.store()).unwrap_or(false)
    }
}

/// Held while a relay runs; the system lets go of it however the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn one_relay_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::new(&parent.path().join("data"));
        let lock = folder.lock().unwrap();
        assert_eq!(
            folder.lock().unwrap_err().to_string(),
            format!(
                "another relay (process {}) runs on {}",
                std::process::id(),
                folder.path().display()
            )
        );
        drop(lock);
        folder.lock().unwrap();
    }
}
