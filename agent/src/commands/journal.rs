//! The file with what is remembered of commands. Written as a whole, since it is small and rarely written.

use std::io;
use std::path::Path;

use lekiwi_agent_core::command::Record;
use serde::{Deserialize, Serialize};

use crate::storage::Kept as File;

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
    file: File,
}

impl Journal {
    pub(super) fn new(folder: &Path, kill_at: Option<u32>) -> Self {
        Self {
            file: File::new(folder.join(FILE), kill_at),
        }
    }

    /// What was remembered. A file that is damaged or of another version is told and left out: it is only
    /// ever replaced as a whole, so that somebody else made it so.
    pub(super) fn read(&self) -> Vec<Record> {
        let path = self.file.path().display();
        let text = match self.file.read() {
            Ok(Some(text)) => text,
            Ok(None) => return Vec::new(),
            Err(error) => {
                log::warn!("cannot read {path}: {error}");
                return Vec::new();
            }
        };
        match serde_json::from_slice(&text) {
            Ok(Kept {
                version: VERSION,
                commands,
            }) => commands,
            Ok(Kept { version, .. }) => {
                log::warn!("expected version {VERSION} of {path}, got {version}");
                Vec::new()
            }
            Err(error) => {
                log::warn!("expected commands in {path}: {error}");
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
        self.file.write(&json)
    }
}
