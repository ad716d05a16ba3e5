//! Builds the programs, each by itself (`-p`), so that features never leak from one into another,
//! and the dashboard that the relay carries.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::command::{cargo, run};
use crate::needs;
use crate::ui;
use crate::workspace;

/// How a program is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build; what `up` and the tests run.
    Dev,
    /// What is shipped and measured.
    Release,
}

impl Profile {
    /// Cargo's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Release => "release",
        }
    }

    /// Cargo's folder below `target`.
    fn folder(self) -> &'static str {
        match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        }
    }
}

/// Builds one package and answers where its program is.
pub(crate) fn program(package: &str, binary: &str, profile: Profile) -> Result<PathBuf> {
    ui::step(format_args!("building {binary} ({})", profile.name()));
    run(&mut cargo([
        "build",
        "--locked",
        "--package",
        package,
        "--profile",
        profile.name(),
    ]))?;
    let path = workspace::target().join(profile.folder()).join(binary);
    ensure!(
        path.is_file(),
        "expected package {package} to build {}, found nothing there",
        path.display()
    );
    Ok(path)
}

/// Builds the agent's variant for ROS 2, beside the agent under a name of its own, and a process of ROS 2 for its
/// tests. The agent's own name has the variant until the agent is built.
pub(crate) fn agent_for_ros2() -> Result<()> {
    ui::step("building lekiwi-agent-ros2 (dev)");
    run(&mut cargo([
        "build",
        "--locked",
        "--package",
        "lekiwi-agent",
        "--features",
        "ros2",
        "--bin",
        "lekiwi-agent",
        "--example",
        "ros2_node",
    ]))?;
    let folder = workspace::target().join(Profile::Dev.folder());
    let copy = folder.join("lekiwi-agent-ros2");
    std::fs::copy(folder.join("lekiwi-agent"), &copy)
        .with_context(|| format!("could not write {}", copy.display()))?;
    Ok(())
}

/// `npm` in the dashboard's folder.
pub(crate) fn npm(arguments: &[&str], yes: bool) -> Result<Command> {
    let mut npm = needs::npm(yes)?;
    npm.current_dir(dashboard_folder()).args(arguments);
    Ok(npm)
}

fn dashboard_folder() -> PathBuf {
    workspace::root().join("relay/dashboard")
}

/// Installs the dashboard's packages when its lock file changed since.
pub(crate) fn dashboard_packages(yes: bool) -> Result<()> {
    let folder = dashboard_folder();
    let lock = folder.join("package-lock.json");
    ensure!(
        lock.is_file(),
        "expected the dashboard's packages to be listed in {}, found no such file",
        lock.display()
    );
    let installed = folder.join("node_modules/.package-lock.json");
    if modified(&installed).is_none_or(|time| modified(&lock).is_some_and(|lock| lock > time)) {
        ui::step("installing the dashboard's packages");
        run(&mut npm(&["ci", "--no-audit", "--no-fund"], yes)?)?;
    }
    Ok(())
}

/// Builds the dashboard when anything of it is newer than what was built.
pub(crate) fn dashboard(yes: bool) -> Result<()> {
    let folder = dashboard_folder();
    let built = modified(&folder.join("dist/index.html"));
    if built.is_some_and(|built| newest(&folder).is_ok_and(|newest| newest <= built)) {
        return Ok(());
    }
    dashboard_packages(yes)?;
    ui::step("building the dashboard");
    run(&mut npm(&["run", "build"], yes)?)?;
    ensure!(
        folder.join("dist/index.html").is_file(),
        "expected `npm run build` to write relay/dashboard/dist/index.html, found no such file"
    );
    Ok(())
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// The newest file below a folder, but for what was made from the others.
fn newest(folder: &Path) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    let entries = folder
        .read_dir()
        .with_context(|| format!("could not read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if ["dist", "node_modules"]
            .iter()
            .any(|made| entry.file_name() == *made)
        {
            continue;
        }
        let time = if entry.file_type()?.is_dir() {
            self::newest(&entry.path())?
        } else {
            entry.metadata()?.modified()?
        };
        newest = newest.max(time);
    }
    Ok(newest)
}
