//! The agent's end of the socket. One task a caller, which reads lines, asks the driver, and writes answers
//! and what the caller subscribed to. Bounded: callers, bytes of a line, lines a second, and patience.

use std::future::pending;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lekiwi_agent_core::bucket::Bucket;
use nix::unistd::{Uid, User, getegid, geteuid, getgrouplist};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{ReadHalf, UCred, WriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

use super::bus::{Bus, NOT_SUBSCRIBED, Subscription};
use super::request::{Caller, Request, Standing};
use super::{IpcError, OK, PATIENCE, Question};
use crate::clock;

/// Most callers at a time.
const CALLERS: usize = 16;
/// Most of them that are neither root nor the agent's own user: those always get in.
const OTHERS: usize = 12;
/// Longest line.
const MAX_LINE_BYTES: usize = 8192;
/// How long a caller that has not subscribed may be silent between two lines.
const SILENCE: Duration = Duration::from_secs(300);
/// Lines that a caller may send at once, and the time after which it may send one more.
const LINES: Bucket = Bucket::new(100, Duration::from_millis(20));

/// Listens at `path` until the returned task is dropped; questions go to `driver`, what `bus` carries to
/// subscribers. A socket file that a crash left behind is replaced: the caller holds the lock of the state
/// folder.
///
/// # Errors
/// When the folder is missing or not writable.
pub fn serve(
    path: &Path,
    driver: mpsc::Sender<Question>,
    bus: Bus,
) -> Result<tokio::task::JoinHandle<()>, IpcError> {
    let listen = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(listener)
    };
    let listener = listen().map_err(|source| IpcError::Listen {
        path: path.to_owned(),
        source,
    })?;
    let door = Arc::new(Door {
        path: path.to_owned(),
        all: Semaphore::new(CALLERS),
        others: Semaphore::new(OTHERS),
        driver,
        bus,
    });
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let door = door.clone();
                    tokio::spawn(async move { door.receive(stream).await });
                }
                // Out of descriptors: others may give some back.
                Err(_) => tokio::time::sleep(PATIENCE).await,
            }
        }
    }))
}

/// What all callers share.
struct Door {
    path: PathBuf,
    all: Semaphore,
    others: Semaphore,
    driver: mpsc::Sender<Question>,
    bus: Bus,
}

impl Door {
    async fn receive(&self, mut stream: UnixStream) {
        let Ok(credentials) = stream.peer_cred() else {
            return;
        };
        let caller = Caller {
            uid: credentials.uid(),
            standing: self.standing(&credentials),
        };
        let (mut from, mut to) = stream.split();
        let Some(_places) = self.places(caller) else {
            let full = format!("expected at most {CALLERS} callers at a time, try again later");
            let _ = write(&mut to, &refusal(&full)).await;
            return;
        };
        // Gone, too slow, or told what was wrong: either way it is over.
        let _ = self.converse(caller, &mut from, &mut to).await;
        // What is left unread when a socket closes takes the last answer with it.
        let mut rest = [0; 1024];
        for _ in 0..16 {
            if !matches!(from.try_read(&mut rest), Ok(1..)) {
                break;
            }
        }
    }

    /// A place among all callers, and one among the others for those.
    fn places(&self, caller: Caller) -> Option<(SemaphorePermit<'_>, Option<SemaphorePermit<'_>>)> {
        let other = match caller.standing {
            Standing::Owner => None,
            Standing::Member | Standing::Guest => Some(self.others.try_acquire().ok()?),
        };
        Some((self.all.try_acquire().ok()?, other))
    }

    fn standing(&self, credentials: &UCred) -> Standing {
        let (uid, gid) = (credentials.uid(), credentials.gid());
        if uid == 0 || uid == geteuid().as_raw() {
            return Standing::Owner;
        }
        let is_closed = std::fs::metadata(&self.path)
            .is_ok_and(|socket| socket.permissions().mode() & 0o002 == 0);
        // While the socket is closed to others, the kernel has let in members only.
        if is_closed || gid == getegid().as_raw() || belongs(uid) {
            Standing::Member
        } else {
            Standing::Guest
        }
    }

    async fn converse(
        &self,
        caller: Caller,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(512);
        let mut rate = LINES;
        let mut subscription: Option<Subscription> = None;
        let mut patience = Some(PATIENCE);
        loop {
            tokio::select! {
                line = next_line(from, &mut buffer) => {
                    let Some(line) = line? else {
                        return Ok(());
                    };
                    if line.len() > MAX_LINE_BYTES {
                        let long = format!("expected a line of at most {MAX_LINE_BYTES} bytes");
                        return write(to, &refusal(&long)).await;
                    }
                    while let Err(wait) = rate.take(clock::now()) {
                        tokio::time::sleep(wait).await;
                    }
                    let answer = self.respond(&line, caller, &mut subscription).await?;
                    write(to, &answer.unwrap_or_else(|reason| refusal(&reason))).await?;
                    patience = subscription.is_none().then_some(SILENCE);
                }
                told = next_told(&mut subscription) => match told {
                    Some(line) => write(to, &line).await?,
                    None => return Ok(()),
                },
                () = run_out(patience) => return Ok(()),
            }
        }
    }

    /// The answer, or what is wrong with the request. A driver that stops gives none: the caller asks again.
    async fn respond(
        &self,
        line: &[u8],
        caller: Caller,
        subscription: &mut Option<Subscription>,
    ) -> io::Result<Result<String, String>> {
        let request = match Request::parse(line).and_then(|request| {
            request.check(caller)?;
            Ok(request)
        }) {
            Ok(request) => request,
            Err(reason) => return Ok(Err(reason)),
        };
        if let Request::Stopped(id) = request {
            // Not by the driver: its queue may be full.
            let confirmed = match subscription {
                Some(subscription) => subscription.confirm(id),
                None => Err(NOT_SUBSCRIBED.to_owned()),
            };
            return Ok(confirmed.map(|()| OK.to_owned()));
        }
        if let Request::Subscribe(topics) = &request {
            // Before the driver is asked for the state: no change is missed.
            match subscription {
                Some(subscription) => subscription.add(&self.bus, topics),
                None => *subscription = Some(self.bus.subscribe(topics)),
            }
        }
        let stopping = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let (answer, answered) = oneshot::channel();
        let asked = self.driver.send(Question { request, answer }).await;
        asked.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())
    }
}

fn refusal(reason: &str) -> String {
    json!({ "error": reason }).to_string()
}

/// Whether the user is a member of the agent's group, as the system's files say.
fn belongs(uid: u32) -> bool {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
        return false;
    };
    std::ffi::CString::new(user.name)
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid).ok())
        .is_some_and(|groups| groups.contains(&getegid()))
}

/// The next line without its end, or what there is of one that is too long; `None` at the end. Cancel-safe.
async fn next_line(from: &mut ReadHalf<'_>, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = buffer.drain(..=end).collect();
            line.pop();
            return Ok(Some(line));
        }
        if buffer.len() > MAX_LINE_BYTES {
            return Ok(Some(std::mem::take(buffer)));
        }
        if from.read_buf(buffer).await? == 0 {
            // The last line needs no end.
            let last = std::mem::take(buffer);
            return Ok((!last.is_empty()).then_some(last));
        }
    }
}

async fn next_told(subscription: &mut Option<Subscription>) -> Option<super::Line> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => pending().await,
    }
}

async fn run_out(patience: Option<Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => pending().await,
    }
}

/// Writes a line; a caller that does not read is not waited for.
async fn write(to: &mut WriteHalf<'_>, line: &str) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    tokio::time::timeout(PATIENCE, to.write_all(&bytes))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
