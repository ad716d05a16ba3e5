//! Runs the programs that build: each in a process group of its own, output into a log whose end is shown on
//! failure, stopped when asked to. Owns the folder they work in.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::BuildError;
use crate::watch::Watch;

/// How long a stopped program may clean up (mmdebstrap unmounts).
const GRACE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// How much of a failed program's output is shown.
const TAIL_LINES: usize = 15;

/// A temporary folder in the cache, and how programs run.
pub(super) struct Workshop<'a> {
    folder: tempfile::TempDir,
    log: PathBuf,
    epoch: u64,
    watch: &'a dyn Watch,
}

impl<'a> Workshop<'a> {
    pub(super) fn open(cache: &Path, epoch: u64, watch: &'a dyn Watch) -> Result<Self, BuildError> {
        let folder = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(cache)
            .map_err(BuildError::file("create a folder in", cache))?;
        Ok(Self {
            log: cache.join("build.log"),
            folder,
            epoch,
            watch,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn watch(&self) -> &dyn Watch {
        self.watch
    }

    /// Runs one program; `step` says what for.
    pub(super) fn run(
        &self,
        step: &str,
        program: &str,
        words: &[&str],
        paths: &[&Path],
    ) -> Result<(), BuildError> {
        let mut command = Command::new(program);
        command.args(words).args(paths);
        self.command(step, command)
    }

    /// Runs a program inside another root.
    pub(super) fn inside(
        &self,
        step: &str,
        root: &Path,
        words: &[impl AsRef<OsStr>],
    ) -> Result<(), BuildError> {
        let mut command = Command::new("chroot");
        command.arg(root).args(words).env("HOME", "/root");
        self.command(step, command)
    }

    /// Runs a prepared command.
    pub(super) fn command(&self, step: &str, mut command: Command) -> Result<(), BuildError> {
        let mut log = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(&self.log)
            .map_err(BuildError::file("write", &self.log))?;
        let start = log
            .seek(SeekFrom::End(0))
            .map_err(BuildError::file("read", &self.log))?;
        let output = || {
            log.try_clone()
                .map_err(BuildError::file("write", &self.log))
        };
        let program = PathBuf::from(command.get_program());
        let mut child = command
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(output()?)
            .stderr(output()?)
            .process_group(0)
            .spawn()
            .map_err(BuildError::file("start", &program))?;
        let status = self.wait(&mut child, &program)?;
        if status.success() {
            return Ok(());
        }
        Err(BuildError::Program {
            step: step.to_owned(),
            status: status.to_string(),
            tail: tail(&mut log, start),
        })
    }

    /// What a program says, on either stream.
    pub(super) fn read(&self, step: &str, mut command: Command) -> Result<String, BuildError> {
        let path = self.path("said");
        let program = PathBuf::from(command.get_program());
        let said = File::create(&path).map_err(BuildError::file("write", &path))?;
        let mut child = command
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stderr(said.try_clone().map_err(BuildError::file("write", &path))?)
            .stdout(said)
            .process_group(0)
            .spawn()
            .map_err(BuildError::file("start", &program))?;
        let status = self.wait(&mut child, &program)?;
        let bytes = fs::read(&path).map_err(BuildError::file("read", &path))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if status.success() {
            return Ok(text);
        }
        Err(BuildError::Program {
            step: step.to_owned(),
            status: status.to_string(),
            tail: last_lines(&text),
        })
    }

    fn wait(&self, child: &mut Child, program: &Path) -> Result<ExitStatus, BuildError> {
        let failed = |source| BuildError::File {
            what: "wait for",
            path: program.to_owned(),
            source,
        };
        let mut left: Option<Duration> = None;
        loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                return if left.is_some() {
                    Err(BuildError::Stopped)
                } else {
                    Ok(status)
                };
            }
            left = match left {
                None if self.watch.stopped() => {
                    signal(child, Signal::SIGTERM);
                    Some(GRACE)
                }
                Some(Duration::ZERO) => {
                    signal(child, Signal::SIGKILL);
                    Some(GRACE)
                }
                Some(left) => Some(left.saturating_sub(POLL)),
                None => None,
            };
            std::thread::sleep(POLL);
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    // It may have ended by itself meanwhile.
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

fn tail(log: &mut File, start: u64) -> String {
    let mut bytes = Vec::new();
    // Only for a message; an unreadable log gives an empty one.
    let _ = log.seek(SeekFrom::Start(start));
    let _ = log.read_to_end(&mut bytes);
    last_lines(&String::from_utf8_lossy(&bytes))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Writes a file with its folders.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(BuildError::file("create", folder))?;
    }
    fs::write(path, bytes).map_err(BuildError::file("write", path))
}
