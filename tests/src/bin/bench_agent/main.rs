//! `cargo xtask bench agent`: what an agent costs its robot, idle and at work, beside other programs that could be
//! installed there, and against `agent/budget.toml`.
//!
//! Each program is on a robot of its own, in a network namespace whose other end has what it talks to; frames are
//! counted there. All are measured over the same time.

mod backlog;
mod peers;
mod robot;
mod site;
mod subject;
mod table;
mod usage;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lekiwi_tests::harness::target;

use crate::peers::Tools;
use crate::robot::{Folders, Robot, said_something, status};
use crate::subject::{Cost, Subject, measure, pause};
use crate::table::{BACKLOG, BUSY, Budget, Drained, IDLE, Judging, Missing, Outcome, Table};

/// What an agent costs its robot: binary, memory, processor, network, disk.
#[derive(Parser)]
#[command(after_help = "Examples:
  cargo xtask bench agent                 idle and busy, beside collectd, node exporter, netdata and others
  cargo xtask bench agent --alone --json  our agent only
  cargo xtask bench agent --long          10 minutes after 5, with a day of backlog, and a relay that comes back")]
struct Arguments {
    /// The agent to measure; the one beside this program when absent.
    #[arg(long, env = "LEKIWI_AGENT_BIN")]
    agent: Option<PathBuf>,
    /// The same for aarch64, whose size counts; the measured one when absent.
    #[arg(long, env = "LEKIWI_AARCH64_AGENT")]
    aarch64: Option<PathBuf>,
    /// The example `skeleton` of the agent's package, compiled as the agent is.
    #[arg(long, env = "LEKIWI_SKELETON")]
    skeleton: Option<PathBuf>,
    /// Python with pyzmq, websockets and psutil.
    #[arg(long, env = "LEKIWI_TELEOP_PYTHON")]
    python: PathBuf,
    /// Seconds to let everything settle [default: 45, with --long 300]
    #[arg(long)]
    settle: Option<u64>,
    /// Seconds to measure for; whole heartbeats (30 s) are fair [default: 120, with --long 600]
    #[arg(long)]
    seconds: Option<u64>,
    /// Measure our agent only.
    #[arg(long)]
    alone: bool,
    /// Measure our agent on a busy robot with a day of backlog, told nobody until the relay comes back.
    #[arg(long)]
    long: bool,
    /// Fail by memory alone: the rest is noise while others use the machine.
    #[arg(long)]
    judge_memory: bool,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

/// Of a long measurement, before the relay comes back.
const AWAY: Duration = Duration::from_secs(120);
/// Times between two looks at the memory.
const EVERY: Duration = Duration::from_secs(2);
const EVERY_LONG: Duration = Duration::from_secs(10);

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "expected to be root, for network namespaces\n  (hint: sudo -E env PATH=\"$PATH\" cargo xtask bench agent)"
    );
    let budget = Budget::read()?;
    let agent = match &arguments.agent {
        Some(agent) => agent.clone(),
        None => target("lekiwi-agent", "lekiwi-agent")?,
    };
    let mut outcome = match arguments.long {
        true => long(&arguments, &agent)?,
        false => short(&arguments, &agent)?,
    };
    if !usage::is_on_disk(Folders::new()?.disk.path())? {
        outcome.missing.push(Missing {
            name: "bytes written to disk",
            why: "expected a folder on a disk, got one in memory (hint: CARGO_TARGET_DIR)"
                .to_owned(),
        });
    }
    let shipped = arguments.aarch64.as_ref().unwrap_or(&agent);
    let judging = match arguments.judge_memory || arguments.long {
        true => Judging::Memory,
        false => Judging::All,
    };
    outcome.judge(&budget, shipped.metadata()?.len(), judging);
    say(&match arguments.json {
        true => serde_json::to_string(&outcome)?,
        false => outcome.text(),
    });
    Ok(match outcome.fits() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// An idle robot, then a busy one.
fn short(arguments: &Arguments, agent: &Path) -> Result<Outcome> {
    let (settle, span) = (
        Duration::from_secs(arguments.settle.unwrap_or(45)),
        Duration::from_secs(arguments.seconds.unwrap_or(120)),
    );
    let tools = Tools {
        skeleton: arguments.skeleton.as_deref(),
        python: &arguments.python,
    };
    let (mut others, mut missing) = match arguments.alone {
        true => (Vec::new(), Vec::new()),
        false => peers::start(&tools),
    };
    let mut tables = Vec::new();
    for name in [IDLE, BUSY] {
        note(&format!(
            "{name}: {} s to settle, {} s",
            settle.as_secs(),
            span.as_secs()
        ));
        let mut robot = if name == BUSY {
            let mut robot = Robot::ready_to_work(agent)?;
            robot.work(&arguments.python)?;
            robot
        } else {
            Robot::idle(agent)?
        };
        pause(settle);
        let reports = robot.reports();
        let mut subjects: Vec<&mut Subject> = vec![&mut robot.subject];
        subjects.extend(others.iter_mut());
        let names: Vec<&'static str> = subjects.iter().map(|subject| subject.name).collect();
        let mut results = measure(&mut subjects, span, EVERY, |_| Ok(()))?.into_iter();
        let own = results.next().context("expected a result of the agent")?;
        let own = own.with_context(|| robot.subject.process.log())?;
        said_something(own.wire_bytes_per_s)?;
        if name == BUSY {
            let worked = robot.has_worked(reports, span);
            worked.with_context(|| robot.subject.process.log())?;
        }
        let mut costs: Vec<Cost> = vec![own];
        for (name, result) in names.into_iter().skip(1).zip(results) {
            match result {
                Ok(cost) => costs.push(cost),
                Err(error) => missing.push(Missing {
                    name,
                    why: format!("{error:#}"),
                }),
            }
        }
        tables.push(Table { robot: name, costs });
    }
    Ok(Outcome {
        tables,
        missing,
        drained: None,
        verdicts: Vec::new(),
    })
}

/// A busy robot with a day to tell.
fn long(arguments: &Arguments, agent: &Path) -> Result<Outcome> {
    let (settle, span) = (
        Duration::from_secs(arguments.settle.unwrap_or(300)),
        Duration::from_secs(arguments.seconds.unwrap_or(600)),
    );
    let away = AWAY.min(span / 4);
    let mut robot = Robot::ready_to_work(agent)?;
    robot.part()?;
    backlog::write(&robot.database())?;
    let database_bytes = backlog::size(&robot.database())?;
    robot.restart()?;
    robot.wait_awake()?;
    robot.work(&arguments.python)?;
    note(&format!(
        "{BACKLOG}: {} s to settle, {} s",
        settle.as_secs(),
        span.as_secs()
    ));
    pause(settle);
    let (reports, socket, mut before) = (robot.reports(), robot.socket(), None);
    let costs = measure(&mut [&mut robot.subject], span, EVERY_LONG, |elapsed| {
        if elapsed >= away && before.is_none() {
            before = Some(status(&socket)?.outbox);
            robot.relay.restart()?;
        }
        Ok(())
    })?;
    let costs: Result<Vec<Cost>> = costs.into_iter().collect();
    let costs = costs.with_context(|| robot.subject.process.log())?;
    let (before, after) = (
        before.context("expected the relay to have come back")?,
        status(&socket)?.outbox,
    );
    ensure!(
        after.late_samples < before.late_samples && after.pending < before.pending,
        "expected the backlog to shrink, got {before:?}, then {after:?}"
    );
    robot.has_worked(reports, span)?;
    Ok(Outcome {
        tables: vec![Table {
            robot: BACKLOG,
            costs,
        }],
        missing: Vec::new(),
        drained: Some(Drained {
            samples: before.late_samples,
            samples_left: after.late_samples,
            events: before.pending,
            events_left: after.pending,
            database_bytes,
        }),
        verdicts: Vec::new(),
    })
}

#[expect(clippy::print_stdout, reason = "the result of the measurement")]
fn say(text: &str) {
    println!("{text}");
}

/// For whoever waits.
#[expect(clippy::print_stderr, reason = "not the result")]
fn note(text: &str) {
    eprintln!("{text}");
}
