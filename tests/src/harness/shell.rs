//! Root's shell on an emulated board, by a serial port of its own.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::card::Planted;

/// The service on the board.
const UNIT: &str = r"[Unit]
Description=The judge's shell

[Service]
ExecStart=/bin/sh -c 'stty -F /dev/ttyS0 raw -echo clocal && exec /bin/sh </dev/ttyS0 >/dev/ttyS0 2>&1'
Restart=always
";
/// How often the shell is called until it answers.
const CALL_EVERY: Duration = Duration::from_secs(2);

/// Its end on this machine.
pub struct Shell {
    path: PathBuf,
    listener: UnixListener,
    port: Option<UnixStream>,
    asked: u32,
}

impl Shell {
    /// What the card needs for it.
    #[must_use]
    pub fn planted() -> Vec<(String, Planted)> {
        let unit = "/etc/systemd/system/judge.service";
        vec![
            (unit.to_owned(), Planted::File(UNIT.to_owned())),
            (
                "/etc/systemd/system/multi-user.target.wants/judge.service".to_owned(),
                Planted::Link(unit.to_owned()),
            ),
        ]
    }

    /// Waits at `path` for a board's first serial port.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            port: None,
            asked: 0,
        })
    }

    /// Its socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a line to its end; what it said.
    ///
    /// # Errors
    /// When it fails, or takes longer than `limit`.
    pub fn run(&mut self, line: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        if self.port.is_none() {
            self.call(deadline)?;
        }
        let said = self.exchange(line, deadline)?;
        let said = said.with_context(|| format!("expected an end of {line:?} in {limit:?}"))?;
        let (said, code) = said.rsplit_once(':').unwrap_or_default();
        ensure!(code == "0", "{line:?} ended with {code}: {said}");
        Ok(said.to_owned())
    }

    /// What is said before the shell runs is lost.
    fn call(&mut self, deadline: Instant) -> Result<()> {
        let (port, _) = self.listener.accept()?;
        self.port = Some(port);
        while Instant::now() < deadline {
            let patience = deadline.min(Instant::now() + CALL_EVERY);
            if self.exchange("true", patience)?.is_some() {
                return Ok(());
            }
        }
        anyhow::bail!("expected a shell on the board's serial port")
    }

    /// Says a line; its output and exit code, `OUTPUT:CODE`, if it ends in time.
    fn exchange(&mut self, line: &str, deadline: Instant) -> Result<Option<String>> {
        self.asked += 1;
        let mark = format!("judge{}", self.asked);
        let port = self.port.as_mut().context("expected a connected port")?;
        // Spelled otherwise than what it prints, for a terminal that echoes.
        let asked = format!("echo '<'{mark}; {{ {line}; }} 2>&1; echo :$?'>'{mark}\n");
        port.write_all(asked.as_bytes())?;
        let (begin, end) = (format!("<{mark}"), format!(">{mark}"));
        let mut heard = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            port.set_read_timeout(Some(left))?;
            match port.read(&mut chunk) {
                Ok(0) => anyhow::bail!("expected the board to stay on"),
                Ok(count) => heard.extend_from_slice(&chunk[..count]),
                Err(_) => continue,
            }
            let text = String::from_utf8_lossy(&heard);
            if let Some((_, rest)) = text.split_once(&begin)
                && let Some((said, _)) = rest.split_once(&end)
            {
                return Ok(Some(said.trim().replace("\n:", ":").replace('\r', "")));
            }
        }
    }
}
