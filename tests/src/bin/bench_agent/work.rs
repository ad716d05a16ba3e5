//! What a robot at work is: somebody drives it as LeRobot does, 30 times a second from another machine; 20
//! services are watched; a program of its own reports ten times a second.
//!
//! Of the services, 16 are units as the agent sees them: systemd's files below a folder that it takes for the
//! root, with control groups that use processor time. The others are real: three ports and a web page.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::api::RobotView;
use lekiwi_protocol::message::{Activity, ServiceState};
use lekiwi_tests::harness::{Host, Process};
use serde_json::{Value, json};

use crate::site::Site;

const UNITS: usize = 16;
const SERVICES: usize = UNITS + 4;
/// Time between two reports.
const REPORT: Duration = Duration::from_millis(100);

fn units() -> impl Iterator<Item = String> {
    (0..UNITS).map(|number| format!("robot-{number:02}.service"))
}

/// What the profile of such a robot says beside its ports.
pub(crate) fn profile() -> String {
    let services: Vec<String> = units().collect();
    format!(
        "services: [{}]
checks:
  - {{name: commands, tcp: \"127.0.0.1:5555\"}}
  - {{name: observations, tcp: \"127.0.0.1:5556\"}}
  - {{name: bridge, tcp: \"127.0.0.1:8442\"}}
  - {{name: page, http: \"http://127.0.0.1:8000/\"}}
",
        services.join(", ")
    )
}

/// This machine as the agent sees it, with units that run: a folder below `memory`, to be the agent's root.
pub(crate) fn machine(memory: &Path) -> Result<PathBuf> {
    let root = memory.join("root");
    let (links, groups) = (root.join("run/systemd/units"), groups(memory));
    for folder in [&root.join("sys/fs"), &links, &groups] {
        std::fs::create_dir_all(folder)?;
    }
    for entry in std::fs::read_dir("/")? {
        let entry = entry?;
        if !["sys", "run"].iter().any(|own| entry.file_name() == *own) {
            symlink(entry.path(), root.join(entry.file_name()))?;
        }
    }
    for entry in std::fs::read_dir("/sys")? {
        let entry = entry?;
        if entry.file_name() != "fs" {
            symlink(entry.path(), root.join("sys").join(entry.file_name()))?;
        }
    }
    for (number, unit) in units().enumerate() {
        symlink(
            format!("{number:032x}"),
            links.join(format!("invocation:{unit}")),
        )?;
        std::fs::create_dir(groups.join(&unit))?;
        std::fs::write(
            groups.join(&unit).join("cgroup.events"),
            "populated 1\nfrozen 0\n",
        )?;
    }
    use_some(&groups, 0)?;
    Ok(root)
}

fn groups(memory: &Path) -> PathBuf {
    memory.join("root/sys/fs/cgroup/system.slice")
}

/// Has the units used what they have after `reports`: between 0 and 15% of a core, and a little more memory.
fn use_some(groups: &Path, reports: u64) -> Result<()> {
    for (number, unit) in (0..).zip(units()) {
        let cpu_us = reports * 1_000 * number;
        let memory = 20_000_000 + (reports % 600) * 1_000 * number;
        std::fs::write(
            groups.join(&unit).join("cpu.stat"),
            format!("usage_usec {cpu_us}\n"),
        )?;
        std::fs::write(
            groups.join(&unit).join("memory.current"),
            format!("{memory}\n"),
        )?;
    }
    Ok(())
}

/// The work, while it is kept.
pub(crate) struct Work {
    programs: Vec<Process>,
    stop: Arc<AtomicBool>,
    reports: Arc<AtomicU64>,
    reporter: Option<JoinHandle<Result<()>>>,
}

impl Work {
    pub(crate) fn start(site: &Site, python: &Path, memory: &Path) -> Result<Self> {
        let robot = site.robot.address().to_string();
        let mut programs = Vec::new();
        let client = ["lerobot_client", "--host", &robot, "--rate", "30"];
        let each: [(&Host, &[&str], &str); 4] = [
            (&site.robot, &["lerobot_host"], "ready"),
            (&site.robot, &["websocket_server"], "ready"),
            (&site.robot, &["http_server"], "ready"),
            (&site.operator, &client, "connected"),
        ];
        for (host, arguments, ready) in each {
            let name = arguments.first().copied().unwrap_or_default();
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/teleop/peers.py");
            let mut all = vec![script.into_os_string()];
            all.extend(arguments.iter().map(Into::into));
            let log = memory.join(format!("{name}.log"));
            let mut process = host.start(name, python, all, &[], &log)?;
            process.wait_for(ready, || {
                let said = std::fs::read_to_string(&log).ok()?;
                said.contains(&format!("\"{ready}\"")).then_some(())
            })?;
            programs.push(process);
        }
        let (stop, reports) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let reporter = std::thread::spawn({
            let (stop, reports) = (Arc::clone(&stop), Arc::clone(&reports));
            let (socket, groups) = (memory.join("agent.sock"), groups(memory));
            move || report(&socket, &groups, &stop, &reports)
        });
        Ok(Self {
            programs,
            stop,
            reports,
            reporter: Some(reporter),
        })
    }

    /// Reports that were answered so far.
    pub(crate) fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    /// That everything went on, and that the relay knows of it.
    pub(crate) fn was_done(&mut self, before: u64, span: Duration, view: &RobotView) -> Result<()> {
        for program in &mut self.programs {
            let ended = program.exited()?;
            ensure!(
                ended.is_none(),
                "expected the robot's programs to run:\n{}",
                program.log()
            );
        }
        if let Some(reporter) = self.reporter.take_if(|reporter| reporter.is_finished()) {
            let said = reporter
                .join()
                .map_err(|_| anyhow::anyhow!("it panicked"))?;
            said.context("expected the robot's program to report on")?;
        }
        let rate = (self.reports() - before) as f64 / span.as_secs_f64();
        ensure!(
            (8.0..=12.0).contains(&rate),
            "expected 10 reports a second, got {rate:.1}"
        );
        ensure!(
            view.activity == Some(Activity::Teleoperated),
            "expected a robot that is driven, got {:?}",
            view.activity
        );
        let active = view.services.iter();
        let active = active
            .filter(|service| service.state == ServiceState::Active)
            .count();
        ensure!(
            active == SERVICES,
            "expected {SERVICES} active services, got {active}: {:?}",
            view.services
        );
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reporter) = self.reporter.take() {
            // Whatever it ended by was of interest while it was measured.
            let _ = reporter.join();
        }
    }
}

/// Says what a robot's own program would, until it is told to stop.
fn report(socket: &Path, groups: &Path, stop: &AtomicBool, reports: &AtomicU64) -> Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let count = reports.load(Ordering::Relaxed);
        stream.write_all(format!("{}\n", saying(count)).as_bytes())?;
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)?;
        ensure!(
            answer == json!({"ok": true}),
            "expected an ok, got {answer}"
        );
        reports.store(count + 1, Ordering::Relaxed);
        if count.is_multiple_of(10) {
            use_some(groups, count)?;
        }
        next += REPORT;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// By turns the battery, which loses a percent in ten minutes, and a force that moves all the time.
fn saying(count: u64) -> Value {
    let seconds = count as f64 / 10.0;
    match count % 2 {
        0 => {
            let percent = 100.0 - (seconds / 600.0) % 80.0;
            json!({"battery": {"percent": percent, "volts": 10.0 + percent / 50.0, "charging": false}})
        }
        _ => json!({"metric": {"name": "custom.gripper_n", "value": 3.0 + seconds.sin()}}),
    }
}
