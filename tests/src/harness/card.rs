//! What is on a card image: read and written by mtools, sfdisk and debugfs, never by the programs under test.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::process::program;

/// Something to be put into a card's root partition.
pub enum Planted {
    /// A file with this content.
    File(String),
    /// A symbolic link to this target.
    Link(String),
}

/// Where partitions begin and how long they are, in bytes.
///
/// # Errors
/// When there is no partition table.
pub fn partitions(card: &Path) -> Result<Vec<(u64, u64)>> {
    let table = Command::new(program("sfdisk", "fdisk")?)
        .arg("--json")
        .arg(card)
        .output()?;
    let table: Value = serde_json::from_slice(&table.stdout)
        .with_context(|| format!("expected a partition table on {}", card.display()))?;
    let partitions = table["partitiontable"]["partitions"].as_array();
    partitions
        .context("expected partitions")?
        .iter()
        .map(|partition| {
            let sectors = |key: &str| partition[key].as_u64().context("expected sectors");
            Ok((sectors("start")? * 512, sectors("size")? * 512))
        })
        .collect()
}

/// The bytes of the boot partition.
///
/// # Errors
/// When it cannot be read.
pub fn boot_partition(card: &Path) -> Result<Vec<u8>> {
    let (start, length) = *partitions(card)?.first().context("expected a partition")?;
    let mut file = std::fs::File::open(card)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Copies the root partition to `place`, replays its journal, and reads a file of it.
///
/// # Errors
/// When the file system is damaged beyond its journal.
pub fn read_root(card: &Path, place: &Path, file: &str) -> Result<String> {
    let (start, _) = *partitions(card)?
        .get(1)
        .context("expected a second partition")?;
    let copied = Command::new("dd")
        .arg(format!("if={}", card.display()))
        .arg(format!("of={}", place.display()))
        .args(["bs=1M", "conv=sparse", "iflag=skip_bytes"])
        .arg(format!("skip={start}"))
        .output()?;
    ensure!(
        copied.status.success(),
        "dd: {}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let replayed = Command::new(program("e2fsck", "e2fsprogs")?)
        .arg("-fy")
        .arg(place)
        .output()?;
    ensure!(
        replayed.status.code().is_some_and(|code| code <= 1),
        "expected a sound root partition: {}",
        String::from_utf8_lossy(&replayed.stdout)
    );
    let content = Command::new(program("debugfs", "e2fsprogs")?)
        .args(["-R", &format!("cat {file}")])
        .arg(place)
        .output()?;
    Ok(String::from_utf8(content.stdout)?)
}

/// Puts files and links into the root partition of a card that has never booted. Paths are absolute.
///
/// # Errors
/// When one of them is not there afterwards.
pub fn plant(card: &Path, folder: &Path, things: &[(String, Planted)]) -> Result<()> {
    let (start, _) = *partitions(card)?
        .get(1)
        .context("expected a second partition")?;
    let image = format!("{}?offset={start}", card.display());
    let debugfs = program("debugfs", "e2fsprogs")?;
    let mut made = std::collections::BTreeSet::new();
    let mut commands = String::new();
    for (number, (path, thing)) in things.iter().enumerate() {
        let (parent, name) = path.rsplit_once('/').context("expected an absolute path")?;
        let mut above = String::new();
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            above = format!("{above}/{part}");
            if made.insert(above.clone()) {
                commands += &format!("mkdir \"{above}\"\n");
            }
        }
        match thing {
            Planted::File(content) => {
                let source: PathBuf = folder.join(format!("planted-{number}"));
                std::fs::write(&source, content)?;
                commands += &format!("cd \"{parent}\"\nwrite {} \"{name}\"\n", source.display());
            }
            Planted::Link(target) => commands += &format!("symlink \"{path}\" \"{target}\"\n"),
        }
    }
    let script = folder.join("plant.debugfs");
    std::fs::write(&script, commands)?;
    // A folder that is there already is an error that does no harm; what counts is looked at below.
    Command::new(&debugfs)
        .args(["-w", "-f"])
        .arg(&script)
        .arg(&image)
        .output()?;
    for (path, _) in things {
        let found = Command::new(&debugfs)
            .args(["-R", &format!("stat \"{path}\"")])
            .arg(&image)
            .output()?;
        ensure!(
            String::from_utf8_lossy(&found.stdout).contains("Inode:"),
            "expected debugfs to put {path} on the card: {}",
            String::from_utf8_lossy(&found.stderr)
        );
    }
    Ok(())
}
