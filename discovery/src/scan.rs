//! Asks every address of a network directly whether a robot or relay is there. Each robot's responder
//! answers; nothing else has to listen, and the answers need no multicast, which some networks filter.

use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lekiwi_protocol::discovery::PORT;
use lekiwi_protocol::discovery::ad::service_type;
use lekiwi_protocol::discovery::browser::Browser;
use lekiwi_protocol::discovery::network::{Network, SHORTEST_PREFIX};
use lekiwi_protocol::discovery::packet::{MAX_PACKET, PTR, Packet, Question};
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{Found, clock, found};

/// Questions in a second. Each address that nobody has is asked for by ARP during three seconds; so many
/// at a time fit into the kernel's table of 1024.
const A_SECOND: u64 = 256;
/// So many of them together: timers of a busy machine are late.
const TOGETHER: u64 = 16;
/// How often all addresses are asked.
const ROUNDS: usize = 2;
/// How long answers to the last question are waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a network was not scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It takes too long.
    #[error("expected a network of /{SHORTEST_PREFIX} or smaller, got {0}")]
    Large(Network),
    /// No way there.
    #[error("cannot send to {network}")]
    Send {
        /// The network.
        network: Network,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Asks all addresses of `network`, many at once; a large one only with `force`.
///
/// # Errors
/// When the network is too large, or nothing can be sent to it.
pub async fn scan(
    network: Network,
    kinds: &'static [&'static str],
    force: bool,
) -> Result<Vec<(&'static str, Found)>, ScanError> {
    if network.is_large() && !force {
        return Err(ScanError::Large(network));
    }
    let failed = |source| ScanError::Send { network, source };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .await
        .map_err(failed)?;
    let (id, question) = question(kinds);
    // One for each who answers: two that nobody has told apart may have the same name.
    let mut browsers: BTreeMap<Ipv4Addr, Browser> = BTreeMap::new();
    let mut ticks = interval(Duration::from_micros(1_000_000 * TOGETHER / A_SECOND));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut addresses = std::iter::repeat_n((), ROUNDS).flat_map(|()| network.hosts());
    let mut next = addresses.next();
    let mut end = Instant::now() + PATIENCE;
    let mut bytes = vec![0; MAX_PACKET];
    loop {
        tokio::select! {
            _ = ticks.tick(), if next.is_some() => {
                for _ in 0..TOGETHER {
                    let Some(address) = next else { break };
                    match socket.send_to(&question, (address, PORT)).await {
                        Err(error) if is_nowhere(&error) => return Err(failed(error)),
                        // Nobody there, or the table is full for a moment: the second round asks again.
                        _ => {}
                    }
                    next = addresses.next();
                    end = Instant::now() + PATIENCE;
                }
            }
            received = socket.recv_from(&mut bytes) => {
                let Ok((length, SocketAddr::V4(from))) = received else { continue };
                let asked = from.port() == PORT && network.contains(*from.ip());
                match Packet::parse(bytes.get(..length).unwrap_or_default()) {
                    Ok(packet) if asked && packet.id == id => {
                        let now = clock::now();
                        browsers
                            .entry(*from.ip())
                            .or_insert_with(|| Browser::new(kinds, now))
                            .handle_packet(now, from, &packet);
                    }
                    _ => {}
                }
            }
            () = tokio::time::sleep_until(end), if next.is_none() => break,
        }
    }
    let mut all = Vec::new();
    for browser in browsers.values() {
        for kind in kinds {
            all.extend(found(browser, kind).into_iter().map(|found| (*kind, found)));
        }
    }
    Ok(all)
}

fn question(kinds: &[&str]) -> (u16, Vec<u8>) {
    let [high, low, ..] = getrandom::u32().unwrap_or_default().to_be_bytes();
    let id = u16::from_be_bytes([high, low]);
    let question = |kind: &&str| Question {
        name: service_type(kind),
        kind: PTR,
        unicast: true,
    };
    let packet = Packet {
        id,
        questions: kinds.iter().map(question).collect(),
        ..Packet::default()
    };
    (id, packet.to_bytes())
}

/// Whether no address of the network can be reached at all.
fn is_nowhere(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::PermissionDenied
    )
}
