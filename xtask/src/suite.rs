//! `cargo xtask test`: everything that CI runs, cheap steps first, stopping at the first that fails.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::build::{self, Profile};
use crate::clock;
use crate::command::{self, cargo, command};
use crate::dist::{self, Target};
use crate::fuzz;
use crate::image;
use crate::needs;
use crate::tidy;
use crate::ui::{self, Colour};
use crate::workspace::{self, environment};

/// What `cargo xtask test` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The slow tier too (also by `LEKIWI_SLOW=1`)
    #[arg(long)]
    slow: bool,
    /// Install what is missing without asking (nor does it ask with CI=true or without a terminal)
    #[arg(long, short)]
    yes: bool,
    /// Only these steps, by name
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    only: Vec<String>,
    /// Name the steps and end
    #[arg(long)]
    list: bool,
}

/// One thing that must hold.
struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&Options) -> Result<()>,
    /// Runs in the slow tier only.
    slow: bool,
}

const fn step(name: &'static str, what: &'static str, run: fn(&Options) -> Result<()>) -> Step {
    Step {
        name,
        what,
        run,
        slow: false,
    }
}

/// In the order of what they cost.
const STEPS: &[Step] = &[
    step("tidy", "the architecture's invariants", |_| tidy::run()),
    step("format", "rustfmt", format),
    step(
        "dashboard",
        "type check, tests and build of the dashboard",
        dashboard,
    ),
    step("clippy", "lints", clippy),
    step(
        "deny",
        "licences, sources and duplicates of dependencies",
        deny,
    ),
    step("unit", "each package's own tests", unit),
    step(
        "size",
        "the agent for aarch64, against agent/budget.toml",
        size,
    ),
    step(
        "package",
        "the agent as Debian package and container image, read back",
        package,
    ),
    step(
        "end-to-end",
        "real components against each other",
        end_to_end,
    ),
    step(
        "footprint",
        "the memory of a connected agent, against agent/budget.toml",
        footprint,
    ),
    Step {
        name: "boot",
        what: "cards that become robots in an emulator, with power cuts (slow tier)",
        run: |options| image::every_card(options.yes),
        slow: true,
    },
    Step {
        name: "fuzz",
        what: "what reads bytes of strangers, ten minutes each (slow tier)",
        run: |options| fuzz::run_chore(&fuzz::SLOW, options.yes),
        slow: true,
    },
];

/// Packages with unit tests, those together that may share features; agent and relay, each with a crypto provider of its
/// own, never meet.
const GROUPS: &[&[&str]] = &[
    &["xtask"],
    &["lekiwi-protocol", "lekiwi-agent-core", "lekiwi-agent"],
    &["lekiwi-relay-core", "lekiwi-relay"],
    &["lekiwi-cli", "lekiwi-provisioner"],
];

/// Whether there is a step of this name, for those who refer to it.
pub(crate) fn has_step(name: &str) -> bool {
    STEPS.iter().any(|step| step.name == name)
}

/// Runs the steps and says how long each took.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for step in STEPS {
            ui::result(format_args!("{:<12}{}", step.name, step.what));
        }
        return Ok(());
    }
    if let Some(unknown) = options.only.iter().find(|name| !has_step(name)) {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        bail!(
            "expected a step among {}, got `{unknown}`",
            names.join(", ")
        );
    }
    let slow = is_slow(options);
    let chosen = |step: &&Step| {
        if options.only.is_empty() {
            slow || !step.slow
        } else {
            options.only.iter().any(|name| name == step.name)
        }
    };
    needs::ensure(
        needs::BUILD.iter().chain(needs::PACK).chain(needs::TEST),
        options.yes,
    )?;
    needs::python_environments(options.yes)?;
    needs::rtsp_server(options.yes)?;

    let mut times = Vec::new();
    let mut outcome = Ok(());
    for step in STEPS.iter().filter(chosen) {
        ui::say(ui::paint(
            Colour::Bold,
            format_args!("\n== {}: {}", step.name, step.what),
        ));
        let started = clock::now();
        outcome = (step.run)(options).with_context(|| format!("step `{}` failed", step.name));
        times.push((step.name, started.elapsed()));
        if outcome.is_err() {
            break;
        }
    }
    ui::result("");
    for (name, time) in &times {
        ui::result(format_args!("{name:<12}{:>8}", minutes(*time)));
    }
    let total = times.iter().map(|(_, time)| *time).sum();
    ui::result(format_args!("{:<12}{:>8}", "total", minutes(total)));
    if outcome.is_err()
        && let Some((name, _)) = times.last()
    {
        ui::result(format_args!(
            "\n`cargo xtask test --only {name}` repeats the step that failed"
        ));
    }
    outcome
}

fn is_slow(options: &Options) -> bool {
    options.slow || environment("LEKIWI_SLOW").is_some_and(|value| value != "0")
}

/// `3:07`
fn minutes(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

fn over(subcommand: &[&str], group: &[&str], after: &[&str]) -> std::process::Command {
    let mut cargo = cargo(subcommand.iter().copied());
    // For this program; the agent complains of variables that it does not know.
    cargo.arg("--locked").env_remove("LEKIWI_SLOW");
    for package in group {
        cargo.args(["--package", package]);
    }
    cargo.args(after);
    cargo
}

fn format(_: &Options) -> Result<()> {
    command::run(&mut cargo(["fmt", "--all", "--check"]))
}

/// Programs may not read the clock where they like (`clippy.toml`); their tests may. All packages at once, for nothing
/// that is linted runs; that each compiles by itself is seen where it is built.
fn clippy(_: &Options) -> Result<()> {
    let lint = |what: &[&str], rules: &[&str]| {
        let mut cargo = cargo(["clippy", "--locked", "--workspace"]);
        cargo.args(what).args(["--", "-D", "warnings"]).args(rules);
        command::run(&mut cargo)
    };
    // With `--examples` the features are those of `--all-targets`: dependencies are checked once for both.
    lint(&["--lib", "--bins", "--examples"], &[])?;
    lint(
        &["--all-targets", "--features", "lekiwi-agent/ros2"],
        &["-A", "clippy::disallowed_methods"],
    )
}

fn dashboard(options: &Options) -> Result<()> {
    build::dashboard_packages(options.yes)?;
    for script in ["check", "test"] {
        command::run(&mut build::npm(
            &["run", "--if-present", script],
            options.yes,
        )?)?;
    }
    build::dashboard(options.yes)
}

fn deny(_: &Options) -> Result<()> {
    let deny = needs::cargo_tool("cargo-deny", "0.20.2")?;
    // It looks at every platform's dependencies; a new machine has fetched its own platform's only.
    command::run(&mut cargo(["fetch", "--locked", "--quiet"]))?;
    // Advisories need a database from elsewhere; `cargo deny check` alone looks at them too.
    command::run(command(deny).args(["--offline", "check", "bans", "licenses", "sources"]))
}

fn unit(options: &Options) -> Result<()> {
    for group in GROUPS {
        let mut tests = over(&["test"], group, &[]);
        if group.contains(&"lekiwi-relay") {
            // The examples of its documentation are run in the languages that they are written in.
            tests.env("LEKIWI_TELEOP_PYTHON", needs::robot_python(options.yes)?);
            tests.env("LEKIWI_OIDC_PROVIDER", needs::oidc_provider(options.yes)?);
            if let Some(node) = needs::node(options.yes)? {
                tests.env("PATH", needs::path_with(&[node])?);
            }
        }
        command::run(&mut tests)?;
    }
    fuzz::seeds()
}

/// The agent's binary must fit its budget on the processor that robots have.
fn size(options: &Options) -> Result<()> {
    let budget = Budget::read(&workspace::root().join("agent/budget.toml"))?;
    let target = Target::Aarch64Musl;
    let binary = dist::agent(target, dist::Way::Fallback, options.yes)?;
    let bytes = binary
        .metadata()
        .with_context(|| format!("could not look at {}", binary.display()))?
        .len();
    budget.judge(target.triple(), bytes)
}

fn package(options: &Options) -> Result<()> {
    dist::pack_agent(&[Target::Aarch64Musl, Target::native_musl()], options.yes)
}

fn end_to_end(options: &Options) -> Result<()> {
    let slow = is_slow(options);
    if slow {
        build::agent_for_ros2()?;
    }
    for (package, binary) in [
        ("lekiwi-relay", "lekiwi-relay"),
        ("lekiwi-agent", "lekiwi-agent"),
        ("lekiwi-cli", "lekiwi"),
        ("lekiwi-provisioner", "lekiwi-provisioner"),
    ] {
        build::program(package, binary, Profile::Dev)?;
    }
    let aarch64 = dist::agent(Target::Aarch64Musl, dist::Way::Fallback, options.yes)?;
    let python = needs::robot_python(options.yes)?;
    let schemathesis = needs::schemathesis(options.yes)?;
    let suites = |arguments: &[&str]| {
        let mut tests = over(&["test"], &["lekiwi-tests"], arguments);
        tests.env("LEKIWI_AARCH64_AGENT", &aarch64);
        tests.env("LEKIWI_TELEOP_PYTHON", &python);
        tests.env("LEKIWI_SCHEMATHESIS", &schemathesis);
        if slow {
            tests.env("LEKIWI_SLOW", "1");
        }
        tests
    };
    command::run(&mut suites(&["--no-run"]))?;
    // The golden schemas: a feature that no program has, but these suites.
    let with_schemas = ["lekiwi-tests", "lekiwi-protocol"];
    command::run(&mut over(&["test"], &with_schemas, &["--test", "schemas"]))?;
    let names = suite_names(&workspace::root().join("tests/tests"))?;
    let mut others = vec!["--lib", "--bins"];
    for name in &names {
        if !PATIENT.iter().any(|lane| lane.contains(&name.as_str())) {
            others.extend(["--test", name]);
        }
    }
    std::thread::scope(|scope| {
        let lanes: Vec<_> = PATIENT
            .iter()
            .map(|lane| {
                let arguments: Vec<&str> = lane.iter().flat_map(|name| ["--test", name]).collect();
                let mut tests = suites(&arguments);
                scope.spawn(move || command::run_aside(&mut tests))
            })
            .collect();
        let mut outcome = command::run(&mut suites(&others));
        for lane in lanes {
            let ended = lane.join().unwrap_or_else(|_| bail!("a lane panicked"));
            outcome = outcome.and(ended);
        }
        outcome
    })
}

/// Suites that wait for most of their time (for networks to be found dead, for outages to pass), in lanes
/// beside the others.
const PATIENT: &[&[&str]] = &[
    &["link_faults"],
    &["backlog", "disk_faults", "teleop"],
    &["relays"],
    &["renewal", "rollover"],
];

/// The suites in a folder as cargo sees them: `NAME.rs` and `NAME/main.rs`.
fn suite_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_suite = if path.is_dir() {
            path.join("main.rs").is_file()
        } else {
            path.extension().is_some_and(|ending| ending == "rs")
        };
        if is_suite && let Some(name) = path.file_stem() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The short form of `cargo xtask bench agent`, with the relay of [`end_to_end`]; in the slow tier the long one too.
fn footprint(options: &Options) -> Result<()> {
    build::dashboard(options.yes)?;
    build::program("lekiwi-relay", "lekiwi-relay", Profile::Dev)?;
    let agent = dist::agent(Target::native_musl(), dist::Way::Fallback, options.yes)?;
    let aarch64 = dist::agent(Target::Aarch64Musl, dist::Way::Fallback, options.yes)?;
    let python = needs::robot_python(options.yes)?;
    let mut forms: Vec<&[&str]> = vec![&[
        "--alone",
        "--judge-memory",
        "--settle",
        "20",
        "--seconds",
        "30",
    ]];
    if is_slow(options) {
        forms.push(&["--long"]);
    }
    for form in forms {
        let mut bench = over(&["run"], &["lekiwi-tests"], &["--bin", "bench_agent", "--"]);
        bench
            .env("LEKIWI_AGENT_BIN", &agent)
            .env("LEKIWI_AARCH64_AGENT", &aarch64)
            .env("LEKIWI_TELEOP_PYTHON", &python)
            .args(form);
        command::run(&mut bench)?;
    }
    Ok(())
}

/// The part of `agent/budget.toml` that is enforced here.
#[derive(Deserialize)]
struct Budget {
    binary_bytes: u64,
}

impl Budget {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("could not read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is no budget", path.display()))
    }

    fn judge(&self, target: &str, bytes: u64) -> Result<()> {
        if bytes > self.binary_bytes {
            bail!(
                "expected the agent for {target} to have at most {} bytes, got {bytes}\n  (hint: `cargo bloat` shows what grew; the budget is agent/budget.toml)",
                self.binary_bytes
            );
        }
        ui::result(format_args!(
            "{target}: {bytes} bytes, {}% of {}",
            bytes * 100 / self.binary_bytes,
            self.binary_bytes
        ));
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_binary_over_its_budget_is_refused() {
        let budget = Budget { binary_bytes: 100 };
        budget.judge("arm", 100).unwrap();
        assert_eq!(
            budget.judge("arm", 101).unwrap_err().to_string(),
            "expected the agent for arm to have at most 100 bytes, got 101\n  (hint: `cargo bloat` shows what grew; the budget is agent/budget.toml)"
        );
    }

    #[test]
    fn the_budget_file_is_one() {
        Budget::read(&workspace::root().join("agent/budget.toml")).unwrap();
    }

    #[test]
    fn patient_suites_are_there() {
        let names = suite_names(&workspace::root().join("tests/tests")).unwrap();
        for name in PATIENT.iter().flat_map(|lane| lane.iter()) {
            assert!(names.iter().any(|there| there == name), "{name}");
        }
    }

    #[test]
    fn times_are_short() {
        assert_eq!(minutes(Duration::from_secs(187)), "3:07");
    }
}
