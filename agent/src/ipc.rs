//! The Unix socket for local programs: lines of JSON in, a line of JSON back for each, for as long as the
//! caller likes.
//!
//! * `{"query":"status"}` is answered with [`Status`].
//! * `{"subscribe":["state","control"]}` is answered with the same, and from then on there is a line
//!   `{"state":{…}}` now and whenever something but telemetry changed, and one for whatever the robot is
//!   told to do at once: `{"control":{"estop":{"id":…,"by":…}}}`. Who does not read them is dropped.
//! * `{"stopped":ID}` confirms that emergency stop, on the connection that was told of it, and is answered
//!   with `{"ok":true}`.
//! * `{"battery":{"percent":80,"volts":11.8,"charging":false}}`, `{"mode":"MANUAL"}`,
//!   `{"operator":{"id":"alice"}}`, `{"operator":null}` and `{"metric":{"name":"custom.gripper_n","value":3}}`
//!   are answered with `{"ok":true}`. A metric that is not reported again for 15 minutes is forgotten.
//! * `{"event":{"type":"custom.bumped","data":{…}}}` puts an event into the outbox and is answered with
//!   `{"seq":…}` once it is there, so that it reaches the relay whatever happens.
//! * `{"reload":"configuration"}` reads the configuration again.
//! * `{"renew":"certificate"}` asks the relay for the next certificate now.
//!
//! The socket lets in root, the agent's own user and members of the agent's group, and they may report; only
//! root and the agent's own user report events of the setup, reload, and renew. Where an administrator opens it to
//! others, those may ask and listen. `request` says what is taken, `server` is the agent's end, `bus` carries
//! what subscribers are told, `stops` what they confirm; the callers' end is here.

mod bus;
mod request;
mod server;
mod stops;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lekiwi_protocol::{RobotId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use uuid::Uuid;

pub use bus::{Bus, Line, Subscription, Topic};
pub use request::{
    Battery, CUSTOM, Caller, Metric, Operator, Query, Reload, Renew, Report, Request, Standing,
};
pub use server::serve;
pub use stops::Confirmations;

/// Longest wait for the first line, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);
/// What everything that has no answer of its own is answered with.
pub(crate) const OK: &str = r#"{"ok":true}"#;

/// What the driver is asked, checked already.
#[derive(Debug)]
pub struct Question {
    /// The request.
    pub request: Request,
    /// Takes the answer, a line of JSON, or what is wrong with the request.
    pub answer: oneshot::Sender<Result<String, String>>,
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
    /// The certificate, and the next one.
    #[serde(default)]
    pub renewal: RenewalStatus,
    /// The program that signs with the robot's key; absent where a file has the key, and from older agents.
    #[serde(default)]
    pub signer: Option<String>,
    /// Events that wait for the relay.
    pub outbox: OutboxStatus,
    /// Which configuration runs.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
    /// What would stop the robot in an emergency; absent from older agents.
    #[serde(default)]
    pub stop: Option<StopStatus>,
}

/// The certificate and its renewal, in [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RenewalStatus {
    /// The certificate's number, as the relay has it; absent without one, and from older agents.
    pub serial: Option<String>,
    /// When the next one is asked for.
    pub renews_at: Option<Timestamp>,
    /// Why there is none, since it was asked for last.
    pub trouble: Option<String>,
}

/// What would stop the robot, in [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopStatus {
    /// Whether the profile has a stop action.
    pub action: bool,
    /// Local programs that are told.
    pub listeners: usize,
    /// Those of them that have confirmed a stop before.
    pub confirmed: usize,
}

/// The configuration in [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// Since when it is in force.
    pub since: Timestamp,
    /// Why the file that is there now is not.
    pub refused: Option<String>,
    /// Keys that the file has otherwise, which count from the next start.
    pub waiting: Vec<String>,
    /// The version of the operators' settings that stands over the file; 0 for none.
    #[serde(default)]
    pub desired: u64,
}

/// The outbox in [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// How many events wait.
    pub pending: u64,
    /// How many telemetry samples of an outage do.
    pub late_samples: u64,
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
    /// It refuses.
    #[error("the agent refuses: {0}")]
    Refused(String),
}

impl Status {
    /// As a line of JSON.
    #[must_use]
    pub fn to_line(&self) -> String {
        // Strings and numbers always become JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The answer to an event that is in the outbox.
#[must_use]
pub(crate) fn taken(seq: u64) -> String {
    format!(r#"{{"seq":{seq}}}"#)
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

/// Says `request` to the agent at `path`; returns what it answers.
///
/// # Errors
/// When no agent runs there, or it refuses.
pub async fn say(path: &Path, request: &Request) -> Result<String, IpcError> {
    let request = serde_json::to_string(request).unwrap_or_default();
    let answer = exchange(path, &request).await?;
    let refused = serde_json::from_str::<Value>(&answer)
        .ok()
        .and_then(|answer| Some(answer.get("error")?.as_str()?.to_owned()));
    match refused {
        Some(reason) => Err(IpcError::Refused(reason)),
        None => Ok(answer),
    }
}

/// Subscribes at the agent at `path`, and hands each line to `take` until it says no.
///
/// # Errors
/// When no agent runs there, or it ends or drops this caller.
pub async fn follow(
    path: &Path,
    topics: &[Topic],
    mut take: impl FnMut(&str) -> bool,
) -> Result<(), IpcError> {
    let not_running = |source| IpcError::NotRunning {
        path: path.to_owned(),
        source,
    };
    let mut stream = UnixStream::connect(path).await.map_err(not_running)?;
    let request = Request::Subscribe(topics.to_vec());
    let mut request = serde_json::to_string(&request).unwrap_or_default();
    request.push('\n');
    let written = stream.write_all(request.as_bytes()).await;
    written.map_err(not_running)?;
    let mut lines = BufReader::new(stream).lines();
    // The first is the answer to the subscription.
    let mut is_answer = true;
    while let Some(line) = lines.next_line().await.map_err(not_running)? {
        if !std::mem::take(&mut is_answer) && !take(&line) {
            return Ok(());
        }
    }
    Err(not_running(io::ErrorKind::UnexpectedEof.into()))
}

async fn exchange(path: &Path, request: &str) -> Result<String, IpcError> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        let mut answer = String::new();
        match BufReader::new(stream).read_line(&mut answer).await? {
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
