//! Files that a power cut leaves either old or new, never half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, raise};

/// Writes `content` beside `path`, syncs it, renames it into place and syncs the folder. The mode holds
/// from the first byte.
/// On an error `path` is what it was.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = folder.join(name);
    let written = (|| {
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
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// A small file that is only ever replaced as a whole, with places where a test may want the power to go.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    /// Places passed so far: one before each write, one after it.
    places: u32,
    kill_at: Option<u32>,
}

impl Kept {
    /// `kill_at` ends this process at that place.
    pub(crate) fn new(path: PathBuf, kill_at: Option<u32>) -> Self {
        Self {
            path,
            places: 0,
            kill_at,
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
        self.pass();
        write_atomically(&self.path, content, 0o600)?;
        self.pass();
        Ok(())
    }

    fn pass(&mut self) {
        self.places += 1;
        if self.kill_at == Some(self.places) {
            let _ = raise(Signal::SIGKILL);
        }
    }
}
