//! Robots on machines of their own, and what the relay and the command line find.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::api::{Discovered, DiscoveredRobot};
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Host, Process, Relay, RelayOptions, target};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A real agent on a machine of its own.
pub(crate) struct Robot {
    pub(crate) process: Process,
    pub(crate) files: TempDir,
    host: Host,
}

impl Robot {
    /// One that nobody knows, and whose relay is nowhere.
    pub(crate) fn stranger(host: &Host, id: &str) -> Result<Self> {
        let fingerprint = format!("sha256:{}", "0".repeat(64));
        Self::start(host, id, "10.77.0.254:1", "10.77.0.254:1", &fingerprint)
    }

    pub(crate) fn start(
        host: &Host,
        id: &str,
        https: &str,
        mqtt: &str,
        authority: &str,
    ) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let folder = files.path().display();
        let config = format!(
            "version: 1\nrobot_id: {id}\nprofile: lekiwi\nrelay:\n  https: https://{https}\n  mqtt: mqtts://{mqtt}\n  \
             ca_fingerprint: {authority}\nenrolment:\n  token_file: {folder}/token\nstate_dir: {folder}/state\n\
             socket: {folder}/agent.sock\ntelemetry:\n  sample_s: 1\n"
        );
        std::fs::write(files.path().join("agent.yml"), config)?;
        let agent = target("lekiwi-agent", "lekiwi-agent")?;
        let arguments = [
            OsString::from("--config"),
            files.path().join("agent.yml").into(),
            "run".into(),
        ];
        let process = host.start(id, &agent, arguments, &[], &files.path().join("agent.log"))?;
        Ok(Self {
            process,
            files,
            host: host.clone(),
        })
    }

    /// It said that it is there, often enough to be found.
    pub(crate) fn wait_present(&mut self) -> Result<()> {
        let log = self.files.path().join("agent.log");
        let said = format!("to be found on eth0 as {}", self.host.address());
        self.process.wait_for(&said.clone(), || {
            std::fs::read_to_string(&log)
                .ok()?
                .contains(&said)
                .then_some(())
        })
    }
}

/// What `lekiwi discover` finds from a machine.
pub(crate) fn discover(host: &Host, more: &[&str]) -> Result<Vec<DiscoveredRobot>> {
    let (robots, _) = discover_with(host, more, &tempfile::tempdir()?)?;
    Ok(robots)
}

pub(crate) fn discover_with(
    host: &Host,
    more: &[&str],
    home: &TempDir,
) -> Result<(Vec<DiscoveredRobot>, String)> {
    let output = host
        .command(&target("lekiwi", "lekiwi-cli")?)?
        .args(["discover", "--json"])
        .args(more)
        .env("HOME", home.path())
        .env_remove("XDG_CONFIG_HOME")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "lekiwi discover: {said}");
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let robots = answer.get("robots").context("expected robots")?.clone();
    Ok((serde_json::from_value(robots)?, said))
}

pub(crate) fn ids(robots: &[DiscoveredRobot]) -> Vec<&str> {
    robots.iter().map(|robot| robot.id.as_str()).collect()
}

pub(crate) fn relay_on(host: &Host, options: RelayOptions) -> Result<Relay> {
    Relay::start_with(RelayOptions {
        host: Some(host.clone()),
        ..options
    })
}

/// What the relay answers, once `wanted` likes it; asked from the relay's own machine.
pub(crate) fn discovered(
    host: &Host,
    relay: &Relay,
    what: &str,
    wanted: impl Fn(&Discovered) -> bool + Send + Sync,
) -> Result<Discovered> {
    host.inside(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(async {
                let password = relay.admin_password_file();
                let admin = Admin::login(relay.https(), relay.ca_pem(), &password).await?;
                let deadline = Instant::now() + PATIENCE;
                loop {
                    let answer = admin.get("/api/v1/discovered").send().await?;
                    let answer: Discovered = answer.error_for_status()?.json().await?;
                    if wanted(&answer) {
                        return Ok(answer);
                    }
                    ensure!(
                        Instant::now() < deadline,
                        "expected {what} within {PATIENCE:?}, got {answer:?}"
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
    })?
}

pub(crate) fn has(answer: &Discovered, id: &str, registered: bool) -> bool {
    let mut robots = answer.robots.iter();
    robots.any(|robot| robot.id.as_str() == id && robot.registered == Some(registered))
}
