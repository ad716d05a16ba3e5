//! What is refused, with the words that are said, and nothing left behind.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Output;

use super::images::{SMALL, tool};
use super::{Bench, TOKEN};

/// What was said, with the bench's folder as `DIR`; nothing was written.
fn refused(bench: &Bench, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr)
        .replace(bench.folder.path().to_str().expect("UTF-8"), "DIR");
    assert!(!output.status.success(), "{said}");
    assert!(!bench.out().is_file() && bench.left().is_empty());
    let parts = fs::read_dir(bench.folder.path())
        .expect("readable")
        .filter(|entry| {
            let name = entry.as_ref().expect("readable").file_name();
            name.to_string_lossy().ends_with(".part")
        });
    assert_eq!(parts.count(), 0);
    said
}

#[test]
fn bases_that_are_no_images_are_refused() {
    let bench = Bench::new(&SMALL);
    let base = bench.base.to_str().expect("UTF-8");
    tool("xz", "xz-utils", &["-0", "--keep", base]);
    let whole = fs::read(&bench.base).expect("made");
    let write = |name: &str, bytes: &[u8]| {
        let path = bench.path(name);
        fs::write(&path, bytes).expect("writable");
        path
    };
    let packed = fs::read(bench.path("base.img.xz")).expect("made");
    let cut = write("cut.img.xz", &packed[..packed.len() / 2]);
    let short = write("short.img", &whole[..whole.len() - 4096]);
    let notes = write("notes.img", &b"just notes ".repeat(500));
    let empty = write("empty.img", b"");
    let mut no_fat = whole.clone();
    no_fat[2048 * 512..2048 * 512 + 512].fill(0);
    let no_fat = write("nofat.img", &no_fat);
    let second = write("second.img", &whole);
    let zip = bench.path("two.zip");
    tool(
        "zip",
        "zip",
        &[
            "-q",
            "-1",
            "-j",
            zip.to_str().expect("UTF-8"),
            base,
            second.to_str().expect("UTF-8"),
        ],
    );
    for (path, expected) in [
        (
            bench.path("absent.img"),
            "error: cannot open the base image DIR/absent.img: No such file or directory (os error 2)\n",
        ),
        (
            cut,
            "error: cannot unpack DIR/cut.img.xz: expected the whole xz stream, but the file ends in the middle\n  (hint: download it again)\n",
        ),
        (
            short,
            "error: cannot use DIR/short.img: expected an image of at least 26214400 bytes, as its partition 2 ends there, got 26210304\n  (hint: the image is cut off: download it again)\n",
        ),
        (
            notes,
            "error: cannot use DIR/notes.img: expected a disk image with a partition table (MBR or GPT), got something else\n  (hint: expected is an .img, or one within .xz, .gz, .zst or .zip)\n",
        ),
        (
            empty,
            "error: cannot use DIR/empty.img: expected a disk image with a partition table (MBR or GPT), got an empty file\n  (hint: expected is an .img, or one within .xz, .gz, .zst or .zip)\n",
        ),
        (
            no_fat,
            "error: cannot use DIR/nofat.img: expected a boot partition with FAT16 or FAT32, got partition 1 (type 0x0c) with no boot sector, partition 2 (type 0x83) with no boot sector\n  (hint: a Raspberry Pi starts from a FAT partition; is this an image for one?)\n",
        ),
        (
            zip,
            "error: cannot unpack DIR/two.zip: expected one disk image in the zip archive, found base.img and second.img\n  (hint: unpack the archive and name the one you mean)\n",
        ),
    ] {
        let output = bench.single("raspios-trixie", &path, &[]);
        assert_eq!(refused(&bench, &output), expected);
    }
}

#[test]
fn another_file_than_the_published_one_is_refused_before_it_is_unpacked() {
    let bench = Bench::new(&SMALL);
    let sum = tool(
        "sha256sum",
        "coreutils",
        &[bench.base.to_str().expect("UTF-8")],
    );
    let right = sum.split(' ').next().expect("a sum").to_owned();
    let wrong = "0".repeat(64);
    let expected = format!(
        "error: cannot trust the base image: expected DIR/base.img to have the SHA-256 {wrong}, got {right}\n  (hint: download it again, from whom you trust)\n"
    );
    let output = bench.single("raspios-trixie", &bench.base, &["--sha256", &wrong]);
    assert_eq!(refused(&bench, &output), expected);
    fs::write(
        bench.path("base.img.sha256"),
        format!("{wrong}  base.img\n"),
    )
    .expect("writable");
    let output = bench.single("raspios-trixie", &bench.base, &[]);
    assert_eq!(refused(&bench, &output), expected);
    // What is given counts more than what lies around.
    super::fine(&bench.single("raspios-trixie", &bench.base, &["--sha256", &right]));
    fs::write(bench.path("base.img.sha256"), sum).expect("writable");
    super::fine(&bench.single("raspios-trixie", &bench.base, &["--force"]));
}

#[test]
fn what_does_not_go_onto_the_boot_partition_is_said() {
    let bench = Bench::new(&SMALL);
    let package = bench.path("agent.deb");
    fs::write(&package, vec![1; 12 << 20]).expect("writable");
    let output = bench.single(
        "raspios-trixie",
        &bench.base,
        &["--agent-deb", package.to_str().expect("UTF-8")],
    );
    let said = refused(&bench, &output);
    let (before, after) = said.split_once(", got ").expect("what there is");
    assert_eq!(
        before,
        "error: cannot make DIR/out: expected 12582912 bytes free for lekiwi-agent.deb on the boot partition"
    );
    assert!(
        after.ends_with(
            "\n  (hint: put fewer files on it: stock boot partitions are not made larger)\n"
        ),
        "{after}"
    );
    let at = SMALL.mtools(&bench.base);
    tool("mdel", "mtools", &["-i", &at, "::cmdline.txt"]);
    let output = bench.single("raspios-trixie", &bench.base, &[]);
    assert_eq!(
        refused(&bench, &output),
        "error: cannot make DIR/out: cannot edit cmdline.txt of the boot partition: expected a cmdline.txt on the boot partition, found none\n  (hint: Raspberry Pi OS has one on its boot partition, labelled bootfs; --os says for which system the seed is)\n"
    );
    tool("mdel", "mtools", &["-i", &at, "::user-data"]);
    tool("mmd", "mtools", &["-i", &at, "::user-data"]);
    let output = bench.single("raspios-trixie", &bench.base, &[]);
    assert_eq!(
        refused(&bench, &output),
        "error: cannot make DIR/out: expected a file or nothing at user-data on the boot partition, got a folder\n"
    );
}

#[test]
fn a_full_disk_leaves_nothing() {
    let bench = Bench::new(&SMALL);
    // Content that is no hole, more than the disk has.
    let file = fs::File::options()
        .write(true)
        .open(&bench.base)
        .expect("ours");
    file.write_all_at(&vec![0x5a; 6 << 20], 12 << 20)
        .expect("writable");
    let small = bench.path("small");
    fs::create_dir(&small).expect("writable");
    let command = bench.card("raspios-trixie", &bench.base, &small.join("a.img"), &[]);
    let script = "mount -t tmpfs -o size=4m tmpfs \"$SMALL\" && { \"$@\"; ls -A \"$SMALL\"; }";
    let output = std::process::Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .env("SMALL", &small)
        .output()
        .expect("unshare is missing (hint: apt-get install -y util-linux)");
    let said = String::from_utf8_lossy(&output.stderr)
        .replace(bench.folder.path().to_str().expect("UTF-8"), "DIR");
    assert_eq!(
        said,
        "error: cannot write DIR/small/a.img: No space left on device (os error 28)\n  (hint: make room, or let --out be on another disk)\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn images_are_replaced_only_when_asked_and_never_the_base() {
    let bench = Bench::new(&SMALL);
    fs::create_dir(bench.out()).expect("writable");
    let said = |output: &Output| {
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr)
            .replace(bench.folder.path().to_str().expect("UTF-8"), "DIR")
    };
    fs::write(bench.out().join("kiwi-01.img"), "precious").expect("writable");
    let output = bench.single("raspios-trixie", &bench.base, &[]);
    assert_eq!(
        said(&output),
        "error: DIR/out/kiwi-01.img is there already\n  (hint: --force replaces it)\n"
    );
    assert_eq!(
        fs::read(bench.out().join("kiwi-01.img")).expect("there"),
        b"precious"
    );
    fs::write(bench.out().join("kiwi-01.bmap"), "of the old one").expect("writable");
    super::fine(&bench.single("raspios-trixie", &bench.base, &["--force"]));
    assert_eq!(bench.left(), ["kiwi-01.img"], "an old map would be wrong");
    SMALL.check(&bench.base, &bench.out().join("kiwi-01.img"));
    let over = bench.out().join("kiwi-01.img");
    let before = fs::read(&over).expect("there");
    let output = bench.single("raspios-trixie", &over, &["--force"]);
    assert_eq!(
        said(&output),
        "error: expected a file of its own for each image, got DIR/out/kiwi-01.img twice\n"
    );
    assert!(fs::read(&over).expect("there") == before);
    let other = fs::File::create(bench.out().join(".kiwi-01.img.part")).expect("writable");
    other.lock().expect("free");
    let output = bench.single("raspios-trixie", &bench.base, &["--force"]);
    assert_eq!(
        said(&output),
        "error: another run is writing DIR/out/kiwi-01.img\n"
    );
}

#[test]
fn jobs_are_refused_with_their_lines() {
    let bench = Bench::new(&SMALL);
    for (job, expected) in [
        (
            "robot_id,serail\nkiwi-01,x\n",
            "error: cannot use DIR/job: line 1: unknown column \"serail\"\n  (hint: did you mean \"serial\"?)\n".to_owned(),
        ),
        (
            "robot_id\nkiwi-01\n",
            "error: cannot make the card of line 2 in DIR/job: expected an enrolment token that starts with lkt_ and has letters, digits, '-' and '_' only\n  (hint: make one with `lekiwi token create`)\n".to_owned(),
        ),
        (
            "robot_id,token_file\nkiwi-01,absent\n",
            "error: DIR/absent could not be read: No such file or directory (os error 2)\n".to_owned(),
        ),
        (
            &format!("version: 1\ncards:\n  - robot_id: a\n    token: {TOKEN}\n    profile: XLE two\n"),
            "error: cannot make the card of line 3 in DIR/job: expected a profile name of a-z, 0-9 and '-', got \"XLE two\"\n".to_owned(),
        ),
    ] {
        assert_eq!(refused(&bench, &bench.job(job, &[])), expected);
    }
    let output = bench.job(
        &format!("robot_id,token\nkiwi-01,{TOKEN}\n"),
        &["--dry-run"],
    );
    let said = super::fine(&output).replace(bench.folder.path().to_str().expect("UTF-8"), "DIR");
    assert_eq!(
        said,
        "would write DIR/out/kiwi-01.img with user-data, meta-data, network-config, lekiwi.json, cmdline.txt\n"
    );
    assert!(!bench.out().exists());
    let packed = bench.path("a.img.xz");
    let mut command = bench.card("raspios-trixie", &bench.base, &packed, &[]);
    let output = command.output().expect("the provisioner starts");
    assert_eq!(
        refused(&bench, &output),
        "error: expected a name that ends with .img, as it is not packed, got DIR/a.img.xz\n  (hint: --compress xz or zst packs it)\n"
    );
}

#[test]
fn files_that_no_robot_would_look_at_are_refused() {
    for (name, text, expected) in [
        (
            "notes.txt",
            "notes",
            "error: expected trust.json, profiles/NAME.yml, packages/NAME.deb, wheels/NAME.whl or a file below overlays/COMMIT/, got \"notes.txt\"\n",
        ),
        (
            "profiles/mine.yml",
            "version: 1\nname: mine\nspeed: 3\n",
            "error: unknown key \"speed\" at DIR/mine/profiles/mine.yml:3:1, expected one of ",
        ),
    ] {
        let bench = Bench::new(&SMALL);
        let path = bench.path("mine").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        fs::write(&path, text).expect("writable");
        let mine = bench.path("mine");
        let mine = ["--card-files", mine.to_str().expect("UTF-8")];
        let said = refused(&bench, &bench.single("raspios-trixie", &bench.base, &mine));
        assert!(said.starts_with(expected), "{said}");
    }
}
