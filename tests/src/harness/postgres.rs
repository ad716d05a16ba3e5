//! A real PostgreSQL in a temporary folder, run by an unprivileged user.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::namespace::Host;
use super::process::{Process, free_port};

/// A running PostgreSQL with one empty database `postgres`, reached without a password on the loopback interface, or
/// from the network of its host.
pub struct Postgres {
    process: Process,
    address: Ipv4Addr,
    port: u16,
    files: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_on(None)
    }

    /// Makes a cluster on a machine, or on this one, and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub fn start_on(host: Option<&Host>) -> Result<Self> {
        let address = host.map_or(Ipv4Addr::LOCALHOST, Host::address);
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
        if let Some(host) = host {
            let rules = format!("host all all {}/24 trust\n", host.address());
            std::fs::write(data.join("pg_hba.conf"), rules)?;
        }
        let port = free_port()?;
        let mut arguments: Vec<std::ffi::OsString> = unprivileged.iter().map(Into::into).collect();
        arguments.extend([
            programs.join("postgres").into_os_string(),
            "-D".into(),
            data.clone().into_os_string(),
            "-p".into(),
            port.to_string().into(),
            "-h".into(),
            address.to_string().into(),
            "-k".into(),
            data.into_os_string(),
        ]);
        let log = files.path().join("postgres.log");
        let setpriv = super::process::program("setpriv", "util-linux")?;
        let process = match host {
            Some(host) => host.start("postgres", &setpriv, arguments, &[], &log)?,
            None => Process::start("postgres", &setpriv, arguments, &[], &log)?,
        };
        let mut server = Self {
            process,
            address,
            port,
            files,
        };
        server.wait()?;
        Ok(server)
    }

    fn wait(&mut self) -> Result<()> {
        let (socket, programs) = (self.files.path().join("cluster"), programs()?);
        let port = self.port.to_string();
        self.process
            .wait_for("a server that takes connections", || {
                let mut ready = Command::new(programs.join("pg_isready"));
                let status = ready
                    .arg("-q")
                    .arg("-h")
                    .arg(&socket)
                    .args(["-p", &port])
                    .status();
                status.ok().filter(std::process::ExitStatus::success)
            })
            .map(drop)
    }

    /// SIGKILL to all of it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it on what is there, after it was killed.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume(&mut self) -> Result<()> {
        self.process.restart(None)?;
        self.wait()
    }

    /// Connection parameters.
    #[must_use]
    pub fn url(&self) -> String {
        // It has no certificate.
        let Self { address, port, .. } = self;
        format!("postgres://postgres@{address}:{port}/postgres?sslmode=disable")
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
