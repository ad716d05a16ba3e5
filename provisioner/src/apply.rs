//! Writes planned files into a folder: the only part that touches a disk.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::plan::PlannedFile;

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The folder is not there.
    #[error("expected a folder at {0}, such as a card's mounted boot partition")]
    Folder(PathBuf),
    /// A file of that name is there already.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// The disk refused.
    #[error("cannot write {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ApplyError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exists(_) => Some("--force replaces the files of an earlier seed"),
            Self::Folder(_) | Self::Write { .. } => None,
        }
    }
}

/// Writes all files or none: each is written beside its place and renamed when all are on disk.
///
/// # Errors
/// When the folder is missing, a file exists and `force` is not set, or the disk refuses.
pub fn seed(folder: &Path, files: &[PlannedFile], force: bool) -> Result<(), ApplyError> {
    if !folder.is_dir() {
        return Err(ApplyError::Folder(folder.to_owned()));
    }
    let places: Vec<(PathBuf, PathBuf)> = files
        .iter()
        .map(|file| {
            (
                folder.join(format!("{}.new", file.name)),
                folder.join(file.name),
            )
        })
        .collect();
    if !force && let Some((_, taken)) = places.iter().find(|(_, place)| place.exists()) {
        return Err(ApplyError::Exists(taken.clone()));
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ApplyError::Write { path, source }
    };
    for (file, (beside, _)) in files.iter().zip(&places) {
        if let Err(source) = write(beside, file) {
            for (beside, _) in &places {
                // Whatever was begun; the error that matters is the write's.
                let _ = fs::remove_file(beside);
            }
            return Err(failed(beside)(source));
        }
    }
    for (beside, place) in &places {
        fs::rename(beside, place).map_err(failed(place))?;
    }
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed(folder))
}

fn write(path: &Path, file: &PlannedFile) -> io::Result<()> {
    let mode = if file.secret { 0o600 } else { 0o644 };
    // A half-written file of an interrupted run may be in the way.
    let _ = fs::remove_file(path);
    let mut open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    open.write_all(file.content.as_bytes())?;
    open.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn file(content: &str) -> PlannedFile {
        PlannedFile {
            name: "user-data",
            content: content.to_owned(),
            secret: true,
        }
    }

    #[test]
    fn an_earlier_seed_is_replaced_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        seed(folder.path(), &[file("one")], false).unwrap();
        let error = seed(folder.path(), &[file("two")], false).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{} is there already",
                folder.path().join("user-data").display()
            )
        );
        assert_eq!(
            fs::read_to_string(folder.path().join("user-data")).unwrap(),
            "one"
        );
        seed(folder.path(), &[file("two")], true).unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join("user-data")).unwrap(),
            "two"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_said() {
        let error = seed(Path::new("/nonexistent/card"), &[], false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected a folder at /nonexistent/card, such as a card's mounted boot partition"
        );
    }
}
