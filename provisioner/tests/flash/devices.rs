//! Loop devices, mounts and images for the tests; all gone when dropped.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Loop devices are the machine's, and a survey of one test opens those of the others: one test at a time.
static MACHINE: Mutex<()> = Mutex::new(());

/// The machine's devices for one test.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "expected to be root, to make loop devices (hint: run these tests with sudo)"
        );
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            _alone: alone,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A card of so many bytes that is full of an earlier life.
    pub(crate) fn used_card(&self, name: &str, bytes: usize) -> Loop {
        std::fs::write(self.path(name), vec![0xAA; bytes]).expect("writable");
        Loop::over(&self.path(name), &[])
    }

    /// An empty card, sparse.
    pub(crate) fn card(&self, name: &str, bytes: u64) -> Loop {
        File::create(self.path(name))
            .and_then(|file| file.set_len(bytes))
            .expect("writable");
        Loop::over(&self.path(name), &[])
    }

    /// An image of so many bytes that compress badly, with a partition table of two.
    pub(crate) fn image(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, noise(bytes)).expect("writable");
        partition(&path);
        path
    }
}

/// Bytes without a pattern, the same each time.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut all = Vec::with_capacity(bytes + 8);
    while all.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(bytes);
    all
}

/// Writes a table of two partitions.
pub(crate) fn partition(path: &Path) {
    let mut sfdisk = Command::new("sfdisk")
        .args(["--quiet", "--wipe", "never"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sfdisk is missing (hint: apt-get install -y fdisk)");
    sfdisk
        .stdin
        .take()
        .expect("piped")
        .write_all(b"label: dos\nlabel-id: 0x4b495749\nstart=2048, size=2048, type=c\nstart=4096, type=83\n")
        .expect("sfdisk reads");
    assert!(sfdisk.wait().expect("sfdisk ends").success());
}

/// A loop device.
pub(crate) struct Loop {
    pub(crate) path: PathBuf,
    pub(crate) backing: PathBuf,
}

impl Loop {
    pub(crate) fn over(backing: &Path, more: &[&str]) -> Self {
        let shown = run(Command::new("losetup")
            .args(["--find", "--show"])
            .args(more)
            .arg(backing));
        Self {
            path: PathBuf::from(shown.trim()),
            backing: backing.to_owned(),
        }
    }

    /// With its partitions, on kernels that do not read partition tables themselves, too.
    pub(crate) fn partitioned(backing: &Path) -> Self {
        let disk = Self::over(backing, &["--partscan"]);
        run(Command::new("partx").arg("--update").arg(&disk.path));
        disk
    }

    /// `loop0`
    pub(crate) fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a loop device has a name")
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        std::fs::read(&self.backing).expect("readable")
    }

    pub(crate) fn flip(&self, at: u64) {
        flip(&self.backing, at);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Gone already when its test took it away.
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
    }
}

/// Flips a bit of a file.
pub(crate) fn flip(path: &Path, at: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("writable");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("readable");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("writable");
}

/// Something mounted.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(device: &Path, at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).expect("writable");
        run(Command::new("mount").arg(device).arg(&at));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Runs a tool that must succeed; answers what it said.
pub(crate) fn run(command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| {
        panic!(
            "{program} does not start: {error} (hint: `cargo xtask test` installs what tests need)"
        )
    });
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `lekiwi-provisioner flash …`
pub(crate) fn provisioner() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lekiwi-provisioner"));
    command.arg("flash").stdin(std::process::Stdio::null());
    command
}

pub(crate) fn flash(image: &Path, cards: &[&Loop], more: &[&str]) -> Output {
    let names: Vec<&str> = cards.iter().map(|card| card.name()).collect();
    provisioner()
        .arg(image)
        .args(&names)
        .args(names.iter().flat_map(|name| ["--yes", name]))
        .args(more)
        .output()
        .expect("the provisioner starts")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
