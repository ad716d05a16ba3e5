//! A real Mosquitto with mutual TLS: as a peer of the embedded broker, or as the fleet's broker by the files of `deploy/`.

use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::namespace::Host;
use super::process::{Process, free_port, program};

const CONFIG: &str = include_str!("../../../deploy/mosquitto/mosquitto.conf");
const RULES: &str = include_str!("../../../deploy/mosquitto/acl");
/// The relay that the rules name.
const RELAY: &str = "relay-1";

/// A running Mosquitto.
pub struct Mosquitto {
    process: Process,
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
            process,
            address: format!("127.0.0.1:{port}"),
            _files: files,
        })
    }

    /// Starts one on port 8883 of `host`, as `deploy/mosquitto` has it, for these relays; `files` has ca.pem, server.pem and
    /// server.key.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn deployed(host: &Host, files: TempDir, relays: &[&str]) -> Result<Self> {
        let folder = files.path().to_string_lossy();
        let config = CONFIG.replace("/etc/mosquitto/fleet", &folder).replace(
            "listener 8883",
            &format!("listener 8883 {}", host.address()),
        );
        // The rules of one relay, once for each.
        let (general, rest) = RULES
            .split_once(&format!("user relay:{RELAY}"))
            .context("expected rules of a relay in deploy/mosquitto/acl")?;
        let (rules, consumers) = rest
            .split_once("\n\n")
            .context("expected rules of consumers after those of a relay")?;
        let mut acl = general.to_owned();
        for relay in relays {
            let rules = rules.replace(RELAY, relay);
            acl.push_str(&format!("user relay:{relay}{rules}\n\n"));
        }
        acl.push_str(consumers);
        std::fs::write(files.path().join("acl"), acl)?;
        let path = files.path().join("mosquitto.conf");
        std::fs::write(&path, format!("user root\n{config}"))?;
        let process = host.start(
            "mosquitto",
            &program("mosquitto", "mosquitto")?,
            [Path::new("-c"), &path],
            &[],
            &files.path().join("mosquitto.log"),
        )?;
        Ok(Self {
            process,
            address: format!("{}:8883", host.address()),
            _files: files,
        })
    }

    /// SIGKILL, and a new start.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.restart(None)
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}
