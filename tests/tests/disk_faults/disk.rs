//! A file system of a robot's own, in a mount namespace that ends with the test, whatever becomes of it.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use lekiwi_tests::harness::{Process, program};

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Memory, of this size.
    Memory(&'static str),
    /// ext4 in a file, as on a card.
    Card,
}

/// The file system. A process that sleeps holds its namespace.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
    holder: Process,
    id: u32,
}

impl Disk {
    pub(crate) fn mount(kind: Kind) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "expected to be root, for file systems of the test's own (hint: run the suite as root)"
        );
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("disk"))?;
        let mount = match kind {
            Kind::Memory(size) => format!("mount -t tmpfs -o size={size} lekiwi-test \"$0/disk\""),
            Kind::Card => format!(
                "truncate -s 16M \"$0/card\" && {} -q \"$0/card\" && {CARD}",
                program("mkfs.ext4", "e2fsprogs")?.display()
            ),
        };
        let script = format!("{mount} && echo mounted && exec sleep infinity");
        let mut holder = Process::start(
            "disk",
            &program("unshare", "util-linux")?,
            [
                "--mount".into(),
                "sh".into(),
                "-c".into(),
                script.into(),
                folder.path().as_os_str().to_owned(),
            ],
            &[],
            &folder.path().join("log"),
        )?;
        let log = folder.path().join("log");
        holder.wait_for("a mounted disk", || {
            let said = std::fs::read_to_string(&log).ok()?;
            said.contains("mounted\n").then_some(())
        })?;
        let id = holder.id().unwrap_or_default();
        Ok(Self { folder, holder, id })
    }

    /// Where programs on the disk's side find it.
    pub(crate) fn inside(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Where this process finds it.
    pub(crate) fn outside(&self) -> PathBuf {
        let inside = self.inside();
        let inside = inside.strip_prefix("/").unwrap_or(&inside);
        Path::new("/proc")
            .join(self.id.to_string())
            .join("root")
            .join(inside)
    }

    /// The program, and its first arguments, that start `program` on the disk's side.
    pub(crate) fn wrapped(&self, program_path: &Path) -> Result<(PathBuf, Vec<OsString>)> {
        let nsenter = program("nsenter", "util-linux")?;
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.id);
        Ok((
            nsenter,
            vec![namespace.into(), "--".into(), program_path.into()],
        ))
    }

    /// A line of shell on the disk's side; `$0` is the folder that has `disk`.
    pub(crate) fn shell(&self, script: &str) -> Result<()> {
        let (nsenter, arguments) = self.wrapped(Path::new("sh"))?;
        let output = Command::new(nsenter)
            .args(arguments)
            .args(["-ec", script])
            .arg(self.folder.path())
            .output()?;
        ensure!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Has the kernel find the file system in error, which makes it read-only for everybody until it is
    /// mounted anew.
    pub(crate) fn fail(&self) -> Result<()> {
        self.shell(
            "echo 1 >/sys/fs/ext4/$(basename $(findmnt -no SOURCE \"$0/disk\"))/trigger_fs_error",
        )
    }

    /// Checks and mounts it as a boot does: read-only first.
    pub(crate) fn boot(&self) -> Result<()> {
        // e2fsck says 1 when it repaired something.
        self.shell(&format!(
            "umount \"$0/disk\"; e2fsck -fp \"$0/card\" || [ $? -le 1 ]; {CARD}; mount -o remount,ro \"$0/disk\""
        ))
    }

    /// Takes writes again.
    pub(crate) fn is_good(&self) -> Result<()> {
        self.shell("mount -o remount,rw \"$0/disk\"")
    }

    /// Writes until nothing more fits.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.outside().join("ballast"))?;
        for size in [1 << 16, 4096, 1] {
            while file
                .write(&vec![0; size])
                .is_ok_and(|written| written == size)
            {}
        }
        Ok(())
    }

    /// Room again.
    pub(crate) fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.outside().join("ballast"))?)
    }

    /// Whether the mounts are still held.
    pub(crate) fn is_there(&mut self) -> Result<bool> {
        Ok(self.holder.exited()?.is_none())
    }
}

/// As Debian mounts its root.
const CARD: &str = "mount -o loop,errors=remount-ro \"$0/card\" \"$0/disk\"";
