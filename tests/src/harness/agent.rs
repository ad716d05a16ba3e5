//! A real agent with a state folder of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use lekiwi_protocol::RobotId;
use tempfile::TempDir;

use super::process::{Process, target};
use super::relay::Relay;

/// A real agent.
pub struct Agent {
    process: Process,
    id: RobotId,
    files: TempDir,
}

impl Agent {
    /// Starts an agent that enrols itself with `token` as `id`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(relay: &Relay, id: &str, token: &str) -> Result<Self> {
        let program = target("lekiwi-agent", "lekiwi-agent")?;
        Self::start_program(relay, id, token, &program, &[])
    }

    /// The same with another program (an emulator, say) before the agent's arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_program(
        relay: &Relay,
        id: &str,
        token: &str,
        program: &Path,
        first: &[OsString],
    ) -> Result<Self> {
        Self::start_edited(relay, id, token, program, first, |config| config)
    }

    /// The same with its configuration changed by `edit`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_edited(
        relay: &Relay,
        id: &str,
        token: &str,
        program: &Path,
        first: &[OsString],
        edit: impl FnOnce(String) -> String,
    ) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let config = write_config(files.path(), relay, id, token)?;
        std::fs::write(&config, edit(std::fs::read_to_string(&config)?))?;
        let mut arguments = first.to_vec();
        arguments.extend(["--config".into(), config.into_os_string(), "run".into()]);
        let log = files.path().join("agent.log");
        let process = Process::start(
            id,
            program,
            arguments,
            &[("LEKIWI_LOG", "debug".into())],
            &log,
        )?;
        Ok(Self {
            process,
            id: id.parse()?,
            files,
        })
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again with its state.
    ///
    /// # Errors
    /// When it still runs.
    pub fn restart(&mut self) -> Result<()> {
        self.process.restart(None)
    }

    /// The child, for its log and its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The robot's id.
    #[must_use]
    pub fn id(&self) -> &RobotId {
        &self.id
    }

    /// Its socket for local programs.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.files.path().join("agent.sock")
    }

    /// Where its key, certificate and outbox lie.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.files.path().join("state")
    }
}

/// Writes an agent's configuration and token below `folder`; gives the configuration's path.
///
/// # Errors
/// When the files cannot be written.
pub fn write_config(folder: &Path, relay: &Relay, id: &str, token: &str) -> Result<PathBuf> {
    let token_file = folder.join("token");
    std::fs::write(&token_file, token)?;
    let config = folder.join("agent.yml");
    std::fs::write(
        &config,
        format!(
            "version: 1\nrobot_id: {id}\nprofile: generic\nrelay:\n  https: https://{}\n  mqtt: mqtts://{}\n  ca_fingerprint: {}\n\
             enrolment:\n  token_file: {}\nstate_dir: {}\nsocket: {}\ntelemetry:\n  sample_s: 1\ndiscovery: {{mdns: false}}\n",
            relay.https(),
            relay.mqtt(),
            relay.ca_fingerprint(),
            token_file.display(),
            folder.join("state").display(),
            folder.join("agent.sock").display(),
        ),
    )?;
    Ok(config)
}
