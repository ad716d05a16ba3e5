//! SQLite's log as a file. SQLite takes the first frame that is wrong for the log's end, as a power cut leaves
//! it, and says nothing: what lies behind that frame tells a cut from damage.

use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// Its last bit says in which order of bytes the checksums read.
const MAGIC: u32 = 0x377f_0682;
/// SQLite's choice for new databases: the log's own word for it may be what is damaged.
const PAGE_BYTES: usize = 4_096;

/// Whether the log beside `database` holds more that was committed than the first `frames` of it, which
/// is what SQLite reads. A power cut leaves one unfinished transaction at most.
pub(super) fn is_cut_short(database: &Path, frames: usize) -> bool {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    std::fs::read(name).is_ok_and(|log| committed_behind(&log, frames))
}

fn committed_behind(log: &[u8], frames: usize) -> bool {
    let number = |at: usize| Some(u32::from_be_bytes(*log.get(at..)?.first_chunk()?));
    // The last frame of a transaction says the size of the database.
    let commits = |from: usize, frame_bytes: usize| {
        let frames = (from..log.len()).step_by(frame_bytes);
        frames.filter(|at| number(at + 4).is_some_and(|size| size > 0))
    };
    let Some(page_bytes) = number(8).filter(|_| is_header(log)) else {
        // It was synchronised before the first frame behind it was written.
        let mut commits = commits(HEADER_BYTES, FRAME_HEADER_BYTES + PAGE_BYTES);
        return commits.next().is_some();
    };
    let frame_bytes = FRAME_HEADER_BYTES + page_bytes as usize;
    // An older use of the same file has other salts.
    let salts = (number(16), number(20));
    commits(HEADER_BYTES + frames * frame_bytes, frame_bytes)
        .filter(|at| (number(at + 8), number(at + 12)) == salts)
        .nth(1)
        .is_some()
}

/// Whether the log begins with a header that its checksum fits.
fn is_header(log: &[u8]) -> bool {
    let Some(header) = log.first_chunk::<HEADER_BYTES>() else {
        return false;
    };
    let words = header.as_chunks::<4>().0;
    let magic = u32::from_be_bytes(words[0]);
    let word = |index: usize| match magic & 1 {
        0 => u32::from_le_bytes(words[index]),
        _ => u32::from_be_bytes(words[index]),
    };
    let (mut first, mut second) = (0_u32, 0_u32);
    for index in [0, 2, 4] {
        first = first.wrapping_add(word(index)).wrapping_add(second);
        second = second.wrapping_add(word(index + 1)).wrapping_add(first);
    }
    let checksum = [words[6], words[7]].map(u32::from_be_bytes);
    magic & !1 == MAGIC && checksum == [first, second]
}
