//! The file that says that the relay listens, and where.

use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use super::RunError;
use crate::files;

/// What the ready file says.
#[derive(Debug, Serialize)]
pub(super) struct Ready {
    pub(super) https: SocketAddr,
    pub(super) mqtt: String,
    pub(super) ca_fingerprint: String,
    pub(super) pid: u32,
}

impl Ready {
    pub(super) fn write(&self, path: &Path) -> Result<(), RunError> {
        // Addresses, a text and a number always become JSON.
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        files::replace(path, &json, files::PUBLIC).map_err(|source| RunError::Write {
            path: path.to_owned(),
            source,
        })
    }
}
