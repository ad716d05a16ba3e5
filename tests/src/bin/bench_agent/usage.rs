//! What a process and all that it started have used, by the kernel's accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// `USER_HZ`, which is 100 wherever Linux runs.
const TICK: Duration = Duration::from_millis(10);

/// A process and its descendants, those that are alive.
pub(crate) struct Family(Vec<u32>);

impl Family {
    /// That of `root`.
    pub(crate) fn of(root: u32) -> Result<Self> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.parse().ok());
            // Whoever ended since the listing has no file any more.
            if let Some(id) = id
                && let Some(stat) = stat(id)
            {
                children.entry(stat.parent).or_default().push(id);
            }
        }
        ensure!(stat(root).is_some(), "expected process {root} to run");
        let mut members = vec![root];
        let mut next = 0;
        while let Some(id) = members.get(next) {
            let more = children.remove(id).unwrap_or_default();
            members.extend(more);
            next += 1;
        }
        Ok(Self(members))
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Proportional set size of all together.
    pub(crate) fn pss_bytes(&self) -> u64 {
        let each = self.0.iter().filter_map(|id| {
            let rollup = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
            kilobytes(&rollup, "Pss:")
        });
        each.sum()
    }

    /// Processor time so far, with that of threads and children that ended.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for id in &self.0 {
            let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(*id)?));
            if let (Ok(time), Some(stat)) = (clock.and_then(clock_gettime), stat(*id)) {
                total += Duration::from(time) + TICK * stat.reaped_ticks;
            }
        }
        Ok(total)
    }

    /// Bytes of pages that were to be written to block devices, so far. Files in memory do not count.
    pub(crate) fn written_bytes(&self) -> u64 {
        let each = self.0.iter().filter_map(|id| {
            let io = std::fs::read_to_string(format!("/proc/{id}/io")).ok()?;
            number(&io, "write_bytes:")
        });
        each.sum()
    }

    /// Bytes of the files that they run: programs, and the libraries that these loaded.
    pub(crate) fn program_bytes(&self) -> u64 {
        let mut files = BTreeSet::new();
        for id in &self.0 {
            let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).unwrap_or_default();
            files.extend(executable(&maps).map(str::to_owned));
        }
        let each = files
            .iter()
            .filter_map(|path| Some(std::fs::metadata(path).ok()?.len()));
        each.sum()
    }
}

/// What is read of `/proc/ID/stat`.
struct Stat {
    parent: u32,
    /// Processor time of children that ended and were waited for.
    reaped_ticks: u32,
}

fn stat(id: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// The program's name comes second, in parentheses, and may contain anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u32>().ok();
    Some(Stat {
        parent: number(1)?,
        reaped_ticks: number(13)? + number(14)?,
    })
}

/// The number behind `name` at the beginning of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// `Pss:  1234 kB`
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    Some(number(text, name)? * 1024)
}

/// Paths of the files that are mapped to be executed.
fn executable(maps: &str) -> impl Iterator<Item = &str> {
    maps.lines().filter_map(|line| {
        let rights = line.split_whitespace().nth(1)?;
        let path = &line[line.find('/')?..];
        rights.contains('x').then_some(path)
    })
}

/// Bytes that the family of `root` has in memory now.
pub(crate) fn pss_bytes(root: u32) -> Result<u64> {
    let pss = Family::of(root)?.pss_bytes();
    ensure!(pss > 0, "expected process {root} to have memory, got none");
    Ok(pss)
}

/// The file system of a folder that is only in memory writes nothing to a disk, which would look like a result.
pub(crate) fn is_on_disk(folder: &std::path::Path) -> Result<bool> {
    let before = Family(vec![std::process::id()]).written_bytes();
    let path = folder.join("written");
    std::fs::write(&path, [1; 65_536])
        .with_context(|| format!("could not write {}", path.display()))?;
    let after = Family(vec![std::process::id()]).written_bytes();
    std::fs::remove_file(path)?;
    Ok(after > before)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_kernels_accounts_are_understood() {
        let rollup = "Rss: 9 kB\nPss:    12 kB\nPss_Dirty: 3 kB\n";
        assert_eq!(kilobytes(rollup, "Pss:"), Some(12_288));
        assert_eq!(kilobytes(rollup, "Swap:"), None);
        let io = "wchar: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n";
        assert_eq!(number(io, "write_bytes:"), Some(4096));
        let stat =
            parse_stat("7 (a b) c) S 3 7 7 0 -1 4194304 1 2 3 4 50 60 70 80 20 0 1 0").unwrap();
        assert_eq!((stat.parent, stat.reaped_ticks), (3, 150));
        assert!(parse_stat("7 (a) S").is_none());
    }

    #[test]
    fn programs_and_libraries_are_what_is_executed() {
        let maps = "1-2 r--p 0 08:01 1 /usr/bin/a\n2-3 r-xp 0 08:01 1    /usr/bin/a b\n3-4 rw-p 0 00:00 0 [heap]\n\
                    4-5 r-xp 0 00:00 0 [vdso]\n";
        assert_eq!(executable(maps).collect::<Vec<_>>(), ["/usr/bin/a b"]);
    }

    #[test]
    fn a_family_has_its_children_and_what_they_used() {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 30 & wait",
            ])
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let family = loop {
            let family = Family::of(child.id()).unwrap();
            if family.len() == 2 {
                break family;
            }
            assert!(std::time::Instant::now() < deadline, "no grandchild");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(family.cpu().unwrap() > Duration::from_millis(10));
        assert!(family.pss_bytes() > 100_000);
        assert!(family.program_bytes() > 100_000);
        let grandchild = Pid::from_raw(i32::try_from(family.0[1]).unwrap());
        nix::sys::signal::kill(grandchild, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap();
        let gone = pss_bytes(child.id()).unwrap_err().to_string();
        assert_eq!(gone, format!("expected process {} to run", child.id()));
    }
}
