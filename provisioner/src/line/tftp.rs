//! TFTP as boards' firmware speaks it (RFC 1350 with options of RFC 2347 to 2349 and windows of RFC 7440), reading
//! only. Pure: what a request asks for, which file that may be, and one transfer as a state machine that is
//! told about acknowledgements and time. The driver reads the file and owns the socket.
//!
//! Invariants: block numbers never start over (the firmware does not follow them), so a file has at most 65535
//! blocks; a client that never answers ends the transfer after [`TRIES`] times its timeout.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::board::{Mac, Serial};
use super::roster::Sighting;

/// How often a window is sent before the client counts as gone. The firmware itself asks for nothing again.
pub const TRIES: u32 = 6;
/// Largest block: what fits an Ethernet frame.
const MAX_BLOCK: u16 = 1468;
const MIN_BLOCK: u16 = 8;
const DEFAULT_BLOCK: u16 = 512;
const MAX_WINDOW: u16 = 32;
const MAX_NAME: usize = 400;

mod opcode {
    pub(super) const READ: u16 = 1;
    pub(super) const WRITE: u16 = 2;
    pub(super) const DATA: u16 = 3;
    pub(super) const ACK: u16 = 4;
    pub(super) const ERROR: u16 = 5;
    pub(super) const OPTIONS: u16 = 6;
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The file's name as it came.
    pub name: String,
    block: Option<u16>,
    window: Option<u16>,
    timeout_s: Option<u8>,
    size: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a request at all; it is not answered.
    #[error("expected a TFTP request, got {0}")]
    Malformed(&'static str),
    /// Files are only read.
    #[error("expected a request to read, got one to write")]
    Write,
    /// Text conversion, which no firmware wants.
    #[error("expected the octet mode, got {0:?}")]
    Mode(String),
    /// A name that leaves the folder, or no name.
    #[error("expected the name of a file below the folder, got {0:?}")]
    Name(String),
    /// No such file.
    #[error("there is no file {0:?}")]
    Missing(String),
    /// More blocks than there are numbers.
    #[error(
        "expected {name:?} to have at most {max} bytes in blocks of {block}, got {size}: block numbers do not start over"
    )]
    TooLarge {
        /// Which file.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// The block size that the client wants, in bytes.
        block: u16,
        /// The largest size in bytes.
        max: u64,
    },
    /// Too many transfers at once.
    #[error("expected at most {0} transfers at once")]
    Busy(usize),
}

impl Refused {
    /// The datagram that tells the client; none where it would answer noise.
    #[must_use]
    pub fn datagram(&self) -> Option<Vec<u8>> {
        let code = match self {
            Self::Malformed(_) => return None,
            Self::Missing(_) => 1,
            Self::Write | Self::Name(_) => 2,
            Self::TooLarge { .. } => 3,
            Self::Mode(_) => 4,
            Self::Busy(_) => 0,
        };
        Some(error(code, &self.to_string()))
    }
}

fn error(code: u16, text: &str) -> Vec<u8> {
    let mut datagram = head(opcode::ERROR, code).to_vec();
    datagram.extend(text.bytes().filter(|byte| *byte != 0));
    datagram.push(0);
    datagram
}

fn head(opcode: u16, number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (opcode.to_be_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// Reads a first datagram.
///
/// # Errors
/// When it is not a request to read a file.
pub fn parse(datagram: &[u8]) -> Result<Request, Refused> {
    let [a, b, rest @ ..] = datagram else {
        return Err(Refused::Malformed("less than 2 bytes"));
    };
    match u16::from_be_bytes([*a, *b]) {
        opcode::READ => {}
        opcode::WRITE => return Err(Refused::Write),
        _ => return Err(Refused::Malformed("another message")),
    }
    let Some(rest) = rest.strip_suffix(&[0]) else {
        return Err(Refused::Malformed("no end"));
    };
    let mut words = rest.split(|byte| *byte == 0);
    let name = words.next().unwrap_or_default();
    if name.len() > MAX_NAME {
        return Err(Refused::Name(shown(&name[..80])));
    }
    let name = std::str::from_utf8(name).map_err(|_| Refused::Name(shown(name)))?;
    let mode = words.next().ok_or(Refused::Malformed("no mode"))?;
    if !mode.eq_ignore_ascii_case(b"octet") {
        return Err(Refused::Mode(shown(mode)));
    }
    let mut request = Request {
        name: name.to_owned(),
        block: None,
        window: None,
        timeout_s: None,
        size: false,
    };
    // An option that makes no sense is left out of the answer, as the RFC says.
    while let (Some(option), Some(value)) = (words.next(), words.next()) {
        let number = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
        let Some(number): Option<u32> = number else {
            continue;
        };
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        match option.to_ascii_lowercase().as_slice() {
            b"blksize" if number >= MIN_BLOCK => request.block = Some(number.min(MAX_BLOCK)),
            b"windowsize" if number >= 1 => request.window = Some(number.min(MAX_WINDOW)),
            b"timeout" => request.timeout_s = u8::try_from(number).ok().filter(|s| *s > 0),
            b"tsize" => request.size = true,
            _ => {}
        }
    }
    Ok(request)
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(80).collect()
}

/// Where a request may find its file, and whose it is: a first folder that is the last 8 digits of a serial
/// number (or an Ethernet address) is looked into first, then the common folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Who asks, where the name says so.
    pub sighting: Option<Sighting>,
    /// The places to look at, in order, relative to the root.
    pub candidates: Vec<PathBuf>,
    /// The name without the board's folder.
    pub file: String,
}

/// Takes a name apart. Nothing that comes out leaves the root.
///
/// # Errors
/// When the name would leave it, or is none.
pub fn places(name: &str) -> Result<Places, Refused> {
    let wrong = || Refused::Name(name.chars().take(80).collect());
    let relative = name.trim_start_matches('/');
    let odd = |c: char| c.is_control() || c == '\\';
    if relative.is_empty() || relative.ends_with('/') || relative.contains(odd) {
        return Err(wrong());
    }
    // Put together anew from plain names: no part can turn into a root of its own.
    let mut parts = Vec::new();
    for part in Path::new(relative).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str().ok_or_else(wrong)?),
            _ => return Err(wrong()),
        }
    }
    let relative = parts.join("/");
    let (folder, file) = relative.split_once('/').unwrap_or(("", &relative));
    let serial = (folder.len() == 8).then(|| folder.parse::<Serial>().ok());
    let mac = folder.contains('-').then(|| folder.parse::<Mac>().ok());
    let sighting = Sighting {
        serial: serial.flatten(),
        mac: mac.flatten(),
        ..Sighting::default()
    };
    if sighting == Sighting::default() {
        return Ok(Places {
            sighting: None,
            candidates: vec![PathBuf::from(&relative)],
            file: relative,
        });
    }
    let own = Path::new(&folder.to_ascii_lowercase()).join(file);
    Ok(Places {
        sighting: Some(sighting),
        candidates: vec![own, PathBuf::from(file)],
        file: file.to_owned(),
    })
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send these bytes.
    Options(Vec<u8>),
    /// Send these blocks, which are read from the file with [`Transfer::range`].
    Blocks(std::ops::RangeInclusive<u16>),
    /// Nothing; wait on.
    Wait,
    /// All of it arrived.
    Done,
    /// The client said that it wants no more; firmware does so after it asked for the size.
    Stopped(String),
    /// The client is gone.
    Gone,
}

/// One file on its way.
#[derive(Debug, Clone)]
pub struct Transfer {
    size: u64,
    block: u16,
    window: u16,
    timeout: Duration,
    options: Option<Vec<u8>>,
    /// Number of the last block of the file.
    last: u16,
    /// Blocks that have arrived.
    acked: u16,
    /// Blocks that are sent.
    sent: u16,
    tries: u32,
}

impl Transfer {
    /// The answer to a request for a file of `size` bytes.
    ///
    /// # Errors
    /// When it has more blocks than there are numbers.
    pub fn new(request: &Request, size: u64) -> Result<Self, Refused> {
        let block = request.block.unwrap_or(DEFAULT_BLOCK);
        // The last block is shorter than the others, and may be empty.
        let last = u16::try_from(size / u64::from(block) + 1).map_err(|_| Refused::TooLarge {
            name: request.name.chars().take(80).collect(),
            size,
            block,
            max: u64::from(block) * 65_535 - 1,
        })?;
        let mut options = Vec::new();
        let mut option = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                options.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
            }
        };
        option("blksize", request.block.map(u64::from));
        option("tsize", request.size.then_some(size));
        option("timeout", request.timeout_s.map(u64::from));
        option("windowsize", request.window.map(u64::from));
        let with_head = |options: Vec<u8>| {
            let mut datagram = opcode::OPTIONS.to_be_bytes().to_vec();
            datagram.extend(options);
            datagram
        };
        Ok(Self {
            size,
            block,
            window: request.window.unwrap_or(1),
            timeout: Duration::from_secs(u64::from(request.timeout_s.unwrap_or(1))),
            options: (!options.is_empty()).then(|| with_head(options)),
            last,
            acked: 0,
            sent: 0,
            tries: 0,
        })
    }

    /// How long to wait for an answer before [`Self::timed_out`].
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What comes first.
    #[must_use]
    pub fn start(&mut self) -> Next {
        self.tries = 1;
        match &self.options {
            Some(options) => Next::Options(options.clone()),
            None => self.window(),
        }
    }

    /// Takes a datagram of the client.
    #[must_use]
    pub fn receive(&mut self, datagram: &[u8]) -> Next {
        let [a, b, c, d, rest @ ..] = datagram else {
            return Next::Wait;
        };
        let number = u16::from_be_bytes([*c, *d]);
        match u16::from_be_bytes([*a, *b]) {
            opcode::ERROR => Next::Stopped(shown(rest.strip_suffix(&[0]).unwrap_or(rest))),
            opcode::ACK => self.acknowledged(number),
            _ => Next::Wait,
        }
    }

    /// Nothing came in time.
    #[must_use]
    pub fn timed_out(&mut self) -> Next {
        if self.tries >= TRIES {
            return Next::Gone;
        }
        self.tries += 1;
        match (&self.options, self.sent) {
            (Some(options), 0) => Next::Options(options.clone()),
            _ => self.window(),
        }
    }

    /// The bytes of a block: where they begin in the file, and how many there are.
    #[must_use]
    pub fn range(&self, number: u16) -> (u64, usize) {
        let begin = u64::from(number.saturating_sub(1)) * u64::from(self.block);
        let length = self.size.saturating_sub(begin).min(u64::from(self.block));
        (begin, usize::try_from(length).unwrap_or_default())
    }

    /// What goes before a block's bytes.
    #[must_use]
    pub fn head(number: u16) -> [u8; 4] {
        head(opcode::DATA, number)
    }

    /// An acknowledgement of the last window or of a part of it moves on; any other is old, and answering old
    /// ones would double every block that follows.
    fn acknowledged(&mut self, number: u16) -> Next {
        let first = self.sent == 0 && number == 0 && self.options.is_some();
        if !first && (number <= self.acked || number > self.sent) {
            return Next::Wait;
        }
        self.acked = number;
        self.tries = 1;
        if number == self.last {
            Next::Done
        } else {
            self.window()
        }
    }

    fn window(&mut self) -> Next {
        let from = self.acked.saturating_add(1);
        let to = self.acked.saturating_add(self.window).min(self.last);
        self.sent = to;
        Next::Blocks(from..=to)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
#[path = "tftp/tests.rs"]
mod tests;
