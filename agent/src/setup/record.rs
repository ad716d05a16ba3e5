//! What the setup has done, on disk: written by root's setup after each step, read by it after a restart
//! and by the agent for the robot's state.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use lekiwi_protocol::message::SetupStatus;
use serde::{Deserialize, Serialize};

use crate::storage::write_atomically;

/// The one version of the file.
const VERSION: u32 = 1;
const FILE: &str = "setup.json";

/// The file `setup.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The profile that is set up.
    pub profile: String,
    /// Where it stands.
    pub status: SetupStatus,
    /// How much is done, 0 to 100.
    pub percent: u8,
    /// The step that failed, with the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Finished steps: name, and the fingerprint of what was done.
    #[serde(default)]
    pub done: BTreeMap<String, String>,
    /// Units that were written, whatever profile asked for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// The fingerprint of all steps together, once their end was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concluded: Option<String>,
}

impl Record {
    /// Nothing is done.
    #[must_use]
    pub fn new(profile: &str) -> Self {
        Self {
            version: VERSION,
            profile: profile.to_owned(),
            status: SetupStatus::Pending,
            percent: 0,
            trouble: None,
            done: BTreeMap::new(),
            units: Vec::new(),
            concluded: None,
        }
    }

    /// Nothing is done for `profile`, but for the units that another one left.
    #[must_use]
    pub fn after(other: Option<Self>, profile: &str) -> Self {
        Self {
            units: other.map(|other| other.units).unwrap_or_default(),
            ..Self::new(profile)
        }
    }

    /// Reads the record in `folder`. A file that is missing, damaged, or of another version is none: the
    /// steps are done again, which they stand.
    #[must_use]
    pub fn load(folder: &Path) -> Option<Self> {
        let text = std::fs::read(path(folder)).ok()?;
        let record: Self = serde_json::from_slice(&text).ok()?;
        (record.version == VERSION).then_some(record)
    }

    /// Writes it; on disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or the folder not writable.
    pub fn keep(&self, folder: &Path) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        json.push(b'\n');
        write_atomically(&path(folder), &json, 0o644)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}
