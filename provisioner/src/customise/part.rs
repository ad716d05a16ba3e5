//! Files under construction: none of them ever has the name of a finished one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::CustomiseError;

/// A file that gets its name when it is whole, and is removed when it never is.
pub(super) struct Part {
    pub(super) file: File,
    part: PathBuf,
    place: PathBuf,
    whole: bool,
}

impl Part {
    /// `.NAME.part` beside `place`; one of an earlier crash is used again.
    pub(super) fn create(place: &Path) -> Result<Self, CustomiseError> {
        let mut name = std::ffi::OsString::from(".");
        name.push(place.file_name().unwrap_or_default());
        name.push(".part");
        let part = place.with_file_name(name);
        let failed = |source| CustomiseError::Write {
            path: part.clone(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // There are tokens in it.
            .mode(0o600)
            .open(&part)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CustomiseError::Busy(place.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        Ok(Self {
            file,
            part,
            place: place.to_owned(),
            whole: false,
        })
    }

    pub(super) fn failed(&self, source: io::Error) -> CustomiseError {
        CustomiseError::Write {
            path: self.place.clone(),
            source,
        }
    }

    pub(super) fn finish(mut self) -> Result<(), CustomiseError> {
        let folder = match self.place.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.part, &self.place))
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|source| self.failed(source))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.whole {
            // The error that led here matters more.
            let _ = fs::remove_file(&self.part);
        }
    }
}
