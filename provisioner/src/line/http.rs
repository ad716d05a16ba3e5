//! What boards fetch and report over plain HTTP on the line's own network: the script that installs them, their
//! image, their seed. The only secret is a token that is good for one board, once.

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path as Part, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::TokenCreated;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use super::board::{Mac, Serial};
use super::desk::{Desk, DeskError, Ready, Wanted};
use super::file::{Line, Relay as RelayFile};
use super::roster::{RosterError, Sighting};
use super::unit::Event;
use super::watcher::chain;
use crate::clock;
use crate::order::{Addressing, Name, Order, OrderError, User};
use crate::plan::{self, Content, PlannedFile};
use crate::relay::Relay;

/// Largest report of a board.
const MAX_REPORT: usize = 16 * 1024;
const SCRIPT: &str = include_str!("bootstrap.sh");

/// What the handlers need.
#[derive(Clone)]
pub(super) struct App {
    pub(super) desk: Arc<Desk>,
    pub(super) relay: Arc<Relay>,
    pub(super) line: Arc<Line>,
    /// Public keys that may log in to units.
    pub(super) ssh_keys: Arc<Vec<String>>,
    /// SHA-256 of images, by name.
    pub(super) sums: Arc<Sums>,
}

/// Everything that boards may ask for.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/bootstrap", get(bootstrap))
        .route("/units/{serial}/step", post(report))
        .route("/seed/{serial}", get(names))
        .route("/seed/{serial}/{file}", get(seed))
        .route("/images/{serial}", get(image))
        .route("/images/{serial}/sha256", get(sum))
        .layer(DefaultBodyLimit::max(MAX_REPORT))
        .with_state(app)
}

/// A refusal, as text for whoever looks at the board's screen.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, format!("error: {}\n", self.1)).into_response()
    }
}

impl From<DeskError> for Refusal {
    fn from(error: DeskError) -> Self {
        let status = match &error {
            DeskError::Unexpected(_) => StatusCode::FORBIDDEN,
            DeskError::NoImage(_) => StatusCode::NOT_FOUND,
            DeskError::Half(_) | DeskError::Roster(RosterError::Nobody) => StatusCode::BAD_REQUEST,
            DeskError::Failed { .. }
            | DeskError::Enrolled(_)
            | DeskError::Given { .. }
            | DeskError::Overtaken(_) => StatusCode::CONFLICT,
            DeskError::Roster(RosterError::TooMany) => StatusCode::TOO_MANY_REQUESTS,
            DeskError::Roster(_) => StatusCode::NOT_FOUND,
            DeskError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let hint = error.hint().map(|hint| format!("\n  (hint: {hint})"));
        Self(status, chain(&error) + &hint.unwrap_or_default())
    }
}

fn sighting(serial: &str) -> Result<Sighting, Refusal> {
    let serial: Serial = serial
        .parse()
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("{error}")))?;
    Ok(Sighting {
        serial: Some(serial),
        ..Sighting::default()
    })
}

/// The script, which is told where this line is.
async fn bootstrap(State(app): State<App>) -> Response {
    let network = &app.line.network;
    let base = format!("http://{}:{}", network.address, network.http_port);
    let script = SCRIPT.replace("@LINE@", &base);
    ([(header::CONTENT_TYPE, "text/x-shellscript")], script).into_response()
}

/// What a board says about itself.
#[derive(Debug, Deserialize)]
struct Report {
    step: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    mac: Option<Mac>,
    #[serde(default)]
    board: Option<String>,
    #[serde(default)]
    memory_kib: Option<u64>,
}

async fn report(
    State(app): State<App>,
    Part(serial): Part<String>,
    Json(report): Json<Report>,
) -> Result<StatusCode, Refusal> {
    let name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let step = report.step;
    // States are ours to say, but for a failure.
    let own = ["waiting", "booting", "installing", "enrolled", "healthy"].contains(&step.as_str());
    if step.is_empty() || step.len() > 32 || !step.bytes().all(name) || own {
        let step: String = step.chars().take(80).collect();
        let text = format!("expected a step such as booted, written or failed, got {step:?}");
        return Err(Refusal(StatusCode::BAD_REQUEST, text));
    }
    let sighting = Sighting {
        mac: report.mac,
        board: report.board.filter(|board| !board.is_empty()),
        memory_mib: report
            .memory_kib
            .and_then(|kib| u32::try_from(kib / 1024).ok()),
        ..sighting(&serial)?
    };
    let event = Event::Report {
        step,
        detail: report.detail,
    };
    app.desk.happened(clock::now(), &sighting, event)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What belongs on the board's boot partition, a name a line; `user-data` is last, as it ends the installation.
async fn names(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Part(serial): Part<String>,
) -> Result<String, Refusal> {
    let files = planned(&app, &sighting(&serial)?, &address(peer)).await?;
    let (last, first): (Vec<_>, Vec<_>) = files
        .iter()
        .map(|file| file.name.as_str())
        .partition(|name| *name == "user-data");
    Ok([first, last].concat().join("\n") + "\n")
}

async fn seed(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Part((serial, name)): Part<(String, String)>,
) -> Result<Response, Refusal> {
    let sighting = sighting(&serial)?;
    let from = address(peer);
    let files = planned(&app, &sighting, &from).await?;
    let content = match files.iter().find(|file| file.name == name) {
        Some(file) => match &file.content {
            Content::Text(text) => text.clone(),
            Content::Copy(path) => return copy(&app, path).await,
            Content::Edit(_) => {
                let text = format!("{name} cannot be edited over the network");
                return Err(Refusal(StatusCode::NOT_FOUND, text));
            }
        },
        // cloud-init asks for it; there is none.
        None if name == "vendor-data" => String::new(),
        None => {
            let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
            let text = format!("expected one of {}, got {name:?}", names.join(", "));
            return Err(Refusal(StatusCode::NOT_FOUND, text));
        }
    };
    if name == "user-data" {
        app.desk
            .happened(clock::now(), &sighting, Event::Seed(from))?;
    }
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, content).into_response())
}

fn address(peer: SocketAddr) -> String {
    peer.ip().to_canonical().to_string()
}

/// The unit's seed, with the token that is its own; made when it is asked for the first time.
async fn planned(app: &App, sighting: &Sighting, from: &str) -> Result<Vec<PlannedFile>, Refusal> {
    let ready = match app.desk.seed(clock::now(), sighting, from)? {
        Wanted::Ready(ready) => *ready,
        Wanted::Token {
            key,
            attempt,
            request,
            stale,
        } => {
            let unavailable = |error| {
                Refusal(
                    StatusCode::SERVICE_UNAVAILABLE,
                    chain(&error as &dyn std::error::Error),
                )
            };
            if let Some(stale) = stale {
                app.relay.revoke_token(stale).await.map_err(unavailable)?;
            }
            let token: TokenCreated = app
                .relay
                .create_token(&request)
                .await
                .map_err(unavailable)?;
            let id = token.info.id;
            match app.desk.granted(&key, attempt, token, from) {
                Ok(Wanted::Ready(ready)) => *ready,
                Ok(Wanted::Token { .. }) => return Err(DeskError::Overtaken(key).into()),
                Err(error) => {
                    // Of no use to anybody; it ends by itself if the relay is away now.
                    let _ = app.relay.revoke_token(id).await;
                    return Err(error.into());
                }
            }
        }
    };
    Ok(plan::seed(&order(app, &ready)?))
}

/// The order that a unit's seed is planned from.
fn order(app: &App, ready: &Ready) -> Result<Order, Refusal> {
    let wrong = |text: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, text);
    let robot_id = ready.unit.robot_id.clone();
    let robot_id = robot_id.ok_or_else(|| wrong("the unit has no name".into()))?;
    seed_order(
        &app.line,
        &app.ssh_keys,
        robot_id,
        &ready.unit.profile,
        &ready.token,
    )
    .map_err(|error| wrong(error.to_string()))
}

/// What a line orders for a robot.
pub(super) fn seed_order(
    line: &Line,
    ssh_keys: &[String],
    robot_id: RobotId,
    profile: &str,
    token: &str,
) -> Result<Order, OrderError> {
    let RelayFile {
        https,
        mqtt,
        ca_fingerprint,
        ..
    } = &line.relay;
    let defaults = &line.defaults;
    Order {
        os: defaults.os.parse()?,
        name: Name::Given(robot_id),
        org: defaults.org.clone(),
        profile: profile.to_owned(),
        https: https.clone(),
        mqtt: mqtt.clone(),
        ca_fingerprint: ca_fingerprint.to_string(),
        token: token.to_owned(),
        token_expires: None,
        user: (!ssh_keys.is_empty()).then(|| User {
            name: "lekiwi".into(),
            ssh_keys: ssh_keys.to_vec(),
            password_hash: None,
        }),
        wifi: None,
        addressing: Addressing::Dhcp,
        time_zone: None,
        locale: None,
        keyboard: None,
        agent_deb: defaults.agent_deb.clone(),
        card_files: Vec::new(),
    }
    .check()
}

/// The unit's image as it lies on the disk; its name tells the board how to unpack it.
async fn image(State(app): State<App>, Part(serial): Part<String>) -> Result<Response, Refusal> {
    let sighting = sighting(&serial)?;
    let (_, name) = app.desk.image(clock::now(), &sighting)?;
    let answer = copy(&app, &image_path(&app, &name)?).await?;
    app.desk
        .happened(clock::now(), &sighting, Event::Image(name.clone()))?;
    Ok(answer)
}

/// A file of this machine. One that cannot be read is the operator's trouble, not only the board's.
async fn copy(app: &App, path: &Path) -> Result<Response, Refusal> {
    let missing = |error| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = format!("{name} cannot be read: {error}");
        app.desk.trouble(text.clone());
        Refusal(StatusCode::NOT_FOUND, text)
    };
    let file = tokio::fs::File::open(path).await.map_err(missing)?;
    let length = file.metadata().await.map_err(missing)?.len();
    Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, length)
        .body(Body::from_stream(ReaderStream::with_capacity(
            file,
            256 * 1024,
        )))
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn sum(State(app): State<App>, Part(serial): Part<String>) -> Result<String, Refusal> {
    let (_, name) = app.desk.image(clock::now(), &sighting(&serial)?)?;
    let path = image_path(&app, &name)?;
    let sums = Arc::clone(&app.sums);
    let sum = tokio::task::spawn_blocking(move || sums.of(&path)).await;
    match sum {
        Ok(Ok(sum)) => Ok(format!("{sum}  {name}\n")),
        Ok(Err(error)) => Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("image {name:?} cannot be read: {error}"),
        )),
        Err(error) => Err(Refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        )),
    }
}

/// Names were checked to be plain when the line's file was read.
fn image_path(app: &App, name: &str) -> Result<PathBuf, Refusal> {
    let missing = || Refusal(StatusCode::NOT_FOUND, "the line has no images".into());
    Ok(app.line.images.as_ref().ok_or_else(missing)?.join(name))
}

/// What a file was when it was summed: size in bytes, and when it changed.
type Version = (u64, i64, i64);

/// SHA-256 of files, worked out once for each version of a file.
#[derive(Default)]
pub(super) struct Sums(Mutex<HashMap<PathBuf, (Version, String)>>);

impl Sums {
    fn of(&self, path: &Path) -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let metadata = file.metadata()?;
        let version = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        let known = self.known().get(path).cloned();
        if let Some((of, sum)) = known
            && of == version
        {
            return Ok(sum);
        }
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                length => digest.update(buffer.get(..length).unwrap_or_default()),
            }
        }
        let sum: String = digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.known().insert(path.to_owned(), (version, sum.clone()));
        Ok(sum)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Version, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
