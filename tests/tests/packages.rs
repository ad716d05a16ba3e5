//! A robot's installed packages, from its package manager's database to somebody's terminal.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::api::{CommandList, PackagesView, RobotView};
use lekiwi_protocol::message::{CommandState, Op};
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Agent, Relay, target};
use serde_json::Value;

const ROBOT: &str = "kiwi-01";
const PATIENCE: Duration = Duration::from_secs(60);
/// As many as a desktop has; more than a piece of an upload takes.
const PACKAGES: usize = 1700;

/// dpkg's database below `root`, with every package at this version.
fn install(root: &Path, version: &str) -> Result<()> {
    let folder = root.join("var/lib/dpkg");
    std::fs::create_dir_all(&folder)?;
    let paragraph = |number| {
        format!(
            "Package: libnumber{number:0>32}\nStatus: install ok installed\nArchitecture: arm64\nVersion: {version}\n\
             Description: one of many\n\n"
        )
    };
    let text: String = (0..PACKAGES).map(paragraph).collect();
    // As dpkg does it.
    std::fs::write(folder.join("status-new"), text)?;
    std::fs::rename(folder.join("status-new"), folder.join("status"))?;
    Ok(())
}

struct Site {
    relay: Relay,
    admin: Admin,
    agent: Agent,
    folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        install(folder.path(), "1.0")?;
        let relay = Relay::start()?;
        let admin =
            Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
        let agent = Agent::start_program(
            &relay,
            ROBOT,
            &relay.token(&["--robot", ROBOT])?,
            &target("lekiwi-agent", "lekiwi-agent")?,
            &["--root".into(), folder.path().as_os_str().to_owned()],
        )?;
        Ok(Self {
            relay,
            admin,
            agent,
            folder,
        })
    }

    /// The digest in the robot's state, once it is another one than `before`.
    async fn digest(&self, before: Option<&str>) -> Result<String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let robot = self.admin.read(&format!("/api/v1/robots/{ROBOT}")).await;
            let installed = robot
                .ok()
                .and_then(|robot: RobotView| robot.deployment?.installed_packages);
            match installed {
                Some(installed) if before != Some(&installed.digest) => {
                    ensure!(installed.count as usize == PACKAGES, "got {installed:?}");
                    return Ok(installed.digest);
                }
                _ => {}
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "no digest of packages came"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How often the robot was asked.
    async fn asked(&self) -> Result<usize> {
        let path = format!("/api/v1/robots/{ROBOT}/commands");
        let list: CommandList = self.admin.read(&path).await?;
        for command in &list.commands {
            ensure!(
                command.op == Op::ListPackages && command.state == CommandState::Successful,
                "got {command:?}"
            );
        }
        Ok(list.commands.len())
    }

    fn lekiwi(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(target("lekiwi", "lekiwi-cli")?)
            .args(arguments)
            .env("XDG_CONFIG_HOME", self.folder.path())
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn packages(&self) -> Result<PackagesView> {
        let list: PackagesView =
            serde_json::from_str(&self.lekiwi(&["packages", ROBOT, "--json"])?)?;
        ensure!(list.packages.len() == PACKAGES, "got {list:?}");
        Ok(list)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_asked_for_when_its_digest_is_another_and_not_otherwise() -> Result<()> {
    let mut site = Site::start().await?;
    let digest = site.digest(None).await?;
    let path = format!("/api/v1/robots/{ROBOT}/packages");
    let answer = site.admin.get(&path).send().await?;
    let problem: Value = answer.json().await?;
    ensure!(
        problem["type"] == "urn:lekiwi:problem:packages-unknown"
            && problem["detail"] == "kiwi-01 was not asked for its packages, or that was long ago"
            && problem["hint"] == "`lekiwi packages kiwi-01` asks for them",
        "got {problem}"
    );

    site.lekiwi(&[
        "login",
        site.admin.base(),
        "--ca-fingerprint",
        site.relay.ca_fingerprint(),
        "--password-file",
        &site.relay.admin_password_file().display().to_string(),
    ])?;
    let first = site.packages()?;
    let package = first.packages.last().context("packages")?;
    ensure!(
        first.digest == digest
            && first.is_current == Some(true)
            && package.name == format!("libnumber{:0>32}", PACKAGES - 1)
            && (package.architecture.as_str(), package.version.as_str()) == ("arm64", "1.0"),
        "expected {digest}, got {} {package:?}",
        first.digest
    );
    // Now the relay knows, also after a restart and while the robot is away.
    site.agent.kill()?;
    site.relay.kill()?;
    site.relay.restart()?;
    let shown = site.lekiwi(&["packages", ROBOT])?;
    ensure!(
        shown.starts_with("PACKAGE ")
            && shown.contains(&format!("\n{PACKAGES} packages, {digest}")),
        "got {shown}"
    );
    ensure!(site.asked().await? == 1);

    install(site.folder.path(), "1.1")?;
    site.agent.restart()?;
    let newer = site.digest(Some(&digest)).await?;
    let old: PackagesView = site.admin.read(&path).await?;
    ensure!(
        old.is_current == Some(false) && old.digest == digest,
        "got {}",
        old.digest
    );
    let second = site.packages()?;
    ensure!(
        second.digest == newer
            && second.is_current == Some(true)
            && second.packages[0].version == "1.1",
        "expected {newer}, got {} {:?}",
        second.digest,
        second.packages[0]
    );
    ensure!(site.asked().await? == 2);
    // Nothing stays on the robot.
    let left = std::fs::read_dir(site.agent.state_dir().join("logs"))?.count();
    ensure!(left == 0, "got {left} files");
    Ok(())
}
