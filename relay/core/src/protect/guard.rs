//! Counts connections, messages and offences, and remembers bans.
//!
//! Invariants: the limits hold exactly, however connections come; nobody whose address is trusted is refused for it; a
//! ban ends by itself, and the next one is twice as long; memory is bounded by connections and [`MAX_AT_REST`].

use core::net::{IpAddr, Ipv6Addr};
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Rate};
use super::limits::Limits;

/// Offences that are forgiven: people mistype, and clients are updated badly.
const OFFENCES: Rate = Rate {
    burst: 100,
    per_s: 1,
};
/// No ban is longer. Who was good for as long begins anew.
const LONGEST_BAN: Duration = Duration::from_secs(24 * 3600);
/// Clients and addresses that are remembered without a connection.
const MAX_AT_REST: usize = 65_536;
/// As many are looked through for those that need not be remembered, at least.
const SWEEP_FROM: usize = 1_024;

/// Where a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// For the broker.
    Mqtt,
    /// For people and programs.
    Https,
    /// MQTT by the port of HTTPS, on its way to the broker.
    Passage,
}

/// Who answers for what was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offender {
    /// A client that has proved that this is its id.
    Client(String),
    /// Whoever has proved nothing. Of IPv6 the first half, which is all of one network's.
    Address(IpAddr),
}

impl fmt::Display for Offender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(id) => f.write_str(id),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Why somebody is not let in, or a message not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// All places are taken.
    #[error("expected fewer connections: all places are taken")]
    Full,
    /// All places of this address are.
    #[error("expected fewer connections of this address")]
    AddressFull,
    /// It was sent away.
    #[error("expected nothing of a banned client or address for another {} s", left.as_secs() + 1)]
    Banned {
        /// For so much longer.
        left: Duration,
    },
    /// Too many messages.
    #[error("expected fewer messages a second")]
    Rate,
    /// Too many requests.
    #[error("expected at most {per_s} requests a second{}", if *of_address { " of this address" } else { "" })]
    Requests {
        /// So many may come.
        per_s: u32,
        /// Of all at the address, rather than of one.
        of_address: bool,
    },
}

impl Refusal {
    /// As metrics spell it.
    #[must_use]
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::AddressFull => "address-full",
            Self::Banned { .. } => "banned",
            Self::Rate => "rate",
            Self::Requests { .. } => "requests",
        }
    }
}

/// Somebody who was sent away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Who.
    pub who: Offender,
    /// What for.
    pub reason: &'static str,
    /// How many it had by now, this one counted.
    pub count: u32,
    /// When it ends.
    pub until: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Sentence {
    until: Instant,
    count: u32,
    reason: &'static str,
}

/// What is known of a client or an address.
#[derive(Debug, Default)]
struct Record {
    connections: usize,
    messages: Bucket,
    requests: Bucket,
    offences: Bucket,
    sentence: Option<Sentence>,
}

impl Record {
    fn banned(&self, now: Instant) -> Result<(), Refusal> {
        match self.sentence {
            Some(sentence) if sentence.until > now => Err(Refusal::Banned {
                left: sentence.until - now,
            }),
            _ => Ok(()),
        }
    }

    /// Whether a new record would be the same.
    fn is_spent(&self, now: Instant) -> bool {
        self.connections == 0
            && self.messages.is_full(now)
            && self.requests.is_full(now)
            && self.offences.is_full(now)
            && self
                .sentence
                .is_none_or(|sentence| sentence.until + LONGEST_BAN <= now)
    }

    /// Notes an offence; the sentence when it was one too many.
    fn offend(&mut self, now: Instant, ban: Duration, reason: &'static str) -> Option<Sentence> {
        if self.offences.take(now, OFFENCES) || ban.is_zero() || self.banned(now).is_err() {
            return None;
        }
        let earlier = self
            .sentence
            .filter(|sentence| sentence.until + LONGEST_BAN > now)
            .map_or(0, |sentence| sentence.count);
        let length = ban.saturating_mul(1_u32.checked_shl(earlier).unwrap_or(u32::MAX));
        let sentence = Sentence {
            until: now + length.min(LONGEST_BAN),
            count: earlier.saturating_add(1),
            reason,
        };
        self.sentence = Some(sentence);
        // What led to it is paid for.
        self.offences = Bucket::default();
        Some(sentence)
    }
}

/// Records of one kind, as few as do.
#[derive(Debug)]
struct Records<K> {
    known: HashMap<K, Record>,
    sweep_at: usize,
}

impl<K> Default for Records<K> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            sweep_at: SWEEP_FROM,
        }
    }
}

impl<K: Eq + Hash> Records<K> {
    fn make_room(&mut self, now: Instant) {
        if self.known.len() < self.sweep_at {
            return;
        }
        self.known.retain(|_, record| !record.is_spent(now));
        // First those go that did nothing, then those that were punished.
        let is_here = |record: &Record| record.connections > 0;
        if self.known.len() >= MAX_AT_REST {
            self.known
                .retain(|_, record| is_here(record) || record.banned(now).is_err());
        }
        if self.known.len() >= MAX_AT_REST {
            self.known.retain(|_, record| is_here(record));
        }
        self.sweep_at = (2 * self.known.len()).max(SWEEP_FROM);
    }

    fn at(&mut self, now: Instant, key: K) -> &mut Record {
        self.make_room(now);
        self.known.entry(key).or_default()
    }

    fn bans(&self, now: Instant, who: impl Fn(&K) -> Offender) -> impl Iterator<Item = Ban> {
        self.known.iter().filter_map(move |(key, record)| {
            let sentence = record.sentence.filter(|sentence| sentence.until > now)?;
            Some(ban(who(key), sentence))
        })
    }
}

fn ban(who: Offender, sentence: Sentence) -> Ban {
    Ban {
        who,
        reason: sentence.reason,
        count: sentence.count,
        until: sentence.until,
    }
}

/// The address that answers for what comes from `address`.
fn answering(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        // Whoever has one address of IPv6 has all of its network.
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// Who is here and who was sent away.
#[derive(Debug, Default)]
pub struct Guard {
    limits: Limits,
    mqtt: usize,
    https: usize,
    passage: usize,
    addresses: Records<IpAddr>,
    clients: Records<String>,
    /// People, keys and robots that ask over HTTPS.
    askers: Records<String>,
}

impl Guard {
    /// Nobody is here yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The numbers.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn places(&mut self, port: Port) -> (&mut usize, usize) {
        match port {
            Port::Mqtt => (&mut self.mqtt, self.limits.mqtt_connections),
            Port::Https => (&mut self.https, self.limits.https_connections),
            Port::Passage => (&mut self.passage, self.limits.mqtt_connections),
        }
    }

    /// The address, if it is limited.
    fn limited(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        let address = address.filter(|address| !self.limits.trusts(*address))?;
        Some(answering(address))
    }

    /// Somebody connects: takes a place, which [`Guard::leave`] gives back. `address` is `None` where it was counted
    /// already.
    ///
    /// # Errors
    /// When there is none for it.
    pub fn enter(
        &mut self,
        now: Instant,
        port: Port,
        address: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let address = self.limited(address);
        let per_address = self.limits.connections_per_address;
        let (taken, most) = self.places(port);
        let is_full = *taken >= most;
        if let Some(address) = address {
            let record = self.addresses.at(now, address);
            // The broker's clients have proved who they are, and answer for themselves: see `welcome`.
            if port != Port::Mqtt {
                record.banned(now)?;
            }
            if record.connections >= per_address {
                return Err(Refusal::AddressFull);
            }
            if !is_full {
                record.connections += 1;
            }
        }
        if is_full {
            return Err(Refusal::Full);
        }
        *self.places(port).0 += 1;
        Ok(())
    }

    /// A connection that was let in is over.
    pub fn leave(&mut self, port: Port, address: Option<IpAddr>) {
        let (taken, _) = self.places(port);
        *taken = taken.saturating_sub(1);
        if let Some(address) = self.limited(address)
            && let Some(record) = self.addresses.known.get_mut(&address)
        {
            record.connections = record.connections.saturating_sub(1);
        }
    }

    /// A client that has proved its id wants in.
    ///
    /// # Errors
    /// When it was sent away.
    pub fn welcome(&self, now: Instant, client: &str) -> Result<(), Refusal> {
        match self.clients.known.get(client) {
            Some(record) => record.banned(now),
            None => Ok(()),
        }
    }

    /// A message of a client that has proved its id.
    ///
    /// # Errors
    /// When it is one too many, and not to be taken; [`Refusal::Banned`] when the client is to go.
    pub fn message(&mut self, now: Instant, client: &str, address: IpAddr) -> Result<(), Refusal> {
        let Some(address) = self.limited(Some(address)) else {
            return Ok(());
        };
        let (rate, rate_of_address) = (self.limits.messages(), self.limits.messages_of_address());
        if !self.clients.known.contains_key(client) {
            self.clients.at(now, client.to_owned());
        }
        if let Some(record) = self.clients.known.get_mut(client) {
            record.banned(now)?;
            if !record.messages.take(now, rate) {
                let sentence = record.offend(now, self.limits.ban, "messages");
                return Err(match sentence {
                    Some(sentence) => Refusal::Banned {
                        left: sentence.until - now,
                    },
                    None => Refusal::Rate,
                });
            }
        }
        let record = self.addresses.at(now, address);
        if record.messages.take(now, rate_of_address) {
            Ok(())
        } else {
            // Which of its clients is to blame is not known: none of them is.
            Err(Refusal::Rate)
        }
    }

    /// A request over HTTPS from `address`, whoever it is of.
    ///
    /// # Errors
    /// When it is one too many of the address.
    pub fn request(&mut self, now: Instant, address: IpAddr) -> Result<(), Refusal> {
        let rate = self.limits.requests_of_address();
        let Some(address) = self.limited(Some(address)) else {
            return Ok(());
        };
        let has = self.addresses.at(now, address).requests.take(now, rate);
        has.then_some(()).ok_or(Refusal::Requests {
            per_s: rate.per_s,
            of_address: true,
        })
    }

    /// The same request, once it is known who asks. They answer for all that they ask, wherever from.
    ///
    /// # Errors
    /// When it is one too many of theirs.
    pub fn request_of(
        &mut self,
        now: Instant,
        asker: &str,
        address: IpAddr,
    ) -> Result<(), Refusal> {
        let rate = self.limits.requests();
        if self.limited(Some(address)).is_none() {
            return Ok(());
        }
        if !self.askers.known.contains_key(asker) {
            self.askers.at(now, asker.to_owned());
        }
        let record = self.askers.known.get_mut(asker);
        let has = record.is_none_or(|record| record.requests.take(now, rate));
        has.then_some(()).ok_or(Refusal::Requests {
            per_s: rate.per_s,
            of_address: false,
        })
    }

    /// Somebody who has proved nothing did what only strangers do; the ban that it led to.
    pub fn offence(&mut self, now: Instant, address: IpAddr, reason: &'static str) -> Option<Ban> {
        let address = self.limited(Some(address))?;
        let length = self.limits.ban;
        let sentence = self
            .addresses
            .at(now, address)
            .offend(now, length, reason)?;
        Some(ban(Offender::Address(address), sentence))
    }

    /// Who is banned, those who are longest last.
    #[must_use]
    pub fn bans(&self, now: Instant) -> Vec<Ban> {
        let addresses = self
            .addresses
            .bans(now, |address| Offender::Address(*address));
        let clients = self.clients.bans(now, |id| Offender::Client(id.clone()));
        let mut bans: Vec<Ban> = addresses.chain(clients).collect();
        bans.sort_by_key(|ban| ban.until);
        bans
    }

    /// Ends a ban, and forgets earlier ones; whether there was one.
    pub fn lift(&mut self, now: Instant, who: &Offender) -> bool {
        let record = match who {
            Offender::Client(id) => self.clients.known.get_mut(id),
            Offender::Address(address) => self.addresses.known.get_mut(&answering(*address)),
        };
        record.is_some_and(|record| {
            let was_banned = record.banned(now).is_err();
            record.sentence = None;
            was_banned
        })
    }
}

#[cfg(test)]
mod tests;
