//! `cargo xtask bench relay`: what the relay costs, with Mosquitto as its peer in the same run.
//!
//! Each goal is measured in rounds, and the median counts. A goal that is missed is said in the table and does
//! not fail the program: only what could not be measured does.

mod curves;
mod goal;
mod ingest;
mod plot;
mod presence;
mod site;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use curves::Effort;
use goal::Table;
use site::Site;

/// What the relay costs, with Mosquitto as its peer in the same run.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask bench relay\n  cargo xtask bench relay --only memory,back --robots 10000\n  cargo xtask bench relay --only curves --robots 10000 --svg docs/relay-curves.svg"
)]
struct Arguments {
    /// Only these goals.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Goal>,
    /// Rounds of each measurement; medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Robots of the measurements that depend on their number.
    #[arg(long, default_value_t = 1_000)]
    robots: usize,
    /// Events in the log of the relay that is restarted.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Seconds of each measurement that takes as long as one likes.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Plot the curves into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Goal {
    /// Telemetry at QoS 0, fully processed, against Mosquitto's forwarding.
    Telemetry,
    /// Events at QoS 1 until their durable acknowledgement, against Mosquitto's forwarding.
    Events,
    /// Memory of the relay for each connected robot.
    Memory,
    /// Heartbeat, robot to SSE client.
    Latency,
    /// A robot's state over HTTPS, while all report.
    Query,
    /// All robots back after SIGKILL of the relay, and the log exact.
    Back,
    /// Restart with a long log, to the first answer.
    Restart,
    /// Cost against robots (10 to as many as there are), message rate and length of the log.
    Curves,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wants = |goal: Goal| arguments.only.is_empty() || arguments.only.contains(&goal);
    let seconds = std::time::Duration::from_secs(arguments.seconds);
    let mut table = Table::default();
    if wants(Goal::Telemetry) || wants(Goal::Events) {
        let site = Site::start(ingest::CLIENTS + 1).await?;
        if wants(Goal::Telemetry) {
            ingest::telemetry(&site, seconds, arguments.rounds, &mut table).await?;
        }
        if wants(Goal::Events) {
            ingest::events(&site, seconds, arguments.rounds, &mut table).await?;
        }
    }
    let fleet = [Goal::Memory, Goal::Latency, Goal::Query, Goal::Back];
    if fleet.into_iter().any(wants) {
        let mut site = Site::start(arguments.robots).await?;
        if wants(Goal::Memory) {
            presence::memory(&mut site, arguments.rounds, &mut table).await?;
        }
        if wants(Goal::Latency) {
            presence::latency(&site, seconds, arguments.rounds, &mut table).await?;
        }
        if wants(Goal::Query) {
            presence::query(&site, seconds, arguments.rounds, &mut table).await?;
        }
        if wants(Goal::Back) {
            presence::back(&mut site, arguments.rounds, &mut table).await?;
        }
    }
    if wants(Goal::Restart) {
        let mut site = Site::start(ingest::CLIENTS).await?;
        ingest::fill(&site, arguments.events).await?;
        presence::restart(&mut site, arguments.events, arguments.rounds, &mut table).await?;
    }
    if wants(Goal::Curves) {
        let (robots, events) = (arguments.robots, arguments.events);
        let effort = Effort {
            duration: seconds,
            rounds: arguments.rounds,
        };
        let curves = curves::all(robots, events, effort, &mut table).await?;
        if let Some(path) = &arguments.svg {
            plot::svg(&curves, path)?;
        }
        table.curves = curves;
    }
    if arguments.json {
        print(&serde_json::to_string(&table)?);
    } else {
        print(&table.to_string());
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn say(line: &str) {
    eprintln!("bench relay: {line}");
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn print(text: &str) {
    println!("{text}");
}
