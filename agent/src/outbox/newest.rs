//! Which stream is the newest and which others may hold events, in a file beside the database so that it
//! outlives it: numbers are never used twice, and what is lost with a database or with memory is said.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The file is always this long: a full disk still takes another content of the same length.
const BYTES: usize = 1024;
/// Most streams beside the newest one.
const MAX_OTHERS: usize = 16;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Newest {
    pub(super) ordinal: u32,
    pub(super) stream: Uuid,
    /// How many streams of late samples there were.
    #[serde(default)]
    pub(super) late: u32,
    /// Earlier streams that may hold events which nobody has, oldest first.
    #[serde(default)]
    pub(super) others: Vec<Uuid>,
}

impl Newest {
    /// What is written beside `database`; nothing is the first start.
    pub(super) fn read(database: &Path) -> Self {
        fs::read(file(database))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// Another stream begins.
    pub(super) fn next(&self, stream: Uuid, mut others: Vec<Uuid>) -> Self {
        others.retain(|other| *other != stream && !other.is_nil());
        others.drain(..others.len().saturating_sub(MAX_OTHERS));
        Self {
            ordinal: self.ordinal + 1,
            stream,
            late: self.late,
            others,
        }
    }

    /// Every stream that may hold events, oldest first.
    pub(super) fn streams(&self) -> Vec<Uuid> {
        let all = self.others.iter().copied().chain([self.stream]);
        all.filter(|stream| !stream.is_nil()).collect()
    }

    pub(super) fn write(&self, database: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.resize(text.len().max(BYTES), b' ');
        let path = file(database);
        crate::storage::write_atomically(&path, &text, 0o600)
            .or_else(|error| write_in_place(&path, &text).map_err(|_| error))
    }
}

/// Where there is no room for a second file. A power cut may leave half of each, which reads as nothing.
fn write_in_place(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() != text.len() as u64 {
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.write_all(text)?;
    file.sync_data()
}

fn file(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".ordinal");
    name.into()
}
