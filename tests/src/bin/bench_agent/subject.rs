//! Programs that are measured, each on a robot of its own, all over the same time.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lekiwi_tests::harness::Process;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::Serialize;

use crate::site::Site;
use crate::usage::{Family, pss_bytes};

/// One program, and what it needs around it.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    // In the order in which they end: the program, what it talks to, its files, the network.
    pub(crate) process: Process,
    pub(crate) _around: Vec<Box<dyn Any>>,
    pub(crate) site: Site,
}

/// What it cost its robot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cost {
    /// Which program.
    pub(crate) name: &'static str,
    /// How many processes it is.
    pub(crate) processes: usize,
    /// Files of the programs and libraries that it runs.
    pub(crate) program_bytes: u64,
    /// The most that was seen.
    pub(crate) pss_bytes: u64,
    /// Of one core.
    pub(crate) cpu_percent: f64,
    /// Both directions, all layers.
    pub(crate) wire_bytes_per_s: f64,
    /// Pages, carried forward from the time of the measurement to a day.
    pub(crate) disk_bytes_per_day: f64,
}

/// The accounts at one moment.
struct Reading {
    at: Instant,
    cpu: Duration,
    wire_bytes: u64,
    disk_bytes: u64,
}

impl Subject {
    pub(crate) fn id(&self) -> Result<u32> {
        self.process
            .id()
            .with_context(|| format!("expected {} to run, but it ended", self.name))
    }

    /// That it runs; with what it said last, when it does not.
    pub(crate) fn is_alive(&mut self) -> Result<()> {
        if let Some(status) = self.process.exited()? {
            let log = self.process.log();
            let last = log.lines().next_back().unwrap_or_default();
            anyhow::bail!("it ended with {status}: {last}");
        }
        Ok(())
    }

    fn read(&self) -> Result<Reading> {
        let family = Family::of(self.id()?)?;
        Ok(Reading {
            at: Instant::now(),
            cpu: family.cpu()?,
            wire_bytes: self.site.wire_bytes()?,
            disk_bytes: family.written_bytes(),
        })
    }

    fn cost(&mut self, before: &Reading, most_pss_bytes: u64) -> Result<Cost> {
        self.is_alive()?;
        let (family, after) = (Family::of(self.id()?)?, self.read()?);
        let seconds = (after.at - before.at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let cost = Cost {
            name: self.name,
            processes: family.len(),
            program_bytes: family.program_bytes(),
            pss_bytes: most_pss_bytes.max(family.pss_bytes()),
            cpu_percent: after.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds * 100.0,
            wire_bytes_per_s: per_second(before.wire_bytes, after.wire_bytes),
            disk_bytes_per_day: per_second(before.disk_bytes, after.disk_bytes) * 86_400.0,
        };
        ensure!(
            cost.cpu_percent > 0.0,
            "expected {} to use some processor time, got none in {seconds:.0} s",
            self.name
        );
        Ok(cost)
    }
}

/// Measures all of them for so long, and their memory at each `every`, with `meanwhile` done after that.
pub(crate) fn measure(
    subjects: &mut [&mut Subject],
    span: Duration,
    every: Duration,
    mut meanwhile: impl FnMut(Duration) -> Result<()>,
) -> Result<Vec<Result<Cost>>> {
    let start = Instant::now();
    let before: Vec<Result<Reading>> = subjects.iter().map(|subject| subject.read()).collect();
    let mut most = vec![0; subjects.len()];
    let mut next = every;
    while next < span {
        pause(next.saturating_sub(start.elapsed()));
        for (subject, most) in subjects.iter().zip(&mut most) {
            if let Some(id) = subject.process.id() {
                *most = pss_bytes(id).unwrap_or_default().max(*most);
            }
        }
        meanwhile(next)?;
        next += every;
    }
    pause(span.saturating_sub(start.elapsed()));
    let costs = subjects.iter_mut().zip(before).zip(most);
    Ok(costs
        .map(|((subject, before), most)| subject.cost(&before?, most))
        .collect())
}

/// The time that passes is what is measured.
pub(crate) fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// A copy of a program, since pages that somebody else runs too would count in part only. It is read from the disk
/// when it starts, as after a boot: what was just written lies in larger pieces, of which more is counted.
pub(crate) fn copy_of(program: &Path, folder: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?;
    let copy = folder.join(name);
    std::fs::copy(program, &copy)
        .with_context(|| format!("could not copy {}", program.display()))?;
    let file = std::fs::File::open(&copy)?;
    file.sync_all()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(copy)
}
