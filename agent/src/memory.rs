//! Gives back the memory of code that only the start needed: parsing, enrolment, handshakes, tables of
//! SQL. The kernel maps a program's pages as they are used and keeps them mapped while memory is free; a
//! page that is dropped here stays in the page cache and comes back without reading the disk, or goes
//! when the robot's own work needs the room. See `docs/decisions/0009-memory-given-back.md`.

use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// The kernel's list of what this process has mapped.
const MAPS: &str = "/proc/self/maps";

/// The program's own code and constants.
pub(crate) struct Code(Vec<Range<usize>>);

impl Code {
    /// Finds them, and cuts them into single pages: when a page is used, the kernel maps its neighbours too,
    /// as far as the mapping goes and 64 KB at most. Where it does not say or do it, everything stays as it is.
    pub(crate) fn cut() -> Self {
        let code =
            Self(std::fs::read_to_string(MAPS).map_or_else(|_| Vec::new(), |maps| code(&maps)));
        let page = rustix::param::page_size();
        // Neighbours whose advice differs are mappings of their own. This advice changes nothing else:
        // pages of a file that nobody writes are in no core dump anyway.
        for range in &code.0 {
            for at in range.clone().step_by(page).skip(1).step_by(2) {
                advise(&(at..range.end.min(at + page)), Advice::LinuxDontDump);
            }
        }
        code
    }

    /// Unmaps them until they are used again.
    pub(crate) fn release(&self) {
        for range in &self.0 {
            advise(range, Advice::LinuxDontNeed);
        }
    }
}

fn advise(range: &Range<usize>, advice: Advice) {
    #[expect(
        unsafe_code,
        reason = "the ranges are file pages that nobody writes: the kernel fills them from the same file again"
    )]
    // SAFETY: `code` yields only mappings of the program's file without write permission that lie before
    // its writable data, so no page of them has a copy of its own that could be lost.
    let _ = unsafe {
        madvise(
            std::ptr::with_exposed_provenance_mut(range.start),
            range.len(),
            advice,
        )
    };
}

/// The first mappings of `maps` that are one file's, up to its executable one: headers, constants and
/// code. What comes after it is data, part of which is read-only and yet has copies of its own
/// (relocations). None when the first mappings are laid out otherwise.
fn code(maps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut program = None;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(permissions), Some(_offset), Some(device), Some(inode)) = (
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
        ) else {
            return Vec::new();
        };
        let file = (device, inode);
        if inode == "0" || *program.get_or_insert(file) != file {
            return Vec::new();
        }
        let bounds = range.split_once('-').map(|(start, end)| {
            (
                usize::from_str_radix(start, 16),
                usize::from_str_radix(end, 16),
            )
        });
        let Some((Ok(start), Ok(end))) = bounds else {
            return Vec::new();
        };
        match permissions {
            "r--p" => found.push(start..end),
            "r-xp" => {
                found.push(start..end);
                return found;
            }
            _ => return Vec::new(),
        }
    }
    Vec::new()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const STATIC: &str = "\
01000000-01120000 r--p 00000000 fe:00 5858445                            /opt/lekiwi-agent/bin/lekiwi-agent
01120000-014da000 r-xp 0011f000 fe:00 5858445                            /opt/lekiwi-agent/bin/lekiwi-agent
014da000-014f3000 r--p 004d8000 fe:00 5858445                            /opt/lekiwi-agent/bin/lekiwi-agent
014f3000-014f9000 rw-p 004f0000 fe:00 5858445                            /opt/lekiwi-agent/bin/lekiwi-agent
7fe9ab320000-7fe9ab330000 rw-p 00000000 00:00 0
7ffe66b62000-7ffe66b83000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn constants_and_code_are_given_back_and_relocated_data_is_not() {
        assert_eq!(
            code(STATIC),
            [0x0100_0000..0x0112_0000, 0x0112_0000..0x014d_a000]
        );
    }

    #[test]
    fn what_is_laid_out_otherwise_stays() {
        let anonymous = "01000000-01120000 r-xp 00000000 00:00 0\n";
        let writable = STATIC.replacen("r-xp", "rwxp", 1);
        let changed = STATIC.replacen("r--p", "rw-p", 1);
        let of_another = STATIC.replacen("r-xp 0011f000 fe:00 5858445", "r-xp 0 fe:00 77", 1);
        let cut: String = STATIC.chars().take(300).collect();
        let no_code = STATIC.replace("r-xp", "r--p");
        for maps in [
            "",
            "nonsense",
            "x-y r-xp 0 fe:00 1 p\n",
            anonymous,
            &writable,
            &changed,
            &of_another,
            &no_code,
        ] {
            assert_eq!(code(maps), [], "{maps}");
        }
        assert!(code(&cut).len() <= 2);
    }

    /// Resident kilobytes of mappings that are executable.
    fn resident() -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let mut sum = 0;
        for line in smaps.lines() {
            if line.split(' ').next().unwrap().contains('-') {
                inside = line.contains(" r-xp ");
            } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| inside) {
                let rss: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
                sum += rss;
            }
        }
        sum
    }

    /// As a start does, touches more than is needed.
    fn touch(code: &Code) {
        for at in code.0.iter().flat_map(|range| range.clone().step_by(4096)) {
            #[expect(unsafe_code, reason = "touches the program's own pages")]
            // SAFETY: mapped and readable, as the kernel says.
            let byte =
                unsafe { std::ptr::read_volatile(std::ptr::with_exposed_provenance::<u8>(at)) };
            std::hint::black_box(byte);
        }
    }

    /// In a process of its own: the threads of other tests touch the same pages meanwhile.
    #[test]
    fn the_program_goes_on_with_less_and_with_little_around_it() {
        const ALONE: &str = "LEKIWI_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "memory::tests::the_program_goes_on_with_less_and_with_little_around_it";
            let alone = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(ALONE, "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&alone.stdout);
            assert!(said.contains("1 passed"), "{said}");
            return;
        }
        let whole = Code(code(&std::fs::read_to_string(MAPS).unwrap()));
        touch(&whole);
        let all = resident();
        whole.release();
        let released = resident();
        assert!(released < all / 2, "{released} kB of {all} kB");
        let cut = Code::cut();
        assert_eq!(cut.0, whole.0);
        cut.release();
        let little = resident();
        assert!(little < released, "{little} kB of {released} kB");
    }
}
