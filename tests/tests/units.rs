//! What systemd itself says of every file in `systemd/`: its own tools read the units, the users and the folders.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use lekiwi_tests::harness::program;

/// The most that a service may be exposed, by `systemd-analyze security`, in tenths. Root's one-shots change the
/// system, which is what exposure means; those are not listed.
const MOST_EXPOSED: &[(&str, u32)] = &[("lekiwi-agent.service", 20), ("lekiwi-relay.service", 20)];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

/// Files of the folder with one of these endings, in order.
fn files(endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder().read_dir()? {
        let path = entry?.path();
        if endings
            .iter()
            .any(|ending| path.to_string_lossy().ends_with(ending))
        {
            files.push(path);
        }
    }
    files.sort();
    ensure!(
        !files.is_empty(),
        "expected files with {endings:?}, found none"
    );
    Ok(files)
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn systemd(tool: &str, arguments: &[&str], files: &[PathBuf]) -> Result<Output> {
    Ok(Command::new(program(tool, "systemd")?)
        .args(arguments)
        .args(files)
        .output()?)
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn services_are_not_exposed_more_than_agreed() -> Result<()> {
    for (unit, most) in MOST_EXPOSED {
        let threshold = format!("--threshold={most}");
        let judged = systemd(
            "systemd-analyze",
            &["security", "--offline=true", "--no-pager", &threshold],
            &[folder().join(unit)],
        )?;
        let text = said(&judged);
        ensure!(judged.status.success(), "{unit} is too exposed:\n{text}");
        let (_, figure) = text
            .rsplit_once(&format!("exposure level for {unit}: "))
            .with_context(|| format!("expected a figure for {unit}, got:\n{text}"))?;
        let figure: f64 = figure
            .split_whitespace()
            .next()
            .context("expected a figure")?
            .parse()?;
        ensure!(
            figure * 10.0 <= f64::from(*most),
            "{unit} has an exposure of {figure}"
        );
    }
    Ok(())
}

/// Copies the units to `to`, with their programs replaced by ones that are there: `verify` wants them executable.
fn with_programs(units: &[PathBuf], to: &Path) -> Result<Vec<PathBuf>> {
    let mut copies = Vec::new();
    for unit in units {
        let mut text = String::new();
        for line in std::fs::read_to_string(unit)?.lines() {
            let line = match line.split_once('=') {
                Some((key, command)) if key.starts_with("Exec") => {
                    let flags = command.find('/').unwrap_or_default();
                    let (flags, command) = command.split_at(flags);
                    let (path, arguments) = command.split_once(' ').unwrap_or((command, ""));
                    let there = to.join("programs").join(name(Path::new(path)));
                    std::fs::create_dir_all(to.join("programs"))?;
                    std::fs::write(&there, "#!/bin/sh\n")?;
                    std::fs::set_permissions(&there, PermissionsExt::from_mode(0o755))?;
                    format!("{key}={flags}{} {arguments}", there.display())
                }
                _ => line.to_owned(),
            };
            text.push_str(&line);
            text.push('\n');
        }
        let copy = to.join(name(unit));
        std::fs::write(&copy, text)?;
        copies.push(copy);
    }
    Ok(copies)
}

#[test]
fn systemd_understands_every_unit() -> Result<()> {
    let units = files(&[".service", ".path", ".socket", ".timer", ".target"])?;
    let temporary = tempfile::tempdir()?;
    let copies = with_programs(&units, temporary.path())?;
    let verify = |units: &[PathBuf]| systemd("systemd-analyze", &["verify", "--man=no"], units);
    let judged = verify(&copies)?;
    // Warnings, such as an unknown key, change nothing about its exit code.
    ensure!(
        judged.status.success() && said(&judged).trim().is_empty(),
        "systemd does not understand the units:\n{}",
        said(&judged)
    );
    // The judge sees what is wrong.
    let broken = temporary.path().join("broken.service");
    std::fs::write(
        &broken,
        "[Service]\nExecStart=/bin/true\nProtectSysten=strict\n",
    )?;
    let text = said(&verify(&[broken])?);
    ensure!(
        text.contains("Unknown key"),
        "expected a complaint, got:\n{text}"
    );
    Ok(())
}

#[test]
fn a_broken_configuration_is_not_started_again() -> Result<()> {
    for unit in files(&[".service"])? {
        let text = std::fs::read_to_string(&unit)?;
        let restarts = text
            .lines()
            .any(|line| line.starts_with("Restart=") && line != "Restart=no");
        ensure!(
            !restarts
                || text
                    .lines()
                    .any(|line| line == "RestartPreventExitStatus=78"),
            "{} restarts, but not without RestartPreventExitStatus=78",
            name(&unit)
        );
    }
    let agent = std::fs::read_to_string(folder().join("lekiwi-agent.service"))?;
    ensure!(
        agent.lines().any(|line| line == "WatchdogSec=60"),
        "the agent's unit has no WatchdogSec"
    );
    Ok(())
}

/// `name:x:ID:…` of a file such as `/etc/passwd`.
fn ids(file: &Path) -> Result<BTreeMap<String, u32>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{} cannot be read", file.display()))?;
    text.lines()
        .map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().unwrap_or_default().to_owned();
            let id = fields.nth(1).context("expected an id")?.parse()?;
            Ok((name, id))
        })
        .collect()
}

#[test]
fn users_and_folders_are_made_on_an_empty_system() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "expected to be root, to give folders to users (hint: run these tests with sudo)"
    );
    let root = tempfile::tempdir()?;
    std::fs::create_dir(root.path().join("etc"))?;
    let into = format!("--root={}", root.path().display());
    let made = systemd(
        "systemd-sysusers",
        &[&into],
        &absolute(&[".sysusers.conf"])?,
    )?;
    ensure!(made.status.success(), "{}", said(&made));
    let users = ids(&root.path().join("etc/passwd"))?;
    let groups = ids(&root.path().join("etc/group"))?;
    for user in ["lekiwi-agent", "lekiwi-relay"] {
        ensure!(users.contains_key(user), "{user} was not made: {users:?}");
    }
    for unit in files(&[".service"])? {
        for line in std::fs::read_to_string(&unit)?.lines() {
            let wanted = line
                .strip_prefix("SupplementaryGroups=")
                .or_else(|| line.strip_prefix("Group="));
            for group in wanted.unwrap_or_default().split_whitespace() {
                ensure!(
                    groups.contains_key(group) || group == "root",
                    "{} wants the group {group}, which is not made",
                    name(&unit)
                );
            }
        }
    }

    let made = systemd(
        "systemd-tmpfiles",
        &[&into, "--create"],
        &absolute(&[".tmpfiles.conf"])?,
    )?;
    ensure!(made.status.success(), "{}", said(&made));
    let agent = users["lekiwi-agent"];
    for (path, mode, user, group) in [
        ("opt/lekiwi-agent", 0o755, 0, 0),
        (
            "opt/lekiwi-agent/state",
            0o700,
            agent,
            groups["lekiwi-agent"],
        ),
        ("etc/lekiwi", 0o750, 0, groups["lekiwi-agent"]),
    ] {
        let metadata = root.path().join(path).metadata()?;
        let found = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        ensure!(
            found == (mode, user, group),
            "{path}: expected mode, user and group {:?}, got {found:?}",
            (mode, user, group)
        );
    }
    Ok(())
}

/// With their whole paths: with another root, the tools look names up there.
fn absolute(endings: &[&str]) -> Result<Vec<PathBuf>> {
    files(endings)?
        .iter()
        .map(|path| Ok(path.canonicalize()?))
        .collect()
}
