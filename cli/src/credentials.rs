//! Who is logged in where: `credentials.json`, mode 0600, written beside and renamed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lekiwi_protocol::Timestamp;
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::failure::Failure;
use crate::trust::Fingerprint;

/// One session at one relay.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// The relay.
    pub(crate) url: String,
    /// Its authority.
    pub(crate) ca_fingerprint: Fingerprint,
    /// Who.
    pub(crate) user: String,
    /// The session token.
    pub(crate) token: String,
    /// When the session ends.
    pub(crate) expires_at: Timestamp,
}

/// Where `environment` keeps them.
pub(crate) fn path(environment: &Environment) -> Result<PathBuf, Failure> {
    let folder = environment
        .config_dir
        .as_ref()
        .ok_or(Failure::NoConfigDir)?;
    Ok(folder.join("credentials.json"))
}

/// What is stored; `None` when nobody is logged in.
pub(crate) fn load(path: &Path) -> Result<Option<Credentials>, Failure> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| Failure::Credentials {
                    path: path.to_owned(),
                    source,
                })
        }
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Failure::File {
            path: path.to_owned(),
            did: "read",
            source,
        }),
    }
}

/// Replaces what is stored.
pub(crate) fn save(path: &Path, credentials: &Credentials) -> Result<(), Failure> {
    let failed = |source| Failure::File {
        path: path.to_owned(),
        did: "written",
        source,
    };
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
    }
    let json = serde_json::to_vec_pretty(credentials).map_err(|e| failed(e.into()))?;
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    write_private(&beside, &json).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

/// Forgets what is stored.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    fs::remove_file(path).map_err(|source| Failure::File {
        path: path.to_owned(),
        did: "removed",
        source,
    })
}

/// Writes a new file that only its owner may read; an existing one is an error.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
