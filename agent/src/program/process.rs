//! A child process and all that it started: how it begins and ends. Used by [`super`] and by the collecting of
//! logs. Nothing here waits for the kernel: a process that SIGKILL does not end at once, because a disk or a
//! driver does not answer, would hold up the one thread that the agent has. What has not ended when nobody needs
//! it any more is looked after by [`reap`].

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::clock;

/// Time between two looks whether a process has ended.
const LOOK: Duration = Duration::from_millis(50);
/// How long after SIGKILL somebody waits who has the time.
const KILLED: Duration = Duration::from_secs(1);
/// Most killed processes that are looked after.
const MOST_LEFT: usize = 64;

/// Killed, and not known to have ended.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Takes away what has ended of the processes that were killed. For whoever passes by regularly.
pub(crate) fn reap() {
    LEFT.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain_mut(is_left);
}

fn is_left(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}

#[expect(
    clippy::zombie_processes,
    reason = "to wait for it is what must not be done here"
)]
fn look_after(child: Child) {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain_mut(is_left);
    if left.len() == MOST_LEFT {
        // Should it ever end, its number stays taken for as long as the agent lives.
        log::error!("{MOST_LEFT} processes do not end although they were killed");
        left.remove(0);
    }
    left.push(child);
}

/// Lets SIGKILL end `command` when the thread that starts it ends, however that ends: a thread that was killed has
/// no drop. What the program has started itself by then goes on.
pub(crate) fn end_with_us(command: &mut Command) {
    let parent = std::process::id();
    let bind = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have ended before.
        if std::os::unix::process::parent_id() == parent {
            Ok(())
        } else {
            Err(io::Error::from(Errno::ESRCH))
        }
    };
    #[expect(
        unsafe_code,
        reason = "this is how a child is told before its program starts"
    )]
    // SAFETY: two system calls, and no memory is asked for.
    unsafe {
        command.pre_exec(bind);
    }
}

/// The first process of a group of its own. The group is killed when this is dropped, unless its first process
/// was seen to end.
#[derive(Debug)]
pub(crate) struct Process {
    /// There until the drop.
    child: Option<Child>,
    is_over: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let _ = self.signal(Signal::SIGKILL);
        if let Some(mut child) = self.child.take()
            && is_left(&mut child)
        {
            look_after(child);
        }
    }
}

impl Process {
    /// Starts `command` at once.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        reap();
        Ok(Self {
            child: Some(command.process_group(0).spawn()?),
            is_over: false,
        })
    }

    /// The writing end of its input, once, where that is a pipe.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.as_mut()?.stdin.take()
    }

    /// The reading end of its output, once, where that is a pipe.
    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.as_mut()?.stdout.take()
    }

    /// How it ended, if it has. What it started may go on from then on.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.look()?;
        self.is_over |= status.is_some();
        Ok(status)
    }

    /// Ends it and what it started: by SIGTERM, and by SIGKILL after `patience`.
    pub(crate) async fn stop(&mut self, patience: Duration) {
        for (signal, patience) in [(Signal::SIGTERM, patience), (Signal::SIGKILL, KILLED)] {
            let _ = self.signal(signal);
            let until = clock::now() + patience;
            while clock::now() < until {
                // Without a process left in it there is no such group. What the first one started may outlive it.
                if matches!(self.look(), Ok(Some(_))) && self.signal(None).is_err() {
                    self.is_over = true;
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    fn look(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }

    fn signal(&self, signal: impl Into<Option<Signal>>) -> nix::Result<()> {
        let id = self.child.as_ref().map(Child::id).ok_or(Errno::ESRCH)?;
        let id = i32::try_from(id).map_err(|_| Errno::ESRCH)?;
        killpg(Pid::from_raw(id), signal)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::{Path, PathBuf};

    use nix::sys::signal::kill;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    fn shell(script: &str) -> Process {
        Process::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    /// Whether it runs; a zombie does not.
    fn is_alive(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = clock::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(clock::now() < deadline, "never came about: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The number that a script has written into a file.
    async fn pid(file: &Path) -> i32 {
        let read = || std::fs::read_to_string(file).ok()?.trim().parse().ok();
        until("a number is written", || read().is_some()).await;
        read().unwrap()
    }

    fn file(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("pid")
    }

    #[tokio::test]
    async fn what_is_bound_to_its_starter_does_not_outlive_it() {
        use std::os::unix::process::ExitStatusExt;

        let begin = || {
            let mut command = Command::new("sleep");
            end_with_us(command.arg("1000"));
            command.spawn().unwrap()
        };
        let mut stays = begin();
        let mut goes = std::thread::spawn(begin).join().unwrap();
        let deadline = clock::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = goes.try_wait().unwrap() {
                break status;
            }
            assert!(clock::now() < deadline, "it outlives its starter");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
        assert_eq!(stays.try_wait().unwrap(), None);
        stays.kill().unwrap();
        stays.wait().unwrap();
    }

    #[tokio::test]
    async fn what_ends_by_sigterm_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("echo $$ > {}; exec sleep 1000", file(&folder).display());
        let mut process = shell(&script);
        let pid = pid(&file(&folder)).await;
        let begun = clock::now();
        process.stop(Duration::from_secs(60)).await;
        assert!(clock::now().duration_since(begun) < Duration::from_secs(30));
        assert!(process.is_over && !is_alive(pid));
    }

    #[tokio::test]
    async fn what_ignores_sigterm_is_killed_after_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let at = file(&folder);
        // What is ignored stays so for the programs that it becomes and starts.
        let script = format!("trap '' TERM; echo $$ > {}; exec sleep 1000", at.display());
        let mut process = shell(&script);
        let pid = pid(&at).await;
        let begun = clock::now();
        process.stop(PATIENCE).await;
        assert!(clock::now().duration_since(begun) >= PATIENCE);
        until("it is killed", || !is_alive(pid)).await;
    }

    #[tokio::test]
    async fn what_the_first_process_leaves_behind_goes_too() {
        let folder = tempfile::tempdir().unwrap();
        let at = file(&folder);
        // The shell ends by SIGTERM, what it started does not.
        let script = format!(
            "(trap '' TERM; exec sleep 1000) & echo $! > {}; wait",
            at.display()
        );
        let mut process = shell(&script);
        let first = i32::try_from(process.child.as_ref().unwrap().id()).unwrap();
        let second = pid(&at).await;
        // SIGTERM is number 15, the first bit number 1.
        let ignores = || {
            let status =
                std::fs::read_to_string(format!("/proc/{second}/status")).unwrap_or_default();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
            let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            mask.is_some_and(|mask| mask >> 14 & 1 == 1)
        };
        until("it ignores SIGTERM", ignores).await;
        let begun = clock::now();
        process.stop(PATIENCE).await;
        assert!(clock::now().duration_since(begun) >= PATIENCE);
        assert!(!is_alive(first));
        until("the second is killed", || !is_alive(second)).await;
    }

    #[tokio::test]
    async fn what_does_not_end_when_it_is_killed_holds_nobody_up_and_is_taken_away_later() {
        // Not in a group of its own, so that the killing misses it: as good as one that waits for a dead disk.
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let begun = clock::now();
        drop(Process {
            child: Some(child),
            is_over: false,
        });
        assert!(clock::now().duration_since(begun) < Duration::from_secs(10));
        reap();
        assert!(is_alive(pid), "it is left");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let exists = || Path::new(&format!("/proc/{pid}")).exists();
        until("nothing is left of it", || {
            reap();
            !exists()
        })
        .await;

        // In the same test, since it throws out what others have left.
        let begin = || {
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            look_after(child);
            pid
        };
        let pids: Vec<Pid> = (0..MOST_LEFT + 2).map(|_| begin()).collect();
        let count = LEFT.lock().unwrap().len();
        for pid in pids {
            kill(pid, Signal::SIGKILL).unwrap();
        }
        assert_eq!(count, MOST_LEFT);
    }
}
