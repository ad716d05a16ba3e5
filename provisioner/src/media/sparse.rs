//! Images with holes where their zeros are: written as they come, and copied without reading the holes. On file systems
//! that can, a copy shares its blocks with the original.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;

use rustix::fs::{SeekFrom, copy_file_range, seek};
use rustix::io::Errno;

use crate::watch::Watch;

/// Bytes that are written between two flushes.
const FLUSH: usize = 64 << 20;
/// What is a hole when it is all zeros, in bytes: a block of every usual file system.
pub const BLOCK: usize = 4096;
/// Bytes that are copied between two looks at the watcher.
const STEP: u64 = 16 << 20;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Runs `work`, and meanwhile brings to the disk what it has written, so that the end has little left to wait for. `work`
/// says how many bytes it wrote.
///
/// # Errors
/// When the disk refuses; that is beside what `work` answers.
pub fn flushing<T>(
    file: &File,
    work: impl FnOnce(&mut dyn FnMut(usize)) -> T,
) -> (T, io::Result<()>) {
    thread::scope(|scope| {
        let (to, from) = mpsc::sync_channel(1);
        // An error is told once, so this thread must not keep it to itself.
        let flusher = scope.spawn(move || {
            for () in from {
                file.sync_data()?;
            }
            Ok(())
        });
        let mut unflushed = 0;
        let answer = work(&mut |count| {
            unflushed += count;
            if unflushed >= FLUSH && to.try_send(()).is_ok() {
                unflushed = 0;
            }
        });
        drop(to);
        let flushed = flusher.join();
        let died = |_| Err(io::Error::other("the flushing thread died"));
        (answer, flushed.unwrap_or_else(died))
    })
}

/// Whether there is nothing but zeros in it.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(BLOCK)
        .all(|block| *block == ZEROS[..block.len()])
}

/// Writes a new, empty file from its start to its end.
pub struct SparseWriter<'a> {
    file: &'a File,
    position: u64,
}

impl<'a> SparseWriter<'a> {
    /// Of an empty file.
    #[must_use]
    pub fn new(file: &'a File) -> Self {
        Self { file, position: 0 }
    }

    /// What comes next. Blocks of zeros are left out where `bytes` begins at a block's start.
    ///
    /// # Errors
    /// When the file refuses.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut from = 0;
        while from < bytes.len() {
            let zero = is_zero_at(bytes, from);
            let mut to = from;
            while to < bytes.len() && is_zero_at(bytes, to) == zero {
                to = (to + BLOCK).min(bytes.len());
            }
            if !zero {
                self.file
                    .write_all_at(&bytes[from..to], self.position + from as u64)?;
            }
            from = to;
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far; a file that ends with a hole gets its length.
    ///
    /// # Errors
    /// When the file refuses.
    pub fn finish(self) -> io::Result<u64> {
        self.file.set_len(self.position)?;
        Ok(self.position)
    }
}

fn is_zero_at(bytes: &[u8], from: usize) -> bool {
    is_zero(&bytes[from..(from + BLOCK).min(bytes.len())])
}

/// The parts of a file that are not holes, in order.
///
/// # Errors
/// When the file refuses.
pub fn extents(file: &File, len: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut extents = Vec::new();
    let mut position = 0;
    while position < len {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(len);
        if start >= end {
            break;
        }
        extents.push((start, end));
        position = end;
    }
    Ok(extents)
}

/// Copies `len` bytes into an empty file, holes as holes. Answers whether it ran to its end: the watcher may stop it.
///
/// # Errors
/// When a file refuses.
pub fn copy(from: &File, to: &File, len: u64, watch: &dyn Watch) -> io::Result<bool> {
    to.set_len(len)?;
    let mut position = 0;
    for (start, end) in extents(from, len)? {
        watch.advance(start - position);
        let mut at = start;
        while at < end {
            if watch.stopped() {
                return Ok(false);
            }
            let count = copy_some(from, to, at, (end - at).min(STEP))?;
            watch.advance(count);
            at += count;
        }
        position = end;
    }
    watch.advance(len - position);
    Ok(true)
}

/// The kernel copies, or shares; what it cannot do is read and written.
fn copy_some(from: &File, to: &File, at: u64, count: u64) -> io::Result<u64> {
    let (mut source, mut target) = (at, at);
    let wanted = usize::try_from(count).unwrap_or(usize::MAX);
    match copy_file_range(from, Some(&mut source), to, Some(&mut target), wanted) {
        Ok(0) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the original became shorter",
        )),
        Ok(copied) => Ok(copied as u64),
        Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
            let mut bytes = vec![0; wanted];
            from.read_exact_at(&mut bytes, at)?;
            to.write_all_at(&bytes, at)?;
            Ok(count)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;
    use crate::watch::Unwatched;

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_and_copied_is_read_back(runs in proptest::collection::vec((any::<bool>(), 1_usize..40_000), 0..8), cut in 1_usize..20_000) {
            let bytes: Vec<u8> = runs.iter().flat_map(|(data, len)| std::iter::repeat_n(u8::from(*data), *len)).collect();
            let file = tempfile::tempfile().unwrap();
            let mut writer = SparseWriter::new(&file);
            for piece in bytes.chunks(cut) {
                writer.write(piece).unwrap();
            }
            prop_assert_eq!(writer.finish().unwrap(), bytes.len() as u64);
            prop_assert_eq!(&content(&file), &bytes);
            let second = tempfile::tempfile().unwrap();
            prop_assert!(copy(&file, &second, bytes.len() as u64, &Unwatched).unwrap());
            prop_assert_eq!(&content(&second), &bytes);
        }
    }

    #[test]
    fn zeros_take_no_space() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 8 << 20];
        bytes[5 << 20] = 1;
        let mut writer = SparseWriter::new(&file);
        writer.write(&bytes).unwrap();
        writer.finish().unwrap();
        assert_eq!(
            extents(&file, 8 << 20).unwrap(),
            [(5 << 20, (5 << 20) + 4096)]
        );
        let second = tempfile::tempfile().unwrap();
        copy(&file, &second, 8 << 20, &Unwatched).unwrap();
        assert!(second.metadata().unwrap().blocks() * 512 <= 8192);
        assert!(content(&second) == bytes);
    }
}
