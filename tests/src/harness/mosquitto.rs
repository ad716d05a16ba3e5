//! A real Mosquitto with mutual TLS, as a peer of the embedded broker.

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use super::process::{Process, free_port, program};

/// A running Mosquitto.
pub struct Mosquitto {
    _process: Process,
    address: String,
    _files: TempDir,
}

impl Mosquitto {
    /// Starts one that shows `server_certificate` with `server_key` (both PEM files), and takes clients of the
    /// authority in `ca_file`, whose common name becomes their user name.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start(ca_file: &Path, server_certificate: &Path, server_key: &Path) -> Result<Self> {
        let program = program("mosquitto", "mosquitto")?;
        let files = tempfile::tempdir()?;
        let port = free_port()?;
        let config = files.path().join("mosquitto.conf");
        std::fs::write(
            &config,
            format!(
                "user root\nlistener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
                 use_identity_as_username true\nallow_anonymous false\n",
                ca_file.display(),
                server_certificate.display(),
                server_key.display()
            ),
        )?;
        let arguments = [Path::new("-c"), &config];
        let mut process = Process::start(
            "mosquitto",
            &program,
            arguments,
            &[],
            &files.path().join("mosquitto.log"),
        )?;
        process.wait_for("a listener", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })?;
        Ok(Self {
            _process: process,
            address: format!("127.0.0.1:{port}"),
            _files: files,
        })
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}
