//! A TCP proxy that makes the faults of networks: delay, silence, cuts, slowness, nobody there. Loss is not
//! among them: TCP hides it from a proxy, and shows it as delay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// What is wrong with the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Everything arrives so much later, in each direction.
    Delay(Duration),
    /// So many bytes a second, in each direction.
    Slow(u64),
    /// Nothing arrives, and nobody is told.
    Silence,
    /// Whoever connects is sent away.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Conditions {
    fault: Fault,
    target: SocketAddr,
    /// Connections with a lower number are cut.
    cut: u64,
    /// Connections with a lower number hear nothing any more, and are not told.
    stranded: u64,
}

/// The proxy; ends with the test.
#[derive(Debug)]
pub struct FaultyProxy {
    address: SocketAddr,
    conditions: watch::Sender<Conditions>,
    connections: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultyProxy {
    /// A faultless one on a free port of the loopback interface, to `target` (`ip:port`).
    ///
    /// # Errors
    /// When there is no port, or `target` is no address.
    pub async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let target = target
            .parse()
            .with_context(|| format!("expected ip:port, got {target}"))?;
        let (conditions, seen) = watch::channel(Conditions {
            fault: Fault::None,
            target,
            cut: 0,
            stranded: 0,
        });
        let (connections, bytes): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        Ok(Self {
            address: listener.local_addr()?,
            conditions,
            connections: connections.clone(),
            bytes: bytes.clone(),
            task: tokio::spawn(serve(listener, seen, connections, bytes)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for all connections.
    pub fn set(&self, fault: Fault) {
        self.conditions.send_modify(|now| now.fault = fault);
    }

    /// Later connections lead to `target` (`ip:port`).
    ///
    /// # Errors
    /// When it is no address.
    pub fn lead_to(&self, target: &str) -> Result<()> {
        let target = target.parse()?;
        self.conditions.send_modify(|now| now.target = target);
        Ok(())
    }

    /// Ends all connections that stand.
    pub fn cut(&self) {
        let all = self.connections();
        self.conditions.send_modify(|now| now.cut = all);
    }

    /// Forgets all connections that stand, as a router does that was restarted: nothing arrives any more.
    /// Later ones are well.
    pub fn strand(&self) {
        let all = self.connections();
        self.conditions.send_modify(|now| now.stranded = all);
    }

    /// How many connections there were.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// What was carried, both directions together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: TcpListener,
    conditions: watch::Receiver<Conditions>,
    connections: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let (conditions, bytes) = (conditions.clone(), bytes.clone());
        let now = *conditions.borrow();
        let number = connections.fetch_add(1, Ordering::Relaxed);
        if now.fault == Fault::Closed {
            continue;
        }
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(now.target).await else {
                return;
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (client_reader, client_writer) = client.into_split();
            let (server_reader, server_writer) = server.into_split();
            let way = Way {
                number,
                conditions,
                bytes,
            };
            tokio::select! {
                () = way.clone().carry(client_reader, server_writer) => {}
                () = way.clone().carry(server_reader, client_writer) => {}
                () = way.until_cut() => {}
            }
        });
    }
}

/// One direction of one connection.
#[derive(Debug, Clone)]
struct Way {
    number: u64,
    conditions: watch::Receiver<Conditions>,
    bytes: Arc<AtomicU64>,
}

impl Way {
    /// Reads and writes beside each other, so that a delay is no limit to what is under way.
    async fn carry(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
        let read = async move {
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                let piece = (Instant::now(), buffer[..count].to_vec());
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
        };
        let write = async {
            while let Some((at, piece)) = under_way.recv().await {
                self.pass(at, &piece).await;
                if to.write_all(&piece).await.is_err() {
                    break;
                }
                self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        };
        tokio::join!(read, write);
        // The end travels as late as what came before it, which was waited for.
        let _ = to.shutdown().await;
    }

    /// Waits as long as the conditions say.
    async fn pass(&mut self, came: Instant, piece: &[u8]) {
        loop {
            let now = *self.conditions.borrow_and_update();
            if now.fault != Fault::Silence && self.number >= now.stranded {
                match now.fault {
                    Fault::Delay(delay) => sleep_until(came + delay).await,
                    Fault::Slow(rate) => {
                        sleep(Duration::from_millis(piece.len() as u64 * 1000 / rate)).await;
                    }
                    _ => {}
                }
                return;
            }
            if self.conditions.changed().await.is_err() {
                return;
            }
        }
    }

    async fn until_cut(mut self) {
        // An error means that the proxy is gone.
        let _ = self.conditions.wait_for(|now| self.number < now.cut).await;
    }
}
