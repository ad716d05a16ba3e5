//! Secrets of receivers and of providers of logins: from files and the environment only, and never shown.

use std::fmt;
use std::path::PathBuf;

use crate::config::alerts::SecretSource;

/// Shortest key that signatures may have: what is shorter can be guessed.
pub(super) const MIN_KEY_BYTES: usize = 16;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no such variable.
    #[error("expected a secret in the variable {0}, found none")]
    Variable(String),
    /// It is too short.
    #[error("expected a secret of {MIN_KEY_BYTES} bytes or more in {place}, got {actual}")]
    Short {
        /// Where it is from.
        place: String,
        /// Its length.
        actual: usize,
    },
}

/// A secret that no log or answer shows.
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secret")
    }
}

impl Secret {
    /// Reads it; without the end of its last line.
    pub(crate) fn load(source: &SecretSource) -> Result<Self, SecretError> {
        let text = match source {
            SecretSource::File(path) => {
                std::fs::read_to_string(path).map_err(|source| SecretError::Read {
                    path: path.clone(),
                    source,
                })?
            }
            SecretSource::Environment(name) => {
                std::env::var(name).map_err(|_| SecretError::Variable(name.clone()))?
            }
        };
        Ok(Self(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// Reads a key: a secret that is long enough.
    pub(super) fn load_key(source: &SecretSource) -> Result<Self, SecretError> {
        let secret = Self::load(source)?;
        let actual = secret.0.len();
        if actual >= MIN_KEY_BYTES {
            return Ok(secret);
        }
        let place = match source {
            SecretSource::File(path) => path.display().to_string(),
            SecretSource::Environment(name) => format!("the variable {name}"),
        };
        Err(SecretError::Short { place, actual })
    }

    /// The secret itself, for whoever it is meant for.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "0123456789abcdef\r\n").unwrap();
        let source = SecretSource::File(path.clone());
        let secret = Secret::load_key(&source).unwrap();
        assert_eq!(secret.reveal(), "0123456789abcdef");
        assert_eq!(format!("{secret:?}"), "secret");
        std::fs::write(&path, "short").unwrap();
        assert_eq!(
            Secret::load_key(&source).unwrap_err().to_string(),
            format!(
                "expected a secret of 16 bytes or more in {}, got 5",
                path.display()
            )
        );
        let missing = SecretSource::Environment("LEKIWI_TEST_NO_SUCH_SECRET".to_owned());
        assert_eq!(
            Secret::load(&missing).unwrap_err().to_string(),
            "expected a secret in the variable LEKIWI_TEST_NO_SUCH_SECRET, found none"
        );
    }
}
