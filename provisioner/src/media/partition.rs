//! The partition table of an image, MBR or GPT, read and never written. Whatever is said there is checked against the
//! image's size before anyone relies on it. Sectors are of 512 bytes, as on every card.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::fat;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// A partition that lies within its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its bytes.
    pub len: u64,
    /// What it is said to be.
    pub kind: Kind,
}

/// What a table says a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A byte of an MBR, such as 0x0c.
    Mbr(u8),
    /// A type of a GPT, as it is on the disk.
    Gpt([u8; 16]),
}

/// Why there is no usable table.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// Something else.
    #[error("expected a disk image with a partition table (MBR or GPT), got {found}")]
    NoTable {
        /// What it is.
        found: String,
    },
    /// The image ends too early.
    #[error("expected an image of at least {needed} bytes, as its {what} ends there, got {actual}")]
    Truncated {
        /// What ends last.
        what: String,
        /// Where it ends.
        needed: u64,
        /// Where the image ends.
        actual: u64,
    },
    /// A GPT that contradicts itself.
    #[error("expected a GPT whose {what}")]
    Damaged {
        /// What is wrong with it.
        what: &'static str,
    },
    /// Two at one place.
    #[error("expected partitions beside each other, but {0} and {1} overlap")]
    Overlap(u32, u32),
    /// No boot partition.
    #[error("expected a boot partition with FAT16 or FAT32, got {found}")]
    NoBoot {
        /// What there is.
        found: String,
    },
    /// The file refused.
    #[error("cannot read the partition table")]
    Read(#[source] io::Error),
}

impl PartitionError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Truncated { .. } => Some("the image is cut off: download it again"),
            Self::NoTable { .. } => {
                Some("expected is an .img, or one within .xz, .gz, .zst or .zip")
            }
            Self::NoBoot { .. } => {
                Some("a Raspberry Pi starts from a FAT partition; is this an image for one?")
            }
            Self::Damaged { .. } | Self::Overlap(..) | Self::Read(_) => None,
        }
    }
}

/// The partitions of an image of `len` bytes, in the table's order. Logical partitions are within their extended one.
///
/// # Errors
/// When there is no table, or one that does not fit the image.
pub fn read(image: &File, len: u64) -> Result<Vec<Partition>, PartitionError> {
    let mut head = [0; 1024];
    let there = usize::try_from(len.min(1024)).unwrap_or(0);
    image
        .read_exact_at(&mut head[..there], 0)
        .map_err(PartitionError::Read)?;
    if len < 1024 || head[510..512] != [0x55, 0xaa] {
        return Err(PartitionError::NoTable {
            found: looks_like(&head, len),
        });
    }
    let entries = mbr(&head);
    let partitions = if entries.iter().any(|entry| entry.kind == Kind::Mbr(0xee)) {
        let header = Header::read(&head[512..], len)?;
        let mut table = vec![0; header.count * header.size];
        image
            .read_exact_at(&mut table, header.entries)
            .map_err(PartitionError::Read)?;
        gpt(&header, &table)?
    } else if entries.is_empty() {
        return Err(PartitionError::NoTable {
            found: "a boot sector without partitions".to_owned(),
        });
    } else {
        entries
    };
    check(partitions, len)
}

/// The boot partition: the FAT one with a label that systems use for it, or else the first.
///
/// # Errors
/// When none is FAT16 or FAT32.
pub fn boot(image: &File, partitions: &[Partition]) -> Result<Partition, PartitionError> {
    let mut first = None;
    let mut others = Vec::new();
    for partition in partitions {
        match fat::recognise(image, partition) {
            Ok(_) => {
                let label = fat::label(image, partition).unwrap_or_default();
                if BOOT_LABELS.contains(&label.to_ascii_lowercase().as_str()) {
                    return Ok(*partition);
                }
                first = first.or(Some(*partition));
            }
            Err(fat::FatError::NotFat { found, .. }) => others.push(format!(
                "partition {} ({}) with {found}",
                partition.number, partition.kind
            )),
            Err(_) => {}
        }
    }
    first.ok_or_else(|| PartitionError::NoBoot {
        found: if others.is_empty() {
            "no partition at all".to_owned()
        } else {
            others.join(", ")
        },
    })
}

/// Of Raspberry Pi OS, of Ubuntu, of Debian, of older Raspberry Pi OS. Beside them there may be an EFI partition.
const BOOT_LABELS: [&str; 4] = ["bootfs", "system-boot", "raspifirm", "boot"];

fn looks_like(head: &[u8], len: u64) -> String {
    match super::compressed::Container::of(head) {
        _ if len == 0 => "an empty file".to_owned(),
        Some(container) => format!("{container} data, packed twice"),
        None if len < 1024 => format!("a file of {len} bytes"),
        None => "something else".to_owned(),
    }
}

fn mbr(head: &[u8]) -> Vec<Partition> {
    (1_u32..)
        .zip(head[446..510].chunks_exact(16))
        .filter(|(_, entry)| entry[4] != 0 && number(&entry[12..16]) != 0)
        .map(|(index, entry)| Partition {
            number: index,
            start: number(&entry[8..12]) * SECTOR,
            len: number(&entry[12..16]) * SECTOR,
            kind: Kind::Mbr(entry[4]),
        })
        .collect()
}

/// Little-endian, up to 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What of a GPT's header is needed.
struct Header {
    /// Where its entries begin, in bytes.
    entries: u64,
    count: usize,
    size: usize,
    checksum: u64,
}

impl Header {
    fn read(sector: &[u8], len: u64) -> Result<Self, PartitionError> {
        let damaged = |what| PartitionError::Damaged { what };
        let size = usize::try_from(number(&sector[12..16])).unwrap_or(0);
        if sector[..8] != *b"EFI PART" {
            return Err(damaged("header follows its protective MBR"));
        }
        if !(92..=512).contains(&size) {
            return Err(damaged("header has 92 to 512 bytes"));
        }
        let mut header = sector[..size].to_vec();
        header[16..20].fill(0);
        if u64::from(crc32fast::hash(&header)) != number(&sector[16..20]) {
            return Err(damaged("header matches its checksum"));
        }
        let backup_end = number(&sector[32..40])
            .checked_add(1)
            .and_then(|sectors| sectors.checked_mul(SECTOR))
            .ok_or_else(|| damaged("second header is within any disk"))?;
        if backup_end > len {
            return Err(PartitionError::Truncated {
                what: "second table".to_owned(),
                needed: backup_end,
                actual: len,
            });
        }
        let read = Self {
            entries: number(&sector[72..80])
                .checked_mul(SECTOR)
                .ok_or_else(|| damaged("entries are within any disk"))?,
            count: usize::try_from(number(&sector[80..84])).unwrap_or(usize::MAX),
            size: usize::try_from(number(&sector[84..88])).unwrap_or(usize::MAX),
            checksum: number(&sector[88..92]),
        };
        if !(1..=1024).contains(&read.count) || !(128..=4096).contains(&read.size) {
            return Err(damaged("entries are 1 to 1024 of 128 to 4096 bytes"));
        }
        let end = read.entries.checked_add((read.count * read.size) as u64);
        if end.is_none_or(|end| end > len) {
            return Err(damaged("entries are within the image"));
        }
        Ok(read)
    }
}

fn gpt(header: &Header, table: &[u8]) -> Result<Vec<Partition>, PartitionError> {
    if u64::from(crc32fast::hash(table)) != header.checksum {
        return Err(PartitionError::Damaged {
            what: "entries match their checksum",
        });
    }
    let mut partitions = Vec::new();
    for (index, entry) in (1_u32..).zip(table.chunks_exact(header.size)) {
        let mut kind = [0; 16];
        kind.copy_from_slice(&entry[..16]);
        if kind == [0; 16] {
            continue;
        }
        let (first, last) = (number(&entry[32..40]), number(&entry[40..48]));
        let sectors = last
            .checked_sub(first)
            .and_then(|count| count.checked_add(1));
        let range = sectors
            .and_then(|sectors| sectors.checked_mul(SECTOR))
            .zip(first.checked_mul(SECTOR));
        let Some((len, start)) = range else {
            return Err(PartitionError::Damaged {
                what: "partitions end after they begin",
            });
        };
        partitions.push(Partition {
            number: index,
            start,
            len,
            kind: Kind::Gpt(kind),
        });
    }
    Ok(partitions)
}

fn check(partitions: Vec<Partition>, len: u64) -> Result<Vec<Partition>, PartitionError> {
    let mut in_order = partitions.clone();
    in_order.sort_by_key(|partition| partition.start);
    for (index, partition) in in_order.iter().enumerate() {
        let end = partition.start.saturating_add(partition.len);
        if end > len {
            return Err(PartitionError::Truncated {
                what: format!("partition {}", partition.number),
                needed: end,
                actual: len,
            });
        }
        if partition.start < SECTOR {
            return Err(PartitionError::Overlap(0, partition.number));
        }
        if let Some(next) = in_order.get(index + 1)
            && next.start < end
        {
            return Err(PartitionError::Overlap(partition.number, next.number));
        }
    }
    Ok(partitions)
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mbr(kind) => write!(f, "type 0x{kind:02x}"),
            Self::Gpt(id) => {
                let part = |range: std::ops::Range<usize>| number(&id[range]);
                write!(
                    f,
                    "type {:08x}-{:04x}-{:04x}-",
                    part(0..4),
                    part(4..6),
                    part(6..8)
                )?;
                write!(f, "{}-{}", hex::encode(&id[8..10]), hex::encode(&id[10..]))
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(bytes: &[u8], len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_len(len).unwrap();
        file
    }

    fn said(bytes: &[u8], len: u64) -> String {
        read(&image(bytes, len), len).unwrap_err().to_string()
    }

    fn mbr_of(entries: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut head = vec![0; 1024];
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (index, (kind, start, sectors)) in entries.iter().enumerate() {
            let entry = &mut head[446 + 16 * index..][..16];
            entry[4] = *kind;
            entry[8..12].copy_from_slice(&start.to_le_bytes());
            entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        }
        head
    }

    #[test]
    fn partitions_are_where_the_table_says() {
        let head = mbr_of(&[(0x0c, 16_384, 1000), (0, 0, 0), (0x83, 20_000, 50)]);
        assert_eq!(
            read(&image(&head, 20_050 * 512), 20_050 * 512).unwrap(),
            [
                Partition {
                    number: 1,
                    start: 8 << 20,
                    len: 512_000,
                    kind: Kind::Mbr(0x0c)
                },
                Partition {
                    number: 3,
                    start: 20_000 * 512,
                    len: 25_600,
                    kind: Kind::Mbr(0x83)
                },
            ]
        );
    }

    #[test]
    fn what_is_no_image_is_named() {
        let no = "expected a disk image with a partition table (MBR or GPT), got ";
        assert_eq!(said(b"", 0), format!("{no}an empty file"));
        assert_eq!(said(b"hello", 5), format!("{no}a file of 5 bytes"));
        assert_eq!(said(b"hello", 5000), format!("{no}something else"));
        assert_eq!(
            said(b"\xfd7zXZ\0", 5000),
            format!("{no}xz data, packed twice")
        );
        assert_eq!(
            said(&mbr_of(&[]), 5000),
            format!("{no}a boot sector without partitions")
        );
        let table = mbr_of(&[(0x0c, 8, 100), (0x83, 108, 1000)]);
        assert_eq!(
            said(&table, 60_000),
            "expected an image of at least 567296 bytes, as its partition 2 ends there, got 60000"
        );
        let table = mbr_of(&[(0x0c, 8, 100), (0x83, 107, 10)]);
        assert_eq!(
            said(&table, 100_000),
            "expected partitions beside each other, but 1 and 2 overlap"
        );
        let table = mbr_of(&[(0xee, 1, 100)]);
        assert_eq!(
            said(&table, 100_000),
            "expected a GPT whose header follows its protective MBR"
        );
    }

    #[test]
    fn types_are_shown_as_everyone_writes_them() {
        let mut efi = [0; 16];
        hex::decode_to_slice("28732ac11ff8d211ba4b00a0c93ec93b", &mut efi).unwrap();
        assert_eq!(
            Kind::Gpt(efi).to_string(),
            "type c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
        );
    }

    proptest! {
        /// Whatever is in the table: an answer, and every partition within the image.
        #[test]
        fn hostile_tables_stay_within_the_image(mut head in proptest::collection::vec(any::<u8>(), 1024), protective: bool, fixed: bool) {
            head[510..512].copy_from_slice(&[0x55, 0xaa]);
            if protective {
                head[450] = 0xee;
                head[458..462].copy_from_slice(&[1, 0, 0, 0]);
                head[512..520].copy_from_slice(b"EFI PART");
                head[524..528].copy_from_slice(&92_u32.to_le_bytes());
                head[528..532].fill(0);
                if fixed {
                    head[544..552].copy_from_slice(&3_u64.to_le_bytes());
                    head[592..596].copy_from_slice(&4_u32.to_le_bytes());
                    head[596..600].copy_from_slice(&128_u32.to_le_bytes());
                }
                let sum = crc32fast::hash(&head[512..604]);
                head[528..532].copy_from_slice(&sum.to_le_bytes());
            }
            let len = 1 << 20;
            if let Ok(partitions) = read(&image(&head, len), len) {
                for partition in partitions {
                    prop_assert!(partition.start >= 512 && partition.start + partition.len <= len);
                }
            }
        }
    }
}
