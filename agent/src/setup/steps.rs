//! Carries the steps out, as root: writes files below the root folder and runs Debian's programs. Each
//! step stands being interrupted anywhere and done again.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lekiwi_agent_core::setup::Action;
use lekiwi_protocol::profile::Unit;

use super::{accounts, python};
use crate::program::{Limits, ProgramError, Stop, run};
use crate::storage::write_atomically;

/// Packages, wheels and overlays that a line without internet puts on the card.
pub(super) const CARD: &str = "/boot/firmware/lekiwi";
const DEVICE_RULES: &str = "/etc/udev/rules.d/70-lekiwi.rules";
const UNITS: &str = "/etc/systemd/system";

const QUICK: Limits = Limits {
    total: Duration::from_secs(5 * 60),
    silence: Duration::from_secs(5 * 60),
};
/// A slow card and a slow mirror.
const SLOW: Limits = Limits {
    total: Duration::from_secs(4 * 3600),
    silence: Duration::from_secs(30 * 60),
};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// A program did not do what it should.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A file or folder cannot be used.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Packages are not there although they were installed.
    #[error("expected the packages {0} to be on the card or to be had from Debian")]
    Packages(String),
    /// No Python will do.
    #[error("expected a python3 of at least {version} with venv")]
    Python {
        /// The profile's.
        version: String,
    },
    /// A repository does not have what the profile says.
    #[error("expected the folder {folder} in {source_of} at {commit}")]
    Overlay {
        /// The folder.
        folder: String,
        /// The repository or the card.
        source_of: String,
        /// The commit.
        commit: String,
    },
}

/// Attaches what was tried to an error of the file system.
pub(super) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StepError {
    let path = path.to_owned();
    move |source| StepError::File {
        doing,
        path,
        source,
    }
}

/// Where steps are carried out.
#[derive(Debug)]
pub(super) struct Workshop {
    root: PathBuf,
    /// A folder for what is only needed meanwhile; on the card, since `/tmp` may be memory.
    pub(super) scratch: PathBuf,
    /// The agent's account.
    agent: String,
    pub(super) stop: Stop,
}

impl Workshop {
    pub(super) fn new(root: &Path, scratch: PathBuf, stop: Stop) -> Self {
        Self {
            root: root.to_owned(),
            scratch,
            agent: "lekiwi-agent".to_owned(),
            stop,
        }
    }

    /// An absolute path of the robot, below the root folder.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) async fn carry_out(&mut self, action: &Action) -> Result<(), StepError> {
        match action {
            Action::Packages(names) => self.packages(names).await,
            Action::Groups(names) => self.groups(names).await,
            Action::DeviceRules(rules) => self.device_rules(rules).await,
            Action::File(file) => self.write(&file.path, &file.content, file.mode_bits()),
            Action::Python(python) => python::make(self, python).await,
            Action::Unit(unit) => self.unit(unit).await,
        }
    }

    pub(super) async fn quick(
        &mut self,
        program: &str,
        arguments: &[&str],
    ) -> Result<(), StepError> {
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(run(command, QUICK, &mut self.stop).await?)
    }

    pub(super) async fn slow(&mut self, command: Command) -> Result<(), StepError> {
        Ok(run(command, SLOW, &mut self.stop).await?)
    }

    fn write(&self, path: &str, content: &str, mode: u32) -> Result<(), StepError> {
        let path = self.at(path);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(file("make", folder))?;
        write_atomically(&path, content.as_bytes(), mode).map_err(file("write", &path))
    }

    async fn packages(&mut self, names: &[String]) -> Result<(), StepError> {
        let missing = self.missing(names);
        if missing.is_empty() {
            return Ok(());
        }
        // What dpkg did not finish when the power went, apt-get refuses to go on from.
        let half_done = self.is_half_done();
        if half_done {
            let mut dpkg = Command::new("dpkg");
            dpkg.args(["--force-confdef", "--force-confold", "--configure", "-a"]);
            match self.apt(dpkg).await {
                // A package that waits for one that is not there yet.
                Err(StepError::Program(ProgramError::Stopped)) => {
                    return Err(ProgramError::Stopped.into());
                }
                Err(error) => log::warn!("{error}"),
                Ok(()) => {}
            }
        }
        let card = with_ending(&self.at(&format!("{CARD}/packages")), &[".deb"]);
        let on_card = !card.is_empty();
        if on_card {
            self.install(card.into_iter().map(OsString::from)).await?;
        }
        let missing = if on_card {
            self.missing(names)
        } else {
            missing
        };
        if missing.is_empty() {
            return Ok(());
        }
        let mut update = Command::new("apt-get");
        update.args(["update", "-q", "-o", "Acquire::Retries=3"]);
        self.apt(update).await?;
        if half_done {
            self.install(std::iter::once("--fix-broken".into())).await?;
        }
        self.install(missing.into_iter().map(OsString::from))
            .await?;
        match self.missing(names) {
            missing if missing.is_empty() => Ok(()),
            missing => Err(StepError::Packages(missing.join(", "))),
        }
    }

    async fn install(&mut self, what: impl Iterator<Item = OsString>) -> Result<(), StepError> {
        let mut install = Command::new("apt-get");
        install
            .args(["install", "-y", "-q", "--no-install-recommends"])
            // Somebody else's apt may run, such as the daily upgrade.
            .args(["-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=3"])
            .args(["-o", "Dpkg::Options::=--force-confdef"])
            .args(["-o", "Dpkg::Options::=--force-confold"])
            .args(what);
        self.apt(install).await
    }

    async fn apt(&mut self, mut command: Command) -> Result<(), StepError> {
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8");
        self.slow(command).await
    }

    /// Whether dpkg was interrupted.
    fn is_half_done(&self) -> bool {
        let updates = self.at("/var/lib/dpkg/updates");
        let status = fs::read_to_string(self.at("/var/lib/dpkg/status")).unwrap_or_default();
        let at_rest = [" installed", " config-files", " not-installed"];
        fs::read_dir(updates).is_ok_and(|mut entries| entries.next().is_some())
            || status
                .lines()
                .filter(|line| line.starts_with("Status: "))
                .any(|line| !at_rest.iter().any(|state| line.ends_with(state)))
    }

    /// Which of `names` dpkg does not have, by that name or as something that a package provides: Debian renames
    /// (`libglib2.0-0` is `libglib2.0-0t64` since trixie).
    fn missing(&self, names: &[String]) -> Vec<String> {
        let status = fs::read_to_string(self.at("/var/lib/dpkg/status")).unwrap_or_default();
        let mut installed = std::collections::BTreeSet::new();
        let (mut package, mut is_installed) = ("", false);
        for line in status.lines() {
            if let Some(name) = line.strip_prefix("Package: ") {
                (package, is_installed) = (name, false);
            } else if line == "Status: install ok installed" || line == "Status: hold ok installed"
            {
                is_installed = true;
                installed.insert(package);
            } else if is_installed && let Some(names) = line.strip_prefix("Provides: ") {
                // Such as `libglib2.0-0 (= 2.84.4-3), other`.
                let names = names.split(',');
                installed.extend(names.filter_map(|name| name.split_whitespace().next()));
            }
        }
        let missing = |name: &&String| !installed.contains(name.as_str());
        names.iter().filter(missing).cloned().collect()
    }

    async fn groups(&mut self, names: &[String]) -> Result<(), StepError> {
        let read = |path: &str| fs::read_to_string(self.at(path)).unwrap_or_default();
        let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
        for name in names {
            if accounts::members(&group, name).is_none() {
                self.quick("groupadd", &["--system", "--force", name])
                    .await?;
            }
            let members = accounts::members(&group, name).unwrap_or_default();
            for user in accounts::users_of_devices(&passwd, &self.agent) {
                if !members.contains(&user) {
                    self.quick("usermod", &["--append", "--groups", name, user])
                        .await?;
                }
            }
        }
        Ok(())
    }

    async fn device_rules(&mut self, rules: &str) -> Result<(), StepError> {
        self.write(DEVICE_RULES, rules, 0o644)?;
        self.quick("udevadm", &["control", "--reload"]).await?;
        // Devices that are there already get their rules now.
        let subsystems = ["tty", "usb", "video4linux", "input", "hidraw"];
        let mut arguments = vec!["trigger".to_owned()];
        arguments.extend(subsystems.map(|name| format!("--subsystem-match={name}")));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.quick("udevadm", &arguments).await
    }

    /// Ends a unit that no profile asks for any more.
    pub(super) async fn dismiss(&mut self, name: &str) -> Result<(), StepError> {
        let path = self.at(&format!("{UNITS}/{name}"));
        if !path.exists() {
            return Ok(());
        }
        self.quick("systemctl", &["disable", "--now", name]).await?;
        fs::remove_file(&path).map_err(file("remove", &path))?;
        self.quick("systemctl", &["daemon-reload"]).await
    }

    async fn unit(&mut self, unit: &Unit) -> Result<(), StepError> {
        let name = unit.name.as_str();
        self.write(&format!("{UNITS}/{name}"), &unit.content, 0o644)?;
        self.quick("systemctl", &["daemon-reload"]).await?;
        self.quick("systemctl", &["enable", name]).await?;
        // Starts it, or has a running one take up what is new.
        self.quick("systemctl", &["restart", name]).await
    }
}

/// The files of `folder` that end so, sorted; none when there is no such folder.
pub(super) fn with_ending(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            endings.iter().any(|ending| name.ends_with(ending))
        })
        .collect();
    files.sort();
    files
}
