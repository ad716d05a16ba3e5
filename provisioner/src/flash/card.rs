//! One card that is being written: held exclusively from before its last check until the end, read and written past
//! the page cache. Knows bytes and places, nothing of images.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::device::{Device, Limits, Refusal, Survey};
use super::survey;

/// What direct reads and writes are aligned to: the largest sector that there is.
pub const ALIGN: usize = 4096;
/// How much is read or written at once: large enough for full speed, and a card's erase block.
pub const PIECE: usize = 4 << 20;
/// At a disk's end are copies of partition tables and marks of RAIDs.
const END: u64 = 1 << 20;

/// Memory that direct reads and writes take: aligned, of a piece's size.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// A piece of zeros.
    #[must_use]
    pub fn new() -> Self {
        let bytes = vec![0; PIECE + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, start }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + PIECE]
    }

    /// Its bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + PIECE]
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

/// What became of the part of a card that the image does not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// There is none.
    Nothing,
    /// It holds zeros.
    Zeroed,
    /// The card cannot forget it quickly: it holds what it held, but for the last MiB.
    Kept,
}

/// A card, ours alone while this lives.
#[derive(Debug)]
pub struct Card {
    file: File,
    name: String,
    bytes: u64,
    sector: u64,
}

impl Card {
    /// Opens `device` exclusively, and makes sure that it is the one in the survey and that nothing speaks against
    /// it now that nobody else can take it.
    ///
    /// # Errors
    /// The first thing that speaks against it.
    pub fn open(survey: &Survey, device: &Device, limits: &Limits) -> Result<Self, Refusal> {
        if let Some(refusal) = survey.refusals(device, limits).into_iter().next() {
            return Err(refusal);
        }
        let name = device.name.clone();
        let unopened = |source| Refusal::unopened(name.clone(), source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_EXCL | OFlag::O_DIRECT).bits())
            .open(&device.path)
            .map_err(unopened)?;
        let number = survey::number(file.metadata().map_err(unopened)?.rdev());
        let folder = Path::new("/sys/dev/block").join(&number);
        let sequence = survey::sequence(&folder);
        let bytes = file.seek(SeekFrom::End(0)).map_err(unopened)?;
        if number != device.number
            || bytes != device.bytes
            || sequence != survey.sequence.get(&name).copied()
        {
            return Err(Refusal::Changed { name });
        }
        let sector = std::fs::read_to_string(folder.join("queue/logical_block_size"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(ALIGN as u64);
        Ok(Self {
            file,
            name,
            bytes,
            sector,
        })
    }

    /// The kernel's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `bytes`, and what is missing to the end of a sector.
    #[must_use]
    pub fn whole_sectors(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.sector)
    }

    /// Writes whole sectors at `start`.
    ///
    /// # Errors
    /// When the card does.
    pub fn write(&self, bytes: &[u8], start: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, start)
    }

    /// Reads whole sectors at `start`.
    ///
    /// # Errors
    /// When the card does.
    pub fn read(&self, bytes: &mut [u8], start: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, start)
    }

    /// Makes whole sectors zero: the card does it by itself if it can, else the kernel writes them.
    ///
    /// # Errors
    /// When the card does.
    pub fn zero(&self, start: u64, bytes: u64) -> io::Result<()> {
        if self.forget(start, bytes).is_ok() {
            return Ok(());
        }
        let (start, bytes) = (offset(start)?, offset(bytes)?);
        fallocate(
            &self.file,
            FallocateFlags::FALLOC_FL_ZERO_RANGE,
            start,
            bytes,
        )
        .map_err(io::Error::from)
    }

    /// Makes everything from `start` on zero if the card can do so by itself; else only its end, where copies of
    /// partition tables and marks of RAIDs are.
    ///
    /// # Errors
    /// When the card does.
    pub fn zero_rest(&self, start: u64) -> io::Result<Rest> {
        if start >= self.bytes {
            return Ok(Rest::Nothing);
        }
        if self.forget(start, self.bytes - start).is_ok() {
            return Ok(Rest::Zeroed);
        }
        let end = start.max(self.bytes.saturating_sub(END));
        self.zero(end, self.bytes - end)?;
        Ok(if end == start {
            Rest::Zeroed
        } else {
            Rest::Kept
        })
    }

    /// Only what reads as zeros afterwards counts: the kernel refuses a discard that promises less.
    fn forget(&self, start: u64, bytes: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, flags, offset(start)?, offset(bytes)?).map_err(io::Error::from)
    }

    /// Waits until everything is on the card, and forgets what memory has of it.
    ///
    /// # Errors
    /// When the card does.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(io::Error::from)
    }
}

fn offset(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(io::Error::other)
}
