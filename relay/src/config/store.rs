//! Where the store is, as the configuration says it.

use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use crate::store::PostgresOptions;

/// `store` as a person wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStore {
    /// The database's URL.
    pub postgres: Option<Secret>,
    /// A file with its password.
    pub password_file: Option<PathBuf>,
    /// A file with the authorities that its certificate may be of.
    pub ca: Option<PathBuf>,
}

/// A text that may have a password in it, and is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(super) String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// A database of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresStore {
    /// Its URL.
    pub url: Secret,
    /// A file with its password.
    pub password_file: Option<PathBuf>,
    /// A file with the authorities that its certificate may be of; the system's when absent.
    pub ca: Option<PathBuf>,
}

impl RawStore {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            postgres: self.postgres.or(below.postgres),
            password_file: self.password_file.or(below.password_file),
            ca: self.ca.or(below.ca),
        }
    }

    pub(super) fn check(self) -> Result<Option<PostgresStore>, ConfigError> {
        let Some(url) = self.postgres else {
            return match (self.password_file, self.ca) {
                (None, None) => Ok(None),
                (Some(_), _) => Err(ConfigError::NoDatabase("password_file")),
                (None, Some(_)) => Err(ConfigError::NoDatabase("ca")),
            };
        };
        PostgresOptions::check(url.expose())?;
        Ok(Some(PostgresStore {
            url,
            password_file: self.password_file,
            ca: self.ca,
        }))
    }
}
