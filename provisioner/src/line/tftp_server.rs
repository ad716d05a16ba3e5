//! TFTP on sockets: one task a transfer, with a socket of its own, so that a client that is slow or gone holds up
//! nobody. What is decided is in [`super::tftp`].

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::desk::Desk;
use super::tftp::{self, Next, Places, Refused, Request, Transfer};
use super::unit::Event;
use crate::clock;

/// Transfers at once; each has a socket and an open file.
const MAX_TRANSFERS: usize = 512;
/// Larger than any request or acknowledgement that makes sense.
const MAX_DATAGRAM: usize = 1500;

/// The TFTP server.
pub(super) struct Server {
    /// Where requests come in.
    pub(super) socket: UdpSocket,
    /// Where answers come from.
    pub(super) address: Ipv4Addr,
    /// The folder that is served, without links in its path.
    pub(super) root: PathBuf,
    /// Who is told.
    pub(super) desk: Arc<Desk>,
}

impl Server {
    /// Serves until `stopping`.
    pub(super) async fn run(self, stopping: CancellationToken) {
        let server = Arc::new(self);
        let places = Arc::new(Semaphore::new(MAX_TRANSFERS));
        let tasks = TaskTracker::new();
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            let received = tokio::select! {
                () = stopping.cancelled() => break,
                received = server.socket.recv_from(&mut buffer) => received,
            };
            // An error here is about an earlier answer that somebody did not want.
            let Ok((length, peer)) = received else {
                continue;
            };
            let request = match tftp::parse(buffer.get(..length).unwrap_or_default()) {
                Ok(request) => request,
                Err(refused) => {
                    server.refuse(peer, &refused).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                server.refuse(peer, &Refused::Busy(MAX_TRANSFERS)).await;
                continue;
            };
            let (server, stopping) = (Arc::clone(&server), stopping.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = server.answer(peer, request) => {}
                }
                drop(place);
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn refuse(&self, peer: SocketAddr, refused: &Refused) {
        // Firmware asks for files that need not be there; that is no news.
        if !matches!(refused, Refused::Missing(_) | Refused::Malformed(_)) {
            self.desk
                .trouble(format!("TFTP for {}: {refused}", peer.ip()));
        }
        if let Some(datagram) = refused.datagram() {
            // The client asks again or gives up; there is nobody else to tell.
            let _ = self.socket.send_to(&datagram, peer).await;
        }
    }

    async fn answer(&self, peer: SocketAddr, request: Request) {
        let opened = match tftp::places(&request.name) {
            Ok(places) => self.open(places).await,
            Err(refused) => Err(refused),
        };
        let begun = opened.and_then(|(file, size)| Ok((file, Transfer::new(&request, size)?)));
        match begun {
            Ok((file, transfer)) => {
                if let Err(error) = self.transfer(peer, file, transfer).await {
                    let name: String = request.name.chars().take(80).collect();
                    self.desk
                        .trouble(format!("TFTP of {name:?} to {}: {error}", peer.ip()));
                }
            }
            Err(refused) => self.refuse(peer, &refused).await,
        }
    }

    /// Opens the first of the places that is a file below the root, for a board that the line takes.
    async fn open(&self, places: Places) -> Result<(File, u64), Refused> {
        let missing = || Refused::Missing(places.file.chars().take(80).collect());
        for place in &places.candidates {
            let Some(found) = below(&self.root, place).await else {
                continue;
            };
            if let Some(sighting) = &places.sighting {
                let event = Event::Tftp(places.file.clone());
                if self.desk.happened(clock::now(), sighting, event).is_err() {
                    return Err(missing());
                }
            }
            return Ok(found);
        }
        Err(missing())
    }

    async fn transfer(
        &self,
        peer: SocketAddr,
        file: File,
        mut transfer: Transfer,
    ) -> io::Result<()> {
        let socket = UdpSocket::bind((self.address, 0)).await?;
        socket.connect(peer).await?;
        let mut buffer = [0; MAX_DATAGRAM];
        let mut next = transfer.start();
        loop {
            match next {
                Next::Options(options) => drop(socket.send(&options).await),
                Next::Blocks(numbers) => {
                    for number in numbers {
                        let (begin, length) = transfer.range(number);
                        let mut block = Transfer::head(number).to_vec();
                        let body = block.len();
                        block.resize(body + length, 0);
                        // A block is read in microseconds; handing it to another thread takes longer.
                        file.read_exact_at(block.get_mut(body..).unwrap_or_default(), begin)?;
                        // What is lost on the way is sent again.
                        drop(socket.send(&block).await);
                    }
                }
                Next::Wait => {}
                Next::Done => return Ok(()),
                // Firmware asks for a file's size by starting to fetch it.
                Next::Stopped(_) => return Ok(()),
                Next::Gone => return Err(io::Error::other("the board does not answer")),
            }
            let deadline = tokio::time::sleep(transfer.timeout());
            tokio::pin!(deadline);
            next = loop {
                tokio::select! {
                    () = &mut deadline => break transfer.timed_out(),
                    received = socket.recv(&mut buffer) => match received {
                        // Noise does not put off the deadline.
                        Ok(length) => match transfer.receive(buffer.get(..length).unwrap_or_default()) {
                            Next::Wait => {}
                            next => break next,
                        },
                        // The board closed its port: it has what it wanted.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
                        Err(error) => return Err(error),
                    },
                }
            };
        }
    }
}

/// A regular file below the root, wherever links lead.
async fn below(root: &Path, place: &Path) -> Option<(File, u64)> {
    let path = tokio::fs::canonicalize(root.join(place)).await.ok()?;
    if !path.starts_with(root) {
        return None;
    }
    let file = tokio::fs::File::open(&path).await.ok()?.into_std().await;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some((file, metadata.len()))
}
