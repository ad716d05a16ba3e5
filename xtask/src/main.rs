//! The workspace's chores behind one command, `cargo xtask`: run everything here, test everything,
//! build what is shipped, check the architecture. Called by people and by `.ci/run`.

mod bench;
mod build;
mod clock;
mod command;
mod dist;
mod fuzz;
mod image;
mod needs;
mod suite;
mod tidy;
mod ui;
mod up;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of Lekiwi Heartbeat.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    after_help = "\
Examples:
  cargo xtask up                      run a relay here and enrol this machine as a robot
  cargo xtask up --yes --data /tmp/l  without questions, with its data elsewhere
  cargo xtask test                    everything that CI runs
  cargo xtask test --only clippy      one step of it (`--list` names them)
  cargo xtask dist --only agent       agent binaries, packages and images in target/dist
  cargo xtask bench agent             what the agent costs, against agent/budget.toml
  cargo xtask image --profile lekiwi  a base image, booted in an emulator until it is a robot
  cargo xtask fleet --help            simulated robots"
)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build and run relay, dashboard and agent here; Ctrl-C stops them, the next start goes on
    Up(up::Options),
    /// Run everything that CI runs, cheap steps first; stops at the first that fails
    Test(suite::Options),
    /// Build binaries, Debian packages and container images into target/dist
    Dist(dist::Options),
    /// Build the base image, and boot customised cards of it in an emulator until they are robots
    Image(image::Options),
    /// Check the architecture's invariants
    Tidy,
    /// Measure: `agent`, or any other `bench_NAME` of the tests crate
    Bench(bench::Options),
    /// Look for input that breaks what reads bytes of strangers
    Fuzz(fuzz::Options),
    /// Run simulated robots against a relay
    Fleet(bench::Passed),
    /// Kill relay and agents at random while numbered events flow, then check the log
    Soak(bench::Passed),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Up(options) => up::run(&options),
        Chore::Test(options) => suite::run(&options),
        Chore::Dist(options) => dist::run(&options),
        Chore::Image(options) => image::run_chore(&options),
        Chore::Tidy => tidy::run(),
        Chore::Bench(options) => bench::measure(&options),
        Chore::Fuzz(options) => fuzz::run_chore(&options, false),
        Chore::Fleet(passed) => bench::tool("fleet", &passed),
        Chore::Soak(passed) => bench::tool("soak", &passed),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::failure(&error);
            ExitCode::FAILURE
        }
    }
}
