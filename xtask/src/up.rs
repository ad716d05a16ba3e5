//! `cargo xtask up`: a relay with its embedded broker here, and this machine as a robot of its fleet.
//! Everything it keeps lies in one folder, so that the next start goes on where this one stopped.

mod children;
mod robot;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use self::children::{Children, Ended};
use crate::build::{self, Profile};
use crate::command::{self, read};
use crate::needs;
use crate::ui::{self, Colour};
use crate::workspace;

/// How long a program may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What `cargo xtask up` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Install what is missing without asking (nor does it ask with CI=true or without a terminal)
    #[arg(long, short)]
    yes: bool,
    /// Build and run optimised programs
    #[arg(long)]
    release: bool,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = ".lekiwi")]
    data: PathBuf,
    /// Address of dashboard, API and enrolment
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    https: SocketAddr,
    /// Address of the broker
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8883")]
    mqtt: SocketAddr,
}

/// What the relay says of itself once it serves.
#[derive(Deserialize)]
struct Ready {
    https: SocketAddr,
    mqtt: SocketAddr,
    ca_fingerprint: String,
}

/// Builds, starts, enrols, shows the logs, and stops everything on a signal.
pub(crate) fn run(options: &Options) -> Result<()> {
    needs::ensure(needs::BUILD, options.yes)?;
    let profile = if options.release {
        Profile::Release
    } else {
        Profile::Dev
    };
    build::dashboard(options.yes)?;
    let relay = build::program("lekiwi-relay", "lekiwi-relay", profile)?;
    let agent = build::program("lekiwi-agent", "lekiwi-agent", profile)?;

    let data = workspace::root().join(&options.data);
    private_folder(&data)?;
    let _only_one = lock(&data)?;
    free("https", options.https)?;
    free("mqtt", options.mqtt)?;

    let mut children = Children::new()?;
    let outcome = serve(options, &data, &relay, &agent, &mut children);
    let stopped = children.stop();
    outcome.and(stopped)
}

fn serve(
    options: &Options,
    data: &Path,
    relay: &Path,
    agent: &Path,
    children: &mut Children,
) -> Result<()> {
    let ready_file = data.join("ready.json");
    remove(&ready_file)?;
    let password_file = data.join("admin-password");
    let first_time = !password_file.exists();
    ui::step("starting the relay");
    children.start(
        "relay",
        Colour::Cyan,
        Command::new(relay)
            .args(["run", "--data"])
            .arg(data.join("relay"))
            .args(["--https", &options.https.to_string()])
            .args(["--mqtt", &options.mqtt.to_string()])
            .arg("--ready-file")
            .arg(&ready_file)
            .arg("--admin-password-file")
            .arg(&password_file),
    )?;
    let ready: Option<Ready> = children.until(READY_LIMIT, "the relay to serve", || {
        serde_json::from_slice(&std::fs::read(&ready_file).ok()?).ok()
    })?;
    let Some(ready) = ready else {
        return Ok(()); // stopped while starting
    };

    let robot = robot::prepare(data, &ready)?;
    if !robot.is_enrolled() {
        ui::step(format_args!("enrolling this machine as robot {}", robot.id));
        robot.store_token(&token(relay, data, &robot.id)?)?;
        command::run(
            Command::new(agent)
                .arg("--config")
                .arg(&robot.config)
                .arg("enrol"),
        )
        .context("could not enrol this machine")?;
    }
    ui::step("starting the agent");
    children.start(
        "agent",
        Colour::Magenta,
        Command::new(agent)
            .arg("--config")
            .arg(&robot.config)
            .arg("run"),
    )?;

    greet(&ready, &robot.id, &password_file, first_time);
    match children.watch()? {
        Ended::BySignal => Ok(()),
        Ended::Child { name, status } => bail!(
            "expected {name} to run until Ctrl-C, but it ended: {status}\n  (hint: its last lines above say why)"
        ),
    }
}

/// The address and, the first time, the login.
fn greet(ready: &Ready, robot: &str, password_file: &Path, first_time: bool) {
    let address = format!("https://localhost:{}/", ready.https.port());
    let mut lines = vec![
        format!("dashboard  {}", ui::paint(Colour::Bold, address)),
        format!("robot      {robot} (this machine)"),
        format!("broker     mqtts://{}", ready.mqtt),
        format!("authority  {}", ready.ca_fingerprint),
    ];
    match std::fs::read_to_string(password_file) {
        Ok(password) if first_time => lines.push(format!(
            "login      user {}, password {} (kept in {})",
            ui::paint(Colour::Bold, "admin"),
            ui::paint(Colour::Bold, password.trim()),
            password_file.display()
        )),
        _ => lines.push(format!(
            "login      user admin, password in {}",
            password_file.display()
        )),
    }
    lines.push("stop       Ctrl-C; the next `cargo xtask up` goes on from here".to_owned());
    ui::result("");
    for line in lines {
        ui::result(format_args!("  {line}"));
    }
    ui::result("");
}

/// A one-time token for this robot.
fn token(relay: &Path, data: &Path, robot: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Created {
        token: String,
    }
    let answer = read(
        Command::new(relay)
            .args(["token", "create", "--json", "--robot", robot, "--data"])
            .arg(data.join("relay")),
    )?;
    let created: Created =
        serde_json::from_str(&answer).context("expected the relay to answer with a token")?;
    Ok(created.token)
}

/// Holds the folder for this process; released with it, however it ends.
fn lock(data: &Path) -> Result<File> {
    let path = data.join("lock");
    let file =
        File::create(&path).with_context(|| format!("could not create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!(
            "expected to be alone in {}, but another `cargo xtask up` runs there\n  (hint: stop it, or give this one `--data DIR --https 127.0.0.1:0 --mqtt 127.0.0.1:0`)",
            data.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("could not lock {}", path.display()))
        }
    }
}

/// Says early, and with a way out, that a port is taken.
fn free(name: &str, address: SocketAddr) -> Result<()> {
    TcpListener::bind(address).map(drop).with_context(|| {
        format!(
            "expected {address} to be free for {name}\n  (hint: `ss -ltnp sport = :{port}` shows who has it; `--{name} 127.0.0.1:0` takes any free port)",
            port = address.port()
        )
    })
}

/// Creates a folder that only its owner reads.
fn private_folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let context = || format!("could not prepare {}", path.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(context)?;
    let mode = path.metadata().with_context(context)?.permissions().mode();
    ensure!(
        mode & 0o007 == 0,
        "expected {} to be closed to others, its mode is {:o}\n  (hint: chmod 700 {})",
        path.display(),
        mode & 0o777,
        path.display()
    );
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_a_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = free("https", address).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "expected {address} to be free for https\n  (hint: `ss -ltnp sport = :{}` shows who has it; `--https 127.0.0.1:0` takes any free port)",
                address.port()
            )
        );
    }

    #[test]
    fn one_folder_serves_one_up() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("another `cargo xtask up` runs there"),
            "{error}"
        );
        drop(held);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        private_folder(&path).unwrap();
        private_folder(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let error = private_folder(&path).unwrap_err().to_string();
        assert!(error.contains("its mode is 755"), "{error}");
    }
}
