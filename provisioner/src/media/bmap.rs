//! The block map of an image, in bmap's format 2.0: which blocks matter, with a SHA-256 for each range, so that a card
//! is written without what does not matter and each part is verified. Made for the image as it is unpacked.
//! Invariant: a block that is left out holds zeros that no file system of the image relies on.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;

use sha2::{Digest, Sha256};

use super::occupied::{BLOCK, Occupied};
use super::partition::Partition;
use super::patch::Patched;
use super::sparse;
use crate::watch::Watch;

/// Blocks of the longest range; ranges begin and end at its multiples, so that a change makes few of them new.
const LONGEST: u64 = 4096;

/// The map of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bmap {
    image_size: u64,
    ranges: Vec<Range>,
}

/// Blocks that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
    sha256: [u8; 32],
}

/// Ranges of a base image that are known already; cards of the same base share most of them.
#[derive(Debug, Default)]
pub struct Known {
    ranges: HashMap<(u64, u64), [u8; 32]>,
}

impl Bmap {
    /// Of an image of `len` bytes. `None` when the watcher stopped it.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn of(
        image: Patched<'_>,
        len: u64,
        partitions: &[Partition],
        known: &mut Known,
        watch: &dyn Watch,
    ) -> io::Result<Option<Self>> {
        watch.begin("mapping", Some(len));
        let occupied = Occupied::read(image, len, partitions)?;
        let mut ranges = Vec::new();
        let blocks = len.div_ceil(BLOCK);
        let mut bytes = Vec::new();
        for first in (0..blocks).step_by(usize::try_from(LONGEST).unwrap_or(usize::MAX)) {
            if watch.stopped() {
                return Ok(None);
            }
            let last = (first + LONGEST).min(blocks);
            let end = (last * BLOCK).min(len);
            bytes.resize(
                usize::try_from(end - first * BLOCK).unwrap_or(usize::MAX),
                0,
            );
            image.read_exact_at(&mut bytes, first * BLOCK)?;
            let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
            let mapped: Vec<bool> = (first..)
                .zip(bytes.chunks(block))
                .map(|(number, block)| occupied.has(number) || !sparse::is_zero(block))
                .collect();
            let mut from = 0;
            for run in mapped.chunk_by(|a, b| a == b) {
                let to = from + run.len();
                if run[0] {
                    let data = &bytes[from * block..(to * block).min(bytes.len())];
                    let (start, stop) = (first + from as u64, first + to as u64);
                    let key = (start, stop - 1);
                    let fresh = image.patch.touches(start * BLOCK, stop * BLOCK);
                    let hash = || -> [u8; 32] { Sha256::digest(data).into() };
                    let sha256 = if fresh {
                        hash()
                    } else {
                        *known.ranges.entry(key).or_insert_with(hash)
                    };
                    ranges.push(Range {
                        first: key.0,
                        last: key.1,
                        sha256,
                    });
                }
                from = to;
            }
            watch.advance(end - first * BLOCK);
        }
        Ok(Some(Self {
            image_size: len,
            ranges,
        }))
    }

    /// Bytes that have to be written to a card, in whole blocks.
    #[must_use]
    pub fn mapped(&self) -> u64 {
        self.mapped_blocks() * BLOCK
    }

    fn mapped_blocks(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.last - range.first + 1)
            .sum()
    }

    /// The file's text. Its own checksum is made with zeros in its place.
    #[must_use]
    pub fn xml(&self) -> String {
        let nothing = "0".repeat(64);
        let text = self.xml_with(&nothing);
        let checksum = hex::encode(Sha256::digest(text.as_bytes()));
        self.xml_with(&checksum)
    }

    fn xml_with(&self, checksum: &str) -> String {
        let mut text = format!(
            "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n    <ImageSize> {} </ImageSize>\n    <BlockSize> {BLOCK} </BlockSize>\n    <BlocksCount> {} </BlocksCount>\n    <MappedBlocksCount> {} </MappedBlocksCount>\n    <ChecksumType> sha256 </ChecksumType>\n    <BmapFileChecksum> {checksum} </BmapFileChecksum>\n    <BlockMap>\n",
            self.image_size,
            self.image_size.div_ceil(BLOCK),
            self.mapped_blocks(),
        );
        for range in &self.ranges {
            let sha256 = hex::encode(range.sha256);
            let _ = if range.first == range.last {
                writeln!(
                    text,
                    "        <Range chksum=\"{sha256}\"> {} </Range>",
                    range.first
                )
            } else {
                writeln!(
                    text,
                    "        <Range chksum=\"{sha256}\"> {}-{} </Range>",
                    range.first, range.last
                )
            };
        }
        text.push_str("    </BlockMap>\n</bmap>\n");
        text
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::media::patch::{Patch, Window};
    use crate::watch::Unwatched;

    #[test]
    fn a_change_makes_its_own_range_new_and_no_other() {
        let len = 48 << 20;
        let image = tempfile::tempfile().unwrap();
        image.set_len(len).unwrap();
        image.write_all_at(&[1; 10_000], 20 << 20).unwrap();
        let mut known = Known::default();
        let mut of = |patch: &Patch| {
            let view = Patched {
                base: &image,
                patch,
            };
            Bmap::of(view, len, &[], &mut known, &Unwatched)
                .unwrap()
                .unwrap()
        };
        let base = of(&Patch::default());
        let places = |map: &Bmap| -> Vec<(u64, u64)> {
            map.ranges
                .iter()
                .map(|range| (range.first, range.last))
                .collect()
        };
        assert_eq!(places(&base), [(0, 255), (5120, 5122), (12_032, 12_287)]);
        assert_eq!(base.mapped(), (256 + 3 + 256) * 4096);
        let mut window = Window::new(&image, 20 << 20, 4096);
        io::Write::write_all(&mut window, &[2; 100]).unwrap();
        let patch = window.into_patch().unwrap();
        let changed = of(&patch);
        let differing: Vec<bool> = base
            .ranges
            .iter()
            .zip(&changed.ranges)
            .map(|(a, b)| a != b)
            .collect();
        assert_eq!(differing, [false, true, false]);
        assert_eq!(of(&Patch::default()), base, "what is known is the base's");
    }
}
