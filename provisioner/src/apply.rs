//! Carries a plan out in a folder, such as a card's mounted boot partition.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::cmdline::CmdlineError;
use crate::plan::{Content, PlannedFile};

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The folder is not there.
    #[error("expected a folder at {0}, such as a card's mounted boot partition")]
    Folder(PathBuf),
    /// A file of that name is there already.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// The kernel's command line is not what it should be.
    #[error("cannot edit {path}")]
    Cmdline {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CmdlineError,
    },
    /// A file that goes onto the card cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
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
            Self::Exists(_) => {
                Some("--force replaces the files of the image or of an earlier seed")
            }
            Self::Cmdline { source, .. } => source.hint(),
            Self::Folder(_) | Self::Read { .. } | Self::Write { .. } => None,
        }
    }
}

/// Writes all files or none: each is written beside its place, and renamed when all are on disk.
///
/// # Errors
/// When the folder is missing, a file exists that would be replaced and `force` is not set, a file to copy or to edit
/// cannot be, or the disk refuses.
pub fn seed(folder: &Path, files: &[PlannedFile], force: bool) -> Result<(), ApplyError> {
    if !folder.is_dir() {
        return Err(ApplyError::Folder(folder.to_owned()));
    }
    let places: Vec<(PathBuf, PathBuf)> = files
        .iter()
        .map(|file| {
            (
                folder.join(format!("{}.new", file.name)),
                folder.join(&file.name),
            )
        })
        .collect();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ApplyError::Write { path, source }
    };
    let taken = files
        .iter()
        .zip(&places)
        .find(|(file, (_, place))| !matches!(file.content, Content::Edit(_)) && place.exists());
    if !force && let Some((_, (_, taken))) = taken {
        return Err(ApplyError::Exists(taken.clone()));
    }
    for (_, place) in &places {
        let folder = place.parent().unwrap_or(folder);
        fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    for (file, (beside, place)) in files.iter().zip(&places) {
        if let Err(error) = write(beside, place, file) {
            for (beside, _) in &places {
                // Whatever was begun; the error that matters is the write's.
                let _ = fs::remove_file(beside);
            }
            return Err(error);
        }
    }
    for (file, (_, place)) in files.iter().zip(&places) {
        if file.secret {
            blank(place).map_err(failed(place))?;
        }
    }
    for (beside, place) in &places {
        fs::rename(beside, place).map_err(failed(place))?;
    }
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed(folder))
}

/// Overwrites a file that is about to be replaced: on FAT its bytes would stay where nobody looks for secrets.
fn blank(place: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(place) {
        Ok(file) => {
            let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            file.write_all_at(&vec![0; length], 0)?;
            file.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn write(beside: &Path, place: &Path, file: &PlannedFile) -> Result<(), ApplyError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ApplyError::Read { path, source }
    };
    let failed = |source| ApplyError::Write {
        path: beside.to_owned(),
        source,
    };
    let mode = if file.secret { 0o600 } else { 0o644 };
    // A half-written file of an interrupted run may be in the way.
    let _ = fs::remove_file(beside);
    let mut open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(beside)
        .map_err(failed)?;
    match &file.content {
        Content::Text(text) => open.write_all(text.as_bytes()).map_err(failed)?,
        Content::Copy(path) => {
            let mut source = fs::File::open(path).map_err(unreadable(path))?;
            io::copy(&mut source, &mut open).map_err(failed)?;
        }
        Content::Edit(edit) => {
            let before = match fs::read(place) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(unreadable(place)(error)),
            };
            let after = edit
                .edit(before.as_deref())
                .map_err(|source| ApplyError::Cmdline {
                    path: place.to_owned(),
                    source,
                })?;
            open.write_all(&after).map_err(failed)?;
        }
    }
    open.sync_all().map_err(failed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::cmdline::Cmdline;

    fn file(content: &str) -> PlannedFile {
        PlannedFile {
            name: "user-data".to_owned(),
            content: Content::Text(content.to_owned()),
            secret: true,
        }
    }

    fn edit() -> PlannedFile {
        PlannedFile {
            name: "cmdline.txt".to_owned(),
            content: Content::Edit(Cmdline::new(vec!["ds=nocloud;i=a".into()])),
            secret: false,
        }
    }

    #[test]
    fn an_earlier_seed_is_replaced_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        fs::write(folder.path().join("cmdline.txt"), "quiet\n").unwrap();
        seed(folder.path(), &[file("one"), edit()], false).unwrap();
        assert_eq!(read("cmdline.txt"), "quiet ds=nocloud;i=a\n");
        let error = seed(folder.path(), &[file("two"), edit()], false).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{} is there already",
                folder.path().join("user-data").display()
            )
        );
        assert_eq!(read("user-data"), "one");
        seed(folder.path(), &[file("two"), edit()], true).unwrap();
        assert_eq!(read("user-data"), "two");
        assert_eq!(read("cmdline.txt"), "quiet ds=nocloud;i=a\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn nothing_is_written_when_one_file_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |files: &[PlannedFile]| {
            let error = seed(folder.path(), files, false).unwrap_err();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
            (error.to_string(), error.hint())
        };
        let cmdline = folder.path().join("cmdline.txt");
        let (message, hint) = refused(&[file("one"), edit()]);
        assert_eq!(message, format!("cannot edit {}", cmdline.display()));
        assert_eq!(hint, CmdlineError::Absent.hint());
        let copy = PlannedFile {
            name: "lekiwi-agent.deb".to_owned(),
            content: Content::Copy("/nonexistent/a.deb".into()),
            secret: false,
        };
        assert_eq!(
            refused(&[file("one"), copy]).0,
            "cannot read /nonexistent/a.deb"
        );
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
