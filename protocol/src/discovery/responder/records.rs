//! The records of one service, and which of them a question is about.

use core::net::Ipv4Addr;

use super::super::ad::{Service, service_type};
use super::super::name::{MAX_LABEL, Name, cut};
use super::super::packet::{A, ANY, Data, PTR, Question, Record, SRV, TXT};

/// How long names of machines hold, seconds (RFC 6762, section 10).
const HOST_TTL: u32 = 120;
/// How long everything else holds, seconds.
const OTHER_TTL: u32 = 4500;

/// Some of the records of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set(u8);

impl Set {
    pub(super) const NONE: Self = Self(0);
    /// The service type exists.
    const TYPE: Self = Self(1);
    /// The instance exists.
    const INSTANCE: Self = Self(2);
    const SRV: Self = Self(4);
    const TXT: Self = Self(8);
    const A: Self = Self(16);
    pub(super) const ALL: Self = Self(31);
    /// What nobody else may say.
    pub(super) const UNIQUE: Self = Self(4 | 8 | 16);
    /// What ends with this service; others may be of its type.
    pub(super) const MINE: Self = Self(2 | 4 | 8 | 16);

    fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether others may answer the same question as well.
    pub(super) fn is_shared(self) -> bool {
        self.has(Self::TYPE) || self.has(Self::INSTANCE)
    }

    pub(super) fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    fn without(self, less: Self) -> Self {
        Self(self.0 & !less.0)
    }

    /// What will be asked after these.
    pub(super) fn and_next(self) -> Self {
        let next = if self.has(Self::INSTANCE) {
            Self::UNIQUE
        } else if self.has(Self::SRV) {
            Self::A
        } else {
            Self::NONE
        };
        next.without(self)
    }

    fn each(self) -> impl Iterator<Item = Self> {
        (0..5)
            .map(|bit| Self(1 << bit))
            .filter(move |one| self.has(*one))
    }
}

#[derive(Debug)]
pub(super) struct Records {
    service: Service,
    address: Ipv4Addr,
    /// How many have the name already.
    number: u32,
    service_type: Name,
    instance: Name,
    host: Name,
}

impl Records {
    pub(super) fn new(service: Service, address: Ipv4Addr) -> Self {
        let mut records = Self {
            service_type: service_type(service.kind),
            service,
            address,
            number: 0,
            instance: Name::default(),
            host: Name::default(),
        };
        records.rename();
        records
    }

    /// Takes the next name.
    pub(super) fn rename(&mut self) {
        self.number += 1;
        let (id, kind) = (&self.service.id, self.service.kind);
        let numbered = |suffix: String| format!("{}{suffix}", cut(id, MAX_LABEL - suffix.len()));
        let (instance, host) = match self.number {
            1 => (id.clone(), id.clone()),
            n => (numbered(format!(" ({n})")), numbered(format!("-{n}"))),
        };
        self.instance = Name::of(&[&instance, kind, "_tcp", "local"]);
        // Not `<id>.local`: that name is the machine's own responder's to give.
        let family = kind.trim_start_matches('_');
        self.host = Name::of(&[&host, family, "local"]);
    }

    /// Takes the texts and port of `service`; gives whether they are other ones.
    pub(super) fn replace(&mut self, service: Service) -> bool {
        let changed = (self.service.port, &self.service.txt) != (service.port, &service.txt);
        self.service.port = service.port;
        self.service.txt = service.txt;
        changed
    }

    pub(super) fn instance(&self) -> &Name {
        &self.instance
    }

    pub(super) fn host(&self) -> &Name {
        &self.host
    }

    pub(super) fn list(&self, set: Set) -> Vec<Record> {
        set.each().map(|one| self.record(one)).collect()
    }

    fn record(&self, one: Set) -> Record {
        let (name, flush, ttl, data) = match one {
            Set::TYPE => (
                Name::of(&["_services", "_dns-sd", "_udp", "local"]),
                false,
                OTHER_TTL,
                Data::Ptr(self.service_type.clone()),
            ),
            Set::INSTANCE => (
                self.service_type.clone(),
                false,
                OTHER_TTL,
                Data::Ptr(self.instance.clone()),
            ),
            Set::SRV => {
                let (port, target) = (self.service.port, self.host.clone());
                let data = Data::Srv { port, target };
                (self.instance.clone(), true, HOST_TTL, data)
            }
            Set::TXT => (
                self.instance.clone(),
                true,
                OTHER_TTL,
                Data::Txt(self.service.txt.clone()),
            ),
            _ => (self.host.clone(), true, HOST_TTL, Data::A(self.address)),
        };
        Record {
            name,
            flush,
            ttl,
            data,
        }
    }

    /// Which records answer `question`.
    pub(super) fn asked(&self, question: &Question) -> Set {
        let mut asked = Set::NONE;
        for one in Set::ALL.each() {
            let kind = match one {
                Set::SRV => SRV,
                Set::TXT => TXT,
                Set::A => A,
                _ => PTR,
            };
            let right = question.kind == kind || question.kind == ANY;
            if right && self.record(one).name == question.name {
                asked = asked.with(one);
            }
        }
        asked
    }

    /// Those of `set` that are not among `known`, or not for long any more.
    pub(super) fn unknown(&self, set: Set, known: &[Record]) -> Set {
        let mut unknown = set;
        for one in set.each() {
            let ours = self.record(one);
            let same = |theirs: &Record| {
                theirs.data == ours.data && theirs.name == ours.name && theirs.ttl >= ours.ttl / 2
            };
            if known.iter().any(same) {
                unknown = unknown.without(one);
            }
        }
        unknown
    }

    /// Whether somebody else says something of one of our names.
    pub(super) fn contradicts(&self, record: &Record) -> bool {
        record.ttl > 0
            && Set::UNIQUE.each().any(|one| {
                let ours = self.record(one);
                ours.name == record.name
                    && ours.data.kind() == record.data.kind()
                    && ours.data != record.data
            })
    }
}
