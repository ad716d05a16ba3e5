//! Files on a boot partition, FAT16 or FAT32, inside an image. Reads the image, answers with what would change; writes
//! nothing. The volume's label and id stay, every date is the same, so the same files give the same bytes.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use fatfs::{Date, DateTime, Dir, FatType, FileSystem, FsOptions, Time, TimeProvider};

use super::partition::Partition;
use super::patch::{Patch, Window};

/// A file of the boot partition, as it shall be.
pub struct BootFile {
    /// Where, from the partition's root, with '/' between folders. Missing folders are made.
    pub path: String,
    /// What it shall hold.
    pub content: Content,
}

/// Makes a file's bytes from those it has, `None` when it is not there.
pub type Edit = Box<dyn Fn(Option<Vec<u8>>) -> Result<Vec<u8>, BoxError> + Send + Sync>;
/// What an edit fails with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What a file shall hold.
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Those of a file of this machine.
    FromFile(PathBuf),
    /// What this makes of those that are there.
    Edit(Edit),
}

/// Why files could not be put on a boot partition.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// Something else, or damaged.
    #[error("expected FAT16 or FAT32 on partition {number}, got {found}")]
    NotFat {
        /// The partition.
        number: u32,
        /// What is there.
        found: String,
    },
    /// Not enough clusters.
    #[error("expected {needed} bytes free for {path} on the boot partition, got {free}")]
    Full {
        /// The file.
        path: String,
        /// Its size.
        needed: u64,
        /// What is left.
        free: u64,
    },
    /// A folder of that name is there.
    #[error("expected a file or nothing at {0} on the boot partition, got a folder")]
    Folder(String),
    /// A file where a folder should be.
    #[error("expected a folder at {0} on the boot partition, got a file")]
    NotFolder(String),
    /// A path that leads nowhere.
    #[error("expected a path such as user-data or overlays/a.dtbo, got {0:?}")]
    Path(String),
    /// The edit did not want it.
    #[error("cannot edit {path} of the boot partition")]
    Edit {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// A file of this machine.
    #[error("cannot read {path}")]
    Source {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system refused.
    #[error("cannot write {path} on the boot partition")]
    Write {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image refused.
    #[error("cannot read the boot partition")]
    Image(#[source] io::Error),
}

impl FatError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotFat { .. } => {
                Some("a Raspberry Pi starts from a FAT partition; is this an image for one?")
            }
            Self::Full { .. } => {
                Some("put fewer files on it: stock boot partitions are not made larger")
            }
            _ => None,
        }
    }
}

/// What the boot sector says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BootSector {
    /// Bytes of a sector.
    pub(crate) sector: u64,
    /// Bytes of a cluster.
    pub(crate) cluster: u64,
    /// Where the tables begin, in bytes.
    pub(crate) tables: u64,
    /// How many tables there are, each with the same in it.
    pub(crate) copies: u64,
    /// Bytes of one table.
    pub(crate) table: u64,
    /// Where cluster 2 is, in bytes.
    pub(crate) data: u64,
    /// How many clusters there are.
    pub(crate) clusters: u64,
    /// FAT32, or else FAT16.
    pub(crate) wide: bool,
    /// The root folder's first cluster; 0 where it has a place of its own.
    root: u64,
    /// Where the count of free clusters is kept, in bytes; FAT32 only.
    info: Option<u64>,
}

impl BootSector {
    /// Reads the first 512 bytes of a partition of `len` bytes; otherwise, what they are instead.
    pub(crate) fn read(bytes: &[u8; 512], len: u64) -> Result<Self, String> {
        if bytes[510..] != [0x55, 0xaa] {
            return Err("no boot sector".to_owned());
        }
        let short = |at: usize| u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let long = |at: usize| short(at) | short(at + 2) << 16;
        let either = |narrow: u64, wide: u64| if narrow == 0 { wide } else { narrow };
        let (sector, per_cluster, reserved) = (short(11), u64::from(bytes[13]), short(14));
        let (fats, root_entries) = (u64::from(bytes[16]), short(17));
        let sectors = either(short(19), long(32));
        let per_table = either(short(22), long(36));
        let sane = (512..=4096).contains(&sector)
            && sector.is_power_of_two()
            && per_cluster.is_power_of_two()
            && reserved > 0
            && (1..=2).contains(&fats)
            && per_table > 0;
        if !sane {
            return Err("a boot sector of another kind".to_owned());
        }
        if sectors * sector > len {
            return Err(format!(
                "a volume of {} bytes in a partition of {len}",
                sectors * sector
            ));
        }
        let tables = reserved * sector;
        let data =
            tables + fats * per_table * sector + (root_entries * 32).div_ceil(sector) * sector;
        let clusters = (sectors * sector).saturating_sub(data) / (per_cluster * sector);
        let wide = clusters >= 65_525;
        if clusters < 4085 {
            return Err(format!("FAT12 with {clusters} clusters"));
        }
        if clusters > MOST_CLUSTERS {
            return Err(format!("a volume of {clusters} clusters"));
        }
        if (clusters + 2) * if wide { 4 } else { 2 } > per_table * sector {
            return Err("a volume with more clusters than its table has entries".to_owned());
        }
        Ok(Self {
            sector,
            cluster: per_cluster * sector,
            tables,
            copies: fats,
            table: per_table * sector,
            data,
            clusters,
            wide,
            root: if wide { long(44) } else { 0 },
            info: wide.then(|| short(48) * sector),
        })
    }
}

/// Of FAT32; higher numbers have meanings of their own.
const MOST_CLUSTERS: u64 = 0x0fff_fff5;

/// Whether a chain of clusters goes in a circle, in any table: the library would follow it for ever.
fn has_circle(image: &File, partition: &Partition, boot: &BootSector) -> io::Result<bool> {
    let count = usize::try_from(boot.clusters + 2).unwrap_or(usize::MAX);
    let width = if boot.wide { 4 } else { 2 };
    let mut table = vec![0; count * width];
    for copy in 0..boot.copies {
        let place = partition.start + boot.tables + copy * boot.table;
        image.read_exact_at(&mut table, place)?;
        let next = |cluster: usize| match table[cluster * width..][..width] {
            // The highest four bits are not part of the number.
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d & 0x0f]) as usize,
            [a, b] => usize::from(u16::from_le_bytes([a, b])),
            _ => 0,
        };
        // From which cluster each one was reached first.
        let mut reached = vec![0; count];
        for start in 2..count {
            let mut at = start;
            while (2..count).contains(&at) && reached[at] == 0 {
                reached[at] = start;
                at = next(at);
            }
            if (2..count).contains(&at) && reached[at] == start {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What is on a partition, by its first sector and its tables: `Ok` for FAT16 and FAT32.
pub(crate) fn recognise(image: &File, partition: &Partition) -> Result<BootSector, FatError> {
    let mut bytes = [0; 512];
    Window::new(image, partition.start, partition.len)
        .read_exact(&mut bytes)
        .map_err(FatError::Image)?;
    let not_fat = |found| FatError::NotFat {
        number: partition.number,
        found,
    };
    let boot = BootSector::read(&bytes, partition.len).map_err(not_fat)?;
    if has_circle(image, partition, &boot).map_err(FatError::Image)? {
        return Err(not_fat("FAT with clusters in a circle".to_owned()));
    }
    Ok(boot)
}

/// The volume's label, empty when it has none.
///
/// # Errors
/// When there is no FAT16 or FAT32.
pub fn label(image: &File, partition: &Partition) -> Result<String, FatError> {
    recognise(image, partition)?;
    let mut window = Window::new(image, partition.start, partition.len);
    let volume = FileSystem::new(&mut window, FsOptions::new()).map_err(FatError::Image)?;
    let in_root = volume
        .read_volume_label_from_root_dir()
        .map_err(FatError::Image)?;
    Ok(in_root.unwrap_or_else(|| volume.volume_label()))
}

/// The bytes of a file, `None` when there is none.
///
/// # Errors
/// When there is no FAT16 or FAT32, or a folder of that name.
pub fn read(image: &File, partition: &Partition, path: &str) -> Result<Option<Vec<u8>>, FatError> {
    recognise(image, partition)?;
    let mut window = Window::new(image, partition.start, partition.len);
    let volume = FileSystem::new(&mut window, FsOptions::new()).map_err(FatError::Image)?;
    let (folders, name) = split(path)?;
    let mut folder = volume.root_dir();
    for each in folders {
        folder = match kind(&folder, each).map_err(FatError::Image)? {
            Some(Kind::Folder) => folder.open_dir(each).map_err(FatError::Image)?,
            Some(Kind::File) => return Err(FatError::NotFolder(path.to_owned())),
            None => return Ok(None),
        };
    }
    held(&folder, name, path)
}

/// What changes on the partition when these files are put there, in this order.
///
/// # Errors
/// When there is no FAT16 or FAT32, no space, or a file that cannot be.
pub fn write(image: &File, partition: &Partition, files: &[BootFile]) -> Result<Patch, FatError> {
    let boot = recognise(image, partition)?;
    let mut window = Window::new(image, partition.start, partition.len);
    if let Some(info) = boot.info {
        // The count of free clusters is only a hint: unknown, it is counted.
        window
            .seek(SeekFrom::Start(info + 488))
            .and_then(|_| window.write_all(&[0xff; 4]))
            .map_err(FatError::Image)?;
        window.seek(SeekFrom::Start(0)).map_err(FatError::Image)?;
    }
    {
        let options = FsOptions::new().time_provider(&ALWAYS);
        let volume = FileSystem::new(&mut window, options).map_err(FatError::Image)?;
        debug_assert_eq!(volume.fat_type() == FatType::Fat32, boot.wide);
        volume.stats().map_err(FatError::Image)?;
        for file in files {
            put(&volume, file)?;
        }
        volume.unmount().map_err(FatError::Image)?;
    }
    straighten_folders(&mut window, &boot).map_err(FatError::Image)?;
    window.into_patch().map_err(FatError::Image)
}

/// New folders as the specification wants them. The library gives `.` and `..` long names, and calls a root folder by
/// its cluster where 0 belongs; `fsck.vfat` takes both for damage.
fn straighten_folders(window: &mut Window<'_>, boot: &BootSector) -> io::Result<()> {
    const ENTRY: usize = 32;
    let cluster_of = |entry: &[u8]| {
        let short = |at: usize| u64::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
        short(20) << 16 | short(26)
    };
    let is_long = |entry: &[u8]| entry[11] == 0x0f;
    for (start, length) in window.written() {
        let first = start
            .max(boot.data)
            .saturating_sub(boot.data)
            .div_ceil(boot.cluster);
        for number in first..boot.clusters {
            let place = boot.data + number * boot.cluster;
            if place >= start + length {
                break;
            }
            let mut head = [0; 4 * ENTRY];
            window.seek(SeekFrom::Start(place))?;
            window.read_exact(&mut head)?;
            let (dot, parent) = (&head[ENTRY..2 * ENTRY], &head[3 * ENTRY..]);
            let is_new_folder = is_long(&head)
                && dot.starts_with(b".          ")
                && cluster_of(dot) == number + 2
                && is_long(&head[2 * ENTRY..])
                && parent.starts_with(b"..         ");
            if !is_new_folder {
                continue;
            }
            let mut straight = [dot, parent].concat();
            if boot.wide && cluster_of(parent) == boot.root {
                straight[ENTRY + 20..ENTRY + 22].fill(0);
                straight[ENTRY + 26..ENTRY + 28].fill(0);
            }
            // Two deleted entries.
            let mut gone = [0; 2 * ENTRY];
            gone[0] = 0xe5;
            gone[ENTRY] = 0xe5;
            window.seek(SeekFrom::Start(place))?;
            window.write_all(&straight)?;
            window.write_all(&gone)?;
        }
    }
    Ok(())
}

type Volume<'w, 'i> = FileSystem<&'w mut Window<'i>>;

fn put(volume: &Volume<'_, '_>, file: &BootFile) -> Result<(), FatError> {
    let path = &file.path;
    let failed = |source| FatError::Write {
        path: path.clone(),
        source,
    };
    let (folders, name) = split(path)?;
    let mut folder = volume.root_dir();
    let mut so_far = String::new();
    for each in folders {
        so_far.push_str(each);
        folder = match kind(&folder, each).map_err(failed)? {
            Some(Kind::File) => return Err(FatError::NotFolder(so_far)),
            Some(Kind::Folder) => folder.open_dir(each).map_err(failed)?,
            None => folder
                .create_dir(each)
                .map_err(|source| full_or(volume, path, 0, source))?,
        };
        so_far.push('/');
    }
    let before = held(&folder, name, path)?;
    let bytes = match &file.content {
        Content::Bytes(bytes) => bytes.clone(),
        Content::FromFile(source) => std::fs::read(source).map_err(|error| FatError::Source {
            path: source.clone(),
            source: error,
        })?,
        Content::Edit(edit) => edit(before.clone()).map_err(|source| FatError::Edit {
            path: path.clone(),
            source,
        })?,
    };
    if before.as_ref() == Some(&bytes) {
        return Ok(());
    }
    let written = folder.create_file(name).and_then(|mut open| {
        // What was there may be a secret, and its clusters may not be used again.
        open.write_all(&vec![0; before.as_ref().map_or(0, Vec::len)])?;
        open.seek(SeekFrom::Start(0))?;
        open.truncate()?;
        open.write_all(&bytes)?;
        open.flush()
    });
    written.map_err(|source| full_or(volume, path, bytes.len() as u64, source))
}

/// The library says "no space" in words only.
fn full_or(volume: &Volume<'_, '_>, path: &str, needed: u64, source: io::Error) -> FatError {
    let full = source.kind() == io::ErrorKind::WriteZero
        || source.to_string() == "No space left on device";
    match volume.stats() {
        Ok(stats) if full => FatError::Full {
            path: path.to_owned(),
            needed,
            free: u64::from(stats.free_clusters()) * u64::from(stats.cluster_size()),
        },
        _ => FatError::Write {
            path: path.to_owned(),
            source,
        },
    }
}

fn split(path: &str) -> Result<(Vec<&str>, &str), FatError> {
    let mut parts: Vec<&str> = path.split('/').collect();
    let fine = |part: &&str| !part.is_empty() && **part != *"." && **part != *"..";
    match parts.pop() {
        Some(name) if fine(&name) && parts.iter().all(fine) => Ok((parts, name)),
        _ => Err(FatError::Path(path.to_owned())),
    }
}

enum Kind {
    File,
    Folder,
}

fn kind(folder: &Dir<'_, &mut Window<'_>>, name: &str) -> io::Result<Option<Kind>> {
    match folder.open_file(name) {
        Ok(_) => Ok(Some(Kind::File)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => match folder.open_dir(name) {
            Ok(_) => Ok(Some(Kind::Folder)),
            Err(_) => Err(error),
        },
    }
}

fn held(
    folder: &Dir<'_, &mut Window<'_>>,
    name: &str,
    path: &str,
) -> Result<Option<Vec<u8>>, FatError> {
    match kind(folder, name).map_err(FatError::Image)? {
        None => Ok(None),
        Some(Kind::Folder) => Err(FatError::Folder(path.to_owned())),
        Some(Kind::File) => {
            let mut bytes = Vec::new();
            folder
                .open_file(name)
                .and_then(|mut open| open.read_to_end(&mut bytes))
                .map_err(FatError::Image)?;
            Ok(Some(bytes))
        }
    }
}

/// The date of every file that is written: a fixed one, so that the same input gives the same image.
#[derive(Debug)]
struct Always;

static ALWAYS: Always = Always;

impl TimeProvider for Always {
    fn get_current_date(&self) -> Date {
        Date {
            year: 2024,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn boot_sectors_are_read_and_others_named() {
        let mut bytes = [0; 512];
        let read = |bytes: &[u8; 512], len| BootSector::read(bytes, len).unwrap_err();
        assert_eq!(read(&bytes, 1 << 30), "no boot sector");
        bytes[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(read(&bytes, 1 << 30), "a boot sector of another kind");
        bytes[11..13].copy_from_slice(&512_u16.to_le_bytes());
        bytes[13] = 4;
        bytes[14] = 4;
        bytes[16] = 2;
        bytes[17..19].copy_from_slice(&512_u16.to_le_bytes());
        bytes[19..21].copy_from_slice(&4000_u16.to_le_bytes());
        bytes[22] = 64;
        assert_eq!(
            read(&bytes, 1000),
            "a volume of 2048000 bytes in a partition of 1000"
        );
        assert_eq!(read(&bytes, 1 << 30), "FAT12 with 959 clusters");
        bytes[19..21].copy_from_slice(&60_000_u16.to_le_bytes());
        bytes[22] = 8;
        assert_eq!(
            read(&bytes, 1 << 30),
            "a volume with more clusters than its table has entries"
        );
        bytes[22] = 64;
        let boot = BootSector::read(&bytes, 1 << 30).unwrap();
        assert_eq!(
            boot,
            BootSector {
                sector: 512,
                cluster: 2048,
                tables: 2048,
                copies: 2,
                table: 32_768,
                data: 2048 + 65_536 + 16_384,
                clusters: (60_000 * 512 - 83_968) / 2048,
                wide: false,
                root: 0,
                info: None
            }
        );
    }

    #[test]
    fn a_chain_in_a_circle_is_refused() {
        let seed = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../fuzz/seeds/provisioner/image/mbr-fat16"
        );
        let image = tempfile::tempfile().unwrap();
        image
            .write_all_at(&std::fs::read(seed).unwrap(), 0)
            .unwrap();
        image.set_len(3 << 20).unwrap();
        let partition = Partition {
            number: 1,
            start: 512,
            len: 4300 * 512,
            kind: super::super::partition::Kind::Mbr(0x0c),
        };
        let boot = recognise(&image, &partition).unwrap();
        let first_entry = partition.start + boot.tables;
        // 10 to 12, and from there back to 11.
        for (cluster, next) in [(10, 11_u16), (11, 12), (12, 11)] {
            let place = first_entry + cluster * 2;
            image.write_all_at(&next.to_le_bytes(), place).unwrap();
        }
        let refused = recognise(&image, &partition).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "expected FAT16 or FAT32 on partition 1, got FAT with clusters in a circle"
        );
    }

    #[test]
    fn paths_lead_into_the_partition() {
        for path in ["", "/", "/a", "a/", "a//b", "../a", "a/./b"] {
            assert_eq!(
                split(path).unwrap_err().to_string(),
                format!("expected a path such as user-data or overlays/a.dtbo, got {path:?}")
            );
        }
        assert_eq!(split("a/b/c").unwrap(), (vec!["a", "b"], "c"));
    }
}
