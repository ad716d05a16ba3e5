//! Makes finished images of one base image: unpacked once, then each card is a copy with its own files on the boot
//! partition. Nothing but the boot partition's files changes: the table, the labels, the ids and every other partition
//! stay byte for byte.
//! Invariant: under an image's own name there is a whole image or none; until then it is `.NAME.part` beside it.

mod part;

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use crate::media::bmap::{Bmap, Known};
use crate::media::checksum::{self, ChecksumError};
use crate::media::compressed::{self, CompressedError};
use crate::media::fat::{self, BootFile, FatError};
use crate::media::partition::{self, Partition, PartitionError};
use crate::media::patch::{Patch, Patched};
use crate::media::sparse::{self, SparseWriter};
use crate::watch::Watch;
use part::Part;

/// Bytes that are packed between two looks at the watcher.
const PIECE: usize = 1 << 20;
/// As `xz` has it.
const XZ_LEVEL: u32 = 6;
/// Bytes that are packed, and later unpacked, side by side with others.
const XZ_BLOCK: u64 = 8 << 20;
/// As `zstd` has it.
const ZSTD_LEVEL: i32 = 3;

/// What is made, of what.
pub struct Request<'a> {
    /// The base image, packed or not.
    pub base: &'a Path,
    /// Its published SHA-256, in lower case.
    pub sha256: Option<&'a str>,
    /// How the images are packed.
    pub compress: Compress,
    /// Whether a block map is written beside each.
    pub bmap: bool,
    /// Whether images that are there are replaced.
    pub force: bool,
}

/// How an image is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// Not at all: a sparse file.
    None,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compress {
    /// What an image's name ends with.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::None => ".img",
            Self::Xz => ".img.xz",
            Self::Zstd => ".img.zst",
        }
    }
}

/// One image.
pub struct Card {
    /// Its file.
    pub place: PathBuf,
    /// What is on its boot partition, besides what the base has.
    pub files: Vec<BootFile>,
}

/// An image that is finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its file.
    pub place: PathBuf,
    /// Its bytes, unpacked.
    pub bytes: u64,
    /// Bytes that differ from the base, in whole blocks.
    pub changed: u64,
    /// Its block map, and how many bytes that says to write.
    pub bmap: Option<(PathBuf, u64)>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The boot partition of the base.
    pub boot: Partition,
    /// Its label.
    pub label: String,
    /// Each card, in the order asked for.
    pub finished: Vec<Finished>,
}

/// Why not all images were made.
#[derive(Debug, thiserror::Error)]
pub enum CustomiseError {
    /// No base.
    #[error("cannot open the base image {path}")]
    Base {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Would be replaced.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// Two images under one name, or the base under one.
    #[error("expected a file of its own for each image, got {0} twice")]
    Twice(PathBuf),
    /// Another run writes it.
    #[error("another run is writing {0}")]
    Busy(PathBuf),
    /// Not the published file.
    #[error("cannot trust the base image")]
    Checksum(#[source] ChecksumError),
    /// Not to be unpacked.
    #[error("cannot unpack {path}")]
    Unpack {
        /// The base.
        path: PathBuf,
        /// Why.
        #[source]
        source: CompressedError,
    },
    /// No such partitions.
    #[error("cannot use {path}")]
    Table {
        /// The base.
        path: PathBuf,
        /// Why.
        #[source]
        source: PartitionError,
    },
    /// A file does not go onto the boot partition.
    #[error("cannot make {path}")]
    Files {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: FatError,
    },
    /// The disk refused.
    #[error("cannot write {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Asked to.
    #[error("stopped: {finished} of {all} images are finished")]
    Stopped {
        /// How many are.
        finished: usize,
        /// How many should be.
        all: usize,
    },
}

impl CustomiseError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exists(_) => Some("--force replaces it"),
            Self::Checksum(source) => source.hint(),
            Self::Unpack { source, .. } => source.hint(),
            Self::Table { source, .. } => source.hint(),
            Self::Files { source, .. } => source.hint(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room, or let --out be on another disk")
            }
            _ => None,
        }
    }
}

/// Whether the base can be read and the images' names are free. Says how many bytes the base's file has.
///
/// # Errors
/// When they are not.
pub fn check(request: &Request<'_>, cards: &[Card]) -> Result<u64, CustomiseError> {
    let base = |source| CustomiseError::Base {
        path: request.base.to_owned(),
        source,
    };
    let metadata = fs::metadata(request.base).map_err(base)?;
    if metadata.is_dir() {
        return Err(base(io::ErrorKind::IsADirectory.into()));
    }
    let canonical = fs::canonicalize(request.base).map_err(base)?;
    for (index, card) in cards.iter().enumerate() {
        let earlier = cards[..index].iter().any(|other| other.place == card.place);
        if earlier || fs::canonicalize(&card.place).is_ok_and(|place| place == canonical) {
            return Err(CustomiseError::Twice(card.place.clone()));
        }
        for place in [card.place.clone(), bmap_place(&card.place)] {
            if place.is_dir() || (!request.force && place.exists()) {
                return Err(CustomiseError::Exists(place));
            }
        }
    }
    Ok(metadata.len())
}

/// Makes all images.
///
/// # Errors
/// At the first thing that goes wrong; images that were finished before stay, of all others nothing is left.
pub fn run(
    request: &Request<'_>,
    cards: &[Card],
    watch: &dyn Watch,
) -> Result<Report, CustomiseError> {
    check(request, cards)?;
    let stopped = |finished| CustomiseError::Stopped {
        finished,
        all: cards.len(),
    };
    let published = match request.sha256 {
        Some(sha256) => Some(sha256.to_owned()),
        None => checksum::beside(request.base).map_err(CustomiseError::Checksum)?,
    };
    if let Some(sha256) = published {
        checksum::verify(request.base, &sha256, watch).map_err(|error| match error {
            ChecksumError::Stopped => stopped(0),
            other => CustomiseError::Checksum(other),
        })?;
    }
    let Some(first) = cards.first() else {
        return Err(stopped(0));
    };
    let base = Base::unpack(request, first, watch).map_err(|error| match error {
        CustomiseError::Unpack {
            source: CompressedError::Stopped,
            ..
        } => stopped(0),
        other => other,
    })?;
    let mut run = Run {
        request,
        watch,
        known: Known::default(),
    };
    let mut finished = Vec::new();
    // The first card's image is the unpacked base itself, where that is not packed again: so it comes last.
    for card in cards.iter().skip(1) {
        match run.copy(&base, card)? {
            Some(card) => finished.push(card),
            None => return Err(stopped(finished.len())),
        }
    }
    let (boot, label) = (base.boot, base.label.clone());
    let done = if request.compress == Compress::None {
        run.turn_into(base, first)?
    } else {
        run.copy(&base, first)?
    };
    match done {
        Some(card) => finished.insert(0, card),
        None => return Err(stopped(finished.len())),
    }
    Ok(Report {
        boot,
        label,
        finished,
    })
}

/// Where the block map of an image is: beside it, where `bmaptool` and `lekiwi-provisioner flash` look for it.
#[must_use]
pub fn bmap_place(image: &Path) -> PathBuf {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let stem = name
        .strip_suffix(".xz")
        .or_else(|| name.strip_suffix(".zst"))
        .unwrap_or(&name);
    let stem = stem.strip_suffix(".img").unwrap_or(stem);
    image.with_file_name(format!("{stem}.bmap"))
}

/// The base, unpacked.
struct Base {
    part: Part,
    len: u64,
    partitions: Vec<Partition>,
    boot: Partition,
    label: String,
}

impl Base {
    fn unpack(
        request: &Request<'_>,
        first: &Card,
        watch: &dyn Watch,
    ) -> Result<Self, CustomiseError> {
        let part = match request.compress {
            Compress::None => Part::create(&first.place)?,
            Compress::Xz | Compress::Zstd => {
                let mut name = first.place.file_name().unwrap_or_default().to_owned();
                name.push(".base");
                Part::create(&first.place.with_file_name(name))?
            }
        };
        let failed = |source| CustomiseError::Unpack {
            path: request.base.to_owned(),
            source,
        };
        let mut writer = SparseWriter::new(&part.file);
        let (unpacked, flushed) = sparse::flushing(&part.file, |wrote| {
            compressed::unpack(request.base, watch, |piece| {
                wrote(piece.len());
                writer.write(piece).map_err(Unpacking::Write)
            })
        });
        unpacked.map_err(|error| match error {
            Unpacking::Read(source) => failed(source),
            Unpacking::Write(source) => part.failed(source),
        })?;
        flushed.map_err(|source| part.failed(source))?;
        let len = writer.finish().map_err(|source| part.failed(source))?;
        let unusable = |source| CustomiseError::Table {
            path: request.base.to_owned(),
            source,
        };
        let partitions = partition::read(&part.file, len).map_err(unusable)?;
        let boot = partition::boot(&part.file, &partitions).map_err(unusable)?;
        let label = fat::label(&part.file, &boot).map_err(|source| CustomiseError::Files {
            path: first.place.clone(),
            source,
        })?;
        Ok(Self {
            part,
            len,
            partitions,
            boot,
            label,
        })
    }

    fn patch(&self, card: &Card) -> Result<Patch, CustomiseError> {
        fat::write(&self.part.file, &self.boot, &card.files).map_err(|source| {
            CustomiseError::Files {
                path: card.place.clone(),
                source,
            }
        })
    }
}

/// What ends the unpacking.
enum Unpacking {
    Read(CompressedError),
    Write(io::Error),
}

impl From<CompressedError> for Unpacking {
    fn from(error: CompressedError) -> Self {
        Self::Read(error)
    }
}

/// What all cards share.
struct Run<'a> {
    request: &'a Request<'a>,
    watch: &'a dyn Watch,
    known: Known,
}

impl Run<'_> {
    /// An image of its own. `None` when the watcher stopped it.
    fn copy(&mut self, base: &Base, card: &Card) -> Result<Option<Finished>, CustomiseError> {
        let patch = base.patch(card)?;
        let bmap = self.bmap(base, card, &patch)?;
        if self.watch.stopped() {
            return Ok(None);
        }
        let part = Part::create(&card.place)?;
        let name = card.place.file_name().unwrap_or_default();
        let step = match self.request.compress {
            Compress::None => "writing",
            Compress::Xz | Compress::Zstd => "packing",
        };
        self.watch.begin(
            &format!("{step} {}", name.to_string_lossy()),
            Some(base.len),
        );
        let done = match self.request.compress {
            Compress::None => sparse::copy(&base.part.file, &part.file, base.len, self.watch)
                .and_then(|done| patch.apply(&part.file).map(|()| done)),
            Compress::Xz | Compress::Zstd => {
                let image = Patched {
                    base: &base.part.file,
                    patch: &patch,
                };
                self.pack(image, base.len, &part.file)
            }
        };
        if done.map_err(|source| part.failed(source))? {
            finish(base.len, card, &patch, part, bmap).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The base's file becomes the card's.
    fn turn_into(&mut self, base: Base, card: &Card) -> Result<Option<Finished>, CustomiseError> {
        let patch = base.patch(card)?;
        let bmap = self.bmap(&base, card, &patch)?;
        if self.watch.stopped() {
            return Ok(None);
        }
        patch
            .apply(&base.part.file)
            .map_err(|source| base.part.failed(source))?;
        self.watch.begin("flushing", None);
        finish(base.len, card, &patch, base.part, bmap).map(Some)
    }

    /// The block map, not yet under its name; `None` when none is asked for, or the watcher stopped it.
    fn bmap(
        &mut self,
        base: &Base,
        card: &Card,
        patch: &Patch,
    ) -> Result<Option<(Part, u64)>, CustomiseError> {
        if !self.request.bmap {
            return Ok(None);
        }
        let image = Patched {
            base: &base.part.file,
            patch,
        };
        let map = Bmap::of(
            image,
            base.len,
            &base.partitions,
            &mut self.known,
            self.watch,
        )
        .map_err(|source| base.part.failed(source))?;
        let Some(map) = map else {
            return Ok(None);
        };
        let part = Part::create(&bmap_place(&card.place))?;
        (&part.file)
            .write_all(map.xml().as_bytes())
            .map_err(|source| part.failed(source))?;
        Ok(Some((part, map.mapped())))
    }

    /// Answers whether it ran to its end.
    fn pack(&self, image: Patched<'_>, len: u64, into: &File) -> io::Result<bool> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = u32::try_from(threads).unwrap_or(1);
        let image = Poured {
            image,
            position: 0,
            len,
            watch: self.watch,
        };
        let image = BufReader::with_capacity(PIECE, image);
        match self.request.compress {
            Compress::Zstd => {
                let mut packed = zstd::stream::read::Encoder::with_buffer(image, ZSTD_LEVEL)?;
                packed.include_checksum(true)?;
                packed.multithread(threads)?;
                self.drain(packed, into)
            }
            Compress::Xz | Compress::None => {
                let stream = liblzma::stream::MtStreamBuilder::new()
                    .threads(threads)
                    .preset(XZ_LEVEL)
                    .block_size(XZ_BLOCK)
                    .check(liblzma::stream::Check::Crc64)
                    .encoder()?;
                self.drain(liblzma::bufread::XzEncoder::new_stream(image, stream), into)
            }
        }
    }

    fn drain(&self, mut packed: impl Read, mut into: &File) -> io::Result<bool> {
        let mut bytes = vec![0; PIECE];
        loop {
            let count = match packed.read(&mut bytes) {
                Ok(count) => count,
                Err(_) if self.watch.stopped() => return Ok(false),
                Err(error) => return Err(error),
            };
            if count == 0 {
                return Ok(!self.watch.stopped());
            }
            into.write_all(&bytes[..count])?;
        }
    }
}

/// An image that is read from its start to its end, until the watcher stops it.
struct Poured<'a> {
    image: Patched<'a>,
    position: u64,
    len: u64,
    watch: &'a dyn Watch,
}

impl Read for Poured<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.watch.stopped() {
            return Err(io::Error::other("stopped"));
        }
        let count = usize::try_from(self.len - self.position)
            .unwrap_or(usize::MAX)
            .min(into.len());
        self.image
            .read_exact_at(&mut into[..count], self.position)?;
        self.position += count as u64;
        self.watch.advance(count as u64);
        Ok(count)
    }
}

/// Gives image and block map their names.
fn finish(
    len: u64,
    card: &Card,
    patch: &Patch,
    image: Part,
    bmap: Option<(Part, u64)>,
) -> Result<Finished, CustomiseError> {
    let bmap_at = bmap_place(&card.place);
    if bmap.is_none() {
        // The map of an image that was replaced would be wrong for this one.
        match fs::remove_file(&bmap_at) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(CustomiseError::Write {
                    path: bmap_at,
                    source,
                });
            }
            _ => {}
        }
    }
    image.finish()?;
    let bmap = match bmap {
        Some((part, mapped)) => {
            part.finish()?;
            Some((bmap_at, mapped))
        }
        None => None,
    };
    Ok(Finished {
        place: card.place.clone(),
        bytes: len,
        changed: patch.bytes(),
        bmap,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_where_others_look_for_it() {
        for (image, map) in [
            ("a/kiwi-01.img", "a/kiwi-01.bmap"),
            ("kiwi-01.img.xz", "kiwi-01.bmap"),
            ("kiwi.1.img.zst", "kiwi.1.bmap"),
            ("kiwi", "kiwi.bmap"),
        ] {
            assert_eq!(bmap_place(Path::new(image)), Path::new(map));
        }
    }
}
