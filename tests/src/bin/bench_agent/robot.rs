//! Our agent on its robot, idle or at work, and the relay that it tells.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lekiwi_agent::ipc::Status;
use lekiwi_protocol::api::RobotView;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Relay, RelayOptions, wait_until};
use tempfile::TempDir;

use crate::site::Site;
use crate::subject::{Subject, copy_of};
use crate::work::{self, Work};

/// What the agent is called in results.
pub(crate) const AGENT: &str = "lekiwi-agent";
/// The robot.
const ROBOT: &str = "bench-01";
/// How long a robot may take to be online.
const PATIENCE: Duration = Duration::from_secs(60);

/// What ports of a LeKiwi mean, as the shipped profile says it.
const PROFILE: &str = "version: 1
name: robot
title: A robot that is measured
teleop:
  ports:
    - {port: 5555, role: control, what: LeRobot commands}
    - {port: 5556, role: observation, what: LeRobot observations}
";

/// Folders of a program: what it writes to the disk counts, what is only said or read does not.
pub(crate) struct Folders {
    /// On the disk that the programs are built on.
    pub(crate) disk: TempDir,
    /// In memory.
    pub(crate) memory: TempDir,
}

impl Folders {
    pub(crate) fn new() -> Result<Self> {
        let own = std::env::current_exe()?;
        let beside = own.parent().context("a program lies in a folder")?;
        let memory = Path::new("/dev/shm");
        Ok(Self {
            disk: tempfile::tempdir_in(beside)?,
            memory: match memory.is_dir() {
                true => tempfile::tempdir_in(memory)?,
                false => tempfile::tempdir()?,
            },
        })
    }
}

/// A robot with our agent.
pub(crate) struct Robot {
    // In the order in which they end.
    work: Option<Work>,
    pub(crate) relay: Relay,
    pub(crate) subject: Subject,
    folders: Folders,
}

impl Robot {
    /// A robot that nobody drives, connected.
    pub(crate) fn idle(agent: &Path) -> Result<Self> {
        Self::start(agent, "", None)
    }

    /// One that can be put to work, connected.
    pub(crate) fn ready_to_work(agent: &Path) -> Result<Self> {
        Self::start(agent, &work::profile(), Some(work::machine))
    }

    fn start(
        agent: &Path,
        profile: &str,
        machine: Option<fn(&Path) -> Result<PathBuf>>,
    ) -> Result<Self> {
        let (site, folders) = (Site::new()?, Folders::new()?);
        let (disk, memory) = (folders.disk.path(), folders.memory.path());
        let relay = Relay::start_with(RelayOptions {
            host: Some(site.server.clone()),
            ..RelayOptions::default()
        })?;
        std::fs::write(
            disk.join("token"),
            relay.token(&["--robot", ROBOT, "--profile", "robot"])?,
        )?;
        std::fs::create_dir(disk.join("profiles"))?;
        std::fs::write(disk.join("profiles/robot.yml"), [PROFILE, profile].concat())?;
        let config = disk.join("agent.yml");
        // Everything else is as shipped.
        std::fs::write(
            &config,
            format!(
                "version: 1\nrobot_id: {ROBOT}\nprofile: robot\nprofiles_dir: {0}/profiles\nstate_dir: {0}/state\n\
                 socket: {1}/agent.sock\nenrolment: {{token_file: {0}/token}}\nrelay:\n  https: https://{2}\n  \
                 mqtt: mqtts://{3}\n  ca_fingerprint: {4}\n",
                disk.display(),
                memory.display(),
                relay.https(),
                relay.mqtt(),
                relay.ca_fingerprint()
            ),
        )?;
        let mut arguments = vec!["--config".into(), config.into_os_string()];
        if let Some(machine) = machine {
            arguments.extend(["--root".into(), machine(memory)?.into_os_string()]);
        }
        arguments.push("run".into());
        let process = site.robot.start(
            AGENT,
            &copy_of(agent, disk)?,
            arguments,
            &[],
            &memory.join("agent.log"),
        )?;
        let mut robot = Self {
            work: None,
            relay,
            subject: Subject {
                name: AGENT,
                process,
                _around: Vec::new(),
                site,
            },
            folders,
        };
        robot.wait_online()?;
        Ok(robot)
    }

    /// Has it driven, watched and reported to, as [`work`] says.
    pub(crate) fn work(&mut self, python: &Path) -> Result<()> {
        let site = &self.subject.site;
        self.work = Some(Work::start(site, python, self.folders.memory.path())?);
        Ok(())
    }

    /// That all of the work was done and seen, since `reports` were counted `span` ago.
    pub(crate) fn has_worked(&mut self, reports: u64, span: Duration) -> Result<()> {
        let view = self.view()?;
        let work = self.work.as_mut().context("expected a robot at work")?;
        work.was_done(reports, span, &view)
    }

    /// Reports of the robot's program that were answered so far.
    pub(crate) fn reports(&self) -> u64 {
        self.work.as_ref().map_or(0, Work::reports)
    }

    /// The agent ends, and the relay is away.
    pub(crate) fn part(&mut self) -> Result<()> {
        self.subject.process.stop()?;
        self.relay.kill()
    }

    /// The agent starts again, with what is on its disk.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.subject.process.restart(None)
    }

    /// The database of the outbox.
    pub(crate) fn database(&self) -> PathBuf {
        self.folders.disk.path().join("state/agent.db")
    }

    /// Where the agent answers local programs.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folders.memory.path().join("agent.sock")
    }

    /// Waits until the agent answers there.
    pub(crate) fn wait_awake(&self) -> Result<Status> {
        let socket = self.socket();
        wait_until("an answer of the agent", PATIENCE, || status(&socket).ok())
    }

    fn wait_online(&mut self) -> Result<()> {
        let mut result = Ok(());
        let online = wait_until("the robot online", PATIENCE, || {
            result = self.subject.is_alive();
            let ended = result.is_err();
            let view = self.view().ok();
            (ended || view.is_some_and(|view| view.status.online)).then_some(())
        });
        result?;
        online.with_context(|| self.subject.process.log())
    }

    /// What the relay knows of the robot. Asked at the server, so that nobody else is on the wire.
    fn view(&self) -> Result<RobotView> {
        let relay = &self.relay;
        let robots = self.subject.site.server.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build()?;
            runtime.block_on(async {
                let password = relay.admin_password_file();
                let admin = Admin::login(relay.https(), relay.ca_pem(), &password).await?;
                admin.robots().await
            })
        })??;
        let mut robots = robots.robots.into_iter();
        match robots.find(|robot| robot.id.as_str() == ROBOT) {
            Some(view) => Ok(view),
            None => bail!("expected the relay to know {ROBOT}"),
        }
    }
}

/// What the agent that answers at `socket` says of itself.
pub(crate) fn status(socket: &Path) -> Result<Status> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"{\"query\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("expected a status, got {line}"))
}

/// That whoever counts on a wire saw something.
pub(crate) fn said_something(bytes_per_s: f64) -> Result<()> {
    ensure!(
        bytes_per_s > 1.0,
        "expected a connected program to say something, got {bytes_per_s:.1} B/s"
    );
    Ok(())
}
