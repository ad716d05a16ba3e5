//! One question to a program: what it reads, and what it answers. Blocks its thread; for threads that have nothing else to do.

use std::io::{PipeReader, Read, Write};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CHUNK_BYTES, LAST_READS, Process, ProgramError, Tail, end_with_us, line_of};
use crate::clock;

/// Most bytes of an answer that are kept.
const MOST_BYTES: usize = 8192;
/// How often it is looked whether a program has ended that keeps its output open, and one that has closed it.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_CLOSED: Duration = Duration::from_millis(1);

/// Starts `command`, says `input` to it, which a pipe must hold, and gives what it says in return. After `limit` it is over,
/// and so is all that it started.
///
/// # Errors
/// When it cannot be started, fails, with the end of what it says of that, or takes too long.
pub(crate) fn exchange(
    mut command: Command,
    input: &[u8],
    limit: Duration,
) -> Result<Vec<u8>, ProgramError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |source| ProgramError::Start {
        name: name.clone(),
        source,
    };
    let line = line_of(&command);
    end_with_us(&mut command);
    let deadline = clock::now() + limit;
    let (unread, mut said) = std::io::pipe().map_err(failed)?;
    let (answers, out) = std::io::pipe().map_err(failed)?;
    let (complaints, err) = std::io::pipe().map_err(failed)?;
    command.stdin(unread).stdout(out).stderr(err);
    let mut process = Process::start(&mut command).map_err(failed)?;
    // Our copies of its ends of the pipes.
    drop(command);
    // Whoever does not want to hear it has ended, or soon fails for another reason.
    let _ = said.write_all(input);
    drop(said);
    let mut heard = Heard {
        pipes: [Some(answers), Some(complaints)],
        answer: Vec::new(),
        tail: Tail::default(),
    };
    loop {
        heard.listen(deadline);
        if let Ok(Some(status)) = process.ended() {
            // A daemon that it left behind may go on writing.
            for _ in 0..LAST_READS {
                heard.listen(clock::now());
            }
            if status.success() {
                return Ok(heard.answer);
            }
            let tail = heard.tail.text();
            return Err(ProgramError::Failed { line, status, tail });
        }
        if clock::now() >= deadline {
            let limit = format!("within {} s", limit.as_secs());
            let tail = heard.tail.text();
            return Err(ProgramError::Late { line, limit, tail });
        }
    }
}

/// What a program has said so far.
struct Heard {
    /// Its answer, and its complaints; nothing once it has closed them.
    pipes: [Option<PipeReader>; 2],
    answer: Vec<u8>,
    tail: Tail,
}

impl Heard {
    /// Reads what is there, or waits for a moment, not beyond `deadline`.
    fn listen(&mut self, deadline: Instant) {
        let left = deadline.saturating_duration_since(clock::now());
        if self.pipes.iter().all(Option::is_none) {
            return thread::sleep(left.min(LOOK_CLOSED));
        }
        let timeout = Timespec::try_from(left.min(LOOK)).ok();
        let open = self.pipes.iter().flatten();
        let mut polled: Vec<_> = open.map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
        if !matches!(poll(&mut polled, timeout.as_ref()), Ok(1..)) {
            return;
        }
        let is_ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let open = self.pipes.iter_mut().enumerate();
        let open = open.filter(|(_, pipe)| pipe.is_some());
        for ((index, pipe), _) in open.zip(is_ready).filter(|(_, is_ready)| *is_ready) {
            let mut chunk = [0; CHUNK_BYTES];
            let read = pipe.as_mut().map(|pipe| pipe.read(&mut chunk));
            let Some(Ok(count @ 1..)) = read else {
                *pipe = None;
                continue;
            };
            let chunk = chunk.get(..count).unwrap_or_default();
            match index {
                0 if self.answer.len() <= MOST_BYTES => self.answer.extend_from_slice(chunk),
                0 => {}
                _ => self.tail.push(chunk),
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn ask(script: &str, limit: Duration) -> Result<Vec<u8>, String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        exchange(command, b"question", limit)
            .map_err(|error| error.to_string().replace(script, "SCRIPT"))
    }

    #[test]
    fn an_answer_is_what_the_program_prints_and_not_what_it_complains_of() {
        assert_eq!(
            ask("echo hm >&2; cat; echo '!'", LIMIT),
            Ok(b"question!\n".to_vec())
        );
        assert_eq!(ask("exec <&-; printf early", LIMIT), Ok(b"early".to_vec()));
        assert_eq!(
            ask("echo half; echo 'no token' >&2; exit 3", LIMIT),
            Err("expected `sh -c SCRIPT` to succeed, got exit status: 3: no token".to_owned())
        );
        let missing = exchange(Command::new("lekiwi-no-such-program"), b"", LIMIT).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "expected the program lekiwi-no-such-program"
        );
    }

    #[test]
    fn nobody_is_waited_for_or_heard_for_ever() {
        let begun = clock::now();
        for script in [
            "echo slow >&2; sleep 1000",
            "echo slow >&2; exec >&- 2>&-; sleep 1000",
        ] {
            assert_eq!(
                ask(script, Duration::from_secs(1)),
                Err("expected `sh -c SCRIPT` to end within 1 s: slow".to_owned())
            );
        }
        // A daemon that keeps the pipes.
        assert_eq!(ask("sleep 15 & echo done", LIMIT), Ok(b"done\n".to_vec()));
        assert!(clock::now().duration_since(begun) < LIMIT);
        let flood = ask("head -c 1000000 /dev/zero", LIMIT).unwrap();
        assert!(flood.len() <= MOST_BYTES + CHUNK_BYTES, "{}", flood.len());
    }
}
