//! Hears who is there: asks for services of some types, and keeps what is answered for as long as it is
//! true. Bounded, whatever the network says.
//!
//! Asked is at once, then after 1, 3, 9, … s, and every quarter of an hour in the end; whoever comes
//! later announces itself. Each question lists what is known already, so that only others answer.

use core::net::{Ipv4Addr, SocketAddrV4};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::ad::service_type;
use super::name::Name;
use super::packet::{ANY, Data, MAX_WRITTEN, PTR, Packet, Question, Record};

/// Most instances, and most host names, that are kept.
pub const MOST: usize = 1024;
/// Most instances that one address can speak for: more than a reflector has robots behind it, and less than
/// [`MOST`], so that one liar leaves room for others.
pub const MOST_OF_ONE: usize = 256;
/// Most addresses of a host.
const MOST_ADDRESSES: usize = 8;
/// Longest text of an instance, bytes.
const MAX_TXT: usize = 1300;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(900);
/// How long something is kept at most, whatever its sender says.
const LONGEST_TTL: u32 = 4500;
/// How long something is kept after it was taken back.
const GOODBYE: Duration = Duration::from_secs(1);
/// Addresses of a host that are said so soon after each other are all its own.
const TOGETHER: Duration = Duration::from_secs(1);
/// How often an instance's details are asked for that came without, and when.
const DETAILS_ASKED: u8 = 3;
const DETAILS_WAIT: Duration = Duration::from_millis(200);

/// An instance of a service, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub name: Name,
    /// Who said so.
    pub from: Ipv4Addr,
    /// When that was.
    pub heard: Instant,
    /// Machine and port, once known.
    pub place: Option<(Name, u16)>,
    /// Its texts, once known.
    pub txt: Option<Vec<u8>>,
    expires: Instant,
    ttl: u32,
    details_asked: u8,
}

#[derive(Debug)]
struct Host {
    /// Each with when it was heard last.
    addresses: Vec<(Ipv4Addr, Instant)>,
    expires: Instant,
}

/// Hears services of some types.
#[derive(Debug)]
pub struct Browser {
    types: Vec<Name>,
    instances: BTreeMap<Name, Instance>,
    hosts: BTreeMap<Name, Host>,
    next: Option<Instant>,
    wait: Duration,
    details: Option<Instant>,
    refused: u64,
    outputs: VecDeque<Vec<u8>>,
}

impl Browser {
    /// Asks for these service types ([`ROBOTS`](super::ad::ROBOTS), say) from now on.
    #[must_use]
    pub fn new(kinds: &[&str], now: Instant) -> Self {
        Self {
            types: kinds.iter().map(|kind| service_type(kind)).collect(),
            instances: BTreeMap::new(),
            hosts: BTreeMap::new(),
            next: Some(now),
            wait: FIRST_WAIT,
            details: None,
            refused: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Begins to ask anew: there is another network.
    pub fn ask_again(&mut self, now: Instant) {
        (self.next, self.wait) = (Some(now), FIRST_WAIT);
    }

    /// Everything of the type `kind` that is known now, by name.
    pub fn instances(&self, kind: &str) -> impl Iterator<Item = &Instance> + use<'_> {
        let service_type = service_type(kind);
        self.instances
            .values()
            .filter(move |instance| instance.name.parent() == service_type)
    }

    /// Where an instance is: the addresses of its machine, or else from where it was said.
    #[must_use]
    pub fn addresses(&self, instance: &Instance) -> Vec<Ipv4Addr> {
        let host = instance.place.as_ref().map(|(host, _)| host);
        match host.and_then(|host| self.hosts.get(host)) {
            Some(host) if !host.addresses.is_empty() => {
                host.addresses.iter().map(|(address, _)| *address).collect()
            }
            _ => vec![instance.from],
        }
    }

    /// How many instances were not kept because there were too many.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let expires = self.instances.values().map(|instance| instance.expires);
        expires.chain(self.next).chain(self.details).min()
    }

    /// A packet for the group, on every interface.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.outputs.pop_front()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.instances.retain(|_, instance| instance.expires > now);
        self.hosts.retain(|_, host| host.expires > now);
        if self.next.is_some_and(|next| next <= now) {
            self.ask(now);
            self.next = Some(now + self.wait);
            self.wait = (self.wait * 3).min(LONGEST_WAIT);
        }
        if self.details.take_if(|details| *details <= now).is_some() {
            self.ask_details(now);
        }
    }

    /// One question for each type, and what is known in as many packets as it takes.
    fn ask(&mut self, now: Instant) {
        let question = |name: &Name| Question {
            name: name.clone(),
            kind: PTR,
            unicast: false,
        };
        let mut packet = Packet {
            questions: self.types.iter().map(question).collect(),
            ..Packet::default()
        };
        let mut length = packet.to_bytes().len();
        for instance in self.instances.values() {
            let left = instance.expires.saturating_duration_since(now).as_secs();
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            if left < instance.ttl / 2 {
                continue;
            }
            let known = Record {
                name: instance.name.parent(),
                flush: false,
                ttl: left,
                data: Data::Ptr(instance.name.clone()),
            };
            // Two pointers and the fixed fields; the label is not compressed.
            let more = 16 + instance.name.labels().next().map_or(0, <[u8]>::len);
            if length + more > MAX_WRITTEN {
                packet.truncated = true;
                self.outputs.push_back(packet.to_bytes());
                packet = Packet::default();
                // The first name of a packet is written in full.
                length = 12 + 64;
            }
            length += more;
            packet.answers.push(known);
        }
        self.outputs.push_back(packet.to_bytes());
    }

    fn ask_details(&mut self, now: Instant) {
        let mut questions = Vec::new();
        for instance in self.instances.values_mut() {
            let unknown = instance.place.is_none() || instance.txt.is_none();
            if unknown && instance.details_asked < DETAILS_ASKED && questions.len() < 10 {
                instance.details_asked += 1;
                self.details = Some(now + DETAILS_WAIT);
                questions.push(Question {
                    name: instance.name.clone(),
                    kind: ANY,
                    unicast: false,
                });
            }
        }
        if !questions.is_empty() {
            let packet = Packet {
                questions,
                ..Packet::default()
            };
            self.outputs.push_back(packet.to_bytes());
        }
    }

    /// A packet came in; gives whether something is known that was not.
    pub fn handle_packet(&mut self, now: Instant, from: SocketAddrV4, packet: &Packet) -> bool {
        if !packet.response {
            return false;
        }
        let records = || packet.answers.iter().chain(&packet.additionals);
        let mut news = false;
        // Instances first: details are kept of these only.
        for record in records() {
            if let Data::Ptr(instance) = &record.data
                && self.types.contains(&record.name)
                && instance.parent() == record.name
            {
                news |= self.pointer(now, *from.ip(), instance, record.ttl);
            }
        }
        for record in records() {
            news |= self.detail(now, *from.ip(), record);
        }
        for record in records() {
            if let Data::A(address) = record.data {
                news |= self.address(now, record, address);
            }
        }
        if news && self.details.is_none() {
            let lacks = |instance: &Instance| instance.place.is_none() || instance.txt.is_none();
            if self.instances.values().any(lacks) {
                self.details = Some(now + DETAILS_WAIT);
            }
        }
        news
    }

    fn pointer(&mut self, now: Instant, from: Ipv4Addr, name: &Name, ttl: u32) -> bool {
        let ttl = ttl.min(LONGEST_TTL);
        let expires = match ttl {
            0 => now + GOODBYE,
            ttl => now + Duration::from_secs(ttl.into()),
        };
        if let Some(known) = self.instances.get_mut(name) {
            known.expires = match ttl {
                0 => expires.min(known.expires),
                _ => expires,
            };
            known.ttl = ttl;
            known.heard = now;
            return ttl == 0;
        }
        if ttl == 0 {
            return false;
        }
        let same = |instance: &&Instance| instance.from == from;
        let of_one = self.instances.values().filter(same).count();
        if self.instances.len() >= MOST || of_one >= MOST_OF_ONE {
            self.refused = self.refused.saturating_add(1);
            return false;
        }
        let instance = Instance {
            name: name.clone(),
            from,
            heard: now,
            place: None,
            txt: None,
            expires,
            ttl,
            details_asked: 0,
        };
        self.instances.insert(name.clone(), instance);
        true
    }

    fn detail(&mut self, now: Instant, from: Ipv4Addr, record: &Record) -> bool {
        if record.ttl == 0 {
            return false;
        }
        let Some(instance) = self.instances.get_mut(&record.name) else {
            return false;
        };
        let (place, txt) = match &record.data {
            Data::Srv { port, target } => (Some((target.clone(), *port)), None),
            Data::Txt(txt) if txt.len() <= MAX_TXT => (None, Some(txt.clone())),
            _ => return false,
        };
        let before = (instance.place.clone(), instance.txt.clone(), instance.from);
        instance.place = place.or(instance.place.take());
        instance.txt = txt.or(instance.txt.take());
        (instance.from, instance.heard) = (from, now);
        before != (instance.place.clone(), instance.txt.clone(), instance.from)
    }

    fn address(&mut self, now: Instant, record: &Record, address: Ipv4Addr) -> bool {
        let of_instance = |instance: &Instance| {
            let host = instance.place.as_ref().map(|(host, _)| host);
            host == Some(&record.name)
        };
        if !self.hosts.contains_key(&record.name)
            && (self.hosts.len() >= MOST || !self.instances.values().any(of_instance))
        {
            return false;
        }
        let ttl = record.ttl.min(LONGEST_TTL);
        let host = self.hosts.entry(record.name.clone()).or_insert(Host {
            addresses: Vec::new(),
            expires: now,
        });
        let known = host.addresses.len();
        if ttl == 0 {
            host.addresses.retain(|(known, _)| *known != address);
            return host.addresses.len() != known;
        }
        if record.flush {
            // What was said within a second belongs together (RFC 6762, section 10.2).
            host.addresses.retain(|(known, heard)| {
                *known == address || now.saturating_duration_since(*heard) <= TOGETHER
            });
        }
        // As long as the instance; a machine that moves says so.
        host.expires = now + Duration::from_secs(LONGEST_TTL.into());
        let gone = host.addresses.len() != known;
        let said = host
            .addresses
            .iter_mut()
            .find(|(known, _)| *known == address);
        if let Some((_, heard)) = said {
            *heard = now;
        } else if host.addresses.len() < MOST_ADDRESSES {
            host.addresses.push((address, now));
            return true;
        }
        gone
    }
}
