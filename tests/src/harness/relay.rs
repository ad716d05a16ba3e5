//! A relay with a data folder of its own.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use super::namespace::{Host, ip_program};
use super::process::{Process, target};

/// How a relay is started.
#[derive(Debug, Default, Clone)]
pub struct RelayOptions {
    /// Where its data lies; a temporary folder when absent.
    pub data: Option<PathBuf>,
    /// More arguments for `lekiwi-relay run`.
    pub arguments: Vec<String>,
    /// Variables.
    pub environment: Vec<(&'static str, OsString)>,
    /// The machine that it runs on, and listens on; this one's loopback when absent.
    pub host: Option<Host>,
    /// A program that runs it, with arguments.
    pub wrapper: Vec<OsString>,
}

/// A running relay. Its ports are free ones, and stay the same over restarts.
pub struct Relay {
    process: Process,
    program: PathBuf,
    data: PathBuf,
    files: TempDir,
    options: RelayOptions,
    ready: Ready,
    ca_pem: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Ready {
    https: String,
    mqtt: String,
    ca_fingerprint: String,
}

impl Relay {
    /// Starts one with a new data folder, and waits until it serves.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn start() -> Result<Self> {
        Self::start_with(RelayOptions::default())
    }

    /// Starts one, and waits until it serves.
    ///
    /// # Errors
    /// When it does not serve; with what it printed.
    pub fn start_with(options: RelayOptions) -> Result<Self> {
        let program = target("lekiwi-relay", "lekiwi-relay")?;
        let files = tempfile::tempdir()?;
        let data = options
            .data
            .clone()
            .unwrap_or_else(|| files.path().join("data"));
        let ip = match &options.host {
            Some(host) => host.address(),
            None => Ipv4Addr::LOCALHOST,
        };
        let any = format!("{ip}:0");
        let arguments = arguments(&data, files.path(), &any, &any, &options);
        let (first, arguments) = command_line(&program, &options, arguments)?;
        let mut process = Process::start(
            "relay",
            &first,
            arguments,
            &options.environment,
            &files.path().join("relay.log"),
        )?;
        let ready = wait_ready(&mut process, files.path())?;
        let shown = Command::new(&program)
            .args(["ca", "show", "--json", "--data"])
            .arg(&data)
            .envs(options.environment.iter().map(|(key, value)| (key, value)))
            .output()?;
        ensure!(
            shown.status.success(),
            "lekiwi-relay ca show: {}",
            String::from_utf8_lossy(&shown.stderr)
        );
        let authority: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
        let ca_pem = authority
            .get("pem")
            .and_then(serde_json::Value::as_str)
            .context("expected pem in ca show")?;
        Ok(Self {
            process,
            ca_pem: ca_pem.to_owned(),
            program,
            data,
            files,
            options,
            ready,
        })
    }

    /// Starts it again with its data, on its ports.
    ///
    /// # Errors
    /// When it still runs, or does not serve.
    pub fn restart(&mut self) -> Result<()> {
        let _ = std::fs::remove_file(self.files.path().join("ready.json"));
        let arguments = arguments(
            &self.data,
            self.files.path(),
            &self.ready.https,
            &self.ready.mqtt,
            &self.options,
        );
        let (_, arguments) = command_line(&self.program, &self.options, arguments)?;
        self.process.restart(Some(arguments))?;
        wait_ready(&mut self.process, self.files.path())?;
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// The child, for its log, its end and its memory.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `host:port` of HTTPS.
    #[must_use]
    pub fn https(&self) -> &str {
        &self.ready.https
    }

    /// `host:port` of MQTT.
    #[must_use]
    pub fn mqtt(&self) -> &str {
        &self.ready.mqtt
    }

    /// The authority's fingerprint.
    #[must_use]
    pub fn ca_fingerprint(&self) -> &str {
        &self.ready.ca_fingerprint
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The authority's certificate as a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn ca_file(&self) -> Result<PathBuf> {
        let path = self.files.path().join("ca.pem");
        std::fs::write(&path, &self.ca_pem)?;
        Ok(path)
    }

    /// Where its data lies.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The file with the administrator's password.
    #[must_use]
    pub fn admin_password_file(&self) -> PathBuf {
        self.files.path().join("admin-password")
    }

    /// What the relay writes when it serves, as a file.
    #[must_use]
    pub fn ready_file(&self) -> PathBuf {
        self.files.path().join("ready.json")
    }

    /// Makes the certificate of a broker at `name`, its key, and the authority's certificate in `folder`.
    ///
    /// # Errors
    /// When the command refuses.
    pub fn certify_broker(&self, name: &str, folder: &Path) -> Result<()> {
        let output = Command::new(&self.program)
            .args(["ca", "broker", "--name", name, "--data"])
            .arg(&self.data)
            .arg("--out")
            .arg(folder)
            .envs(
                self.options
                    .environment
                    .iter()
                    .map(|(key, value)| (key, value)),
            )
            .output()?;
        ensure!(
            output.status.success(),
            "ca broker: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// What `lekiwi-relay` prints on this relay's data.
    ///
    /// # Errors
    /// When the command refuses; with what it said.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .args(arguments)
            .arg("--data")
            .arg(&self.data)
            .output()?;
        ensure!(
            output.status.success(),
            "lekiwi-relay {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Stops it, and starts it again.
    ///
    /// # Errors
    /// When it does not stop, or not serve afterwards.
    pub fn start_again(&mut self) -> Result<()> {
        let end = self.process.stop()?;
        ensure!(
            end.success(),
            "expected a clean end of the relay, got {end}"
        );
        self.restart()
    }

    /// An enrolment token by the command line, as a person on the relay's machine makes one.
    ///
    /// # Errors
    /// When the command refuses.
    pub fn token(&self, arguments: &[&str]) -> Result<String> {
        let of_json = [&["token", "create", "--json"], arguments].concat();
        let created: serde_json::Value = serde_json::from_str(&self.command(&of_json)?)?;
        let token = created
            .get("token")
            .and_then(serde_json::Value::as_str)
            .context("expected a token")?;
        Ok(token.to_owned())
    }
}

fn arguments(
    data: &Path,
    files: &Path,
    https: &str,
    mqtt: &str,
    options: &RelayOptions,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "run".into(),
        "--data".into(),
        data.into(),
        "--https".into(),
        https.into(),
        "--mqtt".into(),
        mqtt.into(),
        "--ready-file".into(),
        files.join("ready.json").into(),
        "--admin-password-file".into(),
        files.join("admin-password").into(),
    ];
    arguments.extend(options.arguments.iter().map(Into::into));
    arguments
}

/// The program that runs the relay where and as the options want it, and its arguments.
fn command_line(
    program: &Path,
    options: &RelayOptions,
    arguments: Vec<OsString>,
) -> Result<(PathBuf, Vec<OsString>)> {
    let mut line: VecDeque<OsString> = options.wrapper.iter().cloned().collect();
    line.push_back(program.into());
    line.extend(arguments);
    let first = line.pop_front().unwrap_or_default();
    match &options.host {
        None => Ok((first.into(), line.into())),
        Some(host) => {
            let mut all = host.wrapped(Path::new(&first));
            all.extend(line);
            Ok((ip_program()?, all))
        }
    }
}

fn wait_ready(process: &mut Process, files: &Path) -> Result<Ready> {
    let path = files.join("ready.json");
    process.wait_for("the ready file", || {
        serde_json::from_slice(&std::fs::read(&path).ok()?).ok()
    })
}
