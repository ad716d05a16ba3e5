//! `cargo xtask bench flash`: how fast the provisioner writes an image to a card, beside `dd` in the same run.
//!
//! Both write the same image to loop devices past the page cache, by turns, and wait until it is there. The provisioner
//! holds back the first 4 MiB until it has read the rest back; they are not counted in its rate, and reading back is
//! shown by itself: `dd` does not do it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lekiwi_tests::harness::{program, target};

/// How fast cards are written, against `dd bs=4M oflag=direct conv=fsync`.
#[derive(Parser)]
#[command(after_help = "Example:\n  cargo xtask bench flash --mib 2048 --runs 5")]
struct Arguments {
    /// Size of the image in MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// How often each is measured; the medians count.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where image and card lie.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// What the provisioner holds back.
const FIRST_BYTES: u64 = 4 << 20;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.runs > 0 && arguments.mib > 4,
        "expected at least one run, of more than 4 MiB"
    );
    ensure!(
        nix::unistd::geteuid().is_root(),
        "expected to be root, to make loop devices (hint: sudo)"
    );
    let folder = match &arguments.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let image = folder.path().join("image");
    let bytes = arguments.mib << 20;
    noise(&image, arguments.mib)?;
    let card = folder.path().join("card");
    noise(&card, arguments.mib)?;
    let card = Loop::over(&card)?;
    let (mut dd, mut ours, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        dd.push(rate(bytes, dd_seconds(&image, &card)?));
        let (writing, reading) = flash_seconds(&image, &card)?;
        ours.push(rate(bytes - FIRST_BYTES, writing));
        back.push(rate(bytes, reading));
    }
    let (dd, ours, back) = (median(dd), median(ours), median(back));
    say(&format!(
        "{} MiB to a loop device, median of {}\ndd bs=4M oflag=direct conv=fsync {dd:>10.0} MB/s\nlekiwi-provisioner flash         {ours:>10.0} MB/s\n  reading back                   {back:>10.0} MB/s\nratio                            {:>10.2}",
        arguments.mib,
        arguments.runs,
        ours / dd
    ));
    Ok(if ours >= dd {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Bytes without a pattern, on the disk.
fn noise(path: &Path, mib: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut part = Vec::with_capacity(1 << 20);
    for _ in 0..mib {
        part.clear();
        while part.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            part.extend_from_slice(&state.to_le_bytes());
        }
        file.write_all(&part)?;
    }
    Ok(file.sync_all()?)
}

fn dd_seconds(image: &Path, card: &Loop) -> Result<f64> {
    let begun = now();
    let mut from = std::ffi::OsString::from("if=");
    from.push(image);
    let done = Command::new(program("dd", "coreutils")?)
        .arg(from)
        .arg(format!("of={}", card.path))
        .args(["bs=4M", "oflag=direct", "conv=fsync", "status=none"])
        .status()?;
    ensure!(done.success(), "dd failed");
    Ok((now() - begun).as_secs_f64())
}

/// Of writing and of reading back.
fn flash_seconds(image: &Path, card: &Loop) -> Result<(f64, f64)> {
    let name = card.path.trim_start_matches("/dev/");
    let output = Command::new(target("lekiwi-provisioner", "lekiwi-provisioner")?)
        .args(["flash", "--json", "--yes", name])
        .arg(image)
        .arg(&card.path)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let seconds = |key: &str| {
        said["cards"][0][key]
            .as_f64()
            .with_context(|| format!("expected {key}, got {said}"))
    };
    Ok((seconds("writing_seconds")?, seconds("reading_seconds")?))
}

/// In MB/s.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / seconds / 1e6
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// A loop device past the page cache, like a card.
struct Loop {
    path: String,
}

impl Loop {
    fn over(file: &Path) -> Result<Self> {
        let output = Command::new(program("losetup", "mount")?)
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file)
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Self {
            path: String::from_utf8(output.stdout)?.trim().to_owned(),
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = Command::new("losetup")
            .args(["--detach", &self.path])
            .status();
    }
}

fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::print_stdout, reason = "the result of the measurement")]
fn say(text: &str) {
    println!("{text}");
}
