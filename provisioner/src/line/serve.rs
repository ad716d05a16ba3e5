//! Sockets, tasks and their end: the driver of a line. Called by `lekiwi-provisioner serve`, and by tests.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::desk::{Desk, DeskError};
use super::dhcp::{PXE_PORT, SERVER_PORT};
use super::file::{FileError, Line};
use super::http::{self, Sums};
use super::store::{Store, StoreError};
use super::{dhcp_server, operator, tftp_server, watcher};
use crate::clock;
use crate::order::OrderError;
use crate::relay::{Access, Relay, RelayError};

/// Connections at once, on each of the two ports.
const MAX_CONNECTIONS: usize = 512;
/// Time for a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a line does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The line's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A socket is not to be had.
    #[error("cannot listen for {what} at {at}")]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        at: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or folder that the line's file names.
    #[error("cannot read {path}")]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The records cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The same, once they are open.
    #[error(transparent)]
    Desk(#[from] DeskError),
    /// What the line's file says makes no seed.
    #[error("no unit would get a seed by the line's file")]
    Seed(#[from] OrderError),
    /// The relay's client cannot be made.
    #[error(transparent)]
    Relay(#[from] RelayError),
}

impl ServeError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Some("ports below 1024 and an interface's own traffic need root")
                }
                io::ErrorKind::AddrInUse => Some(
                    "another program has the port: is a line, dnsmasq or a DHCP server running here?",
                ),
                io::ErrorKind::AddrNotAvailable => {
                    Some("network.address must be an address of this machine")
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// A line with all its sockets open.
pub struct Server {
    desk: Arc<Desk>,
    relay: Arc<Relay>,
    boards: (TcpListener, http::App),
    operator: TcpListener,
    tftp: Option<tftp_server::Server>,
    dhcp: Vec<dhcp_server::Server>,
    relay_url: Arc<str>,
}

impl Server {
    /// Opens records and sockets; nothing is answered yet.
    ///
    /// # Errors
    /// When something of it is not to be had.
    pub async fn open(line: Line) -> Result<Self, ServeError> {
        let desk = Arc::new(Desk::new(
            &line,
            Store::open(&line.database)?,
            clock::now(),
        )?);
        let relay = Arc::new(Relay::new(Access {
            url: line.relay.https.clone(),
            ca_fingerprint: line.relay.ca_fingerprint,
            credential: line.relay.credential()?,
        })?);
        let mut ssh_keys = Vec::new();
        for path in &line.defaults.ssh_keys {
            let key = std::fs::read_to_string(path).map_err(|source| ServeError::Path {
                path: path.clone(),
                source,
            })?;
            ssh_keys.push(key.trim().to_owned());
        }
        if let Some(path) = &line.defaults.agent_deb {
            std::fs::File::open(path).map_err(|source| ServeError::Path {
                path: path.clone(),
                source,
            })?;
        }
        // What is wrong in the file is said now, not by each board after its image is written.
        let anybody = lekiwi_protocol::RobotId::new("robot-00000000");
        if let Ok(anybody) = anybody {
            let token = format!("lkt_{}", "0".repeat(20));
            http::seed_order(&line, &ssh_keys, anybody, &line.defaults.profile, &token)?;
        }
        let address = line.network.address;
        let boards = tcp("boards", (address, line.network.http_port).into()).await?;
        let operator = tcp("operators", line.operator).await?;
        let (tftp, dhcp) = match &line.boot_files {
            Some(root) => open_boot(&line, root.clone(), &desk).await?,
            None => (None, Vec::new()),
        };
        let relay_url = line.relay.https.as_str().into();
        let app = http::App {
            desk: Arc::clone(&desk),
            relay: Arc::clone(&relay),
            line: Arc::new(line),
            ssh_keys: Arc::new(ssh_keys),
            sums: Arc::new(Sums::default()),
        };
        Ok(Self {
            desk,
            relay,
            boards: (boards, app),
            operator,
            tftp,
            dhcp,
            relay_url,
        })
    }

    /// Who knows everything.
    #[must_use]
    pub fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }

    /// Where the operators' page is.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn operator(&self) -> io::Result<SocketAddr> {
        self.operator.local_addr()
    }

    /// Serves until `stopping`, and a little longer where somebody is still being answered.
    pub async fn run(self, stopping: CancellationToken) {
        let mut tasks = JoinSet::new();
        for dhcp in self.dhcp {
            tasks.spawn(dhcp.run(stopping.clone()));
        }
        if let Some(tftp) = self.tftp {
            tasks.spawn(tftp.run(stopping.clone()));
        }
        tasks.spawn(watcher::time(Arc::clone(&self.desk), stopping.clone()));
        tasks.spawn(watcher::relay(
            Arc::clone(&self.desk),
            self.relay,
            stopping.clone(),
        ));
        let (listener, app) = self.boards;
        tasks.spawn(serve(listener, http::router(app), stopping.clone()));
        let app = operator::App {
            desk: self.desk,
            relay: self.relay_url,
            stopping: stopping.clone(),
        };
        tasks.spawn(serve(
            self.operator,
            operator::router(app),
            stopping.clone(),
        ));
        stopping.cancelled().await;
        let all = async { while tasks.join_next().await.is_some() {} };
        // An image on its way would take minutes.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), all).await;
    }
}

async fn serve(listener: TcpListener, router: Router, stopping: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stopping.cancelled() => break,
            next = next => next,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors, for instance: others give some back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone().layer(Extension(ConnectInfo(peer))));
        let stopping = stopping.clone();
        tasks.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            // A client that leaves or makes no sense is its own loss.
            tokio::select! {
                _ = &mut connection => {}
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(place);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn open_boot(
    line: &Line,
    root: PathBuf,
    desk: &Arc<Desk>,
) -> Result<(Option<tftp_server::Server>, Vec<dhcp_server::Server>), ServeError> {
    let root = root
        .canonicalize()
        .map_err(|source| ServeError::Path { path: root, source })?;
    let network = &line.network;
    let at = SocketAddr::from((network.address, network.tftp_port));
    let tftp = tftp_server::Server {
        socket: UdpSocket::bind(at).await.map_err(listening("TFTP", at))?,
        address: network.address,
        root,
        desk: Arc::clone(desk),
    };
    let mut dhcp = Vec::new();
    if let Some(interface) = &network.interface {
        for port in [SERVER_PORT, PXE_PORT] {
            let socket =
                dhcp_socket(port, interface)
                    .await
                    .map_err(|source| ServeError::Listen {
                        what: "DHCP",
                        at: format!("port {port} of {interface}"),
                        source,
                    })?;
            dhcp.push(dhcp_server::Server {
                socket,
                port,
                address: network.address,
                desk: Arc::clone(desk),
            });
        }
    }
    Ok((Some(tftp), dhcp))
}

/// Broadcasts reach a socket without an address of its own only; the interface keeps other networks out.
async fn dhcp_socket(port: u16, interface: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    Ok(socket)
}

async fn tcp(what: &'static str, at: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(at).await.map_err(listening(what, at))
}

fn listening(what: &'static str, at: SocketAddr) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Listen {
        what,
        at: at.to_string(),
        source,
    }
}
