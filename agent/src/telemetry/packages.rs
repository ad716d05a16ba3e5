//! Which Debian packages are installed: a digest that is the same on two robots with the same packages,
//! and the list. Reads dpkg's database, a slice at a time, and only when it changed; parsing is pure
//! ([`Database`]).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use lekiwi_agent_core::patience::Patience;
use lekiwi_protocol::message::{InstalledPackages, PackageList};
use sha2::{Digest, Sha256};

const STATUS: &str = "var/lib/dpkg/status";
/// Time between two looks whether the database changed.
const EVERY: Duration = Duration::from_secs(120);
/// Read and hashed in one go: a millisecond or two on a Pi.
const SLICE_BYTES: usize = 128 * 1024;
/// What is read at once.
const CHUNK_BYTES: usize = 8192;
/// What is beyond this of a line is not looked at; the lines that count are short.
const LINE_BYTES: usize = 256;

/// The installed packages in short, kept up to date.
#[derive(Debug)]
pub struct Packages {
    path: PathBuf,
    patience: Patience,
    /// The database as it was counted last, or is being counted.
    stamp: Option<(SystemTime, u64)>,
    work: Option<Work>,
    known: Option<InstalledPackages>,
}

#[derive(Debug)]
struct Work {
    file: File,
    database: Database,
    summary: Summary,
}

impl Packages {
    /// Knows nothing yet; `root` is `/` outside of tests.
    #[must_use]
    pub fn new(now: Instant, root: &Path) -> Self {
        Self {
            path: root.join(STATUS),
            patience: Patience::new(now, EVERY),
            stamp: None,
            work: None,
            known: None,
        }
    }

    /// What is installed; `None` before it was counted, and without dpkg.
    #[must_use]
    pub fn known(&self) -> Option<&InstalledPackages> {
        self.known.as_ref()
    }

    /// Goes on for a slice, or looks whether there is something to do. Says whether what is known changed.
    pub fn advance(&mut self, now: Instant, load_per_core: Option<f64>) -> bool {
        if self.work.is_none() && self.patience.is_due(now, load_per_core) {
            self.begin();
        }
        let Some(mut work) = self.work.take() else {
            return false;
        };
        match work.slice(&mut |_| {}) {
            Ok(true) => {
                self.work = Some(work);
                return false;
            }
            Ok(false) => {}
            Err(error) => {
                log::debug!("{} cannot be read: {error}", self.path.display());
                self.stamp = None;
                return false;
            }
        }
        let known = Some(work.summary.finish());
        let changed = self.known != known;
        self.known = known;
        changed
    }

    fn begin(&mut self) {
        let Ok(file) = File::open(&self.path) else {
            return;
        };
        // dpkg puts a new file in place of the old one: an open one never changes.
        let stamp = file
            .metadata()
            .and_then(|metadata| Ok((metadata.modified()?, metadata.len())))
            .ok();
        if stamp.is_some() && stamp != self.stamp {
            self.stamp = stamp;
            self.work = Some(Work::new(file));
        }
    }
}

impl Work {
    fn new(file: File) -> Self {
        Self {
            file,
            database: Database::default(),
            summary: Summary::default(),
        }
    }

    /// Reads a slice, and tells which packages were in it; `false` at the end.
    fn slice(&mut self, tell: &mut dyn FnMut(&str)) -> io::Result<bool> {
        let summary = &mut self.summary;
        let mut add = |line: &str| {
            summary.add(line);
            tell(line);
        };
        let mut chunk = [0; CHUNK_BYTES];
        for _ in 0..SLICE_BYTES / CHUNK_BYTES {
            let count = self.file.read(&mut chunk)?;
            if count == 0 {
                self.database.end(&mut add);
                return Ok(false);
            }
            self.database.push(&chunk[..count], &mut add);
        }
        Ok(true)
    }
}

#[derive(Debug, Default)]
struct Summary {
    hash: Sha256,
    count: u32,
}

impl Summary {
    fn add(&mut self, line: &str) {
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        self.count = self.count.saturating_add(1);
    }

    fn finish(self) -> InstalledPackages {
        InstalledPackages {
            count: self.count,
            digest: format!("sha256:{}", hex::encode(self.hash.finalize())),
        }
    }
}

/// The installed packages below `root`, as [`Database`] tells them.
///
/// # Errors
/// When dpkg's database cannot be read.
pub fn list(root: &Path) -> io::Result<PackageList> {
    let mut work = Work::new(File::open(root.join(STATUS))?);
    let mut packages = Vec::new();
    while work.slice(&mut |line| packages.push(line.to_owned()))? {}
    Ok(PackageList {
        installed: work.summary.finish(),
        packages,
    })
}

/// Writes them into `to`, a line each: the digest of what is written is theirs. Others have a turn after each slice.
///
/// # Errors
/// When dpkg's database cannot be read, or `to` not be written.
pub async fn write(root: &Path, to: &mut (dyn io::Write + Send)) -> io::Result<InstalledPackages> {
    let mut work = Work::new(File::open(root.join(STATUS))?);
    let mut written = Ok(());
    let mut line = |line: &str| {
        if written.is_ok() {
            written = writeln!(to, "{line}");
        }
    };
    while work.slice(&mut line)? {
        tokio::task::yield_now().await;
    }
    written?;
    to.flush()?;
    Ok(work.summary.finish())
}

/// dpkg's database as it comes in, in pieces of any length: paragraphs of `Field: value` lines, told as
/// `NAME ARCHITECTURE VERSION` for each installed package.
#[derive(Debug, Default)]
struct Database {
    line: Vec<u8>,
    name: String,
    architecture: String,
    version: String,
    installed: bool,
}

impl Database {
    fn push(&mut self, bytes: &[u8], tell: &mut dyn FnMut(&str)) {
        for byte in bytes {
            match byte {
                b'\n' => self.line(tell),
                _ if self.line.len() < LINE_BYTES => self.line.push(*byte),
                _ => {}
            }
        }
    }

    /// There is no more: the last paragraph may lack its empty line.
    fn end(&mut self, tell: &mut dyn FnMut(&str)) {
        self.line(tell);
        self.paragraph(tell);
    }

    fn line(&mut self, tell: &mut dyn FnMut(&str)) {
        if self.line.is_empty() {
            return self.paragraph(tell);
        }
        let text = self.line.utf8_chunks().next();
        let text = text.map_or("", |chunk| chunk.valid());
        if let Some((field, value)) = text.split_once(": ") {
            let kept = match field {
                "Package" => Some(&mut self.name),
                "Architecture" => Some(&mut self.architecture),
                "Version" => Some(&mut self.version),
                "Status" => {
                    self.installed = value.trim_end().ends_with(" installed");
                    None
                }
                _ => None,
            };
            if let Some(kept) = kept {
                kept.clear();
                kept.push_str(value.trim());
            }
        }
        self.line.clear();
    }

    fn paragraph(&mut self, tell: &mut dyn FnMut(&str)) {
        if self.installed && !self.name.is_empty() {
            tell(&format!(
                "{} {} {}",
                self.name, self.architecture, self.version
            ));
        }
        self.installed = false;
        for text in [&mut self.name, &mut self.architecture, &mut self.version] {
            text.clear();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const RECORDED: &str = "Package: adduser\nStatus: install ok installed\nPriority: important\nArchitecture: all\nVersion: 3.134\n\
        Depends: passwd (>= 1:4.17.2-5)\nDescription: add and remove users and groups\n This package includes the 'adduser' and 'deluser' commands\n \
        Version: 9.9 in a description\n\nPackage: gone\nStatus: deinstall ok config-files\nArchitecture: arm64\nVersion: 1.0\n\n\
        Package: libc6\nStatus: install ok installed\nArchitecture: arm64\nMulti-Arch: same\nVersion: 2.36-9+deb12u9\n";
    const INSTALLED: [&str; 2] = ["adduser all 3.134", "libc6 arm64 2.36-9+deb12u9"];

    fn with(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), text);
        folder
    }

    fn put(root: &Path, text: &str) {
        let path = root.join(STATUS);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn only_installed_packages_are_told() {
        let folder = with(RECORDED);
        let all = list(folder.path()).unwrap();
        assert_eq!(all.packages, INSTALLED);
        let text = format!("{}\n", INSTALLED.join("\n"));
        let expected = format!("sha256:{}", hex::encode(Sha256::digest(&text)));
        assert_eq!((all.installed.count, &all.installed.digest), (2, &expected));
        let mut written = Vec::new();
        assert_eq!(
            write(folder.path(), &mut written).await.unwrap(),
            all.installed
        );
        assert_eq!(String::from_utf8(written).unwrap(), text);
        let full = write(folder.path(), &mut &mut [0; 20][..])
            .await
            .unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WriteZero);
        assert!(list(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn it_is_counted_in_slices_again_when_it_changed_and_not_while_the_machine_is_busy() {
        let paragraph = |n: u32| {
            format!(
                "Package: p{n}\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nDescription: {}\n\n",
                "x".repeat(900)
            )
        };
        let text: String = (0..300).map(paragraph).collect();
        let folder = with(&text);
        let start = clock::now();
        let mut packages = Packages::new(start, folder.path());
        assert!(!packages.advance(start, Some(9.0)), "busy");
        let calls = (1..10).find(|_| packages.advance(start, Some(0.1)));
        assert_eq!(calls, Some(3), "300 kB in slices of 128");
        assert_eq!(packages.known().map(|known| known.count), Some(300));
        assert!(!packages.advance(start + EVERY, None), "nothing new");
        put(folder.path(), RECORDED);
        assert!(!packages.advance(start + EVERY, None), "not yet");
        assert!(packages.advance(start + 2 * EVERY, None));
        assert_eq!(packages.known().map(|known| known.count), Some(2));
        let mut none = Packages::new(start, Path::new("/nonexistent"));
        assert!(!none.advance(start, None) && none.known().is_none());
    }

    proptest! {
        /// However the database arrives, the same packages are told.
        #[test]
        fn pieces_do_not_matter(cuts in proptest::collection::vec(1_usize..60, 1..50)) {
            let mut database = Database::default();
            let mut told: Vec<String> = Vec::new();
            let mut keep = |line: &str| told.push(line.to_owned());
            let mut rest = RECORDED.as_bytes();
            for cut in cuts.into_iter().chain([RECORDED.len()]) {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                database.push(piece, &mut keep);
                rest = more;
            }
            database.end(&mut keep);
            prop_assert_eq!(told, INSTALLED);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut database = Database::default();
            database.push(&bytes, &mut |_| {});
            database.end(&mut |_| {});
        }
    }
}
