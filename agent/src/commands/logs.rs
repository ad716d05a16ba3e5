//! Collects a part of the journal, or the list of installed packages, and uploads it. `journalctl` and `gzip` do the
//! work for the one, the other is written as it is read, so that neither is in this program's memory; the file lies
//! in the state folder until the command has ended.
//!
//! Steps, each on the disk before what follows: the command has begun; the file is whole (a note beside it says so,
//! with its SHA-256); the command has ended. Killed before the note it collects again; killed after it the upload
//! goes on where the relay says. What is left of commands that have ended goes with the next start.

mod collect;
mod packages;
mod upload;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lekiwi_protocol::message::{Arguments, LogSlice, Op};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Place;
use crate::clock::Floor;
use crate::identity::Enrolment;
use crate::storage::write_atomically;
use upload::Refused;

/// Below the state folder.
const FOLDER: &str = "logs";
/// How often something is collected that the relay finds damaged: a power cut, or a card that dies.
const ATTEMPTS: u32 = 3;

/// What a connection to the relay needs, as it is when a command begins.
#[derive(Debug, Clone)]
pub struct Way {
    /// Who this robot is, and where its relay.
    pub enrolment: Enrolment,
    /// What certificates are judged by.
    pub floor: Floor,
}

/// What was collected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Collected {
    bytes: u64,
    lines: u64,
    sha256: String,
    /// Older entries did not fit.
    is_cut: bool,
}

/// What is collected.
#[derive(Debug)]
enum What {
    Journal(LogSlice),
    Packages,
}

impl What {
    fn parse(op: Op, arguments: &Arguments) -> Result<Self, String> {
        if op == Op::ListPackages {
            return Ok(Self::Packages);
        }
        let slice = LogSlice::parse(arguments).map_err(|error| error.to_string())?;
        Ok(Self::Journal(slice))
    }

    async fn collect(&self, root: &Path, to: &Path) -> Result<Collected, String> {
        match self {
            Self::Journal(slice) => collect::run(slice, root, to).await,
            Self::Packages => packages::collect(root, to).await,
        }
    }

    fn result(&self, collected: Collected) -> Arguments {
        match self {
            Self::Journal(_) => Arguments::from([
                ("bytes".to_owned(), collected.bytes.into()),
                ("lines".to_owned(), collected.lines.into()),
                ("sha256".to_owned(), collected.sha256.into()),
                ("is_cut".to_owned(), collected.is_cut.into()),
            ]),
            Self::Packages => packages::result(&collected),
        }
    }
}

/// The files of one command.
#[derive(Debug)]
struct Files {
    data: PathBuf,
    note: PathBuf,
}

impl Files {
    fn new(state_dir: &Path, id: Uuid) -> Self {
        let folder = state_dir.join(FOLDER);
        Self {
            data: folder.join(format!("{id}.data")),
            note: folder.join(format!("{id}.json")),
        }
    }

    /// What an earlier run has collected.
    fn collected(&self) -> Option<Collected> {
        let collected: Collected = serde_json::from_slice(&fs::read(&self.note).ok()?).ok()?;
        let there = fs::metadata(&self.data).ok()?.len();
        (there == collected.bytes).then_some(collected)
    }

    fn keep(&self, collected: &Collected) -> io::Result<()> {
        let json = serde_json::to_vec(collected).map_err(io::Error::other)?;
        write_atomically(&self.note, &json, 0o600)
    }

    fn remove(&self) {
        // The note first: without it the other counts for nothing. Most often there is neither.
        let _ = fs::remove_file(&self.note);
        let _ = fs::remove_file(&self.data);
    }
}

/// Removes what a command has left, which has ended.
pub(super) fn forget(state_dir: &Path, id: Uuid) {
    Files::new(state_dir, id).remove();
}

/// Removes what commands have left, except for those that go on.
pub(super) fn forget_others(state_dir: &Path, going_on: &[Uuid]) {
    let Ok(entries) = fs::read_dir(state_dir.join(FOLDER)) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().and_then(|name| name.to_str());
        let id = name.and_then(|name| name.split('.').next()?.parse().ok());
        if !id.is_some_and(|id: Uuid| going_on.contains(&id)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Collects what `op` and its `arguments` ask for, and uploads it.
pub(super) async fn run(
    place: &Place,
    way: &Way,
    id: Uuid,
    op: Op,
    arguments: &Arguments,
) -> Result<Arguments, String> {
    let what = What::parse(op, arguments)?;
    let files = Files::new(&place.state_dir, id);
    let outcome = collect_and_upload(place, way, id, &what, &files).await;
    if outcome.is_err() {
        // At once: a disk that is full takes no record of the end either.
        files.remove();
    }
    outcome.map(|collected| what.result(collected))
}

async fn collect_and_upload(
    place: &Place,
    way: &Way,
    id: Uuid,
    what: &What,
    files: &Files,
) -> Result<Collected, String> {
    let mut attempt = 1;
    loop {
        let collected = match files.collected() {
            Some(collected) => collected,
            None => {
                files.remove();
                let collected = what.collect(&place.root, &files.data).await?;
                files
                    .keep(&collected)
                    .map_err(|error| format!("cannot write {}: {error}", files.note.display()))?;
                collected
            }
        };
        match upload::run(way, id, &files.data, &collected).await {
            Ok(()) => return Ok(collected),
            Err(Refused::Damaged(reason)) if attempt < ATTEMPTS => {
                log::warn!("it is collected again: {reason}");
                files.remove();
                attempt += 1;
            }
            Err(Refused::Damaged(reason) | Refused::ForGood(reason)) => return Err(reason),
        }
    }
}

#[cfg(test)]
#[path = "logs/tests.rs"]
mod tests;
