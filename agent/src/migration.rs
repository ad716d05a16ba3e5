//! Beside an older system: its agent's heartbeats are taken on a loopback listener and become this robot's
//! facts, and this agent's heartbeats are written to the older relay as well, so that both can be compared
//! until one of them goes. Off unless the configuration says otherwise; speaks the K1 relay's HTTP.
//!
//! Bounded: callers, bytes of a request, patience; one write to the older relay at a time.

pub mod http;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::RobotId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clock;
use crate::config::Address;
use crate::ipc::{Question, Request};
use crate::lookup::Destination;
use http::{Asked, read, write};

/// Most callers at a time.
const CALLERS: usize = 4;
/// Longest time for one request, in either direction.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the robots are.
const ROBOTS: &str = "/fleet/robots/";
/// What anything but that is answered with.
const EXPECTED: &str = "expected PUT /fleet/robots/ID or GET /health";

/// A robot as the K1 relay knows it. What is absent is not changed there, and means nothing here.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Robot {
    /// Its id in the older system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub robot_id: Option<String>,
    /// Charge of its battery, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub battery: Option<f64>,
    /// Such as `autonomous`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Such as `idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// What it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_task: Option<String>,
    /// When that was so, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<f64>,
}

/// A place, in the unit of the older system.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Forward.
    #[serde(default)]
    pub x: f64,
    /// To the left.
    #[serde(default)]
    pub y: f64,
    /// Up.
    #[serde(default)]
    pub z: f64,
}

/// Takes what the older agent says until the returned task is dropped; `driver` is told as by a local program.
///
/// # Errors
/// When the port is taken.
pub fn listen(
    address: SocketAddr,
    key: Option<String>,
    driver: mpsc::Sender<Question>,
) -> io::Result<JoinHandle<()>> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (callers, key) = (Arc::new(Semaphore::new(CALLERS)), Arc::new(key));
    Ok(tokio::spawn(async move {
        loop {
            let Ok(permit) = callers.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (driver, key) = (driver.clone(), key.clone());
                    tokio::spawn(async move {
                        let converse = converse(stream, key.as_deref(), driver);
                        let _ = tokio::time::timeout(PATIENCE, converse).await;
                        drop(permit);
                    });
                }
                Err(_) => tokio::time::sleep(PATIENCE).await,
            }
        }
    }))
}

async fn converse(
    mut stream: TcpStream,
    key: Option<&str>,
    driver: mpsc::Sender<Question>,
) -> io::Result<()> {
    let (status, answer) = match read(&mut stream).await? {
        Ok(asked) => respond(asked, key, &driver).await?,
        Err(refusal) => (400, error(&refusal)),
    };
    write(&mut stream, status, &answer.to_string()).await
}

async fn respond(
    asked: Asked,
    key: Option<&str>,
    driver: &mpsc::Sender<Question>,
) -> io::Result<(u16, Value)> {
    let Asked {
        method,
        path,
        key: shown,
        body,
    } = asked;
    if (method.as_str(), path.as_str()) == ("GET", "/health") {
        let health = json!({ "status": "ok", "timestamp": clock::wall().as_ms() });
        return Ok((200, health));
    }
    if key.is_some() && key != shown.as_deref() {
        return Ok((401, error("Unauthorized")));
    }
    let id = path.strip_prefix(ROBOTS).unwrap_or_default().to_owned();
    if method != "PUT" || id.is_empty() || id.contains('/') {
        let expected = format!("{EXPECTED}, got {method} {path}");
        return Ok((404, error(&expected)));
    }
    let mut robot: Robot = match serde_json::from_slice(&body) {
        Ok(robot) => robot,
        Err(reason) => return Ok((400, error(&format!("expected a robot as JSON: {reason}")))),
    };
    robot.robot_id = Some(id.clone());
    let stopping = || io::Error::from(io::ErrorKind::ConnectionAborted);
    let (answer, answered) = oneshot::channel();
    let request = Request::Legacy(robot);
    let question = Question { request, answer };
    driver.send(question).await.map_err(|_| stopping())?;
    Ok(match answered.await.map_err(|_| stopping())? {
        Ok(_) => (200, json!({ "success": true, "robot_id": id })),
        Err(reason) => (400, error(&reason)),
    })
}

fn error(reason: &str) -> Value {
    json!({ "error": reason })
}

/// Writes what is sent to it to the older relay at `address`, one after the other. Whoever sends does not wait:
/// while one is being written, there is room for one more.
#[must_use]
pub fn mirror(address: Address, key: Option<String>, robot_id: &RobotId) -> mpsc::Sender<Robot> {
    let (sender, mut robots) = mpsc::channel(1);
    let relay = Destination::new(&address.to_string());
    let path = format!("{ROBOTS}{robot_id}");
    tokio::spawn(async move {
        let mut trouble = None;
        while let Some(robot) = robots.recv().await {
            let result = put(&relay, key.as_deref(), &path, &robot).await.err();
            match (&result, &trouble) {
                (Some(reason), None) => log::warn!("the older relay is not told: {reason}"),
                (None, Some(_)) => log::info!("the older relay is told again"),
                _ => {}
            }
            trouble = result;
        }
    });
    sender
}

async fn put(
    relay: &Destination,
    key: Option<&str>,
    path: &str,
    robot: &Robot,
) -> Result<(), String> {
    let address = relay.as_str();
    let body = serde_json::to_string(robot).unwrap_or_default();
    let put = async { http::status(&mut ask(relay, ("PUT", path), key, &body).await?).await };
    let expected = || format!("expected 200 from http://{address}{path}");
    match tokio::time::timeout(PATIENCE, put).await {
        Ok(Ok(200)) => Ok(()),
        Ok(Ok(status)) => Err(format!("{}, got {status}", expected())),
        Ok(Err(error)) => Err(format!("{}: {error}", expected())),
        Err(_) => Err(format!("{} within {} s", expected(), PATIENCE.as_secs())),
    }
}

/// Asks, on a connection of its own, from which the answer is to be read.
async fn ask(
    relay: &Destination,
    request: (&str, &str),
    key: Option<&str>,
    body: &str,
) -> io::Result<TcpStream> {
    let mut stream = relay.connect().await?;
    http::ask(&mut stream, relay.as_str(), request, key, body).await?;
    Ok(stream)
}

async fn in_time<T>(asking: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let answered = tokio::time::timeout(PATIENCE, asking).await;
    answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Asks a relay of the older system how it is; returns the status of its answer.
///
/// # Errors
/// When it does not answer.
pub async fn health(address: &Address, key: Option<&str>) -> io::Result<u16> {
    let relay = Destination::new(&address.to_string());
    in_time(async { http::status(&mut ask(&relay, ("GET", "/health"), key, "").await?).await })
        .await
}

/// Whether who listens at `address` is an agent: a relay of the older system answers `/health` as well.
///
/// # Errors
/// When nobody answers.
pub async fn answers_as_agent(address: &Address, key: Option<&str>) -> io::Result<bool> {
    let agent = Destination::new(&address.to_string());
    let answer =
        in_time(async { http::answer(&mut ask(&agent, ("GET", "/"), key, "").await?).await });
    Ok(answer.await?.contains(EXPECTED))
}
