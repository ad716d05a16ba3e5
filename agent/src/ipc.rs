//! The Unix socket for local programs: a line of JSON in, a line of JSON out, and done. Bounded: eight
//! callers, two seconds and 8 KiB each.
//!
//! * `{"query":"status"}` is answered with [`Status`], to everybody who may connect.
//! * `{"event":{"type":"setup.progress","data":{…}}}` puts an event into the outbox and is answered with
//!   `{"seq":…}` once it is there, so that it reaches the relay whatever happens. Only root and the
//!   agent's own user may, and only types of [`EVENT_FAMILIES`].
//! * `{"subscribe":["control"]}` is answered with `{"subscribed":["control"]}`, and then with a line for each
//!   emergency stop, `{"control":{"estop":{"id":…,"by":…}}}`, at once, for as long as the caller keeps both ends
//!   open. Eight at a time; one that does not read is left.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::{RobotId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use uuid::Uuid;

use crate::estop::Estop;

const CALLERS: usize = 8;
const SUBSCRIBERS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_LINE_BYTES: u64 = 8192;
/// Longest type of an event.
const MAX_KIND_BYTES: usize = 64;
/// What the types of events that local programs may report begin with.
pub const EVENT_FAMILIES: [&str; 1] = ["setup."];

/// The answer to anything else.
const EXPECTED: &str = r#"expected {"query":"status"}, {"event":{"type":…,"data":…}} or {"subscribe":["control"]} in at most 8192 bytes"#;

/// What a caller may ask for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Query(Query),
    Event(Report),
    Subscribe([Feed; 1]),
}

/// What local programs are told as it happens.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Feed {
    /// Emergency stops.
    Control,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Query {
    Status,
}

/// An event as a local program reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What happened, dotted.
    #[serde(rename = "type")]
    pub kind: String,
    /// Details, by type.
    #[serde(default)]
    pub data: Value,
}

/// An event's number in the outbox.
#[derive(Debug, Serialize, Deserialize)]
struct Taken {
    seq: u64,
}

/// The agent's state, as `lekiwi-agent status --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Who this robot is.
    pub robot_id: RobotId,
    /// The agent's version.
    pub version: String,
    /// Lifecycle in one word: Initializing, Registering, Connected, Retrying, Reconnecting, …
    pub phase: String,
    /// The link's own state.
    pub link: String,
    /// What the robot does.
    pub activity: lekiwi_protocol::message::Activity,
    /// The broker's address.
    pub relay: String,
    /// The connection's session, while there is one.
    pub session: Option<Uuid>,
    /// Since when the link is up.
    pub online_since: Option<Timestamp>,
    /// Why it is not, or what went wrong last.
    pub last_error: Option<String>,
    /// When telemetry was last sent.
    pub last_telemetry: Option<Timestamp>,
    /// When the certificate ends.
    pub certificate_not_after: Option<Timestamp>,
    /// Events that wait for the relay.
    pub outbox: OutboxStatus,
}

/// The outbox in [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// How many events wait.
    pub pending: u64,
    /// The current stream.
    pub stream: Uuid,
    /// Its newest number.
    pub last_seq: u64,
    /// Whether new events survive a power cut.
    pub durable: bool,
    /// Why not.
    pub trouble: Option<String>,
}

/// Why the socket does not work, at either end.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// It cannot be made.
    #[error("cannot listen at {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody listens.
    #[error("expected a running agent at {}", path.display())]
    NotRunning {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It answered something else.
    #[error("expected {expected} from the agent at {}, got {answer:?}", path.display())]
    Answer {
        /// Where.
        path: PathBuf,
        /// What was asked for.
        expected: &'static str,
        /// What came.
        answer: String,
    },
}

/// What the driver is asked.
#[derive(Debug)]
pub enum Question {
    /// How are you?
    Status(oneshot::Sender<Status>),
    /// This happened; answer with its number in the outbox.
    Event(Report, oneshot::Sender<u64>),
}

/// Listens at `path` until the returned task is dropped; questions go to `driver`, subscribers hear of
/// `estop`. A socket file that a
/// crash left behind is replaced: the caller holds the lock of the state folder.
///
/// # Errors
/// When the folder is missing or not writable.
pub fn serve(
    path: &Path,
    driver: mpsc::Sender<Question>,
    estop: Estop,
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
    let callers = Arc::new(Semaphore::new(CALLERS));
    let subscribers = Arc::new(Semaphore::new(SUBSCRIBERS));
    Ok(tokio::spawn(async move {
        loop {
            let Ok(permit) = callers.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((mut stream, _)) => {
                    let (driver, estop) = (driver.clone(), estop.clone());
                    let subscribers = subscribers.clone();
                    tokio::spawn(async move {
                        let answered = answer(&mut stream, driver, &estop);
                        let answered = tokio::time::timeout(PATIENCE, answered).await;
                        drop(permit);
                        // A subscriber takes no caller's place.
                        if let Ok(Ok(Some(lines))) = answered
                            && let Ok(_place) = subscribers.try_acquire()
                        {
                            follow(stream, lines).await;
                        }
                    });
                }
                // Out of descriptors: others may give some back.
                Err(_) => tokio::time::sleep(PATIENCE).await,
            }
        }
    }))
}

/// What a subscriber is told from now on, after the answer.
type Lines = broadcast::Receiver<Arc<str>>;

async fn answer(
    stream: &mut UnixStream,
    driver: mpsc::Sender<Question>,
    estop: &Estop,
) -> io::Result<Option<Lines>> {
    let caller = stream.peer_cred()?.uid();
    let mut line = String::new();
    BufReader::new((&mut *stream).take(MAX_LINE_BYTES))
        .read_line(&mut line)
        .await?;
    let request = serde_json::from_str(&line).ok();
    // Before the answer: what happens after it is not missed.
    let lines = matches!(request, Some(Request::Subscribe(_))).then(|| estop.listen());
    let answer = respond(request, caller, &driver).await?;
    let answer = answer.unwrap_or_else(|error| json!({ "error": error }).to_string());
    stream.write_all(format!("{answer}\n").as_bytes()).await?;
    if lines.is_some() {
        return Ok(lines);
    }
    // What is left unread when a socket closes takes the answer with it.
    let mut rest = [0; 1024];
    for _ in 0..16 {
        if !matches!(stream.try_read(&mut rest), Ok(1..)) {
            break;
        }
    }
    Ok(None)
}

/// Tells a subscriber what happens, until it goes or is too slow.
async fn follow(mut stream: UnixStream, mut lines: Lines) {
    let (mut reader, mut writer) = stream.split();
    let mut unread = [0; 64];
    loop {
        tokio::select! {
            line = lines.recv() => {
                let Ok(line) = line else { return };
                let text = format!("{line}\n");
                let written = tokio::time::timeout(PATIENCE, writer.write_all(text.as_bytes()));
                if !matches!(written.await, Ok(Ok(()))) {
                    return;
                }
            }
            // What it says is of no interest; that it goes is.
            read = reader.read(&mut unread) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
            }
        }
    }
}

/// The answer, or what is wrong with the request. A driver that stops gives none: the caller asks again.
async fn respond(
    request: Option<Request>,
    caller: u32,
    driver: &mpsc::Sender<Question>,
) -> io::Result<Result<String, String>> {
    let stopping = || io::Error::from(io::ErrorKind::ConnectionAborted);
    let answer = match request {
        Some(Request::Query(Query::Status)) => {
            let (question, status) = oneshot::channel();
            let asked = driver.send(Question::Status(question)).await;
            asked.map_err(|_| stopping())?;
            serde_json::to_string(&status.await.map_err(|_| stopping())?)
        }
        Some(Request::Subscribe(feeds)) => serde_json::to_string(&json!({ "subscribed": feeds })),
        Some(Request::Event(report)) => {
            if let Err(refusal) = check(&report, caller, nix::unistd::geteuid().as_raw()) {
                return Ok(Err(refusal));
            }
            let (question, taken) = oneshot::channel();
            let asked = driver.send(Question::Event(report, question)).await;
            asked.map_err(|_| stopping())?;
            let seq = taken.await.map_err(|_| stopping())?;
            serde_json::to_string(&Taken { seq })
        }
        None => return Ok(Err(EXPECTED.to_owned())),
    };
    Ok(answer.map_err(|error| error.to_string()))
}

/// Whether `caller` may report this; `own` is the agent's user.
fn check(report: &Report, caller: u32, own: u32) -> Result<(), String> {
    if caller != 0 && caller != own {
        return Err(format!(
            "expected root or the agent's own user to report events, got the user with id {caller}"
        ));
    }
    let letters = |b: u8| b.is_ascii_lowercase() || b == b'_' || b == b'.';
    let kind = &report.kind;
    let known = EVENT_FAMILIES.iter().any(|family| {
        kind.strip_prefix(family)
            .is_some_and(|rest| !rest.is_empty())
    });
    if !known || kind.len() > MAX_KIND_BYTES || !kind.bytes().all(letters) {
        let cut: String = kind.chars().take(MAX_KIND_BYTES).collect();
        return Err(format!(
            "expected an event such as setup.progress, got {cut:?}"
        ));
    }
    Ok(())
}

/// Asks the agent at `path`.
///
/// # Errors
/// When none runs there, or it answers something else.
pub async fn ask_status(path: &Path) -> Result<Status, IpcError> {
    let answer = exchange(path, r#"{"query":"status"}"#).await?;
    serde_json::from_str(&answer).map_err(|_| unexpected(path, "a status", &answer))
}

/// Has the agent at `path` put an event into its outbox; returns its number there.
///
/// # Errors
/// When no agent runs there, or it refuses.
pub async fn report_event(path: &Path, report: &Report) -> Result<u64, IpcError> {
    let answer = exchange(path, &json!({ "event": report }).to_string()).await?;
    match serde_json::from_str(&answer) {
        Ok(Taken { seq }) => Ok(seq),
        Err(_) => Err(unexpected(path, "an event's number", &answer)),
    }
}

async fn exchange(path: &Path, request: &str) -> Result<String, IpcError> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        let mut answer = String::new();
        match stream.read_to_string(&mut answer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer),
        }
    };
    let timed_out = |_| Err(io::ErrorKind::TimedOut.into());
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(timed_out)
        .map_err(|source| IpcError::NotRunning {
            path: path.to_owned(),
            source,
        })
}

fn unexpected(path: &Path, expected: &'static str, answer: &str) -> IpcError {
    IpcError::Answer {
        path: path.to_owned(),
        expected,
        answer: answer.trim_end().chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(kind: &str, caller: u32) -> Result<(), String> {
        let report = Report {
            kind: kind.to_owned(),
            data: Value::Null,
        };
        check(&report, caller, 990)
    }

    #[test]
    fn root_and_the_agent_may_report_and_only_of_the_setup() {
        assert_eq!(checked("setup.progress", 0), Ok(()));
        assert_eq!(checked("setup.progress", 990), Ok(()));
        assert_eq!(
            checked("setup.progress", 1000),
            Err(
                "expected root or the agent's own user to report events, got the user with id 1000"
                    .to_owned()
            )
        );
        for kind in ["setup.", "robot.registered", "setup.Done", "", "setup.a b"] {
            assert_eq!(
                checked(kind, 0),
                Err(format!(
                    "expected an event such as setup.progress, got {kind:?}"
                ))
            );
        }
        assert!(
            checked(&format!("setup.{}", "x".repeat(80)), 0).is_err_and(|error| error.len() < 130)
        );
    }
}
