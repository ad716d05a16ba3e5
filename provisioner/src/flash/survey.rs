//! Takes a [`Survey`] of this machine: asks `lsblk` and `wipefs`, reads `/proc` and sysfs, tries to open each disk
//! exclusively. Reads only.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};
use serde::Deserialize;

use super::device::{Device, ListingError, Survey};

/// Why the devices could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// A program is missing or failed.
    #[error("expected {program} to list devices{said}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said, if it ran.
        said: String,
        /// Why it did not start.
        #[source]
        source: Option<io::Error>,
    },
    /// It said something else than expected.
    #[error("what lsblk says is not understood")]
    Listing(#[from] ListingError),
    /// A file of the kernel.
    #[error("{path} cannot be read")]
    Kernel {
        /// Which.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was named is no device.
    #[error("expected a block device, got {path}{what}")]
    NoDevice {
        /// What was named.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
        /// Why it cannot be looked at.
        #[source]
        source: Option<io::Error>,
    },
}

impl SurveyError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Program { .. } => Some("apt-get install util-linux"),
            Self::NoDevice { .. } => Some("`lekiwi-provisioner flash --list` shows what there is"),
            Self::Listing(_) | Self::Kernel { .. } => None,
        }
    }
}

const COLUMNS: &str = "KNAME,PATH,MAJ:MIN,TYPE,SIZE,RO,MODEL,SERIAL,TRAN,FSTYPE,MOUNTPOINTS";

/// Looks at all devices of this machine, without opening any: [`inspect`] does.
///
/// # Errors
/// When `lsblk` or the kernel's own lists cannot be read; a single device that cannot is refused, not an error.
pub fn take() -> Result<Survey, SurveyError> {
    let listing = Command::new("lsblk")
        // Without a column NAME only `--tree` puts partitions below their disks.
        .args(["--json", "--bytes", "--all", "--tree", "--output", COLUMNS])
        .output()
        .map_err(|source| SurveyError::Program {
            program: "lsblk",
            said: String::new(),
            source: Some(source),
        })?;
    if !listing.status.success() {
        return Err(SurveyError::Program {
            program: "lsblk",
            said: format!(", got: {}", String::from_utf8_lossy(&listing.stderr).trim()),
            source: None,
        });
    }
    let mut survey = Survey::parse(
        &String::from_utf8_lossy(&listing.stdout),
        &kernel("/proc/self/mountinfo")?,
        &kernel("/proc/swaps")?,
    )?;
    let disks = survey.devices.clone();
    for device in disks.iter().flat_map(Device::stack) {
        look(&mut survey, device);
    }
    Ok(survey)
}

fn kernel(path: &'static str) -> Result<String, SurveyError> {
    match fs::read_to_string(path) {
        // A kernel without swap has no list of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path == "/proc/swaps" => {
            Ok(String::new())
        }
        read => read.map_err(|source| SurveyError::Kernel { path, source }),
    }
}

/// What sysfs says of one device.
fn look(survey: &mut Survey, device: &Device) {
    let name = &device.name;
    let folder = Path::new("/sys/class/block").join(name);
    let holders: Vec<String> = fs::read_dir(folder.join("holders"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if !holders.is_empty() {
        survey.holders.insert(name.clone(), holders);
    }
    if let Ok(shown) = fs::read_to_string(folder.join("loop/backing_file")) {
        survey
            .loops
            .insert(name.clone(), PathBuf::from(shown.trim_end()));
    }
    if let Some(sequence) = sequence(&folder) {
        survey.sequence.insert(name.clone(), sequence);
    }
}

/// The count of media below a device's folder in sysfs; kernels before 5.15 have none.
pub(super) fn sequence(folder: &Path) -> Option<u64> {
    fs::read_to_string(folder.join("diskseq"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Opens a disk exclusively for a moment, and reads the signatures of its whole stack. Only for disks somebody asks
/// about: meanwhile nobody else can open them so.
pub fn inspect(survey: &mut Survey, disk: &Device) {
    if disk.bytes == 0 {
        return;
    }
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_EXCL | OFlag::O_NONBLOCK).bits())
        .open(&disk.path);
    let known = opened.and_then(|_| {
        for device in disk.stack() {
            let signatures = signatures(&device.path)?;
            survey.signatures.insert(device.name.clone(), signatures);
        }
        Ok(())
    });
    if let Err(error) = known {
        let why = (error.kind(), error.to_string());
        survey.unopened.insert(disk.name.clone(), why);
    }
}

/// What `wipefs` finds on a device; it looks at the medium, where `lsblk` repeats what udev remembers.
fn signatures(path: &Path) -> io::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Found {
        signatures: Vec<Signature>,
    }
    #[derive(Deserialize)]
    struct Signature {
        #[serde(rename = "type")]
        kind: String,
    }
    let output = Command::new("wipefs")
        .args(["--json", "--no-act"])
        .arg(path)
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let found: Found = serde_json::from_slice(&output.stdout)?;
    Ok(found
        .signatures
        .into_iter()
        .map(|signature| signature.kind)
        .collect())
}

/// The device that `named` is: a name such as `sda`, a path, or a link to one. Answers where it really is, too.
///
/// # Errors
/// When it is no block device, or one that `lsblk` does not list.
pub fn find<'a>(survey: &'a Survey, named: &Path) -> Result<(&'a Device, PathBuf), SurveyError> {
    let path = if named.components().count() == 1 {
        Path::new("/dev").join(named)
    } else {
        named.to_owned()
    };
    let refused = |what, source| SurveyError::NoDevice {
        path: path.clone(),
        what,
        source,
    };
    let real = fs::canonicalize(&path).map_err(|source| refused("", Some(source)))?;
    let metadata = fs::metadata(&real).map_err(|source| refused("", Some(source)))?;
    if !metadata.file_type().is_block_device() {
        let what = if metadata.is_dir() {
            ", a folder"
        } else if metadata.is_file() {
            ", a file"
        } else {
            ", something else"
        };
        return Err(refused(what, None));
    }
    let number = number(metadata.rdev());
    survey
        .find(&number)
        .map(|device| (device, real))
        .ok_or_else(|| refused(", which lsblk does not list", None))
}

/// `major:minor` of a device's number.
pub(super) fn number(device: u64) -> String {
    format!("{}:{}", major(device), minor(device))
}
