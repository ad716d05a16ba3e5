//! What one card has different from its base image. [`Window`] is the only way to make one: it reads the image, keeps
//! changed blocks in memory, and refuses whatever lies outside its range. The image itself is never written here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// Bytes held together.
const BLOCK: u64 = 4096;

/// Changed bytes, by their place in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Patch {
    /// Each changed piece: its offset in the image, and its bytes. In order, without overlap.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces
            .iter()
            .map(|(offset, bytes)| (*offset, bytes.as_slice()))
    }

    /// Bytes changed, in whole blocks.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// Whether any piece touches `start..end`.
    #[must_use]
    pub fn touches(&self, start: u64, end: u64) -> bool {
        self.pieces
            .range(..end)
            .next_back()
            .is_some_and(|(offset, bytes)| offset + bytes.len() as u64 > start)
    }

    /// Lays the changes over `bytes`, which were read from `offset` of the base.
    pub fn lay_over(&self, offset: u64, bytes: &mut [u8]) {
        let end = offset + bytes.len() as u64;
        for (start, piece) in self.pieces.range(offset.saturating_sub(BLOCK)..end) {
            let from = (*start).max(offset);
            let to = (start + piece.len() as u64).min(end);
            if from < to {
                bytes[place(from - offset)..place(to - offset)]
                    .copy_from_slice(&piece[place(from - start)..place(to - start)]);
            }
        }
    }

    /// Writes the changes into a copy of the base.
    ///
    /// # Errors
    /// When the file refuses.
    pub fn apply(&self, image: &File) -> io::Result<()> {
        self.pieces()
            .try_for_each(|(offset, bytes)| image.write_all_at(bytes, offset))
    }
}

/// An image as it will be on one card: the base with a patch over it.
#[derive(Clone, Copy)]
pub struct Patched<'a> {
    /// The base.
    pub base: &'a File,
    /// What is different.
    pub patch: &'a Patch,
}

impl Patched<'_> {
    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// When the file refuses, or ends before.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.base.read_exact_at(bytes, offset)?;
        self.patch.lay_over(offset, bytes);
        Ok(())
    }
}

/// A range of an image that can be read and written as if it were a file of its own. Writes stay in memory.
/// Invariant: no byte outside the range is read or written.
#[derive(Debug)]
pub struct Window<'a> {
    image: &'a File,
    start: u64,
    len: u64,
    position: u64,
    /// By number, counted from the start of the window.
    blocks: BTreeMap<u64, Block>,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    written: bool,
}

impl<'a> Window<'a> {
    /// `len` bytes of `image` from `start` on.
    #[must_use]
    pub fn new(image: &'a File, start: u64, len: u64) -> Self {
        Self {
            image,
            start,
            len,
            position: 0,
            blocks: BTreeMap::new(),
        }
    }

    /// Where written blocks begin, from the start of the window, and how long they are.
    #[must_use]
    pub fn written(&self) -> Vec<(u64, u64)> {
        let written = self.blocks.iter().filter(|(_, block)| block.written);
        written
            .map(|(number, block)| (number * BLOCK, block.bytes.len() as u64))
            .collect()
    }

    /// What was changed; blocks written with what they held before are none of it.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn into_patch(self) -> io::Result<Patch> {
        let mut pieces = BTreeMap::new();
        for (number, block) in self.blocks {
            if !block.written {
                continue;
            }
            let offset = self.start + number * BLOCK;
            let mut before = vec![0; block.bytes.len()];
            self.image.read_exact_at(&mut before, offset)?;
            if before != block.bytes {
                pieces.insert(offset, block.bytes);
            }
        }
        Ok(Patch { pieces })
    }

    /// The block at the position, the place in it, and how many of `wanted` bytes it has from there.
    fn block(&mut self, wanted: usize) -> io::Result<Option<(&mut Block, usize, usize)>> {
        if self.position >= self.len || wanted == 0 {
            return Ok(None);
        }
        let number = self.position / BLOCK;
        let within = place(self.position % BLOCK);
        if !self.blocks.contains_key(&number) {
            let offset = number * BLOCK;
            let mut bytes = vec![0; place(BLOCK.min(self.len - offset))];
            self.image.read_exact_at(&mut bytes, self.start + offset)?;
            self.blocks.insert(
                number,
                Block {
                    bytes,
                    written: false,
                },
            );
        }
        let block = self.blocks.get_mut(&number);
        Ok(block.map(|block| {
            let count = wanted.min(block.bytes.len() - within);
            (block, within, count)
        }))
    }
}

/// An offset within something that fits into memory.
fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Read for Window<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some((block, within, count)) = self.block(into.len())? else {
            return Ok(0);
        };
        into[..count].copy_from_slice(&block.bytes[within..within + count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let Some((block, within, count)) = self.block(from.len())? else {
            return Ok(0);
        };
        block.bytes[within..within + count].copy_from_slice(&from[..count]);
        block.written = true;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        match place {
            Some(place) if place <= self.len => {
                self.position = place;
                Ok(place)
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "expected a place within {} bytes of the partition",
                    self.len
                ),
            )),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    proptest! {
        /// Against a plain vector: same reads, same result, nothing outside touched.
        #[test]
        fn a_window_is_a_file_of_its_own(
            start in 0_u64..9000,
            len in 1_u64..20_000,
            steps in proptest::collection::vec((any::<bool>(), 0_u64..22_000, proptest::collection::vec(any::<u8>(), 0..6000)), 1..12),
        ) {
            let bytes: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[1]).collect();
            let image = image(&bytes);
            let mut model = bytes.clone();
            let (from, to) = (place(start), place(start + len));
            let mut window = Window::new(&image, start, len);
            for (write, at, data) in steps {
                let sought = window.seek(SeekFrom::Start(at));
                prop_assert_eq!(sought.is_ok(), at <= len);
                if sought.is_err() {
                    continue;
                }
                let fits = data.len().min(place(len - at));
                let at = from + place(at);
                if write {
                    let done = window.write_all(&data);
                    prop_assert_eq!(done.is_ok(), fits == data.len());
                    model[at..at + fits].copy_from_slice(&data[..fits]);
                } else {
                    let mut read = Vec::new();
                    (&mut window).take(data.len() as u64).read_to_end(&mut read).unwrap();
                    prop_assert_eq!(&read, &model[at..at + fits]);
                }
            }
            let patch = window.into_patch().unwrap();
            prop_assert_eq!(content(&image), bytes.clone(), "the base is as it was");
            let mut laid = bytes.clone();
            patch.lay_over(0, &mut laid);
            prop_assert_eq!(&laid, &model);
            let mut part = bytes[5000..17_000].to_vec();
            patch.lay_over(5000, &mut part);
            prop_assert_eq!(&part, &model[5000..17_000]);
            patch.apply(&image).unwrap();
            prop_assert_eq!(&content(&image), &model);
            prop_assert_eq!(&model[..from], &bytes[..from]);
            prop_assert_eq!(&model[to..], &bytes[to..]);
        }
    }

    #[test]
    fn what_is_written_unchanged_is_no_change() {
        let image = image(&[7; 10_000]);
        let mut window = Window::new(&image, 512, 9000);
        window.write_all(&[7; 9000]).unwrap();
        assert_eq!(
            window.write(&[7]).unwrap(),
            0,
            "the window ends before the image"
        );
        assert_eq!(window.into_patch().unwrap(), Patch::default());
    }

    #[test]
    fn a_patch_knows_what_it_touches() {
        let image = image(&[0; 20_000]);
        let mut window = Window::new(&image, 512, 19_000);
        window.seek(SeekFrom::Start(4096)).unwrap();
        window.write_all(&[1]).unwrap();
        let patch = window.into_patch().unwrap();
        assert_eq!(patch.bytes(), 4096);
        assert!(patch.touches(4608, 4609) && patch.touches(8703, 9000));
        assert!(!patch.touches(0, 4608) && !patch.touches(8704, 9000));
    }
}
