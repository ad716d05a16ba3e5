//! Is the downloaded file the published one? The SHA-256 is given, or stands in a file beside it, as its publisher
//! offers it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::watch::Watch;

/// Why a file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ChecksumError {
    /// Not a SHA-256.
    #[error("expected a SHA-256 of 64 hex digits, got {0:?}")]
    Text(String),
    /// The file beside names no SHA-256.
    #[error("expected a line with a SHA-256 of 64 hex digits in {0}")]
    Beside(PathBuf),
    /// Another file.
    #[error("expected {path} to have the SHA-256 {expected}, got {actual}")]
    Differs {
        /// The file.
        path: PathBuf,
        /// As published.
        expected: String,
        /// As it is.
        actual: String,
    },
    /// A file refused.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Asked to.
    #[error("stopped")]
    Stopped,
}

impl ChecksumError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Differs { .. } => Some("download it again, from whom you trust"),
            Self::Beside(_) => Some("remove that file, or give --sha256"),
            Self::Text(_) | Self::Read { .. } | Self::Stopped => None,
        }
    }
}

/// A SHA-256 in hex, lower case.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<String, ChecksumError> {
    let text = text.trim();
    if is_sha256(text) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(ChecksumError::Text(text.chars().take(80).collect()))
    }
}

/// What the file `NAME.sha256` beside `path` says about it; `None` when there is no such file.
///
/// # Errors
/// When it cannot be read, or says nothing about it.
pub fn beside(path: &Path) -> Result<Option<String>, ChecksumError> {
    let mut name = OsString::from(path);
    name.push(".sha256");
    let list = PathBuf::from(name);
    let text = match std::fs::read_to_string(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ChecksumError::Read { path: list, source }),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    find(&text, &name)
        .map(Some)
        .ok_or(ChecksumError::Beside(list))
}

/// In any of the usual forms: alone, `HEX  NAME`, `HEX *NAME`, `SHA256 (NAME) = HEX`.
fn find(text: &str, name: &str) -> Option<String> {
    let mut alone = None;
    for line in text.lines().map(str::trim) {
        let (hex, named) = match line.strip_prefix("SHA256 (") {
            Some(rest) => match rest.rsplit_once(") = ") {
                Some((named, hex)) => (hex, named),
                None => continue,
            },
            None => match line.split_once(' ') {
                Some((hex, named)) => (hex, named.trim_start().trim_start_matches('*')),
                None => (line, ""),
            },
        };
        if !is_sha256(hex) {
            continue;
        }
        if named.rsplit('/').next() == Some(name) {
            return Some(hex.to_ascii_lowercase());
        }
        if named.is_empty() {
            alone = alone.or_else(|| Some(hex.to_ascii_lowercase()));
        }
    }
    alone
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Reads the whole file and compares.
///
/// # Errors
/// When it is another one, cannot be read, or the watcher stops it.
pub fn verify(path: &Path, expected: &str, watch: &dyn Watch) -> Result<(), ChecksumError> {
    let failed = |source| ChecksumError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    watch.begin("verifying", Some(len));
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        if watch.stopped() {
            return Err(ChecksumError::Stopped);
        }
        let count = file.read(&mut piece).map_err(failed)?;
        if count == 0 {
            break;
        }
        hash.update(&piece[..count]);
        watch.advance(count as u64);
    }
    let actual = hex::encode(hash.finalize());
    if actual == expected {
        Ok(())
    } else {
        Err(ChecksumError::Differs {
            path: path.to_owned(),
            expected: expected.to_owned(),
            actual,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::watch::Unwatched;

    #[test]
    fn every_usual_form_is_understood() {
        let (ours, theirs) = ("0A".repeat(32), "1b".repeat(32));
        let lower = ours.to_lowercase();
        for text in [
            format!("{ours}\n"),
            format!("{theirs}  b.img\n{ours}  a.img.xz\n"),
            format!("{ours} *a.img.xz"),
            format!("{ours}  ./release/a.img.xz"),
            format!("# notes\nSHA256 (a.img.xz) = {ours}\n"),
        ] {
            assert_eq!(find(&text, "a.img.xz").unwrap(), lower, "{text}");
        }
        for text in [
            String::new(),
            format!("{theirs}  b.img"),
            "d41d8cd98f00b204e9800998ecf8427e  a.img.xz".to_owned(),
        ] {
            assert_eq!(find(&text, "a.img.xz"), None, "{text}");
        }
    }

    #[test]
    fn another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.img");
        std::fs::write(&path, "abc").unwrap();
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        verify(&path, right, &Unwatched).unwrap();
        let wrong = "00".repeat(32);
        assert_eq!(
            verify(&path, &wrong, &Unwatched).unwrap_err().to_string(),
            format!(
                "expected {} to have the SHA-256 {wrong}, got {right}",
                path.display()
            )
        );
        assert_eq!(beside(&path).unwrap(), None);
        let list = folder.path().join("a.img.sha256");
        std::fs::write(&list, format!("{right}  a.img\n")).unwrap();
        assert_eq!(beside(&path).unwrap().unwrap(), right);
        std::fs::write(&list, "nothing").unwrap();
        assert_eq!(
            beside(&path).unwrap_err().to_string(),
            format!(
                "expected a line with a SHA-256 of 64 hex digits in {}",
                list.display()
            )
        );
        assert_eq!(
            parse("12ab").unwrap_err().to_string(),
            "expected a SHA-256 of 64 hex digits, got \"12ab\""
        );
    }
}
