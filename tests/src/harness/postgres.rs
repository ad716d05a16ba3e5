//! A real PostgreSQL in a temporary folder, run by an unprivileged user.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::process::{Process, free_port};

/// A running PostgreSQL with one empty database `postgres`, reached without a password on the loopback interface.
pub struct Postgres {
    _process: Process,
    port: u16,
    _files: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub fn start() -> Result<Self> {
        let programs = programs()?;
        let files = tempfile::tempdir()?;
        // The server refuses to run as root, so the cluster belongs to somebody else.
        std::fs::set_permissions(files.path(), std::fs::Permissions::from_mode(0o755))?;
        let data = files.path().join("cluster");
        std::fs::create_dir(&data)?;
        let root = nix::unistd::Uid::effective().is_root();
        if root {
            let user = nix::unistd::User::from_name("postgres")?
                .context("expected the user postgres of the package")?;
            nix::unistd::chown(&data, Some(user.uid), Some(user.gid))?;
        }
        let unprivileged: &[&str] = if root {
            &[
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                "--",
            ]
        } else {
            &["--"]
        };
        let made = Command::new("setpriv")
            .args(unprivileged)
            .arg(programs.join("initdb"))
            .args([
                "--auth=trust",
                "--username=postgres",
                "--no-sync",
                "--pgdata",
            ])
            .arg(&data)
            .current_dir(files.path())
            .output()?;
        ensure!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = free_port()?;
        let mut arguments: Vec<std::ffi::OsString> = unprivileged.iter().map(Into::into).collect();
        arguments.extend([
            programs.join("postgres").into_os_string(),
            "-D".into(),
            data.clone().into_os_string(),
            "-p".into(),
            port.to_string().into(),
            "-h".into(),
            "127.0.0.1".into(),
            "-k".into(),
            data.into_os_string(),
        ]);
        let log = files.path().join("postgres.log");
        let setpriv = super::process::program("setpriv", "util-linux")?;
        let mut process = Process::start("postgres", &setpriv, arguments, &[], &log)?;
        process.wait_for("a server that takes connections", || {
            let mut ready = Command::new(programs.join("pg_isready"));
            let status = ready
                .args(["-q", "-h", "127.0.0.1", "-p"])
                .arg(port.to_string())
                .status();
            status.ok().filter(std::process::ExitStatus::success)
        })?;
        Ok(Self {
            _process: process,
            port,
            _files: files,
        })
    }

    /// Connection parameters.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

/// Debian keeps the server's programs below a folder of its major version.
fn programs() -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    versions.sort();
    versions
        .pop()
        .context("PostgreSQL is missing (hint: apt-get install -y postgresql)")
}
