//! Which block devices may be overwritten, and why the others may not. Pure: judges a [`Survey`] of what
//! `lsblk`, `/proc`, sysfs and the devices' own signatures say; `survey` takes it, `commands::flash` asks.
//!
//! Invariant: whatever is in use, belongs to a stack of devices, or is not a whole disk has at least one refusal.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A block device, with what stands on it. Read from `lsblk --json --bytes`.
#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    /// The kernel's name for it, such as `sda`; what a person types to confirm.
    #[serde(rename = "kname")]
    pub name: String,
    /// Where it is, such as `/dev/sda`.
    pub path: PathBuf,
    /// Its number, `major:minor`.
    #[serde(rename = "maj:min")]
    pub number: String,
    /// `disk`, `part`, `loop`, `rom`, `crypt`, `lvm`, `raid1`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Its size in bytes; 0 without a medium.
    #[serde(rename = "size")]
    pub bytes: u64,
    /// Whether it refuses writes.
    #[serde(rename = "ro")]
    pub read_only: bool,
    /// What its maker calls it.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// How it is attached: `usb`, `mmc`, `nvme`, …
    #[serde(rename = "tran")]
    pub transport: Option<String>,
    /// What udev saw on it.
    #[serde(rename = "fstype")]
    pub content: Option<String>,
    /// Where it is mounted; `[SWAP]` is swap.
    mountpoints: Vec<Option<String>>,
    /// Partitions and whatever else stands on it.
    #[serde(default)]
    pub children: Vec<Device>,
}

impl Device {
    /// This device and everything that stands on it.
    pub fn stack(&self) -> Vec<&Self> {
        let mut all = vec![self];
        for child in &self.children {
            all.extend(child.stack());
        }
        all
    }

    fn is_whole(&self) -> bool {
        matches!(self.kind.as_str(), "disk" | "loop")
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The file system's device number, `major:minor`; not a disk's for btrfs and the like.
    pub number: String,
    /// What was mounted, such as `/dev/sda2`.
    pub source: String,
    /// Where.
    pub at: String,
}

/// What is known of this machine's devices at one moment.
#[derive(Debug, Default)]
pub struct Survey {
    /// Disks, each with what stands on it.
    pub devices: Vec<Device>,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// Names of devices that hold swap, from `/proc/swaps`.
    pub swaps: Vec<String>,
    /// Who holds a device, from `/sys/class/block/NAME/holders`.
    pub holders: BTreeMap<String, Vec<String>>,
    /// Which device or file each loop device shows, from `/sys/class/block/NAME/loop/backing_file`.
    pub loops: BTreeMap<String, PathBuf>,
    /// Signatures on the devices themselves, from `wipefs`.
    pub signatures: BTreeMap<String, Vec<String>>,
    /// Why a device did not open exclusively, or its signatures could not be read.
    pub unopened: BTreeMap<String, (io::ErrorKind, String)>,
    /// The kernel's count of media, from `/sys/class/block/NAME/diskseq`: another card has another number.
    pub sequence: BTreeMap<String, u64>,
}

/// Why a listing could not be read.
#[derive(Debug, thiserror::Error)]
#[error("expected a listing of devices as `lsblk --json --bytes` prints it")]
pub struct ListingError(#[from] serde_json::Error);

/// How large a device may and must be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// No larger than so many bytes.
    pub most_bytes: u64,
    /// At least so many, where the image's size is known.
    pub image_bytes: Option<u64>,
}

/// Why a device may not be overwritten.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Part of what runs this machine.
    #[error("{name} holds {at} of this system")]
    System {
        /// The disk.
        name: String,
        /// The mount point that matters.
        at: String,
    },
    /// Mounted, or a part of it is.
    #[error("{name} is mounted at {at}")]
    Mounted {
        /// The device or partition.
        name: String,
        /// Where.
        at: String,
    },
    /// Swap, or a part of it is.
    #[error("{name} is in use as swap")]
    Swap {
        /// The device or partition.
        name: String,
    },
    /// The kernel has built something on it.
    #[error("{name} is held by {by}")]
    Held {
        /// The device or partition.
        name: String,
        /// By which device.
        by: String,
    },
    /// A loop device shows it.
    #[error("{name} is behind loop device {by}")]
    Looped {
        /// The device or partition.
        name: String,
        /// Which loop device.
        by: String,
    },
    /// A member of something larger, assembled or not.
    #[error("{name} belongs to {what} ({signature})")]
    Member {
        /// The device or partition.
        name: String,
        /// To what.
        what: &'static str,
        /// The signature that says so.
        signature: String,
    },
    /// Not a whole disk.
    #[error("{name} is a partition of {of}, expected a whole disk")]
    Partition {
        /// The partition.
        name: String,
        /// Its disk.
        of: String,
    },
    /// Not a disk at all.
    #[error("{name} is of type {kind}, expected a disk")]
    Kind {
        /// The device.
        name: String,
        /// What `lsblk` calls it.
        kind: String,
    },
    /// Takes no writes.
    #[error("{name} is read-only")]
    ReadOnly {
        /// The device.
        name: String,
    },
    /// An empty reader.
    #[error("{name} has no medium")]
    Empty {
        /// The device.
        name: String,
    },
    /// Above the cap: more likely somebody's disk than a card.
    #[error("{name} has {bytes} bytes, at most {most_bytes} are allowed")]
    TooLarge {
        /// The device.
        name: String,
        /// Its size.
        bytes: u64,
        /// The cap.
        most_bytes: u64,
    },
    /// The image does not fit.
    #[error("{name} has {bytes} bytes, the image has {image_bytes}")]
    TooSmall {
        /// The device.
        name: String,
        /// Its size.
        bytes: u64,
        /// The image's.
        image_bytes: u64,
    },
    /// Somebody has it.
    #[error("{name} is held open exclusively by another program")]
    Busy {
        /// The device.
        name: String,
    },
    /// It could not be looked at, so nothing is known of what is on it.
    #[error("{name} cannot be opened")]
    Unopened {
        /// The device.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another medium than the one that was shown.
    #[error("{name} is another medium than the one that was looked at")]
    Changed {
        /// The device.
        name: String,
    },
}

impl Refusal {
    /// Why the device `name` did not open.
    #[must_use]
    pub fn unopened(name: String, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::ResourceBusy {
            Self::Busy { name }
        } else {
            Self::Unopened { name, source }
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mounted { at, .. } => Some(format!("`umount {at}`, once nothing needs it")),
            Self::Swap { name } => Some(format!("`swapoff /dev/{name}`, once nothing needs it")),
            Self::Member { name, .. } => Some(format!(
                "`wipefs --all /dev/{name}` takes the mark off a disk that nothing needs"
            )),
            Self::Looped { by, .. } => Some(format!("`losetup --detach /dev/{by}`")),
            Self::Partition { of, .. } => Some(format!("the whole disk is {of}")),
            Self::ReadOnly { .. } => {
                Some("a card's lock switch, or a card at the end of its life".to_owned())
            }
            Self::TooLarge { .. } => Some("--max-size allows larger ones".to_owned()),
            Self::Unopened { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("root may write to devices".to_owned())
            }
            Self::Changed { .. } => Some("look at the list again".to_owned()),
            Self::System { .. }
            | Self::Held { .. }
            | Self::Kind { .. }
            | Self::Empty { .. }
            | Self::TooSmall { .. }
            | Self::Busy { .. }
            | Self::Unopened { .. } => None,
        }
    }
}

/// Mount points without which this machine does not run or start again.
const SYSTEM: &[&str] = &["/", "/usr", "/boot", "/boot/firmware", "/boot/efi"];

impl Survey {
    /// Devices from `lsblk --json --bytes`, mounts from `/proc/self/mountinfo`, swap from `/proc/swaps`.
    ///
    /// # Errors
    /// When `listing` is not what `lsblk` prints.
    pub fn parse(listing: &str, mountinfo: &str, swaps: &str) -> Result<Self, ListingError> {
        #[derive(Deserialize)]
        struct Listing {
            blockdevices: Vec<Device>,
        }
        let listing: Listing = serde_json::from_str(listing)?;
        Ok(Self {
            devices: listing.blockdevices,
            mounts: mountinfo.lines().filter_map(mount).collect(),
            swaps: swaps
                .lines()
                .skip(1)
                .filter_map(|line| line.split_whitespace().next()?.strip_prefix("/dev/"))
                .map(str::to_owned)
                .collect(),
            ..Self::default()
        })
    }

    /// The device of that number, whole or not.
    #[must_use]
    pub fn find(&self, number: &str) -> Option<&Device> {
        self.devices
            .iter()
            .flat_map(Device::stack)
            .find(|device| device.number == number)
    }

    /// Disks and loop devices that show something: what a person may want to choose from.
    pub fn candidates(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| {
            // Unbound loop and zram devices are no card readers.
            device.bytes > 0
                || !(device.kind == "loop"
                    || device.name.starts_with("zram")
                    || device.name.starts_with("ram"))
        })
    }

    /// Everything that speaks against overwriting `device`; nothing when it may be.
    #[must_use]
    pub fn refusals(&self, device: &Device, limits: &Limits) -> Vec<Refusal> {
        let name = device.name.clone();
        if !device.is_whole() {
            let disk = self.devices.iter().find(|disk| {
                disk.children
                    .iter()
                    .any(|child| child.number == device.number)
            });
            return vec![match disk {
                Some(disk) if device.kind == "part" => Refusal::Partition {
                    name,
                    of: disk.name.clone(),
                },
                _ => Refusal::Kind {
                    name,
                    kind: device.kind.clone(),
                },
            }];
        }
        let mut refusals = self.in_use(device);
        for part in device.stack() {
            refusals.extend(self.membership(part));
        }
        if device.read_only {
            refusals.push(Refusal::ReadOnly { name: name.clone() });
        }
        let bytes = device.bytes;
        if bytes == 0 {
            refusals.push(Refusal::Empty { name });
            return refusals;
        }
        if bytes > limits.most_bytes {
            refusals.push(Refusal::TooLarge {
                name: name.clone(),
                bytes,
                most_bytes: limits.most_bytes,
            });
        }
        if let Some(image_bytes) = limits.image_bytes
            && bytes < image_bytes
        {
            refusals.push(Refusal::TooSmall {
                name: name.clone(),
                bytes,
                image_bytes,
            });
        }
        // What is in use cannot be opened exclusively either; saying so twice helps nobody.
        if let Some((kind, said)) = self.unopened.get(&name)
            && refusals.is_empty()
        {
            refusals.push(Refusal::unopened(name, io::Error::new(*kind, said.clone())));
        }
        refusals
    }

    /// System, mounts, swap and holders of a disk's whole stack.
    fn in_use(&self, device: &Device) -> Vec<Refusal> {
        let stack = device.stack();
        let mut mounted: Vec<(&str, &str)> = Vec::new();
        let mut swaps: Vec<&str> = Vec::new();
        for part in &stack {
            for at in part.mountpoints.iter().flatten() {
                if at == "[SWAP]" {
                    swaps.push(&part.name);
                } else {
                    mounted.push((&part.name, at));
                }
            }
            let by_mountinfo = self.mounts.iter().filter(|mount| {
                mount.number == part.number || Path::new(&mount.source) == part.path
            });
            mounted.extend(by_mountinfo.map(|mount| (part.name.as_str(), mount.at.as_str())));
            if self.swaps.contains(&part.name) {
                swaps.push(&part.name);
            }
        }
        let mut refusals = Vec::new();
        for (part, at) in distinct(mounted) {
            refusals.push(if SYSTEM.contains(&at) {
                Refusal::System {
                    name: device.name.clone(),
                    at: at.to_owned(),
                }
            } else {
                Refusal::Mounted {
                    name: part.to_owned(),
                    at: at.to_owned(),
                }
            });
        }
        refusals.extend(distinct(swaps).into_iter().map(|part| Refusal::Swap {
            name: part.to_owned(),
        }));
        for part in &stack {
            let holders = self.holders.get(&part.name).into_iter().flatten();
            refusals.extend(holders.map(|by| Refusal::Held {
                name: part.name.clone(),
                by: by.clone(),
            }));
            let loops = self.loops.iter().filter(|(_, shown)| **shown == part.path);
            refusals.extend(loops.map(|(by, _)| Refusal::Looped {
                name: part.name.clone(),
                by: by.clone(),
            }));
        }
        refusals
    }

    /// What `part` is a member of, by its own signatures or by udev's word.
    fn membership(&self, part: &Device) -> Vec<Refusal> {
        let signatures = self.signatures.get(&part.name).into_iter().flatten();
        let said: Vec<&String> = signatures.chain(&part.content).collect();
        distinct(said)
            .into_iter()
            .filter_map(|signature| {
                Some(Refusal::Member {
                    name: part.name.clone(),
                    what: larger(signature)?,
                    signature: signature.clone(),
                })
            })
            .collect()
    }
}

/// What a device with this signature is a part of.
fn larger(signature: &str) -> Option<&'static str> {
    match signature {
        "LVM1_member" | "LVM2_member" => Some("LVM"),
        "zfs_member" => Some("a ZFS pool"),
        "bcache" => Some("a cache"),
        "drbd" => Some("a replicated disk"),
        other if other.ends_with("_raid_member") => Some("a RAID"),
        _ => None,
    }
}

fn distinct<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let number = fields.next()?.to_owned();
    let at = unescape(fields.nth(1)?);
    let source = unescape(after.split(' ').nth(1)?);
    Some(Mount { number, source, at })
}

/// Blanks and the like stand as `\040`.
fn unescape(text: &str) -> String {
    [
        (r"\040", " "),
        (r"\011", "\t"),
        (r"\012", "\n"),
        (r"\134", r"\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

#[cfg(test)]
mod tests;
