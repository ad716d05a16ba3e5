//! Small files of `/proc` and `/sys`, read into one buffer that is used again: nothing is allocated for a
//! look that finds what the last one found.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is beyond this of a file is not read.
const MOST_BYTES: usize = 8192;

/// Reads below a root, which is `/` outside of tests.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    path: PathBuf,
    buffer: Box<[u8]>,
}

impl Files {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            path: PathBuf::new(),
            buffer: vec![0; MOST_BYTES].into_boxed_slice(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A file's bytes, the first 8 KiB; `None` when it cannot be read.
    pub(crate) fn bytes(&mut self, path: &str) -> Option<&[u8]> {
        self.path.clone_from(&self.root);
        self.path.push(path);
        let mut file = File::open(&self.path).ok()?;
        let mut length = 0;
        while length < self.buffer.len() {
            match file.read(&mut self.buffer[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(&self.buffer[..length])
    }

    /// A file's text, as far as it is one.
    pub(crate) fn text(&mut self, path: &str) -> Option<&str> {
        let bytes = self.bytes(path)?;
        let chunk = bytes.utf8_chunks().next();
        Some(chunk.map_or("", |chunk| chunk.valid()))
    }

    /// What is in a folder, sorted; nothing when there is no such folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn long_files_and_strange_bytes_are_read_as_far_as_they_go() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("long"), "x".repeat(20_000)).unwrap();
        fs::write(folder.path().join("strange"), b"ab\xffcd").unwrap();
        let mut files = Files::new(folder.path());
        assert_eq!(files.text("long").map(str::len), Some(MOST_BYTES));
        assert_eq!(files.text("strange"), Some("ab"));
        assert_eq!(files.bytes("strange"), Some(&b"ab\xffcd"[..]));
        assert_eq!(files.text("none"), None);
        assert_eq!(files.names("."), ["long", "strange"]);
        assert!(files.names("none").is_empty());
    }
}
