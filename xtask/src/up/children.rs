//! Programs that run until they are told to stop: their logs with a prefix, their ends noticed, their
//! stopping in the order opposite to their start. They end with this process, however it ends: each is
//! started through `setpriv --pdeathsig`, which needs no unsafe code, and by the main thread, because
//! that signal follows the starting thread.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::clock;
use crate::ui::{self, Colour};

/// How often ends are looked for.
const POLL: Duration = Duration::from_millis(50);
/// How long a child may take to stop by itself.
const GRACE: Duration = Duration::from_secs(15);

/// Why [`Children::watch`] came back.
#[derive(Debug)]
pub(super) enum Ended {
    /// Ctrl-C or a signal asked to stop.
    BySignal,
    /// A child ended by itself.
    Child {
        /// Which.
        name: &'static str,
        /// How.
        status: ExitStatus,
    },
}

/// Running programs.
pub(super) struct Children {
    running: Vec<Running>,
    signals: Receiver<i32>,
}

struct Running {
    name: &'static str,
    child: Child,
    logs: Vec<JoinHandle<()>>,
}

impl Children {
    /// None yet; from now on signals are caught.
    pub(super) fn new() -> Result<Self> {
        let mut caught =
            Signals::new([SIGINT, SIGTERM, SIGHUP]).context("could not catch signals")?;
        let (sender, signals) = channel();
        std::thread::spawn(move || {
            for signal in caught.forever() {
                if sender.send(signal).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            running: Vec::new(),
            signals,
        })
    }

    /// Starts a program in a process group of its own, so that Ctrl-C at the terminal reaches only us.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        colour: Colour,
        command: &Command,
    ) -> Result<()> {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {name} through setpriv"))?;
        let mut logs = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            logs.push(follow(name, colour, stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            logs.push(follow(name, colour, stderr));
        }
        self.running.push(Running { name, child, logs });
        Ok(())
    }

    /// Polls `ready` until it gives something; `None` when a signal asked to stop meanwhile.
    pub(super) fn until<T>(
        &mut self,
        limit: Duration,
        what: &str,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        let deadline = clock::now() + limit;
        loop {
            if let Some(ready) = ready() {
                return Ok(Some(ready));
            }
            match self.look()? {
                Some(Ended::BySignal) => return Ok(None),
                Some(Ended::Child { name, status }) => bail!(
                    "expected {what}, but {name} ended: {status}\n  (hint: its last lines above say why)"
                ),
                None => {}
            }
            if clock::now() >= deadline {
                bail!("expected {what} within {limit:?}");
            }
        }
    }

    /// Waits for a signal or the end of a child.
    pub(super) fn watch(&mut self) -> Result<Ended> {
        loop {
            if let Some(ended) = self.look()? {
                return Ok(ended);
            }
        }
    }

    /// Waits a moment, then tells what happened.
    fn look(&mut self) -> Result<Option<Ended>> {
        match self.signals.recv_timeout(POLL) {
            Ok(_) => return Ok(Some(Ended::BySignal)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("signals are no longer caught"),
        }
        for place in 0..self.running.len() {
            if let Some(status) = self.running[place].child.try_wait()? {
                let ended = self.running.remove(place);
                let name = ended.name;
                ended.drain();
                return Ok(Some(Ended::Child { name, status }));
            }
        }
        Ok(None)
    }

    /// Stops all, the last started first: SIGTERM, and SIGKILL when that does not help in time or a
    /// second signal shows impatience.
    pub(super) fn stop(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        let mut impatient = false;
        while let Some(mut running) = self.running.pop() {
            ui::step(format_args!("stopping {}", running.name));
            let process = Pid::from_raw(i32::try_from(running.child.id())?);
            kill(process, Signal::SIGTERM).ok(); // it may have ended just now
            let deadline = clock::now() + GRACE;
            let status = loop {
                if let Some(status) = running.child.try_wait()? {
                    break status;
                }
                if impatient || clock::now() >= deadline {
                    ui::say(format_args!("killing {}", running.name));
                    running.child.kill()?;
                    break running.child.wait()?;
                }
                impatient |= self.signals.recv_timeout(POLL).is_ok();
            };
            let name = running.name;
            running.drain();
            if !status.success() && status.signal() != Some(SIGTERM) {
                outcome = Err(anyhow::anyhow!("{name} did not stop cleanly: {status}"));
            }
        }
        outcome
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for running in &mut self.running {
            running.child.kill().ok();
            running.child.wait().ok();
        }
    }
}

impl Running {
    /// Shows the rest of its log.
    fn drain(self) {
        for log in self.logs {
            log.join().ok();
        }
    }
}

/// Shows each line of `source` after the program's name.
fn follow(
    name: &'static str,
    colour: Colour,
    source: impl Read + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let prefix = ui::paint(colour, format_args!("{name} │"));
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while source
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line);
            ui::say(format_args!(
                "{prefix} {}",
                text.trim_end_matches(['\n', '\r'])
            ));
            line.clear();
        }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn with(script: &str) -> Children {
        let mut children = Children::new().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        children.start("child", Colour::Dim, &shell).unwrap();
        children
    }

    #[test]
    fn the_end_of_a_child_is_noticed_with_its_status() {
        let ended = with("exit 3").watch().unwrap();
        assert!(
            matches!(&ended, Ended::Child { name: "child", status } if status.code() == Some(3)),
            "{ended:?}"
        );
    }

    #[test]
    fn waiting_for_a_child_that_ends_says_so() {
        let error = with("exit 3")
            .until(GRACE, "a miracle", || None::<()>)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "expected a miracle, but child ended: exit status: 3\n  (hint: its last lines above say why)"
        );
    }

    #[test]
    fn waiting_has_an_end() {
        let error = with("exec sleep 60")
            .until(Duration::from_millis(10), "a miracle", || None::<()>)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "expected a miracle within 10ms");
    }

    #[test]
    fn children_stop_when_asked() {
        with("exec sleep 60").stop().unwrap();
    }

    #[test]
    fn a_child_that_fails_to_stop_cleanly_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let mut children = with(&format!(
            "trap 'exit 9' TERM; touch {}; while :; do sleep 0.01; done",
            ready.display()
        ));
        children
            .until(GRACE, "the trap", || ready.exists().then_some(()))
            .unwrap();
        assert_eq!(
            children.stop().unwrap_err().to_string(),
            "child did not stop cleanly: exit status: 9"
        );
    }
}
