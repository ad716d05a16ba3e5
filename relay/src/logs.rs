//! What robots upload when they are asked for logs, or for the list of their packages: a folder a robot, a file a
//! command. A file is named by its command and its SHA-256, so that a robot which had to collect again begins anew.
//! Used by the HTTP interface.
//!
//! Invariants: a file without `.part` is whole and has its SHA-256; a piece is taken only where the one before
//! ended; files fit into [`Bounds`], the oldest make room.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lekiwi_protocol::api::LogView;
use lekiwi_protocol::limits::MAX_PACKAGES_BYTES;
use lekiwi_protocol::{RobotId, Timestamp};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::files::{SECRET, sync_parent};

/// How files of logs end.
pub const LOG_ENDING: &str = ".log.gz";
/// How lists of packages end.
pub const LIST_ENDING: &str = ".txt";
const PART: &str = ".part";
/// An upload that nothing was added to for so long is given up: the command behind it has ended.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of one robot, in bytes.
    pub robot: u64,
    /// Of all of them.
    pub total: u64,
}

/// What a relay keeps of logs.
pub const BOUNDS: Bounds = Bounds {
    robot: 64 * 1024 * 1024,
    total: 1024 * 1024 * 1024,
};

/// What a relay keeps of lists of packages: of a robot the newest one that is whole, and one on its way.
pub const PACKAGES_BOUNDS: Bounds = Bounds {
    robot: 2 * MAX_PACKAGES_BYTES,
    total: 1024 * 1024 * 1024,
};

/// A file that a robot uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Who.
    pub robot: RobotId,
    /// For which command.
    pub command: Uuid,
    /// How large it is.
    pub length: u64,
    /// What it hashes to.
    pub sha256: [u8; 32],
}

/// What a piece brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// Where the next piece begins; the length where nothing is missing.
    pub offset: u64,
    /// The piece was the last one.
    pub is_whole: bool,
    /// What made room for it.
    pub dropped: Vec<(RobotId, LogView)>,
}

/// Why a piece was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Another piece is next.
    #[error("expected a piece from {expected} on, got one from {actual}")]
    Offset {
        /// Where the next one begins.
        expected: u64,
        /// Where it does.
        actual: u64,
    },
    /// It goes on beyond the end.
    #[error("expected {length} bytes in all, got {actual}")]
    Length {
        /// What was announced.
        length: u64,
        /// What came.
        actual: u64,
    },
    /// All is there, and something else.
    #[error("expected SHA-256 {expected}, got {actual}")]
    Damaged {
        /// What was announced.
        expected: String,
        /// What came.
        actual: String,
    },
    /// The folder cannot be used.
    #[error("cannot keep uploads in {path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Logs {
    folder: Arc<Path>,
    /// What whole files end with.
    ending: &'static str,
    bounds: Bounds,
    /// One piece is written at a time.
    turn: Arc<Mutex<()>>,
}

/// A file of the folder.
#[derive(Debug)]
struct Entry {
    robot: RobotId,
    path: PathBuf,
    is_whole: bool,
    view: LogView,
}

impl Logs {
    /// In this folder, which is made when something is uploaded; names of whole files have this `ending`.
    #[must_use]
    pub fn new(folder: PathBuf, ending: &'static str, bounds: Bounds) -> Self {
        Self {
            folder: folder.into(),
            ending,
            bounds,
            turn: Arc::default(),
        }
    }

    /// Takes a piece that begins at `offset`.
    ///
    /// # Errors
    /// When it is not the next one, is damaged, or cannot be kept.
    pub async fn take(
        &self,
        upload: Upload,
        offset: u64,
        piece: Bytes,
    ) -> Result<Taken, UploadError> {
        let _turn = self.turn.lock().await;
        self.blocking(move |this| {
            let part = this.path(&upload.robot, upload.command, &upload.sha256, PART);
            this.append(&upload, &part, offset, &piece)
        })
        .await
    }

    /// What there is of a robot, newest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn of_robot(&self, robot: &RobotId) -> Result<Vec<LogView>, UploadError> {
        let robot = robot.clone();
        self.blocking(move |this| {
            let mut entries = this.entries_of(&robot).map_err(|error| this.error(error))?;
            entries.retain(|entry| entry.is_whole);
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.view.uploaded_at));
            Ok(entries.into_iter().map(|entry| entry.view).collect())
        })
        .await
    }

    /// What one command brought; nothing when there is none, or no more.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn open(
        &self,
        robot: &RobotId,
        command: Uuid,
    ) -> Result<Option<(LogView, File)>, UploadError> {
        let robot = robot.clone();
        self.blocking(move |this| {
            let entries = this.entries_of(&robot).map_err(|error| this.error(error))?;
            let mut entries = entries.into_iter();
            let found = entries.find(|entry| entry.is_whole && entry.view.id == command);
            let opened = found.map(|entry| Ok((entry.view, File::open(&entry.path)?)));
            opened.transpose().map_err(|error| this.error(error))
        })
        .await
    }

    /// The newest of a robot, as text, for what is small.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn newest(&self, robot: &RobotId) -> Result<Option<(LogView, String)>, UploadError> {
        let robot = robot.clone();
        self.blocking(move |this| {
            let entries = this.entries_of(&robot).map_err(|error| this.error(error))?;
            let whole = entries.into_iter().filter(|entry| entry.is_whole);
            let newest = whole.max_by_key(|entry| entry.view.uploaded_at);
            let read = newest.map(|entry| {
                let bytes = fs::read(&entry.path)?;
                Ok((entry.view, String::from_utf8_lossy(&bytes).into_owned()))
            });
            read.transpose().map_err(|error| this.error(error))
        })
        .await
    }

    /// Removes uploads that nobody goes on with.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn forget_abandoned(&self, now: Timestamp) -> Result<(), UploadError> {
        let _turn = self.turn.lock().await;
        self.blocking(move |this| {
            for entry in this.entries().map_err(|error| this.error(error))? {
                if !entry.is_whole && now.since(entry.view.uploaded_at) > ABANDONED {
                    tracing::info!(robot = %entry.robot, id = %entry.view.id, "an upload was abandoned");
                    fs::remove_file(&entry.path).map_err(|error| this.error(error))?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, UploadError> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&this)).await;
        done.unwrap_or_else(|error| Err(self.error(io::Error::other(error))))
    }

    fn error(&self, source: io::Error) -> UploadError {
        UploadError::Io {
            path: self.folder.to_path_buf(),
            source,
        }
    }

    fn path(&self, robot: &RobotId, command: Uuid, sha256: &[u8], ending: &str) -> PathBuf {
        let name = format!("{command}.{}{ending}", hex::encode(sha256));
        // An id is a host label: it leads nowhere else.
        self.folder.join(robot.as_str()).join(name)
    }

    fn append(
        &self,
        upload: &Upload,
        part: &Path,
        offset: u64,
        piece: &[u8],
    ) -> Result<Taken, UploadError> {
        let error = |source| self.error(source);
        let whole = self.path(&upload.robot, upload.command, &upload.sha256, self.ending);
        let is_there = whole.exists();
        let have = match fs::metadata(part) {
            _ if is_there => upload.length,
            Ok(metadata) => metadata.len(),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => 0,
            Err(other) => return Err(error(other)),
        };
        if have != offset {
            return Err(UploadError::Offset {
                expected: have,
                actual: offset,
            });
        }
        let end = have.saturating_add(piece.len() as u64);
        if end > upload.length {
            return Err(UploadError::Length {
                length: upload.length,
                actual: end,
            });
        }
        let mut taken = Taken {
            offset: end,
            ..Taken::default()
        };
        if is_there {
            return Ok(taken);
        }
        if have == 0 {
            taken.dropped = self.make_room(upload).map_err(error)?;
        }
        write(part, have, piece).map_err(error)?;
        if end == upload.length {
            finish(upload, part, &whole).map_err(|failed| match failed {
                Ok(damaged) => damaged,
                Err(failed) => error(failed),
            })?;
            taken.is_whole = true;
        }
        Ok(taken)
    }

    /// Removes what is older, until the upload fits; and what the robot has of the same command.
    fn make_room(&self, upload: &Upload) -> io::Result<Vec<(RobotId, LogView)>> {
        let folder = self.folder.join(upload.robot.as_str());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| entry.view.uploaded_at);
        let sum = |entries: &[Entry], robot: Option<&RobotId>| -> u64 {
            let of = entries
                .iter()
                .filter(|entry| robot.is_none_or(|robot| *robot == entry.robot));
            of.map(|entry| entry.view.bytes).sum()
        };
        let mut dropped = Vec::new();
        loop {
            let is_own = |entry: &Entry| entry.robot == upload.robot;
            let again = |entry: &Entry| is_own(entry) && entry.view.id == upload.command;
            let own_bytes = sum(&entries, Some(&upload.robot)) + upload.length;
            let oldest = if let Some(index) = entries.iter().position(again) {
                Some(index)
            } else if own_bytes > self.bounds.robot {
                entries.iter().position(is_own)
            } else if sum(&entries, None) + upload.length > self.bounds.total {
                (!entries.is_empty()).then_some(0)
            } else {
                None
            };
            let Some(index) = oldest else {
                return Ok(dropped);
            };
            let entry = entries.remove(index);
            fs::remove_file(&entry.path)?;
            if entry.is_whole {
                dropped.push((entry.robot, entry.view));
            }
        }
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for folder in listed(&self.folder)? {
            let name = folder.file_name().and_then(|name| name.to_str());
            if let Some(robot) = name.and_then(|name| RobotId::new(name).ok()) {
                entries.extend(self.entries_of(&robot)?);
            }
        }
        Ok(entries)
    }

    fn entries_of(&self, robot: &RobotId) -> io::Result<Vec<Entry>> {
        let paths = listed(&self.folder.join(robot.as_str()))?;
        Ok(paths
            .into_iter()
            .filter_map(|path| entry(robot, path, self.ending))
            .collect())
    }
}

/// What lies in a folder; nothing when there is none.
fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A file of ours; one that is gone by now, or was put there by somebody else, is none.
fn entry(robot: &RobotId, path: PathBuf, ending: &str) -> Option<Entry> {
    let name = path.file_name()?.to_str()?;
    let (name, is_whole) = match name.strip_suffix(ending) {
        Some(name) => (name, true),
        None => (name.strip_suffix(PART)?, false),
    };
    let (id, sha256) = name.split_once('.')?;
    let metadata = fs::metadata(&path).ok()?;
    let view = LogView {
        id: id.parse().ok()?,
        bytes: metadata.len(),
        sha256: sha256.to_owned(),
        uploaded_at: metadata.modified().ok()?.into(),
    };
    Some(Entry {
        robot: robot.clone(),
        path,
        is_whole,
        view,
    })
}

/// Adds a piece; on an error the file is what it was.
fn write(part: &Path, have: u64, piece: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(SECRET)
        .open(part)?;
    file.write_all(piece).inspect_err(|_| {
        // What is there of it would be taken for the piece itself.
        let _ = file.set_len(have);
    })
}

/// All of it is there, as far as its length says. The inner result is the upload's fault, the outer the disk's.
fn finish(
    upload: &Upload,
    part: &Path,
    whole: &Path,
) -> Result<(), Result<UploadError, io::Error>> {
    let mut file = File::open(part).map_err(Err)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match file.read(&mut chunk).map_err(Err)? {
            0 => break,
            count => hash.update(chunk.get(..count).unwrap_or_default()),
        }
    }
    let actual = hash.finalize();
    if actual.as_slice() != upload.sha256 {
        fs::remove_file(part).map_err(Err)?;
        return Err(Ok(UploadError::Damaged {
            expected: hex::encode(upload.sha256),
            actual: hex::encode(actual),
        }));
    }
    let kept = file
        .sync_all()
        .and_then(|()| fs::rename(part, whole))
        .and_then(|()| sync_parent(whole));
    kept.map_err(Err)
}

#[cfg(test)]
#[path = "logs/tests.rs"]
mod tests;
