//! The Unix socket for local programs: a line of JSON in, a line of JSON out, and done. This version
//! answers `{"query":"status"}`. Bounded: eight callers, two seconds and 4 KiB each.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::{RobotId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use uuid::Uuid;

const CALLERS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_LINE_BYTES: u64 = 4096;

/// What a caller may ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "query", rename_all = "snake_case", deny_unknown_fields)]
enum Query {
    Status,
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
    #[error("expected a status from the agent at {}, got {answer:?}", path.display())]
    Answer {
        /// Where.
        path: PathBuf,
        /// What came.
        answer: String,
    },
}

/// A question to the driver: it answers with the status.
pub type Question = oneshot::Sender<Status>;

/// Listens at `path` until the returned task is dropped; questions go to `driver`. A socket file that a
/// crash left behind is replaced: the caller holds the lock of the state folder.
///
/// # Errors
/// When the folder is missing or not writable.
pub fn serve(
    path: &Path,
    driver: mpsc::Sender<Question>,
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
    Ok(tokio::spawn(async move {
        loop {
            let Ok(permit) = callers.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let driver = driver.clone();
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(PATIENCE, answer(stream, driver)).await;
                        drop(permit);
                    });
                }
                // Out of descriptors: others may give some back.
                Err(_) => tokio::time::sleep(PATIENCE).await,
            }
        }
    }))
}

async fn answer(mut stream: UnixStream, driver: mpsc::Sender<Question>) -> io::Result<()> {
    let mut line = String::new();
    let (reader, mut writer) = stream.split();
    BufReader::new(reader.take(MAX_LINE_BYTES))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str::<Query>(&line) {
        Ok(Query::Status) => {
            let (question, status) = oneshot::channel();
            let asked = driver.send(question).await.is_ok();
            match status.await {
                Ok(status) if asked => serde_json::to_string(&status).map_err(io::Error::other)?,
                _ => r#"{"error":"the agent is stopping"}"#.to_owned(),
            }
        }
        Err(_) => r#"{"error":"expected {\"query\":\"status\"}"}"#.to_owned(),
    };
    writer.write_all(format!("{answer}\n").as_bytes()).await
}

/// Asks the agent at `path`.
///
/// # Errors
/// When none runs there, or it answers something else.
pub async fn ask_status(path: &Path) -> Result<Status, IpcError> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(b"{\"query\":\"status\"}\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let timed_out = |_| Err(io::ErrorKind::TimedOut.into());
    let answer = tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(timed_out)
        .map_err(|source| IpcError::NotRunning {
            path: path.to_owned(),
            source,
        })?;
    serde_json::from_str(&answer).map_err(|_| IpcError::Answer {
        path: path.to_owned(),
        answer: answer.chars().take(200).collect(),
    })
}
