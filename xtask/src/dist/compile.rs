//! Compiles for the machines that things are shipped to. The agent is static (musl): through `cross`
//! where a container engine runs, else with Zig's C compiler and C library, which come as Python packages
//! and stay in `target/tools`. Everything else links with Debian's compilers.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::program::{AGENT, Program, Target};
use crate::command::{self, cargo};
use crate::needs;
use crate::ui;
use crate::workspace::{self, find_program};

/// How the agent is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In the containers of cross-rs.
    Cross,
    /// With Zig.
    Fallback,
}

impl Way {
    /// `cross` wherever a container engine answers.
    pub(super) fn choose() -> Self {
        match needs::container_engine() {
            Some(engine) => {
                ui::say(format_args!(
                    "{engine} runs here: compiling the agent through cross"
                ));
                Way::Cross
            }
            None => {
                ui::say("no container engine runs here: compiling the agent with Zig");
                Way::Fallback
            }
        }
    }
}

/// The profile that is measured in bytes.
const PROFILE: [&str; 2] = ["--profile", "agent"];

/// Builds the agent and answers where it is.
pub(crate) fn agent(target: Target, way: Way, yes: bool) -> Result<PathBuf> {
    variant(&AGENT, target, way, yes)
}

/// Builds the agent or a variant of it, and answers where it is until another is built.
pub(super) fn variant(program: &Program, target: Target, way: Way, yes: bool) -> Result<PathBuf> {
    ui::step(format_args!(
        "building {} for {}",
        program.binary,
        target.triple()
    ));
    match way {
        Way::Cross => cross(program, target)?,
        Way::Fallback => zig(target, &features(program), yes)?,
    }
    built(target, "agent", AGENT.binary)
}

/// Builds what the agent is compared with, an example of its package, as the agent is built; answers where it is.
pub(crate) fn skeleton(target: Target, yes: bool) -> Result<PathBuf> {
    ui::step(format_args!("building skeleton for {}", target.triple()));
    zig(target, &["--example", "skeleton"], yes)?;
    built(target, "agent/examples", "skeleton")
}

fn built(target: Target, profile: &str, binary: &str) -> Result<PathBuf> {
    let path = workspace::target()
        .join(target.triple())
        .join(profile)
        .join(binary);
    ensure!(
        path.is_file(),
        "expected the build to write {}, found nothing there",
        path.display()
    );
    Ok(path)
}

fn features(program: &Program) -> Vec<&'static str> {
    program
        .feature
        .map_or_else(Vec::new, |feature| vec!["--features", feature])
}

fn cross(program: &Program, target: Target) -> Result<()> {
    let cross = match find_program("cross") {
        Some(cross) => cross,
        None => needs::cargo_tool("cross", "0.2.5")?,
    };
    let mut cross = command::command(cross);
    cross
        .args(["build", "--locked", "--package", AGENT.package])
        .args(PROFILE)
        .args(features(program))
        .args(["--target", target.triple()])
        .env("CROSS_CONFIG", workspace::root().join("cross.toml"));
    command::run(&mut cross)
}

fn zig(target: Target, what: &[&str], yes: bool) -> Result<()> {
    let bin = needs::python_tools("zig", &["ziglang==0.17.0", "cargo-zigbuild==0.24.0"], yes)?;
    let mut zigbuild = cargo(["zigbuild", "--locked", "--package", AGENT.package]);
    zigbuild
        .args(PROFILE)
        .args(["--target", target.triple()])
        .args(what)
        .env("PATH", needs::path_with(&[bin])?)
        .env(
            "CARGO_ZIGBUILD_CACHE_DIR",
            workspace::tools().join("zigbuild"),
        )
        .env("ZIG_GLOBAL_CACHE_DIR", workspace::tools().join("zig-cache"));
    if let Err(error) = needs::rust(&[target.triple()], &[]) {
        // Some mirrors of the toolchain lack rarer targets; its source builds them.
        ui::say(format_args!(
            "no ready standard library for {}: building it from source ({})",
            target.triple(),
            error.to_string().lines().next().unwrap_or_default()
        ));
        needs::rust(&[], &["rust-src"]).with_context(|| {
            format!(
                "expected either the target {} or the component rust-src",
                target.triple()
            )
        })?;
        zigbuild
            .arg("-Zbuild-std=std,panic_abort")
            .env("RUSTC_BOOTSTRAP", "1") // build-std on this pinned stable toolchain
            .env("RUSTFLAGS", "-C link-self-contained=no"); // start-up objects are Zig's
    }
    command::run(&mut zigbuild)
}

/// Builds any other program and answers where it is.
pub(super) fn server(program: &Program, target: Target, yes: bool) -> Result<PathBuf> {
    ui::step(format_args!(
        "building {} for {}",
        program.binary,
        target.triple()
    ));
    let mut build = cargo([
        "build",
        "--locked",
        "--release",
        "--package",
        program.package,
    ]);
    if target.is_native() {
        command::run(&mut build)?;
        return Ok(workspace::target().join("release").join(program.binary));
    }
    needs::ensure(needs::CROSS, yes)?;
    needs::rust(&[target.triple()], &[])?;
    let compiler = format!("{}-linux-gnu-gcc", target.architecture());
    let name = target.triple().replace('-', "_");
    build
        .args(["--target", target.triple()])
        .env(format!("CC_{name}"), &compiler)
        .env(
            format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()),
            &compiler,
        );
    command::run(&mut build)?;
    built(target, "release", program.binary)
}
