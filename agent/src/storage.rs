//! Files that a power cut leaves either old or new, never half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, raise};

/// Writes `content` beside `path`, syncs it, renames it into place and syncs the folder. The mode holds
/// from the first byte.
/// On an error `path` is what it was; otherwise it has the new content.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = folder.join(name);
    let written = (|| {
        // Before anything is changed: where this fails, nothing was.
        let opened = File::open(folder)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        // A left-over of a crash may have another mode.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        put_in_place(&beside, path, || opened.sync_all())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Once it is renamed the new content is what everybody reads, whatever becomes of the folder: who heard that
/// it failed would believe the old.
fn put_in_place(
    beside: &Path,
    path: &Path,
    sync_folder: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    fs::rename(beside, path)?;
    if let Err(error) = sync_folder() {
        log::warn!(
            "{} may be the old one after a power cut: {error}",
            path.display()
        );
    }
    Ok(())
}

/// Places where a test may want the power to go.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// How many were passed so far.
    passed: AtomicU32,
    kill_at: Option<u32>,
}

impl Places {
    /// `kill_at` ends this process at that place.
    pub(crate) fn new(kill_at: Option<u32>) -> Self {
        Self {
            passed: AtomicU32::new(0),
            kill_at,
        }
    }

    pub(crate) fn pass(&self) {
        let place = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        if self.kill_at == Some(place) {
            let _ = raise(Signal::SIGKILL);
        }
    }
}

/// A small file that is only ever replaced as a whole, with a place before each write and one after it.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    places: Places,
}

impl Kept {
    /// `kill_at` ends this process at that place.
    pub(crate) fn new(path: PathBuf, kill_at: Option<u32>) -> Self {
        Self {
            path,
            places: Places::new(kill_at),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file has; nothing while there is none.
    pub(crate) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(&self.path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// On the disk when this returns.
    pub(crate) fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.places.pass();
        write_atomically(&self.path, content, 0o600)?;
        self.places.pass();
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_or_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let [path, beside] = ["file", "file.new"].map(|name| folder.path().join(name));
        write_atomically(&path, b"old", 0o600).unwrap();
        fs::create_dir(&beside).unwrap();
        assert!(write_atomically(&path, b"new", 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_dir(&beside).unwrap();
        write_atomically(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(!beside.exists());
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn what_was_renamed_is_written_whatever_becomes_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let [path, beside] = ["file", "file.new"].map(|name| folder.path().join(name));
        fs::write(&path, "old").unwrap();
        fs::write(&beside, "new").unwrap();
        let fails = || Err(io::Error::other("the card does not answer"));
        put_in_place(&beside, &path, fails).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(
            put_in_place(&beside, &path, || Ok(())).is_err(),
            "nothing to rename"
        );
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
