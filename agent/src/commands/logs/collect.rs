//! Writes a part of the journal into a file: `journalctl`, then `gzip`, which this program feeds so that it can
//! count and stop.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use lekiwi_agent_core::logs::{fewer, journalctl};
use lekiwi_protocol::message::LogSlice;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::Collected;
use crate::commands::program;
use crate::program::{Process, Tail};

/// Longest time for all of it, on a machine that has other work.
const LIMIT: Duration = Duration::from_secs(600);
/// Time between two looks whether a program has ended that has closed its pipe.
const LOOK: Duration = Duration::from_millis(20);
/// What is in memory of it at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// Writes what fits of `slice`, of the journals below `root`, into `to`.
pub(super) async fn run(slice: &LogSlice, root: &Path, to: &Path) -> Result<Collected, String> {
    let collected = tokio::time::timeout(LIMIT, fitting(slice, root, to)).await;
    collected.unwrap_or_else(|_| {
        Err(format!(
            "expected journalctl and gzip to end within {} s",
            LIMIT.as_secs()
        ))
    })
}

async fn fitting(slice: &LogSlice, root: &Path, to: &Path) -> Result<Collected, String> {
    let root = root.to_string_lossy();
    let mut newest = None;
    loop {
        let words = journalctl(slice, &root, newest);
        let (lines, fits) = written(&words, slice.max_bytes, to).await?;
        if fits {
            let (bytes, sha256) = digest(to)
                .await
                .map_err(|error| format!("cannot read {}: {error}", to.display()))?;
            return Ok(Collected {
                bytes,
                lines,
                sha256,
                is_cut: newest.is_some(),
            });
        }
        newest = fewer(newest, lines);
        if newest.is_none() {
            return Err(format!(
                "expected the newest entry to fit into {} bytes",
                slice.max_bytes
            ));
        }
    }
}

fn start(words: &[String], stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Process, String> {
    let mut command = program(words);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    Process::start(&mut command).map_err(|error| {
        let name = words.first().map_or("", String::as_str);
        format!("expected the program {name}: {error}")
    })
}

async fn end(process: &mut Process) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = process.ended()? {
            return Ok(status);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What `words` print, by gzip; how many lines that were, and whether all of them fitted.
async fn written(words: &[String], most: u64, to: &Path) -> Result<(u64, bool), String> {
    let (error, mut said) = pipe_of_errors().map_err(|error| cannot(&error))?;
    let other_error = error.try_clone().map_err(|error| cannot(&error))?;
    let (file, read_back) =
        create(to).map_err(|error| format!("cannot write {}: {error}", to.display()))?;
    let mut gzip = start(
        &["gzip".to_owned(), "-c".to_owned()],
        Stdio::piped(),
        file.into(),
        error.into(),
    )?;
    let mut journal = start(words, Stdio::null(), Stdio::piped(), other_error.into())?;
    let (mut from, mut into) = ends(&mut journal, &mut gzip).map_err(|error| cannot(&error))?;
    let mut tail = Tail::default();
    let mut lines = 0;
    let (mut chunk, mut words_said) = (vec![0; CHUNK_BYTES], [0; 256]);
    loop {
        tokio::select! {
            read = from.read(&mut chunk) => {
                let count = read.map_err(|error| cannot(&error))?;
                let piece = chunk.get(..count).unwrap_or_default();
                // A gzip that has ended says why below.
                if count == 0 || into.write_all(piece).await.is_err() {
                    break;
                }
                lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
                if read_back.metadata().is_ok_and(|now| now.len() > most) {
                    return Ok((lines, false));
                }
            }
            Ok(count @ 1..) = said.read(&mut words_said) => {
                tail.push(words_said.get(..count).unwrap_or_default());
            }
        }
    }
    drop((from, into));
    let ended = [
        ("gzip", end(&mut gzip).await),
        ("journalctl", end(&mut journal).await),
    ];
    tail.drain(&said);
    for (name, status) in ended {
        let status = status.map_err(|error| cannot(&error))?;
        if !status.success() {
            return Err(format!(
                "expected {name} to succeed, got {status}{}",
                tail.text()
            ));
        }
    }
    let bytes = read_back.metadata().map_err(|error| cannot(&error))?.len();
    Ok((lines, bytes <= most))
}

fn cannot(error: &io::Error) -> String {
    format!("cannot run journalctl and gzip: {error}")
}

/// Where both programs complain, and where that is read.
fn pipe_of_errors() -> io::Result<(io::PipeWriter, Receiver)> {
    let (reader, writer) = io::pipe()?;
    Ok((writer, Receiver::from_owned_fd(OwnedFd::from(reader))?))
}

fn ends(journal: &mut Process, gzip: &mut Process) -> io::Result<(Receiver, Sender)> {
    let from = journal.stdout().ok_or(io::ErrorKind::BrokenPipe)?;
    let into = gzip.stdin().ok_or(io::ErrorKind::BrokenPipe)?;
    let from = Receiver::from_owned_fd(OwnedFd::from(from))?;
    Ok((from, Sender::from_owned_fd(OwnedFd::from(into))?))
}

/// A new file: what still runs of an agent that was killed writes into the old one.
pub(super) fn create(path: &Path) -> io::Result<(File, File)> {
    if let Some(folder) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok((file.try_clone()?, file))
}

/// Size and SHA-256, by and by: heartbeats go on meanwhile.
async fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok((bytes, hex::encode(hash.finalize())));
        }
        hash.update(chunk.get(..count).unwrap_or_default());
        bytes += count as u64;
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn unpacked(path: &Path) -> String {
        let output = std::process::Command::new("gzip")
            .arg("-dc")
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[tokio::test]
    async fn what_is_printed_is_there_and_what_does_not_fit_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("logs/x.log.gz");
        let all = written(&words("seq 1 20000"), 1 << 20, &to).await;
        assert_eq!(all, Ok((20_000, true)));
        let text = unpacked(&to);
        assert!(text.starts_with("1\n2\n") && text.ends_with("\n20000\n"));
        let (bytes, sha256) = digest(&to).await.unwrap();
        let expected = hex::encode(Sha256::digest(fs::read(&to).unwrap()));
        assert_eq!((bytes, sha256), (to.metadata().unwrap().len(), expected));
        // Far less than all of it was written by then.
        let (lines, fits) = written(&words("seq 1 1000000000"), 16 * 1024, &to)
            .await
            .unwrap();
        assert!(!fits && (1000..10_000_000).contains(&lines), "{lines}");
        // Small enough to be seen at the end only.
        assert_eq!(
            written(&words("seq 1 200"), 100, &to).await,
            Ok((200, false))
        );
    }

    #[tokio::test]
    async fn what_fails_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("x.log.gz");
        let fails =
            async |line: &str, to: &Path| written(&words(line), 1000, to).await.unwrap_err();
        assert_eq!(
            fails("lekiwi-no-such-program", &to).await,
            "expected the program lekiwi-no-such-program: No such file or directory (os error 2)"
        );
        assert_eq!(
            fails("ls /lekiwi-no-such-folder", &to).await,
            "expected journalctl to succeed, got exit status: 2: \
             ls: cannot access '/lekiwi-no-such-folder': No such file or directory"
        );
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let within = file.join("x.log.gz");
        assert_eq!(
            fails("true", &within).await,
            format!(
                "cannot write {}: File exists (os error 17)",
                within.display()
            )
        );
    }
}
