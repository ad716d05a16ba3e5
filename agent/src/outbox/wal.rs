//! SQLite's log as a file. SQLite takes the first frame that is wrong for the log's end, as a power cut leaves
//! it, and says nothing: what lies behind that frame tells a cut from damage.

use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;

/// Whether the log beside `database` holds more that was committed than the first `frames` of it, which
/// is what SQLite reads. A power cut leaves one unfinished transaction at most.
pub(super) fn is_cut_short(database: &Path, frames: usize) -> bool {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    std::fs::read(name).is_ok_and(|log| committed_behind(&log, frames))
}

fn committed_behind(log: &[u8], frames: usize) -> bool {
    let number = |at: usize| {
        let bytes = log.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes)
    };
    let Some(page_bytes) = number(8) else {
        return false;
    };
    let frame_bytes = FRAME_HEADER_BYTES + page_bytes as usize;
    if frames == 0 {
        // Its header goes with the first frame, and is synchronised before it.
        return log.len() > HEADER_BYTES;
    }
    let salts = (number(16), number(20));
    let behind = (HEADER_BYTES + frames * frame_bytes..log.len()).step_by(frame_bytes);
    // An older use of the same file has other salts; the last frame of a transaction says the size.
    let commits = behind.filter(|at| {
        (number(at + 8), number(at + 12)) == salts && number(at + 4).is_some_and(|size| size > 0)
    });
    commits.count() > 1
}
