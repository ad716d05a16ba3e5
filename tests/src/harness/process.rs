//! A child process that cannot outlive its test.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::secrets;

/// How long a child may take to stop by itself.
const GRACE: Duration = Duration::from_secs(10);

/// A child with its output in a file, which is shown when the test fails.
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts `program`; its output is appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<A: Into<OsString>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, OsString)],
        log: &Path,
    ) -> Result<Self> {
        let mut process = Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: environment
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect(),
            log: log.to_owned(),
            child: None,
        };
        process.spawn()?;
        Ok(process)
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        // The kernel ends the child when this process dies, even by SIGKILL.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!(
                    "expected to start {} by setpriv (util-linux)",
                    self.program.display()
                )
            })?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts it again as before, with other arguments where given.
    ///
    /// # Errors
    /// When it still runs or cannot be started.
    pub fn restart(&mut self, arguments: Option<Vec<OsString>>) -> Result<()> {
        ensure!(self.child.is_none(), "{} still runs", self.name);
        if let Some(arguments) = arguments {
            self.arguments = arguments;
        }
        self.spawn()
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to stop (SIGTERM), and waits.
    ///
    /// # Errors
    /// When it does not stop by itself.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let child = self
            .child
            .as_ref()
            .with_context(|| format!("{} does not run", self.name))?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill()?;
        bail!("expected {} to stop within {GRACE:?} of SIGTERM", self.name)
    }

    /// How it ended, when it did.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let status = match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        };
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Everything it printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `ready` gives something; fails when the child ends first.
    ///
    /// # Errors
    /// With the child's last lines, when it ends or the time is over.
    pub fn wait_for<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(ready) = ready() {
                return Ok(ready);
            }
            if let Some(status) = self.exited()? {
                bail!(
                    "expected {what}, but {} ended with {status}:\n{}",
                    self.name,
                    self.last_lines()
                );
            }
            ensure!(
                Instant::now() < deadline,
                "expected {what} of {} within 60 s:\n{}",
                self.name,
                self.last_lines()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it is a program of this project, by itself or below another that runs it elsewhere.
    fn is_ours(&self) -> bool {
        let words = self.arguments.iter().map(Path::new);
        let mut words = words.chain([self.program.as_path()]);
        words.any(|word| {
            let name = word.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("lekiwi-"))
        })
    }

    fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(60)..)
            .unwrap_or_default()
            .join("\n")
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "the log of a failed test")]
    fn drop(&mut self) {
        let _ = self.kill();
        if std::thread::panicking() {
            eprintln!("---- last lines of {}\n{}", self.name, self.last_lines());
        } else if self.is_ours() {
            secrets::check(&self.log);
        }
    }
}

/// A TCP port of the loopback interface that is free now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Polls `condition` until it gives something.
///
/// # Errors
/// When the time is over; `what` says what was waited for.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(met) = condition() {
            return Ok(met);
        }
        ensure!(
            Instant::now() < deadline,
            "expected {what} within {limit:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Finds a program of the system.
///
/// # Errors
/// With the command that installs it.
pub fn program(name: &str, package: &str) -> Result<PathBuf> {
    let found = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.with_context(|| format!("{name} is missing (hint: apt-get install -y {package})"))
}

/// A program of this workspace, of the profile that this one was built in; `LEKIWI_BIN_DIR` names another
/// folder.
///
/// # Errors
/// With the command that builds it.
pub fn target(name: &str, package: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("LEKIWI_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe()?;
            // target/<profile>/deps/<test> or target/<profile>/<program>
            let folder = own.parent().context("a program lies in a folder")?;
            if folder.ends_with("deps") {
                folder.parent().context("deps lies in a folder")?.to_owned()
            } else {
                folder.to_owned()
            }
        }
    };
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "expected {} (hint: cargo build -p {package}, in the same profile)",
        path.display()
    );
    Ok(path)
}
