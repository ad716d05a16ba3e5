//! Who is logged in where: `credentials.json`, mode 0600, written beside and renamed.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lekiwi_protocol::Timestamp;
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::failure::Failure;
use crate::trust::Fingerprint;

/// Longest secret that is read, in bytes.
const MAX_SECRET_BYTES: u64 = 4096;

/// One session at one relay.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// The relay.
    pub(crate) url: String,
    /// Its authority.
    pub(crate) ca_fingerprint: Fingerprint,
    /// Who.
    pub(crate) user: String,
    /// The session's token, or an API key.
    pub(crate) token: String,
    /// When it ends.
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
    replace_private(path, &json)
}

/// Writes a file that only its owner may read, beside the one that it then takes the place of.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |source| Failure::File {
        path: path.to_owned(),
        did: "written",
        source,
    };
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    write_private(&beside, bytes).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

/// The API key in a file's first line; `-` is standard input.
pub(crate) fn key_in(path: &Path) -> Result<String, Failure> {
    let line = match path == Path::new("-") {
        true => first_line(io::stdin().lock()),
        false => fs::File::open(path).and_then(first_line),
    };
    let line = line.map_err(|source| Failure::File {
        path: path.to_owned(),
        did: "read",
        source,
    })?;
    Some(line).filter(|line| is_key(line)).ok_or(Failure::NoKey)
}

/// An API key as `LEKIWI_KEY` has it: itself, or `@` and its file.
pub(crate) fn key(text: &str) -> Result<String, Failure> {
    match text.strip_prefix('@') {
        Some(path) => key_in(Path::new(path)),
        None if is_key(text) => Ok(text.to_owned()),
        None => Err(Failure::NoKey),
    }
}

/// Whether a token is an API key, and no session.
pub(crate) fn is_key(token: &str) -> bool {
    token.starts_with("lka_")
}

/// The first line of a secret file.
pub(crate) fn first_line(reader: impl Read) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(reader.take(MAX_SECRET_BYTES)).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
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
