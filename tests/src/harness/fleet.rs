//! Simulated robots as a child process, so that they can be killed.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::process::{Process, target, wait_until};
use super::relay::Relay;

/// A process of simulated robots.
pub struct Fleet {
    process: Process,
    arguments: Vec<OsString>,
    _files: TempDir,
}

impl Fleet {
    /// Starts the `fleet` program on robots that are enrolled below `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(relay: &Relay, folder: &Path, more: &[String]) -> Result<Self> {
        let program = target("fleet", "lekiwi-tests")?;
        let files = tempfile::tempdir()?;
        let mut arguments: Vec<OsString> = vec![
            "--ready-file".into(),
            relay.ready_file().into(),
            "--ca".into(),
            relay.ca_file()?.into(),
            "--admin-password-file".into(),
            relay.admin_password_file().into(),
            "--folder".into(),
            folder.into(),
        ];
        arguments.extend(more.iter().map(Into::into));
        let process = Process::start(
            "fleet",
            &program,
            arguments.clone(),
            &[],
            &files.path().join("fleet.log"),
        )?;
        Ok(Self {
            process,
            arguments,
            _files: files,
        })
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// SIGTERM, and waits.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop().map(|_| ())
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When it still runs.
    pub fn restart(&mut self) -> Result<()> {
        self.process.restart(None)
    }

    /// Starts it again to send what waits in the outboxes, and waits until all of it is acknowledged.
    ///
    /// # Errors
    /// When it still runs, or is not done in time.
    pub fn drain(&mut self) -> Result<()> {
        let mut arguments = self.arguments.clone();
        arguments.push("--drain".into());
        self.process.restart(Some(arguments))?;
        let status = wait_until("every event acknowledged", Duration::from_secs(120), || {
            self.process.exited().transpose()
        })??;
        ensure!(
            status.success(),
            "expected all events to be acknowledged, got {status}"
        );
        Ok(())
    }

    /// The child.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
