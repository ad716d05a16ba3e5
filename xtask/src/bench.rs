//! Starts the measuring tools of the tests crate with what they measure, built for release.

use anyhow::Result;
use clap::Args;

use crate::build::{self, Profile};
use crate::command::{cargo, run};
use crate::dist;
use crate::needs;
use crate::ui;

/// What `cargo xtask bench` takes.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Which measurement: `agent`, `ingest`, …
    name: String,
    /// Passed on to it; `--help` lists its own options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed: Vec<String>,
}

/// What a tool of the tests crate takes; it explains its own options.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Passed {
    /// Passed on to it; `--help` lists its own options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed: Vec<String>,
}

/// Runs the measurement `name`.
pub(crate) fn measure(options: &Options) -> Result<()> {
    tests_binary(&format!("bench_{}", options.name), &options.passed)
}

/// Runs a tool.
pub(crate) fn tool(name: &str, passed: &Passed) -> Result<()> {
    tests_binary(name, &passed.passed)
}

fn tests_binary(name: &str, passed: &[String]) -> Result<()> {
    let mut tool = cargo([
        "run",
        "--quiet",
        "--package",
        "lekiwi-tests",
        "--release",
        "--bin",
        name,
        "--",
    ]);
    tool.args(passed);
    if !passed.iter().any(|word| word == "--help" || word == "-h") {
        needs::ensure(needs::BUILD.iter().chain(needs::TEST), false)?;
        build::dashboard(false)?;
        // The tools look for the programs, and for each other, in their own profile's folder.
        build::program("lekiwi-relay", "lekiwi-relay", Profile::Release)?;
        build::program("lekiwi-agent", "lekiwi-agent", Profile::Release)?;
        if ["bench_flash", "bench_customise"].contains(&name) {
            build::program("lekiwi-provisioner", "lekiwi-provisioner", Profile::Release)?;
        }
        ui::step(format_args!("building {name} (release)"));
        run(&mut cargo([
            "build",
            "--package",
            "lekiwi-tests",
            "--release",
            "--bins",
        ]))?;
        if name == "bench_agent" {
            // The agent that robots run: static, small; compiled for this machine.
            let agent = dist::agent(dist::Target::native_musl(), dist::Way::Fallback, false)?;
            tool.env("LEKIWI_AGENT_BIN", agent);
            let aarch64 = dist::agent(dist::Target::Aarch64Musl, dist::Way::Fallback, false)?;
            tool.env("LEKIWI_AARCH64_AGENT", aarch64);
            tool.env("LEKIWI_TELEOP_PYTHON", needs::robot_python(false)?);
            if !passed
                .iter()
                .any(|word| word == "--alone" || word == "--long")
            {
                needs::ensure_possible(needs::PEERS, false);
                let skeleton = dist::skeleton(dist::Target::native_musl(), false)?;
                tool.env("LEKIWI_SKELETON", skeleton);
            }
        }
    }
    run(&mut tool)
}
