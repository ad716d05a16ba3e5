//! Unpacks downloaded images. What a file is, its first bytes say; its name means nothing. Unpacking runs in a thread
//! of its own, so that writing the image costs no extra time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::num::NonZero;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::MtStreamBuilder;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::watch::{Unwatched, Watch};

/// Bytes that go from the unpacking thread to the writing one at once.
const PIECE: usize = 1 << 20;
/// Pieces that may wait between them.
const WAITING: usize = 8;
/// Memory for blocks of xz that are unpacked side by side, in bytes; above it, one after the other.
const XZ_MEMORY: u64 = 1 << 30;

/// What an image is packed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// xz.
    Xz,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// A zip archive with one image in it.
    Zip,
}

impl Container {
    /// By the first bytes of a file; `None` when it is in none.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        const MAGIC: [(&[u8], Container); 5] = [
            (b"\xfd7zXZ\0", Container::Xz),
            (b"\x1f\x8b\x08", Container::Gzip),
            (b"\x28\xb5\x2f\xfd", Container::Zstd),
            (b"PK\x03\x04", Container::Zip),
            (b"PK\x05\x06", Container::Zip),
        ];
        MAGIC
            .iter()
            .find(|(magic, _)| head.starts_with(magic))
            .map(|(_, container)| *container)
    }
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Xz => "xz",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Zip => "zip",
        })
    }
}

/// Why an image could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum CompressedError {
    /// Ends in the middle.
    #[error("expected the whole {0} stream, but the file ends in the middle")]
    Truncated(Container),
    /// Damaged.
    #[error("expected sound {container} data")]
    Damaged {
        /// Of which kind.
        container: Container,
        /// What the unpacker says.
        #[source]
        source: io::Error,
    },
    /// No image in the archive.
    #[error("expected one disk image in the zip archive, found none")]
    NoImage,
    /// More than one image in the archive.
    #[error("expected one disk image in the zip archive, found {}", .0.join(" and "))]
    SeveralImages(Vec<String>),
    /// The file refused.
    #[error("cannot read the image")]
    Read(#[source] io::Error),
    /// Asked to.
    #[error("stopped")]
    Stopped,
}

impl CompressedError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Truncated(_) | Self::Damaged { .. } => Some("download it again"),
            Self::SeveralImages(_) => Some("unpack the archive and name the one you mean"),
            Self::NoImage | Self::Read(_) | Self::Stopped => None,
        }
    }
}

/// What the file is packed in.
///
/// # Errors
/// When it cannot be read.
pub fn detect(path: &Path) -> Result<Option<Container>, CompressedError> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(6).read_to_end(&mut head))
        .map_err(CompressedError::Read)?;
    Ok(Container::of(&head))
}

/// Unpacks a file, piece by piece, and hands each to `write`. Progress is in bytes of the file.
///
/// # Errors
/// When the file is damaged or cannot be read, `write` fails, or the watcher stops it.
pub fn unpack<E: From<CompressedError>>(
    path: &Path,
    watch: &dyn Watch,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let container = detect(path)?;
    let file = File::open(path).map_err(CompressedError::Read)?;
    let len = file.metadata().map_err(CompressedError::Read)?.len();
    let doing = if container.is_some() {
        "unpacking"
    } else {
        "copying"
    };
    watch.begin(doing, Some(len));
    let file = Counted { file, watch };
    thread::scope(|scope| {
        let (to, from) = mpsc::sync_channel(WAITING);
        scope.spawn(move || {
            let mut send = |piece| to.send(Ok(piece)).is_ok();
            let end = match container {
                Some(Container::Zip) => zipped(file, &mut send),
                None => pieces(file, &mut send).map_err(CompressedError::Read),
                Some(container) => {
                    stream(container, BufReader::with_capacity(PIECE, file), &mut send)
                        .map_err(|error| explain(container, error))
                }
            };
            if let Err(error) = end {
                // Whoever does not listen any more has an error of its own.
                let _ = to.send(Err(error));
            }
        });
        for piece in from {
            if watch.stopped() {
                return Err(CompressedError::Stopped.into());
            }
            write(&piece?)?;
        }
        Ok(())
    })
}

/// Opens a file at the beginning of what is in it, packed or not.
///
/// # Errors
/// When it cannot be read; damage shows while reading.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let failed = |error: CompressedError| io::Error::other(error);
    if detect(path).map_err(failed)?.is_none() {
        return Ok(Box::new(File::open(path)?));
    }
    let (to, from) = mpsc::sync_channel(WAITING);
    let path = path.to_owned();
    thread::spawn(move || {
        let unpacked = unpack(&path, &Unwatched, |piece: &[u8]| {
            // Nobody reads on.
            to.send(Ok(piece.to_vec()))
                .map_err(|_| CompressedError::Stopped)
        });
        if let Err(error) = unpacked {
            let _ = to.send(Err(error));
        }
    });
    Ok(Box::new(Unpacking {
        from,
        piece: Vec::new(),
        at: 0,
    }))
}

/// What another thread unpacks.
struct Unpacking {
    from: mpsc::Receiver<Result<Vec<u8>, CompressedError>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Unpacking {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.from.recv() {
                Ok(piece) => (self.piece, self.at) = (piece.map_err(io::Error::other)?, 0),
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
        let left = &self.piece[self.at..];
        let count = left.len().min(into.len());
        into[..count].copy_from_slice(&left[..count]);
        self.at += count;
        Ok(count)
    }
}

/// The file, whose progress is watched.
struct Counted<'a> {
    file: File,
    watch: &'a dyn Watch,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        self.watch.advance(count as u64);
        Ok(count)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Sends everything, in whole pieces but the last. Ends early when nobody listens.
fn pieces(mut from: impl Read, send: &mut impl FnMut(Vec<u8>) -> bool) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let end = from.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let last = piece.len() < PIECE;
        if !piece.is_empty() && !send(piece) {
            return Ok(());
        }
        end?;
        if last {
            return Ok(());
        }
    }
}

fn stream(
    container: Container,
    file: impl BufRead,
    send: &mut impl FnMut(Vec<u8>) -> bool,
) -> io::Result<()> {
    match container {
        Container::Gzip => pieces(MultiGzDecoder::new(file), send),
        Container::Zstd => pieces(zstd::stream::read::Decoder::with_buffer(file)?, send),
        Container::Xz | Container::Zip => pieces(XzStreams::new(file)?, send),
    }
}

/// One xz stream after the other, as the format allows; the blocks of each side by side.
struct XzStreams<R: BufRead> {
    /// `None` after the last.
    decoder: Option<XzDecoder<R>>,
}

impl<R: BufRead> XzStreams<R> {
    fn new(from: R) -> io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let stream = MtStreamBuilder::new()
            .threads(u32::try_from(threads).unwrap_or(1))
            .memlimit_threading(XZ_MEMORY)
            .memlimit_stop(u64::MAX)
            .decoder()?;
        Ok(Self {
            decoder: Some(XzDecoder::new_stream(from, stream)),
        })
    }
}

impl<R: BufRead> Read for XzStreams<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let count = decoder.read(into)?;
            if count > 0 || into.is_empty() {
                return Ok(count);
            }
            let Some(mut rest) = self.decoder.take().map(XzDecoder::into_inner) else {
                break;
            };
            // Zeros may stand between streams.
            loop {
                let waiting = rest.fill_buf()?;
                let zeros = waiting.iter().take_while(|byte| **byte == 0).count();
                if zeros == 0 {
                    break;
                }
                rest.consume(zeros);
            }
            if !rest.fill_buf()?.is_empty() {
                self.decoder = Self::new(rest)?.decoder;
            }
        }
        Ok(0)
    }
}

fn zipped(
    file: Counted<'_>,
    send: &mut impl FnMut(Vec<u8>) -> bool,
) -> Result<(), CompressedError> {
    let explain_zip = |error| match error {
        ZipError::Io(source) => explain(Container::Zip, source),
        other => {
            let source = io::Error::new(io::ErrorKind::InvalidData, other);
            CompressedError::Damaged {
                container: Container::Zip,
                source,
            }
        }
    };
    let mut archive =
        ZipArchive::new(BufReader::with_capacity(PIECE, file)).map_err(explain_zip)?;
    let mut images = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(explain_zip)?;
        if !entry.is_file() {
            continue;
        }
        let name = entry.name().map_err(explain_zip)?.into_owned();
        let mut head = Vec::new();
        entry
            .take(512)
            .read_to_end(&mut head)
            .map_err(|source| explain(Container::Zip, source))?;
        if head.ends_with(&[0x55, 0xaa]) && head.len() == 512 {
            images.push((index, name));
        }
    }
    let index = match images.as_slice() {
        [] => return Err(CompressedError::NoImage),
        [(index, _)] => *index,
        _ => {
            let names = images.into_iter().map(|(_, name)| name).collect();
            return Err(CompressedError::SeveralImages(names));
        }
    };
    let entry = archive.by_index(index).map_err(explain_zip)?;
    pieces(entry, send).map_err(|source| explain(Container::Zip, source))
}

/// What an unpacker's error means.
fn explain(container: Container, source: io::Error) -> CompressedError {
    if source.raw_os_error().is_some() {
        CompressedError::Read(source)
    } else if source.kind() == io::ErrorKind::UnexpectedEof {
        CompressedError::Truncated(container)
    } else {
        CompressedError::Damaged { container, source }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::watch::Unwatched;

    fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, CompressedError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut whole = Vec::new();
        unpack(file.path(), &Unwatched, |piece| {
            whole.extend_from_slice(piece);
            Ok::<(), CompressedError>(())
        })?;
        Ok(whole)
    }

    /// Three megabytes with an MBR's signature.
    fn content() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..800_000_u32).flat_map(u32::to_le_bytes).collect();
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        bytes
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(bytes, 1)
            .read_to_end(&mut packed)
            .unwrap();
        packed
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        flate2::read::GzEncoder::new(bytes, flate2::Compression::fast())
            .read_to_end(&mut packed)
            .unwrap();
        packed
    }

    fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            archive
                .start_file(*name, zip::write::SimpleFileOptions::default())
                .unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    #[test]
    fn streams_that_follow_each_other_are_one() {
        let bytes = content();
        let (front, back) = bytes.split_at(1_500_000);
        let two_xz = [xz(front), vec![0; 8], xz(back), vec![0; 4]].concat();
        assert!(unpacked(&two_xz).unwrap() == bytes);
        assert!(unpacked(&[gzip(front), gzip(back)].concat()).unwrap() == bytes);
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        assert!(unpacked(&[zstd(front), zstd(back)].concat()).unwrap() == bytes);
        assert!(unpacked(&bytes).unwrap() == bytes);
    }

    /// As `zstd` writes it: only with a checksum is every damage found.
    fn checked_zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn cut_off_and_damaged_files_are_told_apart() {
        let bytes = content();
        for (container, packed) in [
            ("xz", xz(&bytes)),
            ("gzip", gzip(&bytes)),
            ("zstd", checked_zstd(&bytes)),
        ] {
            let error = unpacked(&packed[..packed.len() / 2]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("expected the whole {container} stream, but the file ends in the middle")
            );
            assert_eq!(error.hint(), Some("download it again"));
            let mut damaged = packed.clone();
            let middle = damaged.len() / 2;
            damaged[middle..middle + 64].fill(0xff);
            let error = unpacked(&damaged).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("expected sound {container} data")
            );
        }
        let packed = zipped(&[("a.img", &bytes)]);
        let error = unpacked(&packed[..packed.len() / 2]).unwrap_err();
        assert_eq!(error.to_string(), "expected sound zip data");
    }

    #[test]
    fn an_archive_has_one_image_whatever_it_is_called() {
        let bytes = content();
        let notes = ("README.img", &b"notes"[..]);
        assert!(unpacked(&zipped(&[notes, ("disk", &bytes)])).unwrap() == bytes);
        let error = unpacked(&zipped(&[("a", &bytes), notes, ("b", &bytes)])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected one disk image in the zip archive, found a and b"
        );
        let error = unpacked(&zipped(&[notes])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected one disk image in the zip archive, found none"
        );
    }
}
