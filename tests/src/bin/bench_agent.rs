//! `cargo xtask bench agent`: what an idle, connected agent costs its robot, against `agent/budget.toml`.
//!
//! Relay and agent run in a network namespace of their own, so that the counters of its loopback interface
//! hold their frames and nobody else's: Ethernet, IP, TCP and TLS of both directions.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Process, Relay, program, target, write_config};
use serde::{Deserialize, Serialize};

/// What an idle agent costs: binary, memory, processor, network.
#[derive(Parser)]
#[command(after_help = "Example:\n  cargo xtask bench agent --seconds 300")]
struct Arguments {
    /// The agent to measure; the one beside this program when absent.
    #[arg(long, env = "LEKIWI_AGENT_BIN")]
    agent: Option<PathBuf>,
    /// The same for aarch64, whose size counts; the measured one when absent.
    #[arg(long, env = "LEKIWI_AARCH64_AGENT")]
    aarch64: Option<PathBuf>,
    /// Seconds to let it settle after it connected.
    #[arg(long, default_value_t = 45)]
    settle: u64,
    /// Seconds to measure for; whole heartbeats (30 s) are fair.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Fail by memory alone: the rest is noise while others use the machine.
    #[arg(long)]
    judge_memory: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Set by this program for itself, inside the network namespace.
    #[arg(long, hide = true)]
    inside: bool,
}

const ROBOT: &str = "bench-01";

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if !arguments.inside {
        return in_own_network();
    }
    let status = Command::new(program("ip", "iproute2")?)
        .args(["link", "set", "lo", "up"])
        .status()?;
    ensure!(status.success(), "ip link set lo up: {status}");
    let runtime = tokio::runtime::Runtime::new()?;
    let budget = Budget::read()?;
    let cost = runtime.block_on(measure(&arguments))?;
    if arguments.json {
        say(&serde_json::to_string(&cost)?);
    } else {
        say(&cost.table(&budget));
    }
    let fits = if arguments.judge_memory {
        cost.pss_bytes <= budget.pss_bytes
    } else {
        cost.fits(&budget)
    };
    Ok(if fits {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs this program again where nobody else is on the wire.
fn in_own_network() -> Result<ExitCode> {
    let mut unshare = Command::new(program("unshare", "util-linux")?);
    if !nix::unistd::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let status = unshare
        .args(["--net", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--inside")
        .status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn measure(arguments: &Arguments) -> Result<Cost> {
    let agent = match &arguments.agent {
        Some(agent) => agent.clone(),
        None => target("lekiwi-agent", "lekiwi-agent")?,
    };
    let relay = Relay::start()?;
    let files = tempfile::tempdir()?;
    let token = relay.token(&["--robot", ROBOT])?;
    let config = write_config(files.path(), &relay, ROBOT, &token)?;
    as_shipped(&config)?;
    let mut process = Process::start(
        "agent",
        &agent,
        ["--config".into(), config.into_os_string(), "run".into()],
        &[],
        &files.path().join("agent.log"),
    )?;
    connected(&relay, &mut process).await?;
    pause(arguments.settle).await;

    let id = process.id().context("expected the agent to run")?;
    let before = Reading::take(id)?;
    pause(arguments.seconds).await;
    ensure!(
        process.exited()?.is_none(),
        "expected the agent to run on, but it ended:\n{}",
        process.log()
    );
    let after = Reading::take(id)?;
    let shipped = arguments.aarch64.as_ref().unwrap_or(&agent);
    let cost = before.until(&after, arguments.seconds, shipped)?;
    ensure!(
        cost.wire_bytes_per_s_idle > 1.0,
        "expected a connected agent to say something, got {} B/s",
        cost.wire_bytes_per_s_idle
    );
    Ok(cost)
}

/// Leaves the telemetry to the agent's own defaults, which the harness replaces by quicker ones.
fn as_shipped(config: &Path) -> Result<()> {
    let text = std::fs::read_to_string(config)?;
    let (rest, _) = text
        .split_once("telemetry:")
        .context("expected the harness to set telemetry last")?;
    Ok(std::fs::write(config, rest)?)
}

/// Waits until the relay shows the robot online. The client ends here: nothing else is on the wire later.
async fn connected(relay: &Relay, process: &mut Process) -> Result<()> {
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    for _ in 0..240 {
        let list = admin.robots().await?;
        if list
            .robots
            .iter()
            .any(|robot| robot.id.as_str() == ROBOT && robot.status.online)
        {
            return Ok(());
        }
        ensure!(
            process.exited()?.is_none(),
            "expected the agent to connect, but it ended:\n{}",
            process.log()
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    anyhow::bail!(
        "expected {ROBOT} online within a minute:\n{}",
        process.log()
    )
}

/// The time that passes is what is measured.
async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// The kernel's counters at one moment.
struct Reading {
    pss_bytes: u64,
    cpu_ns: u64,
    wire_bytes: u64,
}

impl Reading {
    fn take(id: u32) -> Result<Self> {
        let rollup = read(&format!("/proc/{id}/smaps_rollup"))?;
        let mut cpu_ns = 0;
        for task in std::fs::read_dir(format!("/proc/{id}/task"))? {
            // A thread may end between the listing and the reading.
            if let Ok(schedstat) = std::fs::read_to_string(task?.path().join("schedstat")) {
                cpu_ns += first_number(&schedstat)?;
            }
        }
        Ok(Self {
            pss_bytes: pss(&rollup)?,
            cpu_ns,
            wire_bytes: loopback(&read("/proc/net/dev")?)?,
        })
    }

    fn until(&self, after: &Self, seconds: u64, agent: &Path) -> Result<Cost> {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let per_second = |count: u64| count as f64 / seconds as f64;
        Ok(Cost {
            binary_bytes: agent.metadata()?.len(),
            pss_bytes: self.pss_bytes.max(after.pss_bytes),
            cpu_percent_idle: per_second(after.cpu_ns - self.cpu_ns) / 1e9 * 100.0,
            wire_bytes_per_s_idle: per_second(after.wire_bytes - self.wire_bytes),
        })
    }
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("could not read {path}"))
}

fn first_number(text: &str) -> Result<u64> {
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("expected a number first, got `{}`", text.trim()))
}

/// `Pss:  1234 kB`
fn pss(rollup: &str) -> Result<u64> {
    let rest = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .context("expected a line `Pss:`")?;
    Ok(first_number(rest)? * 1024)
}

/// Sent bytes of `lo`: each frame counts once, whichever side sent it.
fn loopback(devices: &str) -> Result<u64> {
    devices
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"))
        .and_then(|counters| counters.split_whitespace().nth(8))
        .and_then(|bytes| bytes.parse().ok())
        .context("expected counters of lo in /proc/net/dev")
}

/// What was measured.
#[derive(Serialize)]
struct Cost {
    binary_bytes: u64,
    pss_bytes: u64,
    cpu_percent_idle: f64,
    wire_bytes_per_s_idle: f64,
}

/// `agent/budget.toml`.
#[derive(Deserialize)]
struct Budget {
    binary_bytes: u64,
    pss_bytes: u64,
    cpu_percent_idle: f64,
    wire_bytes_per_s_idle: f64,
}

impl Budget {
    fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/budget.toml");
        toml::from_str(&std::fs::read_to_string(&path)?)
            .with_context(|| format!("{} is no budget", path.display()))
    }
}

impl Cost {
    fn fits(&self, budget: &Budget) -> bool {
        self.binary_bytes <= budget.binary_bytes
            && self.pss_bytes <= budget.pss_bytes
            && self.cpu_percent_idle <= budget.cpu_percent_idle
            && self.wire_bytes_per_s_idle <= budget.wire_bytes_per_s_idle
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn table(&self, budget: &Budget) -> String {
        let row = |what: &str, unit: &str, got: f64, most: f64, digits: usize| {
            format!(
                "{what:<24}{got:>14.digits$}{most:>14.digits$}  {unit:<8}{}",
                if got <= most { "ok" } else { "OVER" }
            )
        };
        [
            format!("{:<24}{:>14}{:>14}", "agent, idle", "measured", "budget"),
            row(
                "binary",
                "bytes",
                self.binary_bytes as f64,
                budget.binary_bytes as f64,
                0,
            ),
            row(
                "memory (PSS)",
                "bytes",
                self.pss_bytes as f64,
                budget.pss_bytes as f64,
                0,
            ),
            row(
                "processor",
                "% core",
                self.cpu_percent_idle,
                budget.cpu_percent_idle,
                3,
            ),
            row(
                "wire, all layers",
                "B/s",
                self.wire_bytes_per_s_idle,
                budget.wire_bytes_per_s_idle,
                1,
            ),
        ]
        .join("\n")
    }
}

#[expect(clippy::print_stdout, reason = "the result of the measurement")]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_understood() {
        assert_eq!(
            pss("Rss: 9 kB\nPss:    12 kB\nPss_Dirty: 3 kB\n").unwrap(),
            12_288
        );
        let devices =
            "Inter-|   Receive\n face |bytes\n    lo: 100 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0\n";
        assert_eq!(loopback(devices).unwrap(), 300);
        assert!(Reading::take(std::process::id()).is_ok());
    }

    #[test]
    fn each_figure_is_held_against_its_budget() {
        let budget = Budget {
            binary_bytes: 10,
            pss_bytes: 10,
            cpu_percent_idle: 0.1,
            wire_bytes_per_s_idle: 60.0,
        };
        let cost = |binary_bytes, pss_bytes, cpu_percent_idle, wire_bytes_per_s_idle| Cost {
            binary_bytes,
            pss_bytes,
            cpu_percent_idle,
            wire_bytes_per_s_idle,
        };
        assert!(cost(10, 10, 0.1, 60.0).fits(&budget));
        assert!(!cost(11, 10, 0.1, 60.0).fits(&budget));
        assert!(!cost(10, 11, 0.1, 60.0).fits(&budget));
        assert!(!cost(10, 10, 0.2, 60.0).fits(&budget));
        assert!(!cost(10, 10, 0.1, 60.1).fits(&budget));
        assert!(cost(11, 10, 0.1, 60.0).table(&budget).contains("OVER"));
    }
}
