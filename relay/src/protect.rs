//! Asks [`Guard`] at each connection and message, and counts what it refuses. Called by the broker's hooks and the HTTPS
//! server; the interface lists and lifts bans. What is refused is one word in a log, never more: whoever floods must not
//! fill the disk.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api;
use lekiwi_relay_core::protect::{Ban, Guard, Limits, Offender, Port, Refusal};

use crate::clock;
use crate::metrics::Metrics;

/// The guard at the relay's doors; one for all of them.
#[derive(Debug)]
pub struct Protect {
    guard: Mutex<Guard>,
    /// Who is behind connections that come to the broker by the port of HTTPS, by their address on this machine. Asked
    /// for each message.
    passages: RwLock<HashMap<SocketAddr, IpAddr>>,
    metrics: Arc<Metrics>,
}

/// A connection that was let in; over when dropped.
#[derive(Debug)]
pub struct Place {
    protect: Arc<Protect>,
    port: Port,
    address: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.protect
            .with(|guard| guard.leave(self.port, self.address));
    }
}

/// Who is behind a connection of this machine; no longer known when dropped.
#[derive(Debug)]
pub struct Passage<'a> {
    protect: &'a Protect,
    local: SocketAddr,
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.protect.with_passages(|all| all.remove(&self.local));
    }
}

impl Protect {
    /// Nobody is here yet.
    #[must_use]
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            guard: Mutex::new(Guard::new(limits)),
            passages: RwLock::default(),
            metrics,
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Guard) -> T) -> T {
        work(&mut self.guard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_passages<T>(&self, work: impl FnOnce(&mut HashMap<SocketAddr, IpAddr>) -> T) -> T {
        let passages = self.passages.write();
        work(&mut passages.unwrap_or_else(PoisonError::into_inner))
    }

    fn counted<T>(&self, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
        outcome.inspect_err(|refusal| self.metrics.refuse(refusal.slug()))
    }

    /// Somebody connects.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn enter(self: &Arc<Self>, port: Port, address: IpAddr) -> Result<Place, Refusal> {
        self.take(port, Some(address))
    }

    fn take(self: &Arc<Self>, port: Port, address: Option<IpAddr>) -> Result<Place, Refusal> {
        let now = clock::monotonic();
        self.counted(self.with(|guard| guard.enter(now, port, address)))?;
        Ok(Place {
            protect: self.clone(),
            port,
            address,
        })
    }

    /// A client of the broker, which has proved its id, wants in.
    ///
    /// # Errors
    /// When there is no place for it, or it was sent away.
    pub fn enter_mqtt(
        self: &Arc<Self>,
        client: &str,
        remote: SocketAddr,
    ) -> Result<Place, Refusal> {
        let now = clock::monotonic();
        self.counted(self.with(|guard| guard.welcome(now, client)))?;
        // Whoever came by the port of HTTPS was counted there.
        let behind = self.behind(remote);
        self.take(Port::Mqtt, behind.is_none().then(|| remote.ip()))
    }

    /// From now on the connection from `local` is one from `address`.
    #[must_use]
    pub fn passage(&self, local: SocketAddr, address: IpAddr) -> Passage<'_> {
        self.with_passages(|all| all.insert(local, address));
        Passage {
            protect: self,
            local,
        }
    }

    fn behind(&self, remote: SocketAddr) -> Option<IpAddr> {
        // The local end of a connection that stands: nobody elsewhere can come from there.
        self.passages
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&remote)
            .copied()
    }

    /// A message of a client that has proved its id.
    ///
    /// # Errors
    /// When it is not to be taken; [`Refusal::Banned`] when the client is to go.
    pub fn message(&self, client: &str, remote: SocketAddr) -> Result<(), Refusal> {
        let address = self.behind(remote).unwrap_or_else(|| remote.ip());
        let now = clock::monotonic();
        self.counted(self.with(|guard| guard.message(now, client, address)))
    }

    /// A request over HTTPS, whoever it is of.
    ///
    /// # Errors
    /// When it is one too many of its address.
    pub fn request(&self, address: IpAddr) -> Result<(), Refusal> {
        let now = clock::monotonic();
        self.counted(self.with(|guard| guard.request(now, address)))
    }

    /// The same request, once it is known who asks.
    ///
    /// # Errors
    /// When it is one too many of theirs.
    pub fn request_of(&self, asker: &str, address: IpAddr) -> Result<(), Refusal> {
        let now = clock::monotonic();
        self.counted(self.with(|guard| guard.request_of(now, asker, address)))
    }

    /// A stranger at `address` did what only strangers do.
    pub fn offence(&self, address: IpAddr, reason: &'static str) {
        let now = clock::monotonic();
        if let Some(ban) = self.with(|guard| guard.offence(now, address, reason)) {
            let seconds = (ban.until - now).as_secs();
            tracing::warn!(who = %ban.who, reason, seconds, count = ban.count, "banned");
        }
    }

    /// Who is banned.
    #[must_use]
    pub fn bans(&self) -> Vec<api::Ban> {
        let (now, now_ms) = (clock::monotonic(), clock::now_ms());
        let bans = self.with(|guard| guard.bans(now));
        let shown = |ban: Ban| api::Ban {
            who: ban.who.to_string(),
            reason: ban.reason.to_owned(),
            count: ban.count,
            until: Timestamp::from_ms(now_ms).plus(ban.until.saturating_duration_since(now)),
        };
        bans.into_iter().map(shown).collect()
    }

    /// Ends the ban of a client or an address; whether there was one.
    #[must_use]
    pub fn lift(&self, who: &str) -> bool {
        let who = match who.parse() {
            Ok(address) => Offender::Address(address),
            Err(_) => Offender::Client(who.to_owned()),
        };
        let now = clock::monotonic();
        self.with(|guard| guard.lift(now, &who))
    }
}
