//! Runs external programs: with the end of their output kept, and limits on their whole time and on their
//! silence. A program's process group goes with it when it is stopped or given up. Used by the setup, by
//! commands, and to ask a program that has the robot's key.

mod exchange;
mod process;

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::clock;
pub(crate) use exchange::exchange;
pub(crate) use process::{Process, end_with_us, reap};

/// How much of the end of a program's output is kept, in bytes.
const TAIL_BYTES: usize = 2048;
/// How many lines of it a reason has.
const TAIL_LINES: usize = 6;
/// What is read of it at a time.
const CHUNK_BYTES: usize = 4096;
/// How often that is done of what a program has left in its pipe: as much as a pipe holds.
const LAST_READS: usize = 16;
/// How long a program has after SIGTERM.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Why a program did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// It cannot be started.
    #[error("expected the program {name}")]
    Start {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended, but not well.
    #[error("expected `{line}` to succeed, got {status}{tail}")]
    Failed {
        /// Program and arguments.
        line: String,
        /// Exit status or signal.
        status: ExitStatus,
        /// The end of its output, after a colon.
        tail: String,
    },
    /// It took too long, or said nothing for too long, and was stopped.
    #[error("expected `{line}` to end {limit}{tail}")]
    Late {
        /// Program and arguments.
        line: String,
        /// The limit that it passed.
        limit: String,
        /// The end of its output, after a colon.
        tail: String,
    },
    /// This process was asked to stop.
    #[error("stopped by a signal")]
    Stopped,
}

/// How long a program may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// In all.
    pub(crate) total: Duration,
    /// Without saying anything.
    pub(crate) silence: Duration,
}

/// SIGTERM and SIGINT, from when it is made.
#[derive(Debug)]
pub(crate) struct Stop {
    signals: Option<(Signals, Signals)>,
    asked: bool,
}

impl Stop {
    /// From now on these signals end no process but are told here.
    ///
    /// # Errors
    /// When signals cannot be caught.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            signals: Some((
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            )),
            asked: false,
        })
    }

    /// Asked by nobody: whoever waits gives up by dropping what it waits for.
    pub(crate) fn never() -> Self {
        Self {
            signals: None,
            asked: false,
        }
    }

    /// Returns once one came. Cancel-safe.
    pub(crate) async fn asked(&mut self) {
        if self.asked {
            return;
        }
        let Some((terminate, interrupt)) = &mut self.signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        self.asked = true;
    }

    /// Sleeps; says whether it was cut short by a signal.
    pub(crate) async fn during(&mut self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.asked()).await.is_ok()
    }
}

/// The end of a program's output.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..excess);
    }

    /// Adds what is there, of a program that has ended. A daemon that it left behind may go on writing: what a
    /// pipe holds is all that is read, asked of the system itself, since the runtime may not have heard of it yet.
    pub(crate) fn drain(&mut self, pipe: &Receiver) {
        let mut chunk = [0; CHUNK_BYTES];
        for _ in 0..LAST_READS {
            match nix::unistd::read(pipe, &mut chunk) {
                Ok(count @ 1..) => self.push(chunk.get(..count).unwrap_or_default()),
                _ => break,
            }
        }
    }

    /// The last lines in one, after a colon; nothing when there was no output.
    pub(crate) fn text(&self) -> String {
        match self.lines() {
            lines if lines.is_empty() => lines,
            lines => format!(": {lines}"),
        }
    }

    /// The last lines in one.
    fn lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let clean = |line: &str| {
            // A progress bar draws over itself: what stands is what was drawn last.
            let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
            let printable = |c: char| if c.is_control() { ' ' } else { c };
            line.chars()
                .map(printable)
                .collect::<String>()
                .trim()
                .to_owned()
        };
        let lines: Vec<String> = text
            .lines()
            .map(clean)
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join(" / ")
    }
}

/// Runs `command` to its end. The environment is that of this process, with what `command` adds.
///
/// # Errors
/// When it cannot be started, fails, takes too long, or `stop` was asked for meanwhile.
pub(crate) async fn run(
    command: Command,
    limits: Limits,
    stop: &mut Stop,
) -> Result<(), ProgramError> {
    Running::start(command)?.end(limits, stop).await.map(drop)
}

/// A program that runs; it ends, with all that it started, when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    line: String,
    process: Process,
    output: Receiver,
    ended: Signals,
}

impl Running {
    /// Starts `command` at once.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(command: Command) -> Result<Self, ProgramError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let line = line_of(&command);
        log::info!("{line}");
        let failed = |source| ProgramError::Start {
            name: name.clone(),
            source,
        };
        // Before the program starts, so that its end is not missed.
        let ended = signal(SignalKind::child()).map_err(failed)?;
        let (process, output) = spawn(command).map_err(failed)?;
        Ok(Self {
            line,
            process,
            output,
            ended,
        })
    }

    /// Waits for its end; the end of its output, in one line.
    ///
    /// # Errors
    /// When it fails, takes too long, or `stop` was asked for meanwhile.
    pub(crate) async fn end(
        mut self,
        limits: Limits,
        stop: &mut Stop,
    ) -> Result<String, ProgramError> {
        let line = self.line.clone();
        let mut tail = Tail::default();
        let mut open = true;
        let mut chunk = [0; CHUNK_BYTES];
        let deadline = clock::now() + limits.total;
        let mut quiet = clock::now() + limits.silence;
        loop {
            if let Ok(Some(status)) = self.process.ended() {
                tail.drain(&self.output);
                if status.success() {
                    return Ok(tail.lines());
                }
                let tail = tail.text();
                return Err(ProgramError::Failed { line, status, tail });
            }
            tokio::select! {
                read = self.output.read(&mut chunk), if open => match read {
                    Ok(count @ 1..) => {
                        tail.push(&chunk[..count]);
                        quiet = clock::now() + limits.silence;
                    }
                    _ => open = false,
                },
                _ = self.ended.recv() => {}
                () = stop.asked() => {
                    self.process.stop(LAST_WORDS).await;
                    return Err(ProgramError::Stopped);
                }
                () = tokio::time::sleep_until(deadline.min(quiet).into()) => {
                    self.process.stop(LAST_WORDS).await;
                    let limit = if deadline <= quiet {
                        format!("within {} s", limits.total.as_secs())
                    } else {
                        format!("or to say something within {} s", limits.silence.as_secs())
                    };
                    return Err(ProgramError::Late { line, limit, tail: tail.text() });
                }
            }
        }
    }
}

fn spawn(mut command: Command) -> io::Result<(Process, Receiver)> {
    let (reader, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let output = Receiver::from_owned_fd(OwnedFd::from(reader))?;
    // Our copies of the writing end go with the command, after this.
    Ok((Process::start(&mut command)?, output))
}

fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    if line.len() > 240 {
        line = line.chars().take(200).chain(" …".chars()).collect();
    }
    line
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        total: Duration::from_secs(20),
        silence: Duration::from_secs(20),
    };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    async fn outcome(script: &str, limits: Limits) -> Result<(), String> {
        let mut stop = Stop::new().unwrap();
        let result = run(shell(script), limits, &mut stop).await;
        result.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_failure_says_how_the_output_ended() {
        assert_eq!(outcome("echo fine", LIMITS).await, Ok(()));
        let script =
            r"for n in 1 2 3 4 5 6 7; do echo line $n; done; printf '10%%\r90%%\n' >&2; exit 3";
        assert_eq!(
            outcome(script, LIMITS).await,
            Err(format!(
                "expected `sh -c {script}` to succeed, got exit status: 3: \
                 line 3 / line 4 / line 5 / line 6 / line 7 / 90%"
            ))
        );
        assert_eq!(
            outcome("exit 1", LIMITS).await,
            Err("expected `sh -c exit 1` to succeed, got exit status: 1".to_owned())
        );
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let mut stop = Stop::new().unwrap();
        let error = run(Command::new("lekiwi-no-such-program"), LIMITS, &mut stop).await;
        assert_eq!(
            crate::driver::chain(&error.unwrap_err()),
            "expected the program lekiwi-no-such-program: No such file or directory (os error 2)"
        );
    }

    #[tokio::test]
    async fn a_silent_program_is_stopped_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!(
            "echo begun; sleep 1000 & echo $! > {}; wait",
            file.display()
        );
        let limits = Limits {
            silence: Duration::from_secs(1),
            ..LIMITS
        };
        assert_eq!(
            outcome(&script, limits).await,
            Err(format!(
                "expected `sh -c {script}` to end or to say something within 1 s: begun"
            ))
        );
        let pid: i32 = std::fs::read_to_string(&file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let gone = async {
            // A zombie is gone as well, whoever is to collect it.
            while std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(10), gone)
                .await
                .is_ok()
        );
        let limits = Limits {
            total: Duration::from_secs(1),
            ..LIMITS
        };
        let chatter = "while :; do echo x; sleep 0.1; done";
        let error = outcome(chatter, limits).await.unwrap_err();
        assert!(
            error.starts_with(&format!(
                "expected `sh -c {chatter}` to end within 1 s: x / x"
            )),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_pipe_holds_nothing_up() {
        let begun = clock::now();
        assert_eq!(outcome("sleep 15 & echo done", LIMITS).await, Ok(()));
        assert!(clock::now().duration_since(begun) < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn what_a_daemon_goes_on_writing_is_not_read_for_ever() {
        let (reader, mut writer) = io::pipe().unwrap();
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
        io::Write::write_all(&mut writer, &[b'x'; 1 << 18]).unwrap();
        let reader = Receiver::from_owned_fd(OwnedFd::from(reader)).unwrap();
        let mut tail = Tail::default();
        tail.drain(&reader);
        assert_eq!(tail.lines().len(), TAIL_BYTES);
        let left = nix::unistd::read(&reader, &mut [0; CHUNK_BYTES]);
        assert_eq!(left, Ok(CHUNK_BYTES), "it is left in the pipe");
    }
}
