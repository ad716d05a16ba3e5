//! Stock images become cards of robots: built as their systems publish them, customised with the program, and looked at
//! with the tools that others use.

mod images;
mod refusals;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use images::{CMDLINE, GPT, Layout, SMALL, TRIXIE, UBUNTU, search_path, tool};
use serde_json::Value;

const TOKEN: &str = "lkt_abcdefghijklmnopqrstuvwxyz0123456789-_ABCDE";

/// A folder with a base image and a token.
struct Bench {
    folder: tempfile::TempDir,
    base: PathBuf,
}

impl Bench {
    fn new(layout: &Layout) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("token"), TOKEN).expect("writable");
        let base = layout.make(folder.path(), "base.img");
        Self { folder, base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn out(&self) -> PathBuf {
        self.path("out")
    }

    fn command(&self, os: &str, base: &Path, out: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lekiwi-provisioner"));
        command
            .arg("customise")
            .arg(base)
            .args(["--os", os, "--profile", "lekiwi"])
            .args(["--relay-https", "https://relay.example:8443"])
            .args(["--relay-mqtt", "mqtts://relay.example:8883"])
            .args(["--ca-fingerprint", &format!("sha256:{}", "0f".repeat(32))])
            .arg("--out")
            .arg(out)
            .args(more)
            .stdin(Stdio::null());
        command
    }

    /// One card, `kiwi-01`.
    fn card(&self, os: &str, base: &Path, out: &Path, more: &[&str]) -> Command {
        let mut command = self.command(os, base, out, &["--robot-id", "kiwi-01", "--token-file"]);
        command.arg(self.path("token")).args(more);
        command
    }

    fn single(&self, os: &str, base: &Path, more: &[&str]) -> Output {
        self.card(os, base, &self.out(), more)
            .output()
            .expect("the provisioner starts")
    }

    fn job(&self, text: &str, more: &[&str]) -> Output {
        fs::write(self.path("job"), text).expect("writable");
        self.command("raspios-trixie", &self.base, &self.out(), &["--job"])
            .arg(self.path("job"))
            .args(more)
            .output()
            .expect("the provisioner starts")
    }

    /// What is in the folder of the images.
    fn left(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.out()) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| {
                let name = entry.expect("readable").file_name();
                name.to_string_lossy().into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

fn fine(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A seed's files are there, and the command line has its words.
fn seeded(layout: &Layout, image: &Path, robot: &str, token: &str) {
    let user_data = layout.file(image, "user-data");
    assert!(user_data.starts_with("#cloud-config\n"), "{user_data}");
    assert!(user_data.contains(token), "{user_data}");
    let meta_data = layout.file(image, "meta-data");
    let id = meta_data
        .lines()
        .find(|line| line.starts_with("instance-id: "));
    assert!(
        id.is_some_and(|id| id.contains(&format!("{robot}-")))
            && !meta_data.contains("instance_id:"),
        "{meta_data}"
    );
    assert_eq!(
        layout.file(image, "config.txt"),
        "arm_64bit=1\ndtparam=audio=on\n"
    );
}

#[test]
fn raspberry_pi_os_becomes_a_robots_card_and_nothing_else_changes() {
    let bench = Bench::new(&TRIXIE);
    let package = bench.path("lekiwi-agent_0.1.0_arm64.deb");
    fs::write(&package, "package".repeat(700_000)).expect("writable");
    let deb = package.to_str().expect("UTF-8");
    let output = bench.single(
        "raspios-trixie",
        &bench.base,
        &["--json", "--agent-deb", deb],
    );
    let report: Value = serde_json::from_str(&fine(&output)).expect("JSON");
    assert_eq!(
        report["boot"],
        serde_json::json!({"partition": 1, "label": "bootfs"})
    );
    let image = bench.out();
    assert_eq!(report["images"][0]["path"], image.to_str().expect("UTF-8"));
    TRIXIE.check(&bench.base, &image);
    seeded(&TRIXIE, &image, "kiwi-01", TOKEN);
    let cmdline = TRIXIE.file(&image, "cmdline.txt");
    assert!(
        cmdline.starts_with(CMDLINE.trim_end()) && cmdline.contains(" ds=nocloud;i=kiwi-01-"),
        "{cmdline}"
    );
    assert_eq!(cmdline.lines().count(), 1);
    let copied = bench.path("copied.deb");
    tool(
        "mcopy",
        "mtools",
        &[
            "-i",
            &TRIXIE.mtools(&image),
            "::lekiwi-agent.deb",
            copied.to_str().expect("UTF-8"),
        ],
    );
    assert!(fs::read(copied).expect("copied") == fs::read(&package).expect("ours"));
    let metadata = fs::metadata(&image).expect("made");
    assert_eq!(metadata.mode() & 0o777, 0o600, "there is a token in it");
    assert!(
        metadata.blocks() * 512 < 32 << 20,
        "{} bytes of a mostly empty image",
        metadata.blocks() * 512
    );
    // The same again is the same image.
    let again = bench.path("again.img");
    fs::rename(&image, &again).expect("ours");
    fine(&bench.single("raspios-trixie", &bench.base, &["--agent-deb", deb]));
    assert!(fs::read(&again).expect("made") == fs::read(&image).expect("made"));
}

#[test]
fn ubuntu_gpt_and_fat16_become_cards_too() {
    for (layout, os) in [
        (UBUNTU, "ubuntu-24.04"),
        (GPT, "raspios-trixie"),
        (SMALL, "raspios-trixie"),
    ] {
        let bench = Bench::new(&layout);
        let folder = bench.path("mine");
        let overlay = folder.join("overlays/0123abc/robots/arm");
        for folder in [&folder.join("profiles"), &folder.join("wheels"), &overlay] {
            fs::create_dir_all(folder).expect("writable");
        }
        let profile = include_str!("../../../image/profiles/generic.yml");
        fs::write(folder.join("profiles/generic.yml"), profile).expect("writable");
        fs::write(folder.join("wheels/a-1.0-py3-none-any.whl"), "wheel").expect("writable");
        fs::write(overlay.join("__init__.py"), "").expect("writable");
        let mine = ["--card-files", folder.to_str().expect("UTF-8")];
        fine(&bench.single(os, &bench.base, &mine));
        // With folders on it, the partition is found clean by others.
        layout.check(&bench.base, &bench.out());
        assert_eq!(
            layout.file(&bench.out(), "lekiwi/profiles/generic.yml"),
            profile
        );
        seeded(&layout, &bench.out(), "kiwi-01", TOKEN);
        // A seed over a seed, shorter and longer.
        let customised = bench.path("customised.img");
        fs::rename(bench.out(), &customised).expect("ours");
        fine(&bench.single(os, &customised, &["--time-zone", "Europe/Berlin"]));
        layout.check(&bench.base, &bench.out());
        let user_data = layout.file(&bench.out(), "user-data");
        assert!(user_data.contains("Europe/Berlin"), "{user_data}");
    }
}

#[test]
fn every_container_gives_the_same_image_whatever_its_name() {
    let bench = Bench::new(&SMALL);
    let base = bench.base.to_str().expect("UTF-8");
    tool("xz", "xz-utils", &["-0", "--keep", base]);
    tool("gzip", "gzip", &["-1", "--keep", base]);
    tool("zstd", "zstd", &["-q", "-1", base]);
    let zip = bench.path("base.zip");
    tool(
        "zip",
        "zip",
        &["-q", "-1", "-j", zip.to_str().expect("UTF-8"), base],
    );
    fine(&bench.single("raspios-trixie", &bench.base, &[]));
    let expected = fs::read(bench.out()).expect("made");
    for name in ["base.img.xz", "base.img.gz", "base.img.zst", "base.zip"] {
        let misnamed = bench.path("download.bin");
        fs::rename(bench.path(name), &misnamed).expect("made");
        fine(&bench.single("raspios-trixie", &misnamed, &["--force"]));
        assert!(fs::read(bench.out()).expect("made") == expected, "{name}");
    }
    for (compress, name, unpack) in [("xz", "k.img.xz", "xz"), ("zst", "k.img.zst", "zstd")] {
        let packed = bench.path(name);
        let more = ["--compress", compress];
        let mut command = bench.card("raspios-trixie", &bench.base, &packed, &more);
        fine(&command.output().expect("the provisioner starts"));
        let unpacked = bench.path("unpacked.img");
        let shell = format!("{unpack} -dc {} > {}", packed.display(), unpacked.display());
        tool("sh", "dash", &["-c", &shell]);
        assert!(fs::read(unpacked).expect("made") == expected, "{name}");
    }
}

#[test]
fn three_cards_of_one_base_each_have_their_own() {
    let bench = Bench::new(&SMALL);
    fs::create_dir(bench.path("tokens")).expect("writable");
    let tokens: Vec<String> = ["a", "b", "c"]
        .map(|letter| format!("lkt_{}", letter.repeat(30)))
        .to_vec();
    fs::write(bench.path("tokens/b"), &tokens[1]).expect("writable");
    fs::write(bench.path("token"), &tokens[2]).expect("writable");
    let job = format!(
        "robot_id,serial,address,wifi_ssid,wifi_password,wifi_country,token,token_file\nkiwi-01,10000000abcd0001,10.0.0.21/24,,,,{},\nkiwi-02,,,Halle 7,correct horse,DE,,tokens/b\n,10000000abcd0003,,,,,,\n",
        tokens[0]
    );
    let shared = bench.path("token");
    let more = [
        "--json",
        "--bmap",
        "--prefix",
        "halle",
        "--token-file",
        shared.to_str().expect("UTF-8"),
    ];
    let report: Value = serde_json::from_str(&fine(&bench.job(&job, &more))).expect("JSON");
    let robots = ["kiwi-01", "kiwi-02", "halle-abcd0003"];
    let expected: Vec<String> = robots
        .iter()
        .flat_map(|robot| [format!("{robot}.bmap"), format!("{robot}.img")])
        .collect();
    let mut left = bench.left();
    left.sort_by_key(|name| expected.iter().position(|other| other == name));
    assert_eq!(left, expected);
    for (index, robot) in robots.iter().enumerate() {
        assert_eq!(report["images"][index]["robot"], **robot);
        let image = bench.out().join(format!("{robot}.img"));
        SMALL.check(&bench.base, &image);
        let named = if index == 2 { "halle" } else { robot };
        seeded(&SMALL, &image, named, &tokens[index]);
        let user_data = SMALL.file(&image, "user-data");
        for other in tokens.iter().filter(|token| **token != tokens[index]) {
            assert!(!user_data.contains(other), "{robot} has another's token");
        }
        let network = SMALL.file(&image, "network-config");
        assert_eq!(network.contains("10.0.0.21/24"), index == 0, "{network}");
        assert_eq!(network.contains("Halle 7"), index == 1, "{network}");
    }
}

#[test]
fn a_block_map_is_enough_for_bmaptool_and_for_the_file_systems() {
    let bench = Bench::new(&UBUNTU);
    let image = bench.path("kiwi.img");
    let mut command = bench.card("ubuntu-24.04", &bench.base, &image, &["--bmap"]);
    fine(&command.output().expect("the provisioner starts"));
    // A card full of an older life.
    let card = bench.path("card");
    let len = fs::metadata(&image).expect("made").len();
    let stale = vec![0xa5; 1 << 20];
    let target = File::create(&card).expect("writable");
    for offset in (0..len).step_by(stale.len()) {
        let rest = usize::try_from(len - offset)
            .expect("fits")
            .min(stale.len());
        target
            .write_all_at(&stale[..rest], offset)
            .expect("writable");
    }
    // A file would be cut to nothing first; a device keeps what nobody writes over.
    let device = LoopDevice::over(&card);
    let said = Command::new("bmaptool")
        .args(["copy", "--bmap"])
        .arg(bench.path("kiwi.bmap"))
        .args([&image, &device.0])
        .output()
        .expect("bmaptool is missing (hint: apt-get install -y bmap-tools)");
    drop(device);
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{text}");
    let (ours, theirs) = (
        fs::read(&image).expect("made"),
        fs::read(&card).expect("made"),
    );
    let skipped = ours
        .chunks(4096)
        .zip(theirs.chunks(4096))
        .filter(|(ours, theirs)| ours != theirs)
        .inspect(|(ours, _)| assert!(ours.iter().all(|byte| *byte == 0)))
        .count();
    assert!(
        skipped > 8000,
        "only {skipped} blocks of {} were left out",
        len / 4096
    );
    UBUNTU_ON_CARD.sound(&card);
    seeded(&UBUNTU, &card, "kiwi-01", TOKEN);
}

/// A file as a block device, until it is dropped. Needs root.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn over(file: &Path) -> Self {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .expect("losetup is missing (hint: apt-get install -y mount)");
        let path = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(
            output.status.success(),
            "expected a loop device, which takes root: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self(path.trim().into())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

/// The partitions of a card that was written by its block map.
struct OnCard {
    layout: Layout,
}

const UBUNTU_ON_CARD: OnCard = OnCard { layout: UBUNTU };

impl OnCard {
    fn sound(&self, card: &Path) {
        let bytes = fs::read(card).expect("readable");
        let (start, len) = self.layout.boot();
        let at = |offset: u64| usize::try_from(offset).expect("fits");
        let boot = card.with_extension("boot");
        fs::write(&boot, &bytes[at(start)..at(start + len)]).expect("writable");
        tool(
            "fsck.vfat",
            "dosfstools",
            &["-n", boot.to_str().expect("UTF-8")],
        );
        let root = card.with_extension("root");
        fs::write(&root, &bytes[at(start + len)..]).expect("writable");
        let root = root.to_str().expect("UTF-8");
        tool("e2fsck", "e2fsprogs", &["-f", "-n", root]);
        let zeros = Command::new("debugfs")
            .env("PATH", search_path())
            .args(["-R", "cat zeros", root])
            .output()
            .expect("of e2fsprogs");
        assert!(zeros.stdout == vec![0; 200_000], "zeros of files matter");
    }
}

/// A child that is asked to stop when `when` says so.
fn interrupted(mut command: Command, when: impl Fn() -> bool) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the provisioner starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !when() {
        assert!(Instant::now() < deadline, "it never came so far");
        std::thread::yield_now();
    }
    tool("kill", "procps", &["-INT", &child.id().to_string()]);
    child.wait_with_output().expect("it ends")
}

#[test]
fn an_interrupted_run_leaves_no_half_image() {
    let bench = Bench::new(&SMALL);
    fs::create_dir(bench.out()).expect("writable");
    // Long to unpack: gzip streams may follow each other.
    let piece = bench.path("piece");
    fs::write(&piece, "not a partition table ".repeat(200_000)).expect("writable");
    tool("gzip", "gzip", &["-1", piece.to_str().expect("UTF-8")]);
    let packed = fs::read(bench.path("piece.gz")).expect("made");
    let long = bench.path("long.gz");
    fs::write(&long, packed.repeat(1000)).expect("writable");
    let part = bench.out().join(".kiwi-01.img.part");
    // What a crash left behind is in nobody's way.
    fs::write(&part, "of an earlier crash").expect("writable");
    let command = bench.card("raspios-trixie", &long, &bench.out(), &[]);
    let output = interrupted(command, || {
        fs::metadata(&part).is_ok_and(|metadata| metadata.len() > 1 << 20)
    });
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: stopped: 0 of 1 images are finished\n"
    );
    assert!(!output.status.success());
    assert_eq!(bench.left(), [""; 0]);

    // Between cards: those that are finished stay.
    let cards: String = (0..300)
        .map(|number| format!("k-{number:04},lkt_{number:030}\n"))
        .collect();
    fs::write(bench.path("job"), format!("robot_id,token\n{cards}")).expect("writable");
    let job = bench.path("job");
    let more = ["--job", job.to_str().expect("UTF-8")];
    let command = bench.command("raspios-trixie", &bench.base, &bench.out(), &more);
    let first = bench.out().join("k-0003.img");
    let output = interrupted(command, || first.exists());
    let left = bench.left();
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "error: stopped: {} of 300 images are finished\n",
            left.len()
        )
    );
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
    assert!((3..300).contains(&left.len()), "{left:?}");
    SMALL.check(&bench.base, &first);
}
