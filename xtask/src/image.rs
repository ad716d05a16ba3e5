//! `cargo xtask image`: the whole way of a card. The agent as a Debian package for arm64, a base image with it,
//! and then, in a network namespace where nothing but this machine can be reached, emulated boards that boot
//! customised copies of it and register at a relay.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::build::{self, Profile};
use crate::command::{cargo, command, read, run};
use crate::dist;
use crate::needs;
use crate::ui;
use crate::workspace;

/// What `cargo xtask image` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Robots to boot: `lekiwi`, `xle`
    #[arg(long, value_delimiter = ',', default_value = "lekiwi")]
    profile: Vec<String>,
    /// Cut the power at so many random moments of first boots
    #[arg(long, default_value_t = 0)]
    cuts: u32,
    /// Judge a LeKiwi that runs: its clock years off, and driven by its own keys
    #[arg(long)]
    living: bool,
    /// Write its factsheet and state, as they come from it, to this folder; only with `--living`
    #[arg(long, requires = "living")]
    capture: Option<PathBuf>,
    /// Build the base image and end
    #[arg(long)]
    build_only: bool,
    /// Keep cards and console logs in this folder
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Install what is missing without asking
    #[arg(long, short)]
    yes: bool,
}

/// The slow tier: each robot that can be emulated, one of them with its clock years off and driven by its keys, and a
/// power cut at ten random moments of first boots.
pub(crate) fn every_card(yes: bool) -> Result<()> {
    for (profile, cuts) in [("lekiwi", 10), ("xle", 0)] {
        run_chore(&Options {
            profile: vec![profile.to_owned()],
            cuts,
            living: profile == "lekiwi",
            capture: None,
            build_only: false,
            keep: None,
            yes,
        })?;
    }
    Ok(())
}

/// Builds, boots, judges.
pub(crate) fn run_chore(options: &Options) -> Result<()> {
    needs::ensure(
        needs::BUILD
            .iter()
            .chain(needs::PACK)
            .chain(needs::TEST)
            .chain(needs::IMAGE),
        options.yes,
    )?;
    let base = base(options.yes)?;
    if options.build_only {
        return Ok(());
    }
    build::dashboard(options.yes)?;
    build::program("lekiwi-relay", "lekiwi-relay", Profile::Dev)?;
    ui::step("building the judge");
    run(&mut cargo([
        "build",
        "--locked",
        "--package",
        "lekiwi-tests",
        "--bin",
        "boot",
    ]))?;
    for profile in &options.profile {
        ui::step(format_args!("booting a card as {profile}"));
        let boot = workspace::target().join("debug/boot");
        let mut judge = command("unshare");
        judge
            .args([
                "--net",
                "--",
                "sh",
                "-c",
                "ip link set lo up && exec \"$@\"",
                "sh",
            ])
            .arg(boot)
            .arg("--base")
            .arg(&base)
            .args(["--profile", profile, "--cuts", &options.cuts.to_string()]);
        if options.living && profile == "lekiwi" {
            judge.arg("--living");
            if let Some(folder) = &options.capture {
                judge.arg("--capture").arg(folder);
            }
        }
        if let Some(keep) = &options.keep {
            judge.arg("--keep").arg(keep.join(profile));
        }
        run(&mut judge).with_context(|| format!("no card became a {profile}"))?;
    }
    Ok(())
}

/// The base image with this checkout's agent.
fn base(yes: bool) -> Result<PathBuf> {
    enable_emulation()?;
    let deb = dist::agent_deb(dist::Target::Aarch64Musl, yes)?;
    let provisioner = build::program("lekiwi-provisioner", "lekiwi-provisioner", Profile::Dev)?;
    ui::step("building the base image (the first time takes a quarter of an hour)");
    let said = read(
        command(provisioner)
            .args(["build", "--json", "--image"])
            .arg(workspace::root().join("image"))
            .arg("--agent-deb")
            .arg(deb)
            .arg("--cache")
            .arg(workspace::target().join("image/cache"))
            .arg("--out")
            .arg(workspace::target().join("image")),
    )?;
    let built: serde_json::Value =
        serde_json::from_str(&said).context("expected JSON of `lekiwi-provisioner build`")?;
    let image = built["image"]
        .as_str()
        .context("expected the image's path")?;
    ui::result(image);
    Ok(image.into())
}

/// Containers come without the kernel's table of foreign programs.
fn enable_emulation() -> Result<()> {
    let table = std::path::Path::new("/proc/sys/fs/binfmt_misc");
    if cfg!(target_arch = "aarch64") || table.join("qemu-aarch64").exists() {
        return Ok(());
    }
    if !table.join("register").exists() {
        run(command("mount")
            .args(["-t", "binfmt_misc", "binfmt_misc"])
            .arg(table))?;
    }
    run(command("update-binfmts").args(["--enable", "qemu-aarch64"]))?;
    ensure!(
        table.join("qemu-aarch64").exists(),
        "expected this kernel to run arm64 programs through qemu-user after `update-binfmts --enable`"
    );
    Ok(())
}
