//! `cargo xtask bench customise`: what a robot's image costs beyond unpacking the base, and what each further card costs.
//!
//! The base is made here: a FAT boot partition, and a root partition with files of this machine, packed by xz as
//! published images are. Each figure is the median of several runs, taken in turns with plain `xz`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lekiwi_tests::harness::{program, target};
use serde::Serialize;

/// Time per card against plain decompression.
#[derive(Parser)]
#[command(after_help = "Example:\n  cargo xtask bench customise --json")]
struct Arguments {
    /// Size of the base image, unpacked, in MiB.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(64..))]
    mib: u64,
    /// Cards of the run that shows what a further one costs.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..1000))]
    cards: u32,
    /// Runs of each kind.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Where to work; needs room for all cards. A base that is there from an earlier run is used again.
    #[arg(long, default_value = "target/bench-customise")]
    folder: PathBuf,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Where the boot partition of a Raspberry Pi's image begins, and how long it is here.
const BOOT_START: u64 = 8 << 20;
const BOOT_LEN: u64 = 40 << 20;

/// Seconds, medians.
#[derive(Serialize)]
struct Figures {
    image_bytes: u64,
    packed_bytes: u64,
    runs: u32,
    xz_s: f64,
    xz_and_sync_s: f64,
    customise_s: f64,
    ratio: f64,
    ratio_to_xz_and_sync: f64,
    further_card_s: f64,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    fs::create_dir_all(&arguments.folder)?;
    let bench = Bench {
        provisioner: target("lekiwi-provisioner", "lekiwi-provisioner")?,
        xz: program("xz", "xz-utils")?,
        folder: arguments.folder.canonicalize()?,
    };
    let base = bench.base(arguments.mib << 20)?;
    let (mut plain, mut synced, mut one, mut many) = (vec![], vec![], vec![], vec![]);
    for _ in 0..arguments.runs {
        plain.push(bench.unpack(&base, false)?);
        one.push(bench.customise(&base, 1)?);
        synced.push(bench.unpack(&base, true)?);
        many.push(bench.customise(&base, arguments.cards)?);
    }
    let (xz_s, xz_and_sync_s) = (median(plain), median(synced));
    let (customise_s, many_s) = (median(one), median(many));
    let figures = Figures {
        image_bytes: arguments.mib << 20,
        packed_bytes: fs::metadata(&base)?.len(),
        runs: arguments.runs,
        xz_s,
        xz_and_sync_s,
        customise_s,
        ratio: customise_s / xz_s,
        ratio_to_xz_and_sync: customise_s / xz_and_sync_s,
        further_card_s: (many_s - customise_s) / f64::from(arguments.cards - 1),
    };
    if arguments.json {
        say(&serde_json::to_string(&figures)?);
    } else {
        say(&figures.table());
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    provisioner: PathBuf,
    xz: PathBuf,
    folder: PathBuf,
}

impl Bench {
    fn base(&self, len: u64) -> Result<PathBuf> {
        let packed = self.folder.join(format!("base-{}.img.xz", len >> 20));
        if packed.is_file() {
            return Ok(packed);
        }
        let image = self.folder.join("base.img");
        let file = File::create(&image)?;
        file.set_len(len)?;
        let boot = self.folder.join("boot.fat");
        File::create(&boot)?.set_len(BOOT_LEN)?;
        done(
            Command::new(program("mkfs.vfat", "dosfstools")?)
                .args(["-F", "32", "-s", "1", "-n", "bootfs"])
                .arg(&boot)
                .stdout(Stdio::null()),
        )?;
        file.write_all_at(&fs::read(&boot)?, BOOT_START)?;
        fs::remove_file(&boot)?;
        file.write_all_at(&partitions(len), 446)?;
        fill(&file, BOOT_START + BOOT_LEN, len)?;
        let cmdline = self.folder.join("cmdline.txt");
        fs::write(
            &cmdline,
            "console=tty1 root=PARTUUID=5e3da3da-02 rootwait resize\n",
        )?;
        done(
            Command::new(program("mcopy", "mtools")?)
                .arg("-i")
                .arg(format!("{}@@{BOOT_START}", image.display()))
                .arg(&cmdline)
                .arg("::cmdline.txt"),
        )?;
        done(Command::new(&self.xz).args(["-T0", "-3"]).arg(&image))?;
        fs::rename(self.folder.join("base.img.xz"), &packed)?;
        Ok(packed)
    }

    /// `xz -dc > file`, and its data on the disk if asked for.
    fn unpack(&self, base: &Path, sync: bool) -> Result<f64> {
        let out = self.folder.join("plain.img");
        let start = Instant::now();
        let file = File::create(&out)?;
        done(Command::new(&self.xz).arg("-dc").arg(base).stdout(file))?;
        if sync {
            File::open(&out)?.sync_all()?;
        }
        let took = start.elapsed().as_secs_f64();
        fs::remove_file(&out)?;
        Ok(took)
    }

    fn customise(&self, base: &Path, cards: u32) -> Result<f64> {
        let out = self.folder.join("cards");
        let job = self.folder.join("cards.csv");
        let mut list = File::create(&job)?;
        writeln!(list, "robot_id,token")?;
        for card in 0..cards {
            writeln!(list, "bench-{card},lkt_{card:030}")?;
        }
        let start = Instant::now();
        done(
            Command::new(&self.provisioner)
                .arg("customise")
                .arg(base)
                .args(["--os", "raspios-trixie", "--profile", "generic"])
                .args(["--relay-https", "https://relay.example:8443"])
                .args(["--relay-mqtt", "mqtts://relay.example:8883"])
                .args(["--ca-fingerprint", &format!("sha256:{}", "0f".repeat(32))])
                .arg("--job")
                .arg(&job)
                .arg("--out")
                .arg(&out)
                .stdout(Stdio::null()),
        )?;
        let took = start.elapsed().as_secs_f64();
        fs::remove_dir_all(&out)?;
        Ok(took)
    }
}

fn done(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// The four entries of an MBR, and its signature.
fn partitions(len: u64) -> Vec<u8> {
    let root = BOOT_START + BOOT_LEN;
    let mut entries = vec![0; 66];
    for (index, (kind, start, len)) in [(0x0c, BOOT_START, BOOT_LEN), (0x83, root, len - root)]
        .into_iter()
        .enumerate()
    {
        let entry = &mut entries[16 * index..][..16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&(start / 512).to_le_bytes()[..4]);
        entry[12..16].copy_from_slice(&(len / 512).to_le_bytes()[..4]);
    }
    entries[64..].copy_from_slice(&[0x55, 0xaa]);
    entries
}

/// Programs and texts of this machine over two thirds of what is left, as on a published image.
fn fill(image: &File, start: u64, len: u64) -> Result<()> {
    let end = start + (len - start) / 3 * 2;
    let mut position = start;
    let mut folders = vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/lib")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && position < end {
                let mut bytes = Vec::new();
                let Ok(file) = File::open(entry.path()) else {
                    continue;
                };
                file.take(end - position).read_to_end(&mut bytes)?;
                image.write_all_at(&bytes, position)?;
                position = (position + bytes.len() as u64).next_multiple_of(4096);
            }
        }
    }
    ensure!(
        position >= end,
        "expected {} bytes of files below /usr, got {}",
        end - start,
        position - start
    );
    Ok(())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

impl Figures {
    fn table(&self) -> String {
        let row = |what: &str, value: f64, unit: &str| format!("{what:<36}{value:>10.2} {unit}");
        [
            format!(
                "{} bytes from {} packed, medians of {}",
                self.image_bytes, self.packed_bytes, self.runs
            ),
            row("xz -dc > file", self.xz_s, "s"),
            row("xz -dc > file, then sync", self.xz_and_sync_s, "s"),
            row("customise, one card", self.customise_s, "s"),
            row("ratio to xz -dc > file", self.ratio, ""),
            row("ratio to the same with sync", self.ratio_to_xz_and_sync, ""),
            row("each further card", self.further_card_s, "s"),
        ]
        .join("\n")
    }
}

#[expect(clippy::print_stdout, reason = "the result of the measurement")]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_taken() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_table_is_an_mbr() {
        let bytes = partitions(1 << 30);
        assert_eq!((bytes.len(), bytes[4], bytes[20]), (66, 0x0c, 0x83));
        assert_eq!(bytes[8..12], 16_384_u32.to_le_bytes());
        assert_eq!(bytes[24..28], (16_384_u32 + 81_920).to_le_bytes());
    }
}
