//! A robot in a network of its own, looked at by the agent as a user without any rights, and the programs that
//! connect to it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_agent::clock::wall;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{TeleoperationEvent, kind};
use lekiwi_tests::harness::{self, Host, Lan, Process, target, wait_until};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// The process of ROS 2, beside the agents.
pub(crate) const NODE: &str = "examples/ros2_node";

/// `nobody`
const UID: &str = "65534";

/// Ports as the shipped profiles have them: `the_suites_ports_are_shipped`.
pub(crate) const PORTS: &str = "version: 1
name: robot
title: A robot with every port
teleop:
  ports:
    - {port: 5555, role: control, what: LeRobot commands}
    - {port: 5556, role: observation, what: LeRobot observations}
    - {port: 8000, role: control, what: web control}
    - {port: 8442, role: control, what: VR headset}
    - {port: 8443, role: page, what: VR page}
    - {port: 8554, role: video, what: RTSP}
    - {port: 8889, role: video, what: WebRTC}
";

/// A line of `lekiwi-agent teleop --watch --json`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Line {
    pub(crate) timestamp: Timestamp,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) data: Value,
}

/// An event, and when it was said.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) at: Timestamp,
    pub(crate) kind: String,
    pub(crate) data: TeleoperationEvent,
}

/// A robot, and its agent.
pub(crate) struct Site {
    // Children end before their network does.
    peers: Vec<(Peer, Process)>,
    agent: Process,
    files: TempDir,
    robot: Host,
    lan: Lan,
    hosts: VecDeque<u8>,
}

/// A program that says when it did what.
#[derive(Clone)]
pub(crate) struct Peer {
    kind: String,
    log: PathBuf,
    index: usize,
    /// It is there, and does nothing.
    is_silent: bool,
}

#[derive(Deserialize)]
struct Did {
    did: String,
    at: u64,
}

/// Longest time in which a program that works says nothing of it: it says so once a second, on a machine that may be
/// busy.
const BREATH_MS: u64 = 10_000;

impl Site {
    /// A robot of `profile` whose agent is `program`.
    pub(crate) fn start(program: &str, profile: &str) -> Result<Self> {
        let mut lan = Lan::new()?;
        let robot = lan.host(1)?;
        let files = tempfile::tempdir()?;
        // It has no rights: it needs a program and a profile that everybody may read.
        std::fs::set_permissions(files.path(), PermissionsExt::from_mode(0o755))?;
        let (built, agent) = (
            target(program, "lekiwi-agent")?,
            files.path().join("lekiwi-agent"),
        );
        if std::fs::hard_link(&built, &agent).is_err() {
            std::fs::copy(&built, &agent)?;
        }
        let text = profile;
        let profile = files.path().join("robot.yml");
        std::fs::write(&profile, text)?;
        let identity = ["--reuid", UID, "--regid", UID, "--clear-groups"];
        let mut arguments: Vec<OsString> = identity.map(Into::into).to_vec();
        arguments.extend(["--pdeathsig", "KILL", "--"].map(Into::into));
        arguments.push(agent.into());
        arguments.extend(["teleop", "--watch", "--json", "--profile"].map(Into::into));
        arguments.push(profile.into());
        let setpriv = harness::program("setpriv", "util-linux")?;
        let log = files.path().join("agent.log");
        let mut agent = robot.start("agent", &setpriv, arguments, &[], &log)?;
        agent.wait_for("a first look", || lines(&log).into_iter().next())?;
        Ok(Self {
            peers: Vec::new(),
            agent,
            files,
            robot,
            lan,
            hosts: (2..200).collect(),
        })
    }

    /// A program on the robot, once it is ready.
    pub(crate) fn on_robot(&mut self, kind: &str, arguments: &[&str]) -> Result<Peer> {
        let robot = self.robot.clone();
        self.peer(&robot, kind, arguments, "ready")
    }

    /// A camera on the robot that serves RTSP.
    pub(crate) fn camera(&mut self) -> Result<Peer> {
        let robot = self.robot.clone();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/teleop/rtsp.py");
        // Debian's: GStreamer's bindings are in no other.
        let python = Path::new("/usr/bin/python3");
        self.run(&robot, "camera", python, vec![script.into()], "ready")
    }

    /// Another machine.
    pub(crate) fn host(&mut self) -> Result<Host> {
        let last = self.hosts.pop_front().context("expected fewer hosts")?;
        self.lan.host(last)
    }

    /// A program on another machine, once it is connected to the robot.
    pub(crate) fn from(&mut self, host: &Host, kind: &str, arguments: &[&str]) -> Result<Peer> {
        let robot = self.robot.address().to_string();
        let arguments = [&["--host", &robot], arguments].concat();
        self.peer(host, kind, &arguments, "connected")
    }

    fn peer(&mut self, host: &Host, kind: &str, arguments: &[&str], ready: &str) -> Result<Peer> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/teleop/peers.py");
        let mut all: Vec<OsString> = vec![script.into(), kind.into()];
        all.extend(arguments.iter().map(Into::into));
        self.run(host, kind, &python()?, all, ready)
    }

    /// A process of ROS 2, with these nodes.
    pub(crate) fn nodes(&mut self, host: &Host, arguments: &[&str]) -> Result<Peer> {
        let program = target(NODE, "lekiwi-agent --features ros2 --example ros2_node")?;
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        self.run(host, "nodes", &program, arguments, "ready")
    }

    /// A node of ROS 2 that writes nothing.
    pub(crate) fn silent_node(&mut self, host: &Host, arguments: &[&str]) -> Result<Peer> {
        let mut peer = self.nodes(host, arguments)?;
        peer.is_silent = true;
        self.peers[peer.index].0 = peer.clone();
        Ok(peer)
    }

    fn run(
        &mut self,
        host: &Host,
        kind: &str,
        program: &Path,
        arguments: Vec<OsString>,
        ready: &str,
    ) -> Result<Peer> {
        let index = self.peers.len();
        let log = self.files.path().join(format!("peer-{index}.log"));
        let mut process = host.start(kind, program, arguments, &[], &log)?;
        let peer = Peer {
            kind: kind.to_owned(),
            log,
            index,
            is_silent: false,
        };
        process.wait_for(ready, || peer.first(ready))?;
        self.peers.push((peer.clone(), process));
        Ok(peer)
    }

    /// The process of a peer.
    pub(crate) fn process(&mut self, peer: &Peer) -> &mut Process {
        &mut self.peers[peer.index].1
    }

    /// Every line so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        lines(&self.files.path().join("agent.log"))
    }

    /// Every event so far.
    pub(crate) fn events(&self) -> Vec<Said> {
        let lines = self.lines().into_iter();
        let events = lines.filter_map(|line| {
            Some(Said {
                at: line.timestamp,
                kind: line.kind,
                data: serde_json::from_value(line.data).ok()?,
            })
        });
        events.collect()
    }

    /// The first event of this kind, waited for.
    pub(crate) fn event(&mut self, kind: &str, limit: Duration) -> Result<Said> {
        let found = wait_until(kind, limit, || {
            self.events().into_iter().find(|said| said.kind == kind)
        });
        self.is_alive()?;
        found.with_context(|| format!("{:?}", self.events()))
    }

    /// Looks on for so long, in which every program does its work; what was started then was started by nobody.
    pub(crate) fn nothing_starts(&mut self, span: Duration) -> Result<()> {
        let looks = self.lines().len();
        let from = wall().as_ms();
        std::thread::sleep(span);
        let to = wall().as_ms();
        self.is_alive()?;
        for (peer, process) in &mut self.peers {
            let ended = process.exited()?;
            ensure!(
                ended.is_none(),
                "the peer was dead: {}: {ended:?}",
                peer.kind
            );
            peer.has_worked(from, to)?;
        }
        let events = self.events();
        let started = events
            .iter()
            .find(|said| said.kind == kind::TELEOPERATION_STARTED);
        ensure!(started.is_none(), "started by {started:?}");
        // Whoever does not look sees nothing either.
        let looked = self.lines().len() - looks;
        let least = usize::try_from(span.as_secs())? / 2;
        ensure!(looked >= least, "expected {least} looks, got {looked}");
        Ok(())
    }

    fn is_alive(&mut self) -> Result<()> {
        let ended = self.agent.exited()?;
        ensure!(ended.is_none(), "the agent ended: {}", self.agent.log());
        Ok(())
    }
}

impl Peer {
    /// When it first did something.
    pub(crate) fn first(&self, what: &str) -> Option<u64> {
        self.all(what).first().copied()
    }

    /// When it last did something.
    pub(crate) fn last(&self, what: &str) -> Option<u64> {
        self.all(what).last().copied()
    }

    /// Something went through all the time.
    fn has_worked(&self, from: u64, to: u64) -> Result<()> {
        if self.is_silent {
            return Ok(());
        }
        let mut last = from;
        let worked = self.all("work").into_iter();
        for at in worked.filter(|at| (from..to).contains(at)).chain([to]) {
            let pause = at.saturating_sub(last);
            ensure!(
                pause <= BREATH_MS,
                "the peer was dead: {} did nothing for {pause} ms of {} ms",
                self.kind,
                to - from
            );
            last = at;
        }
        Ok(())
    }

    fn all(&self, what: &str) -> Vec<u64> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let did = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let those = did.filter(|did: &Did| did.did == what);
        those.map(|did| did.at).collect()
    }
}

fn lines(log: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines.collect()
}

/// Python with pyzmq, websockets and aiortc.
fn python() -> Result<PathBuf> {
    let python = std::env::var_os("LEKIWI_TELEOP_PYTHON").context(
        "expected LEKIWI_TELEOP_PYTHON (hint: cargo xtask test makes a Python with pyzmq, websockets and aiortc, and sets it)",
    )?;
    Ok(python.into())
}
