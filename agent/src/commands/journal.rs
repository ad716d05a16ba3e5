//! The file with what is remembered of commands. Written as a whole, since it is small and rarely written.

use std::io;
use std::path::{Path, PathBuf};

use lekiwi_agent_core::command::Record;
use nix::sys::signal::{Signal, raise};
use serde::{Deserialize, Serialize};

use crate::storage::write_atomically;

/// The one version of the file.
const VERSION: u32 = 1;
const FILE: &str = "commands.json";

#[derive(Deserialize)]
struct Kept {
    version: u32,
    commands: Vec<Record>,
}

#[derive(Serialize)]
struct Keep<'a> {
    version: u32,
    commands: Vec<&'a Record>,
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Places passed so far: one before each write, one after it.
    places: u32,
    kill_at: Option<u32>,
}

impl Journal {
    pub(super) fn new(folder: &Path, kill_at: Option<u32>) -> Self {
        Self {
            path: folder.join(FILE),
            places: 0,
            kill_at,
        }
    }

    /// What was remembered. A file that is damaged or of another version is told and left out: it is only
    /// ever replaced as a whole, so that somebody else made it so.
    pub(super) fn read(&self) -> Vec<Record> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                log::warn!("cannot read {}: {error}", self.path.display());
                return Vec::new();
            }
        };
        match serde_json::from_slice(&text) {
            Ok(Kept {
                version: VERSION,
                commands,
            }) => commands,
            Ok(Kept { version, .. }) => {
                let path = self.path.display();
                log::warn!("expected version {VERSION} of {path}, got {version}");
                Vec::new()
            }
            Err(error) => {
                log::warn!("expected commands in {}: {error}", self.path.display());
                Vec::new()
            }
        }
    }

    /// Remembers `records`: on the disk when this returns.
    pub(super) fn write<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
    ) -> io::Result<()> {
        let kept = Keep {
            version: VERSION,
            commands: records.collect(),
        };
        let json = serde_json::to_vec(&kept).map_err(io::Error::other)?;
        self.pass();
        write_atomically(&self.path, &json, 0o600)?;
        self.pass();
        Ok(())
    }

    /// A place where a test may want the power to go.
    fn pass(&mut self) {
        self.places += 1;
        if self.kill_at == Some(self.places) {
            let _ = raise(Signal::SIGKILL);
        }
    }
}
