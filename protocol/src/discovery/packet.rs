//! Packets of the domain name system as multicast DNS uses them. Reading is strict and bounded: names
//! point only backwards, nothing is read past the end, and what is allocated follows the packet's size.

use core::net::Ipv4Addr;

use super::name::Name;

/// Longest packet that is read, bytes (RFC 6762, section 17).
pub const MAX_PACKET: usize = 9000;
/// Longest packet that is written, bytes: it fits an Ethernet frame.
pub const MAX_WRITTEN: usize = 1400;

/// An address (A).
pub const A: u16 = 1;
/// A pointer (PTR): an instance of a service.
pub const PTR: u16 = 12;
/// Text (TXT).
pub const TXT: u16 = 16;
/// Where a service is (SRV).
pub const SRV: u16 = 33;
/// Every type, in questions.
pub const ANY: u16 = 255;

const IN: u16 = 1;
const HEADER: usize = 12;
/// In a question: answer me directly. In a record: forget what others said of this.
const TOP_BIT: u16 = 0x8000;
const RESPONSE: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
/// Operation and result; multicast DNS has zero in both.
const OPCODE_AND_RCODE: u16 = 0x780f;

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// It is longer than any packet can be.
    #[error("expected at most {MAX_PACKET} bytes, got {0}")]
    TooLong(usize),
    /// It ends too early.
    #[error("expected more than {0} bytes")]
    Short(usize),
    /// It is another kind of packet.
    #[error("expected a plain query or response, got the flags {0:#06x}")]
    Flags(u16),
    /// A name cannot be read.
    #[error("expected a name of at most 255 bytes that points only backwards at byte {0}")]
    Name(usize),
    /// A record's data has another length than its type.
    #[error("expected the data of record type {kind} at byte {at}, got {length} bytes")]
    Data {
        /// The record's type.
        kind: u16,
        /// Where its data starts.
        at: usize,
        /// How long it says it is.
        length: usize,
    },
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Of what.
    pub name: Name,
    /// The type of record.
    pub kind: u16,
    /// Whether the answer may come to the one who asks alone.
    pub unicast: bool,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Of what.
    pub name: Name,
    /// Whether it replaces everything of its name and type.
    pub flush: bool,
    /// How long it is true, seconds; 0 takes it back.
    pub ttl: u32,
    /// What.
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// An instance of a service.
    Ptr(Name),
    /// Where a service is.
    Srv {
        /// The port.
        port: u16,
        /// The machine.
        target: Name,
    },
    /// Texts, each with its length in front.
    Txt(Vec<u8>),
    /// Something of no use here.
    Other {
        /// The record's type.
        kind: u16,
        /// Its data; names in it may point out of it.
        bytes: Vec<u8>,
    },
}

impl Data {
    /// The record's type.
    #[must_use]
    pub fn kind(&self) -> u16 {
        match self {
            Self::A(_) => A,
            Self::Ptr(_) => PTR,
            Self::Srv { .. } => SRV,
            Self::Txt(_) => TXT,
            Self::Other { kind, .. } => *kind,
        }
    }

    /// The data without compression, as simultaneous probes are compared by.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.data(self, false);
        writer.bytes
    }
}

/// A query or a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packet {
    /// Zero, but in questions of those who do not listen to the group, and the answers to them.
    pub id: u16,
    /// Response, not query.
    pub response: bool,
    /// More known answers follow in another packet.
    pub truncated: bool,
    /// Questions.
    pub questions: Vec<Question>,
    /// Answers; in a query those already known.
    pub answers: Vec<Record>,
    /// In a query the records that somebody wants to call its own.
    pub authorities: Vec<Record>,
    /// What will be asked next.
    pub additionals: Vec<Record>,
}

impl Packet {
    /// Reads a packet. Questions and records of other classes than the internet's are left out.
    ///
    /// # Errors
    /// When it is none, or any part of it cannot be read.
    pub fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        if bytes.len() > MAX_PACKET {
            return Err(PacketError::TooLong(bytes.len()));
        }
        let mut reader = Reader { bytes, at: 0 };
        let (id, flags) = (reader.u16()?, reader.u16()?);
        if flags & OPCODE_AND_RCODE != 0 {
            return Err(PacketError::Flags(flags));
        }
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let [questions, answers, authorities, additionals] = counts;
        Ok(Self {
            id,
            response: flags & RESPONSE != 0,
            truncated: flags & TRUNCATED != 0,
            questions: reader.questions(questions)?,
            answers: reader.records(answers)?,
            authorities: reader.records(authorities)?,
            additionals: reader.records(additionals)?,
        })
    }

    /// The packet on the wire, names compressed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u16(self.id);
        let flag = |set, flag| if set { flag } else { 0 };
        writer.u16(flag(self.response, RESPONSE | AUTHORITATIVE) | flag(self.truncated, TRUNCATED));
        let count = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        writer.u16(count(self.questions.len()));
        writer.u16(count(self.answers.len()));
        writer.u16(count(self.authorities.len()));
        writer.u16(count(self.additionals.len()));
        for question in &self.questions {
            writer.name(&question.name, true);
            writer.u16(question.kind);
            writer.u16(flag(question.unicast, TOP_BIT) | IN);
        }
        let sections = [&self.answers, &self.authorities, &self.additionals];
        for record in sections.into_iter().flatten() {
            writer.record(record);
        }
        writer.bytes
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], PacketError> {
        let end = self.at.saturating_add(length);
        let taken = self
            .bytes
            .get(self.at..end)
            .ok_or(PacketError::Short(self.bytes.len()))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let short = PacketError::Short(self.bytes.len());
        self.take(N)?.try_into().map_err(|_| short)
    }

    fn u16(&mut self) -> Result<u16, PacketError> {
        self.array().map(u16::from_be_bytes)
    }

    fn questions(&mut self, count: u16) -> Result<Vec<Question>, PacketError> {
        let mut questions = Vec::new();
        for _ in 0..count {
            let (name, kind, class) = (self.name()?, self.u16()?, self.u16()?);
            if matches!(class & !TOP_BIT, IN | ANY) {
                questions.push(Question {
                    name,
                    kind,
                    unicast: class & TOP_BIT != 0,
                });
            }
        }
        Ok(questions)
    }

    fn records(&mut self, count: u16) -> Result<Vec<Record>, PacketError> {
        let mut records = Vec::new();
        for _ in 0..count {
            let (name, kind, class) = (self.name()?, self.u16()?, self.u16()?);
            let ttl = u32::from_be_bytes(self.array()?);
            let length = usize::from(self.u16()?);
            let at = self.at;
            let bytes = self.take(length)?;
            let after = self.at;
            // Names in the data may point before it, so that they are read from the whole packet.
            self.at = at;
            let data = self.data(kind, bytes)?;
            if self.at != after {
                return Err(PacketError::Data { kind, at, length });
            }
            if class & !TOP_BIT == IN {
                records.push(Record {
                    name,
                    flush: class & TOP_BIT != 0,
                    ttl,
                    data,
                });
            }
        }
        Ok(records)
    }

    fn data(&mut self, kind: u16, bytes: &[u8]) -> Result<Data, PacketError> {
        match kind {
            A => self.array::<4>().map(|octets| Data::A(octets.into())),
            PTR => self.name().map(Data::Ptr),
            SRV => {
                let _priority_and_weight = self.array::<4>()?;
                let (port, target) = (self.u16()?, self.name()?);
                Ok(Data::Srv { port, target })
            }
            TXT => self.take(bytes.len()).map(|text| Data::Txt(text.to_vec())),
            _ => self.take(bytes.len()).map(|bytes| Data::Other {
                kind,
                bytes: bytes.to_vec(),
            }),
        }
    }

    /// A name. Each pointer must lead before the part of the name that it ends, so that there is an end.
    fn name(&mut self) -> Result<Name, PacketError> {
        let start = self.at;
        let wrong = PacketError::Name(start);
        let mut name = Name::default();
        let mut earliest = start;
        let mut behind = None;
        loop {
            let [length] = self.array::<1>()?;
            match length {
                0 => break,
                1..=63 => {
                    let label = self.take(usize::from(length))?;
                    if !name.push(label) {
                        return Err(wrong);
                    }
                }
                192.. => {
                    let [low] = self.array::<1>()?;
                    let to = usize::from(length & 0x3f) << 8 | usize::from(low);
                    if to >= earliest || to < HEADER {
                        return Err(wrong);
                    }
                    behind.get_or_insert(self.at);
                    earliest = to;
                    self.at = to;
                }
                _ => return Err(wrong),
            }
        }
        if let Some(behind) = behind {
            self.at = behind;
        }
        Ok(name)
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// Names already written, and where.
    known: Vec<(Vec<u8>, u16)>,
}

impl Writer {
    fn u16(&mut self, value: u16) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn name(&mut self, name: &Name, compress: bool) {
        for suffix in name.suffixes() {
            let known = self.known.iter().find(|(known, _)| known == suffix);
            if let (true, Some((_, at))) = (compress, known) {
                let pointer = 0xc000 | *at;
                return self.u16(pointer);
            }
            // Pointers have fourteen bits.
            if let Some(at) = u16::try_from(self.bytes.len())
                .ok()
                .filter(|at| *at < 0x4000)
            {
                self.known.push((suffix.to_vec(), at));
            }
            let length = suffix.first().map_or(0, |length| usize::from(*length));
            self.bytes
                .extend_from_slice(suffix.get(..=length).unwrap_or_default());
        }
        self.bytes.push(0);
    }

    fn record(&mut self, record: &Record) {
        self.name(&record.name, true);
        self.u16(record.data.kind());
        self.u16(if record.flush { TOP_BIT | IN } else { IN });
        self.bytes.extend(record.ttl.to_be_bytes());
        let at = self.bytes.len();
        self.u16(0);
        self.data(&record.data, true);
        let length = u16::try_from(self.bytes.len() - at - 2).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    fn data(&mut self, data: &Data, compress: bool) {
        match data {
            Data::A(address) => self.bytes.extend(address.octets()),
            Data::Ptr(name) => self.name(name, compress),
            Data::Srv { port, target } => {
                self.bytes.extend([0; 4]);
                self.u16(*port);
                self.name(target, compress);
            }
            Data::Txt(bytes) | Data::Other { bytes, .. } => self.bytes.extend_from_slice(bytes),
        }
    }
}
