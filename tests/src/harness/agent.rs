//! A real agent with a state folder of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_agent::ipc::{self, Renew, Report, Request, Status};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::EventRecord;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::process::{Process, target};
use super::relay::Relay;
use crate::fleet::Admin;

const PATIENCE: Duration = Duration::from_secs(30);

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

    /// SIGTERM, after which it ends well.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.stop()?;
        ensure!(status.success(), "expected a clean end, got {status}");
        Ok(())
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

    /// What it says of itself, once `wanted` likes that.
    ///
    /// # Errors
    /// When it does not come to be `what` in half a minute.
    pub async fn status_when(
        &self,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ipc::ask_status(&self.socket()).await {
                Ok(status) if wanted(&status) => return Ok(status),
                status => ensure!(
                    Instant::now() < deadline,
                    "expected {} to be {what} within {PATIENCE:?}, got {status:?}",
                    self.id
                ),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The serial number of the certificate that it is online with.
    ///
    /// # Errors
    /// When it does not come online.
    pub async fn serial(&self) -> Result<String> {
        self.serial_after("").await
    }

    /// The serial number of the certificate, once it is online with another one than `before`.
    ///
    /// # Errors
    /// When it does not get one.
    pub async fn serial_after(&self, before: &str) -> Result<String> {
        let is_new = |status: &Status| {
            let serial = status.renewal.serial.as_deref();
            status.link == "online" && serial.is_some_and(|serial| serial != before)
        };
        let status = self
            .status_when("online with another certificate", is_new)
            .await?;
        status.renewal.serial.context("just looked at")
    }

    /// Asks it to have its certificate renewed.
    ///
    /// # Errors
    /// When it does not take that.
    pub async fn renew(&self) -> Result<()> {
        let request = Request::Renew(Renew::Certificate);
        ipc::say(&self.socket(), &request).await?;
        Ok(())
    }

    /// Gives it an event of this number, as a program on the robot may, once a second on average.
    ///
    /// # Errors
    /// When it does not take that.
    pub async fn tick(&self, number: u64) -> Result<()> {
        let report = Report {
            kind: "custom.tick".to_owned(),
            data: json!({ "n": number }),
        };
        while let Err(error) = ipc::report_event(&self.socket(), &report).await {
            ensure!(error.to_string().contains("try again later"), "{error}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The robot's events, once the log has all that its outbox has numbered, each once.
    ///
    /// # Errors
    /// When one is missing or there twice, or it does not get rid of them.
    pub async fn events(&self, admin: &Admin) -> Result<Vec<EventRecord>> {
        let is_empty = |status: &Status| status.link == "online" && status.outbox.pending == 0;
        let status = self.status_when("rid of its events", is_empty).await?;
        let last = status.outbox.last_seq;
        let events = admin.events(&self.id).await?;
        let own = events.iter().filter(|it| it.source == self.id.as_str());
        let mut seqs: Vec<u64> = own.map(|event| event.seq).collect();
        // Urgent ones overtake.
        seqs.sort_unstable();
        ensure!(
            seqs == (1..=last).collect::<Vec<_>>(),
            "expected events 1 to {last}, each once, got {seqs:?}"
        );
        Ok(events)
    }
}

/// The numbers of an agent's ticks among these events.
#[must_use]
pub fn ticks(events: &[EventRecord]) -> Vec<u64> {
    let ticks = events.iter().filter(|event| event.kind == "custom.tick");
    ticks.filter_map(|tick| tick.data["n"].as_u64()).collect()
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
