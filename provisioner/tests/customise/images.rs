//! Images as their systems publish them, made of the facts with the usual tools; and those tools to look into them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lekiwi_provisioner::media::sparse::{self, SparseWriter};

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// The kernel's command line of Raspberry Pi OS Trixie: the root grows by a word of it, cloud-init finds its seed.
pub(crate) const CMDLINE: &str = "console=serial0,115200 console=tty1 root=PARTUUID=5e3da3da-02 rootfstype=ext4 fsck.repair=yes rootwait resize\n";

/// How an image is laid out.
#[derive(Clone)]
pub(crate) struct Layout {
    /// `dos` or `gpt`.
    pub(crate) table: &'static str,
    /// Where the boot partition begins, in sectors.
    pub(crate) start: u64,
    /// Its sectors.
    pub(crate) sectors: u64,
    /// 16 or 32.
    pub(crate) fat: u32,
    /// Sectors of a cluster.
    pub(crate) cluster: u32,
    /// The boot partition's label.
    pub(crate) label: &'static str,
    /// The root partition's.
    pub(crate) root_label: &'static str,
}

/// Raspberry Pi OS Trixie, boot partition in its true size.
pub(crate) const TRIXIE: Layout = Layout {
    table: "dos",
    start: 16_384,
    sectors: 1_048_576,
    fat: 32,
    cluster: 8,
    label: "bootfs",
    root_label: "rootfs",
};

/// Ubuntu Server 24.04 for the Pi, smaller.
pub(crate) const UBUNTU: Layout = Layout {
    table: "dos",
    start: 2048,
    sectors: 81_920,
    fat: 32,
    cluster: 1,
    label: "system-boot",
    root_label: "writable",
};

/// Small, for what does not depend on the size.
pub(crate) const SMALL: Layout = Layout {
    table: "dos",
    start: 2048,
    sectors: 16_384,
    fat: 16,
    cluster: 2,
    label: "bootfs",
    root_label: "rootfs",
};

/// As some boards have it.
pub(crate) const GPT: Layout = Layout {
    table: "gpt",
    start: 2048,
    sectors: 81_920,
    fat: 32,
    cluster: 1,
    label: "bootfs",
    root_label: "rootfs",
};

const ROOT_SECTORS: u64 = 32_768;

/// Runs a tool that must succeed.
pub(crate) fn tool(program: &str, package: &str, arguments: &[&str]) -> String {
    let output = run(program, package, arguments, "");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

fn run(program: &str, package: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", search_path())
        // mtools are particular about geometries that no card has.
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{program}: {error} (hint: apt-get install -y {package})");
        });
    let mut stdin = child.stdin.take().expect("piped");
    std::io::Write::write_all(&mut stdin, input.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// Debian keeps tools for disks where not every user's path leads.
pub(crate) fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

impl Layout {
    /// Where the boot partition is, in bytes.
    pub(crate) fn boot(&self) -> (u64, u64) {
        (self.start * SECTOR, self.sectors * SECTOR)
    }

    /// `IMAGE@@OFFSET`, as mtools want it.
    pub(crate) fn mtools(&self, image: &Path) -> String {
        format!("{}@@{}", text(image), self.start * SECTOR)
    }

    /// Makes the image in `folder`.
    pub(crate) fn make(&self, folder: &Path, name: &str) -> PathBuf {
        let image = folder.join(name);
        let root_start = self.start + self.sectors;
        let tail = if self.table == "gpt" { 2048 } else { 0 };
        let file = File::create(&image).expect("writable");
        file.set_len((root_start + ROOT_SECTORS + tail) * SECTOR)
            .expect("writable");
        let (boot_type, root_type) = match self.table {
            "gpt" => (
                "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
                "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            ),
            _ => ("c", "83"),
        };
        let id = match self.table {
            "gpt" => "5E3DA3DA-0000-4000-8000-000000000001",
            _ => "0x5e3da3da",
        };
        let script = format!(
            "label: {}\nlabel-id: {id}\nstart={}, size={}, type={boot_type}\nstart={root_start}, size={ROOT_SECTORS}, type={root_type}\n",
            self.table, self.start, self.sectors
        );
        let made = run("sfdisk", "fdisk", &["--quiet", text(&image)], &script);
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        self.make_boot(folder, &file, &image);
        self.make_root(folder, &file, root_start * SECTOR);
        image
    }

    fn make_boot(&self, folder: &Path, file: &File, image: &Path) {
        let part = folder.join("boot.part");
        let (start, len) = self.boot();
        File::create(&part)
            .and_then(|file| file.set_len(len))
            .expect("writable");
        tool(
            "mkfs.vfat",
            "dosfstools",
            &[
                "-F",
                &self.fat.to_string(),
                "-s",
                &self.cluster.to_string(),
                "-n",
                self.label,
                "-i",
                "C0FFEE01",
                "-h",
                &self.start.to_string(),
                text(&part),
            ],
        );
        copy_into(&part, file, start);
        fs::remove_file(&part).expect("ours");
        let stock: [(&str, &str); 6] = [
            ("cmdline.txt", CMDLINE),
            ("config.txt", "arm_64bit=1\ndtparam=audio=on\n"),
            ("meta-data", "instance_id: rpios-image\n"),
            (
                "user-data",
                "#cloud-config\n# a longer example than any seed is not needed here\n",
            ),
            ("network-config", "# dhcp\n"),
            ("kernel8.img", "\u{1}kernel\u{2}"),
        ];
        let at = self.mtools(image);
        for (name, content) in stock {
            let source = folder.join("stock");
            fs::write(&source, content).expect("writable");
            tool(
                "mcopy",
                "mtools",
                &["-i", &at, text(&source), &format!("::{name}")],
            );
        }
        fs::remove_file(folder.join("stock")).expect("ours");
        tool("mmd", "mtools", &["-i", &at, "::overlays"]);
    }

    fn make_root(&self, folder: &Path, file: &File, start: u64) {
        let part = folder.join("root.part");
        let files = folder.join("root.files");
        fs::create_dir(&files).expect("writable");
        fs::write(files.join("zeros"), vec![0; 200_000]).expect("writable");
        fs::write(files.join("issue"), "a system\n".repeat(5000)).expect("writable");
        File::create(&part)
            .and_then(|file| file.set_len(ROOT_SECTORS * SECTOR))
            .expect("writable");
        tool(
            "mke2fs",
            "e2fsprogs",
            &[
                "-q",
                "-F",
                "-t",
                "ext4",
                "-L",
                self.root_label,
                "-d",
                text(&files),
                text(&part),
            ],
        );
        copy_into(&part, file, start);
        fs::remove_file(&part).expect("ours");
        fs::remove_dir_all(&files).expect("ours");
    }

    /// What mtools read there.
    pub(crate) fn file(&self, image: &Path, name: &str) -> String {
        tool(
            "mtype",
            "mtools",
            &["-i", &self.mtools(image), &format!("::{name}")],
        )
    }

    /// Nothing but the boot partition's content differs, and that is sound, and called as before.
    pub(crate) fn check(&self, base: &Path, image: &Path) {
        let dump = |path: &Path| {
            tool("sfdisk", "fdisk", &["--dump", text(path)]).replace(text(path), "IMAGE")
        };
        assert_eq!(dump(image), dump(base));
        if self.table == "gpt" {
            let said = tool("sgdisk", "gdisk", &["--verify", text(image)]);
            assert!(said.contains("No problems found"), "{said}");
        }
        let (start, len) = self.boot();
        let (old, new) = (
            fs::read(base).expect("readable"),
            fs::read(image).expect("readable"),
        );
        let at = |offset: u64| usize::try_from(offset).expect("fits");
        assert!(old.len() == new.len(), "{} != {}", old.len(), new.len());
        assert!(
            old[..at(start)] == new[..at(start)],
            "before the boot partition"
        );
        assert!(
            old[at(start + len)..] == new[at(start + len)..],
            "after the boot partition"
        );
        let partition = |bytes: &[u8], name: &str| {
            let path = image.with_file_name(name);
            let file = File::create(&path).expect("writable");
            let mut writer = SparseWriter::new(&file);
            writer
                .write(&bytes[at(start)..at(start + len)])
                .and_then(|()| writer.finish())
                .expect("writable");
            let known = tool("blkid", "util-linux", &["-p", "-o", "export", text(&path)])
                .replace(text(&path), "PARTITION");
            (path, known)
        };
        let (before, known_before) = partition(&old, "before.fat");
        let (after, known_after) = partition(&new, "after.fat");
        assert_eq!(known_after, known_before);
        assert!(
            known_after.contains(&format!("\nLABEL={}\n", self.label)),
            "{known_after}"
        );
        let said = tool("fsck.vfat", "dosfstools", &["-n", "-v", text(&after)]);
        assert!(
            !said.contains("wrong") && !said.contains("Free cluster summary"),
            "{said}"
        );
        fs::remove_file(before).expect("ours");
        fs::remove_file(after).expect("ours");
    }
}

/// Copies what is not a hole.
fn copy_into(part: &Path, file: &File, start: u64) {
    let from = File::open(part).expect("readable");
    let len = from.metadata().expect("readable").len();
    let extents = sparse::extents(&from, len).expect("readable");
    for (first, end) in extents {
        let mut bytes = vec![0; usize::try_from(end - first).expect("fits")];
        from.read_exact_at(&mut bytes, first).expect("readable");
        file.write_all_at(&bytes, start + first).expect("writable");
    }
}
