//! Which blocks of an image matter, zeros included: a file system relies on zeros in its tables, journal and files as on
//! any other content, while what is in its free blocks does not matter. Understands FAT and ext2 to ext4; of whatever
//! else a partition holds, everything matters. Reads the image only.

use std::io;

use super::fat::BootSector;
use super::partition::Partition;
use super::patch::Patched;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;
/// At the start and the end of an image: tables, and what an older table on the card may have left there.
const EDGE: u64 = 1 << 20;

/// A flag for each block.
pub(crate) struct Occupied {
    blocks: Vec<bool>,
}

impl Occupied {
    /// Of an image of `len` bytes with these partitions.
    pub(crate) fn read(image: Patched<'_>, len: u64, partitions: &[Partition]) -> io::Result<Self> {
        let count = usize::try_from(len.div_ceil(BLOCK)).unwrap_or(usize::MAX);
        let mut occupied = Self {
            blocks: vec![false; count],
        };
        occupied.mark(0, EDGE);
        occupied.mark(len.saturating_sub(EDGE), len);
        for partition in partitions {
            let volume = Volume { image, partition };
            if !volume.fat(&mut occupied)? && !volume.ext(&mut occupied)? {
                occupied.mark(partition.start, partition.start + partition.len);
            }
        }
        Ok(occupied)
    }

    /// Whether the block matters.
    pub(crate) fn has(&self, block: u64) -> bool {
        usize::try_from(block).is_ok_and(|block| self.blocks.get(block).copied().unwrap_or(false))
    }

    /// All blocks that have a byte of `start..end`.
    fn mark(&mut self, start: u64, end: u64) {
        let place = |block: u64| {
            usize::try_from(block)
                .unwrap_or(usize::MAX)
                .min(self.blocks.len())
        };
        let (first, last) = (place(start / BLOCK), place(end.div_ceil(BLOCK)));
        if first < last {
            self.blocks[first..last].fill(true);
        }
    }
}

/// A partition of the image.
struct Volume<'a> {
    image: Patched<'a>,
    partition: &'a Partition,
}

impl Volume<'_> {
    /// `len` bytes from `offset` of the partition, `None` beyond its end.
    fn bytes(&self, offset: u64, len: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(end) = offset.checked_add(len) else {
            return Ok(None);
        };
        if end > self.partition.len {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.image
            .read_exact_at(&mut bytes, self.partition.start + offset)?;
        Ok(Some(bytes))
    }

    fn mark(&self, occupied: &mut Occupied, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.partition.len);
        if offset < end {
            occupied.mark(self.partition.start + offset, self.partition.start + end);
        }
    }

    /// Answers whether it is FAT.
    fn fat(&self, occupied: &mut Occupied) -> io::Result<bool> {
        let head = self.bytes(0, 512)?.and_then(|head| head.try_into().ok());
        let Some(boot) = head.and_then(|head| BootSector::read(&head, self.partition.len).ok())
        else {
            return Ok(false);
        };
        self.mark(occupied, 0, boot.data);
        let Some(table) = self.bytes(boot.tables, boot.table)? else {
            return Ok(false);
        };
        let width = if boot.wide { 4 } else { 2 };
        let clusters = table.chunks_exact(width).skip(2).zip(0..boot.clusters);
        for (entry, cluster) in clusters {
            if entry.iter().any(|byte| *byte != 0) {
                self.mark(occupied, boot.data + cluster * boot.cluster, boot.cluster);
            }
        }
        Ok(true)
    }

    /// Answers whether it is ext2, ext3 or ext4 of a kind that is understood. Offsets are those of the kernel's
    /// `struct ext4_super_block` and `struct ext4_group_desc`.
    fn ext(&self, occupied: &mut Occupied) -> io::Result<bool> {
        const INCOMPATIBLE_META_BG: u64 = 0x10;
        const INCOMPATIBLE_JOURNAL_DEVICE: u64 = 0x8;
        const INCOMPATIBLE_64BIT: u64 = 0x80;
        const READONLY_BIGALLOC: u64 = 0x200;
        const READONLY_GROUP_CHECKSUMS: u64 = 0x10 | 0x400;
        const INODES_UNINITIALISED: u64 = 1;
        const BLOCKS_UNINITIALISED: u64 = 2;
        const INODES_ZEROED: u64 = 4;
        let Some(head) = self.bytes(1024, 1024)? else {
            return Ok(false);
        };
        let (incompatible, readonly) = (number(&head, 0x60, 4), number(&head, 0x64, 4));
        let wide = incompatible & INCOMPATIBLE_64BIT != 0;
        let block = 1024_u64.checked_shl(u32::try_from(number(&head, 0x18, 4)).unwrap_or(64));
        let block = block.filter(|block| (1024..=65_536).contains(block));
        let (per_group, inodes) = (number(&head, 0x20, 4), number(&head, 0x28, 4));
        let (Some(block), 1.., 1..) = (block, per_group, inodes) else {
            return Ok(false);
        };
        if number(&head, 0x38, 2) != 0xef53
            || per_group > block * 8
            || incompatible & (INCOMPATIBLE_META_BG | INCOMPATIBLE_JOURNAL_DEVICE) != 0
            || readonly & READONLY_BIGALLOC != 0
        {
            return Ok(false);
        }
        let inode = match number(&head, 0x4c, 4) {
            0 => 128,
            _ => number(&head, 0x58, 2),
        };
        let high = if wide {
            number(&head, 0x150, 4) << 32
        } else {
            0
        };
        let blocks = number(&head, 0x04, 4) | high;
        if blocks
            .checked_mul(block)
            .is_none_or(|bytes| bytes > self.partition.len)
        {
            return Ok(false);
        }
        let first = number(&head, 0x14, 4);
        let groups = blocks.saturating_sub(first).div_ceil(per_group);
        let size = if wide {
            number(&head, 0xfe, 2).max(64)
        } else {
            32
        };
        let Some(table_len) = groups.checked_mul(size) else {
            return Ok(false);
        };
        let Some(table) = self.bytes((first + 1) * block, table_len)? else {
            return Ok(false);
        };
        // A copy of the superblock and of the groups' table, with the room it may grow into.
        let copy = 1 + table_len.div_ceil(block) + number(&head, 0xce, 2);
        self.mark(occupied, 0, (first + copy) * block);
        let descriptors = table.chunks_exact(usize::try_from(size).unwrap_or(64));
        for (group, descriptor) in (0_u64..).zip(descriptors) {
            let place = |low: usize| {
                let high = if wide {
                    number(descriptor, low + 0x20, 4) << 32
                } else {
                    0
                };
                (number(descriptor, low, 4) | high).saturating_mul(block)
            };
            let flags = match readonly & READONLY_GROUP_CHECKSUMS {
                0 => INODES_ZEROED,
                _ => number(descriptor, 0x12, 2),
            };
            let start = first + group * per_group;
            self.mark(occupied, place(0), block);
            self.mark(occupied, place(4), block);
            if flags & (INODES_UNINITIALISED | INODES_ZEROED) != INODES_UNINITIALISED {
                self.mark(occupied, place(8), (inodes * inode).next_multiple_of(block));
            }
            if flags & BLOCKS_UNINITIALISED != 0 {
                // Without a bitmap: nothing but a copy of the superblock can be here, and not in every group.
                self.mark(occupied, start * block, copy * block);
                continue;
            }
            let Some(bitmap) = self.bytes(place(0), block)? else {
                return Ok(false);
            };
            for index in 0..per_group.min(blocks - start) {
                let byte = usize::try_from(index / 8).unwrap_or(usize::MAX);
                if bitmap[byte] & (1 << (index % 8)) != 0 {
                    self.mark(occupied, (start + index) * block, block);
                }
            }
        }
        Ok(true)
    }
}

/// Little-endian, `len` up to 8 bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::File;
    use std::process::Command;

    use super::*;
    use crate::media::partition::Kind;
    use crate::media::patch::Patch;

    /// Debian keeps tools for disks where not every user's path leads.
    fn tool(name: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(name);
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    }

    /// A file system with files and zeros in it, on which every block that does not matter is then painted over.
    fn survives(make: &[&str], name: &str) {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        std::fs::create_dir(&files).unwrap();
        std::fs::write(files.join("zeros"), vec![0; 300_000]).unwrap();
        std::fs::write(files.join("text"), "text".repeat(9000)).unwrap();
        let path = folder.path().join(name);
        let len = 48 << 20;
        File::create(&path).unwrap().set_len(len).unwrap();
        let made = tool("mke2fs")
            .args(make)
            .arg("-q")
            .arg("-F")
            .arg("-d")
            .arg(&files)
            .arg(&path)
            .status()
            .expect("mke2fs is missing (hint: apt-get install -y e2fsprogs)");
        assert!(made.success());
        let image = File::options().read(true).write(true).open(&path).unwrap();
        let partition = Partition {
            number: 1,
            start: 0,
            len,
            kind: Kind::Mbr(0x83),
        };
        let patch = Patch::default();
        let view = Patched {
            base: &image,
            patch: &patch,
        };
        let occupied = Occupied::read(view, len, &[partition]).unwrap();
        let mut painted = 0;
        for block in (0..len / BLOCK).filter(|block| !occupied.has(*block)) {
            std::os::unix::fs::FileExt::write_all_at(&image, &[0xa5; 4096], block * BLOCK).unwrap();
            painted += 1;
        }
        assert!(painted > 5000, "only {painted} blocks of 12288 are free");
        let checked = tool("e2fsck")
            .args(["-f", "-n"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.status.success(), "{said}");
        let read = |name: &str| {
            let output = tool("debugfs")
                .arg("-R")
                .arg(format!("cat {name}"))
                .arg(&path)
                .output()
                .unwrap();
            output.stdout
        };
        assert!(read("zeros") == vec![0; 300_000]);
        assert!(read("text") == "text".repeat(9000).as_bytes());
    }

    #[test]
    fn of_an_ext4_that_is_larger_than_its_partition_everything_matters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ext4");
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let made = tool("mke2fs")
            .args(["-t", "ext4", "-q", "-F"])
            .arg(&path)
            .status()
            .expect("mke2fs is missing (hint: apt-get install -y e2fsprogs)");
        assert!(made.success());
        let image = File::open(&path).unwrap();
        let patch = Patch::default();
        let view = Patched {
            base: &image,
            patch: &patch,
        };
        let free = |len| {
            let partition = Partition {
                number: 1,
                start: 0,
                len,
                kind: Kind::Mbr(0x83),
            };
            let occupied = Occupied::read(view, len, &[partition]).unwrap();
            (0..len / BLOCK)
                .filter(|block| !occupied.has(*block))
                .count()
        };
        assert_ne!(free(8 << 20), 0);
        assert_eq!(free((8 << 20) - BLOCK), 0);
    }

    #[test]
    fn free_blocks_of_ext4_do_not_matter_and_all_others_do() {
        survives(&["-t", "ext4"], "modern");
        survives(
            &["-t", "ext4", "-b", "1024", "-E", "lazy_itable_init=0"],
            "small",
        );
        survives(
            &["-t", "ext4", "-O", "^64bit,^metadata_csum,^flex_bg"],
            "old",
        );
        survives(&["-t", "ext2"], "ext2");
    }
}
