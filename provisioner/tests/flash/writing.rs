//! What is on the card afterwards: the image, or nothing that boots.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lekiwi_provisioner::flash::bmap::Bmap;
use lekiwi_provisioner::flash::card::{Card, PIECE};
use lekiwi_provisioner::flash::device::{Limits, Refusal};
use lekiwi_provisioner::flash::survey;
use lekiwi_provisioner::flash::write::{CardError, Failed, Image, Job, Outcome, Written, write};
use lekiwi_provisioner::watch::{Unwatched, Watch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::devices::{
    Bench, Loop, Mounted, flash, flip, noise, partition, provisioner, run, stderr,
};

const MIB: usize = 1 << 20;

fn open(card: &Loop) -> Result<Card, Refusal> {
    let mut survey = survey::take().expect("devices are listed");
    let device = survey::find(&survey, &card.path)
        .expect("the loop device is listed")
        .0
        .clone();
    survey::inspect(&mut survey, &device);
    let limits = Limits {
        most_bytes: 1 << 40,
        image_bytes: None,
    };
    Card::open(&survey, &device, &limits)
}

/// By the library, so that a test can do things between the phases.
fn write_to(image: &Path, map: Option<&Bmap>, jobs: &[(&Loop, &dyn Watch)]) -> Outcome {
    let open_image = || Ok(Box::new(File::open(image)?) as Box<dyn Read>);
    let jobs = jobs
        .iter()
        .map(|(card, watch)| Job {
            card: open(card).expect("nothing speaks against it"),
            watch: *watch,
        })
        .collect();
    let image = Image {
        open: &open_image,
        bytes: None,
    };
    write(&image, map, jobs)
}

/// Does something when the writing is over and the reading back begins.
struct Between<F: Fn() + Sync>(F);

impl<F: Fn() + Sync> Watch for Between<F> {
    fn begin(&self, step: &str, _: Option<u64>) {
        if step == "reading back" {
            self.0();
        }
    }
    fn advance(&self, _: u64) {}
    fn stopped(&self) -> bool {
        false
    }
}

fn only(outcome: Outcome) -> Result<Written, Failed> {
    outcome.image.expect("the image is read");
    let [card] = <[_; 1]>::try_from(outcome.cards).expect("one card");
    card
}

/// Nothing boots from it: no table, and nothing else of the image's beginning.
fn assert_blank(card: &Loop) {
    assert!(
        card.content()[..PIECE.min(4 * MIB)]
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn an_image_is_written_to_several_cards_and_read_back() {
    let bench = Bench::new();
    // Neither whole pieces nor whole pages.
    let image = bench.image("image", 9 * MIB + 1536);
    let content = std::fs::read(&image).expect("readable");
    let cards = [
        bench.used_card("one", 32 * MIB),
        bench.used_card("two", 24 * MIB),
        // As long as the image.
        bench.used_card("three", 9 * MIB + 1536),
    ];
    let output = flash(&image, &cards.each_ref(), &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.lines().count(), 3, "{said}");
    for (card, line) in cards.iter().zip(said.lines()) {
        assert!(
            line.starts_with(&format!("{}: 9.4 MB written in ", card.name())),
            "{line}"
        );
        let written = card.content();
        assert!(written.starts_with(&content), "{}", card.name());
        assert!(written[content.len()..].iter().all(|byte| *byte == 0));
        let table = run(Command::new("sfdisk").arg("--json").arg(&card.backing));
        assert!(table.contains("0x4b495749"), "{table}");
    }
}

#[test]
fn a_packed_image_is_unpacked_on_its_way() {
    let bench = Bench::new();
    let image = bench.image("image", 5 * MIB + 512);
    let content = std::fs::read(&image).expect("readable");
    for (program, ending) in [("xz", "xz"), ("gzip", "gz"), ("zstd", "zst")] {
        run(Command::new(program)
            .args(["-1", "--keep", "--quiet"])
            .arg(&image));
        let packed = bench.path(&format!("image.{ending}"));
        let card = bench.used_card("card", 16 * MIB);
        let output = flash(&packed, &[&card], &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(card.content().starts_with(&content), "{program}");
    }
    // Damage shows while it is unpacked; the card boots nothing.
    let packed = bench.path("image.xz");
    let mut bytes = std::fs::read(&packed).expect("readable");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&packed, bytes).expect("writable");
    let card = bench.used_card("card", 16 * MIB);
    let output = flash(&packed, &[&card], &[]);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("error: the image cannot be read beyond byte "),
        "{}",
        stderr(&output)
    );
    assert_blank(&card);
}

#[test]
fn a_block_map_leaves_out_what_is_empty_and_nothing_stale_remains() {
    let bench = Bench::new();
    let image = bench.path("image.img");
    let file = File::create(&image).expect("writable");
    file.set_len(40 << 20).expect("writable");
    let parts = [(0, 5000), (6 << 20, 3 * MIB), (30 << 20, 10), (40 << 20, 0)];
    for (at, bytes) in parts {
        file.write_all_at(&noise(bytes), at).expect("writable");
    }
    partition(&image);
    let map = run(Command::new("bmaptool").arg("create").arg(&image));
    let beside = bench.path("image.bmap");
    std::fs::write(&beside, &map).expect("writable");

    let card = bench.used_card("card", 48 * MIB);
    let output = flash(&image, &[&card], &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut expected = std::fs::read(&image).expect("readable");
    expected.resize(48 * MIB, 0);
    assert!(card.content() == expected);
    let written = said["cards"][0]["written_bytes"]
        .as_u64()
        .expect("a number");
    assert!((3 << 20..4 << 20).contains(&written), "{said}");
    assert_eq!(said["cards"][0]["rest_zeroed"], true);

    // Another image than the map's.
    flip(&image, (30 << 20) + 4);
    let output = flash(&image, &[&card], &[]);
    let name = card.name();
    assert_eq!(
        stderr(&output),
        format!(
            "{name}: the image could not be read to its end; it has no partition table, so nothing boots from it\nerror: bytes 31457280 to 31461376 of the image are not those of its block map\n"
        )
    );
    assert_blank(&card);

    // An image that ends too early.
    file.set_len(20 << 20).expect("writable");
    let output = flash(&image, &[&card], &[]);
    assert!(
        stderr(&output).ends_with("error: expected an image of 41943040 bytes, got 20971520\n"),
        "{}",
        stderr(&output)
    );
    // A map that was changed by hand.
    std::fs::write(&beside, map.replacen("sha256", "sha512", 1)).expect("writable");
    let output = flash(&image, &[&card], &[]);
    assert_eq!(
        stderr(&output),
        format!(
            "error: {}: expected sha256 in <ChecksumType>, got \"sha512\"\n",
            beside.display()
        )
    );
}

#[test]
fn a_flipped_bit_is_found_to_the_byte() {
    let bench = Bench::new();
    let image = bench.image("image", 12 * MIB);
    let content = std::fs::read(&image).expect("readable");
    let card = bench.used_card("card", 16 * MIB);
    let place = 9 * MIB + 12345;
    let watch = Between(|| card.flip(place as u64));
    let failed = only(write_to(&image, None, &[(&card, &watch)])).expect_err("it differs");
    assert_eq!(
        failed.error.to_string(),
        format!(
            "byte {place} reads back as {:#04x}, expected {:#04x}",
            content[place] ^ 0x10,
            content[place]
        )
    );
    assert!(failed.blank);
    assert_blank(&card);
}

#[test]
fn a_flipped_bit_is_found_in_what_a_block_map_leaves_out() {
    let bench = Bench::new();
    let image = bench.path("image.img");
    let file = File::create(&image).expect("writable");
    file.set_len(20 << 20).expect("writable");
    file.write_all_at(&noise(6 * MIB), 0).expect("writable");
    let map = run(Command::new("bmaptool").arg("create").arg(&image));
    let map = Bmap::parse(&map).expect("a block map");
    let card = bench.used_card("card", 20 * MIB);
    for (place, expected) in [
        (15 * MIB + 7, 0),
        // In the one range that begins in the first piece and ends in the second.
        (5 * MIB + 7, noise(6 * MIB)[5 * MIB + 7]),
    ] {
        let watch = Between(|| card.flip(place as u64));
        let outcome = write_to(&image, Some(&map), &[(&card, &watch)]);
        let failed = only(outcome).expect_err("it differs");
        assert_eq!(
            failed.error.to_string(),
            format!(
                "byte {place} reads back as {:#04x}, expected {expected:#04x}",
                expected ^ 0x10
            )
        );
        assert_blank(&card);
    }
    let written =
        only(write_to(&image, Some(&map), &[(&card, &Unwatched)])).expect("it is written");
    assert_eq!(written.image_bytes, 20 << 20);
}

#[test]
fn a_short_card_is_found_whether_it_says_so_or_not() {
    let bench = Bench::new();
    let image = bench.image("image", 12 * MIB);
    // The image's size is not known beforehand, as with a compressed one.
    let card = bench.used_card("short", 10 * MIB);
    let failed = only(write_to(&image, None, &[(&card, &Unwatched)])).expect_err("too short");
    assert_eq!(
        failed.error.to_string(),
        "ends at byte 10485760, the image goes on"
    );
    assert!(failed.blank);
    assert_blank(&card);

    // It says 16 MiB and keeps 10.
    let card = bench.used_card("liar", 16 * MIB);
    let watch = Between(|| {
        File::options()
            .write(true)
            .open(&card.backing)
            .and_then(|file| file.set_len(10 << 20))
            .expect("writable");
    });
    let failed = only(write_to(&image, None, &[(&card, &watch)])).expect_err("too short");
    let place = match failed.error {
        CardError::Read { at, .. } => at,
        CardError::Differs {
            at,
            expected: _,
            got,
        } => {
            assert_eq!(got, 0);
            at
        }
        other => panic!("{other}"),
    };
    assert!((8 << 20..(10 << 20) + 16).contains(&place), "{place}");
    assert!(failed.blank);
    assert_blank(&card);
}

#[test]
fn a_failed_card_never_stops_the_others() {
    let bench = Bench::new();
    let image = bench.image("image", 24 * MIB);
    let good = [
        bench.used_card("one", 32 * MIB),
        bench.used_card("two", 32 * MIB),
    ];
    // A card with room for half of what it says.
    std::fs::create_dir(bench.path("small")).expect("writable");
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"])
        .arg(bench.path("small")));
    let _small = Mounted(bench.path("small"));
    let bad = bench.card("small/card", 32 << 20);
    let output = flash(&image, &[&good[0], &bad, &good[1]], &["--json"]);
    let bad_name = bad.name().to_owned();
    let start = bad.content()[..PIECE].to_vec();
    drop(bad);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "error: 1 of 3 cards do not hold the image\n"
    );
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let failed = &said["cards"][1];
    assert_eq!(failed["name"], bad_name.as_str());
    assert_eq!(failed["written"], false);
    assert_eq!(failed["blank"], true);
    let error = failed["error"].as_str().expect("an error");
    assert!(error.starts_with("cannot be written at byte "), "{error}");
    assert!(start.iter().all(|byte| *byte == 0));
    for card in &good {
        assert!(
            card.content()
                .starts_with(&std::fs::read(&image).expect("readable"))
        );
    }
}

/// Asks to stop after so many bytes.
struct StopsAfter(u64, AtomicU64);

impl Watch for StopsAfter {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, bytes: u64) {
        self.1.fetch_add(bytes, Ordering::Relaxed);
    }
    fn stopped(&self) -> bool {
        self.1.load(Ordering::Relaxed) >= self.0
    }
}

#[test]
fn a_stopped_card_has_no_partition_table_whenever_it_was() {
    let bench = Bench::new();
    let image = bench.image("image", 12 * MIB);
    let card = bench.used_card("card", 16 * MIB);
    // Before anything, in the middle, at the end of writing, while it is read back, just before the table.
    for after in [0, 5, 12, 16, 20] {
        let watch = StopsAfter(after * MIB as u64, AtomicU64::new(0));
        let failed = only(write_to(&image, None, &[(&card, &watch)])).expect_err("it stops");
        assert_eq!(failed.error.to_string(), "stopped");
        assert!(failed.blank);
        assert_blank(&card);
    }
}

#[test]
fn another_medium_than_the_one_looked_at_is_refused() {
    let bench = Bench::new();
    let card = bench.used_card("card", 8 * MIB);
    let survey = survey::take().expect("devices are listed");
    let device = survey::find(&survey, &card.path).expect("listed").0.clone();
    let (path, backing) = (card.path.clone(), card.backing.clone());
    drop(card);
    // Another card in the same slot.
    run(Command::new("losetup").arg(&path).arg(&backing));
    let _card = Loop { path, backing };
    let limits = Limits {
        most_bytes: 1 << 40,
        image_bytes: None,
    };
    let refusal = Card::open(&survey, &device, &limits).expect_err("another medium");
    assert_eq!(
        refusal.to_string(),
        format!(
            "{} is another medium than the one that was looked at",
            device.name
        )
    );
}

/// A file system whose writes wait for the test.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(at: &'a Path) -> Self {
        run(Command::new("fsfreeze").arg("--freeze").arg(at));
        Self(at)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze")
            .arg("--unfreeze")
            .arg(self.0)
            .status();
    }
}

#[test]
fn ctrl_c_leaves_the_card_without_a_partition_table_and_says_so() {
    let bench = Bench::new();
    let image = bench.image("image", 12 * MIB);
    let disk = bench.card("disk", 64 << 20);
    run(Command::new("mkfs.ext4")
        .args(["-q", "-O", "^has_journal"])
        .arg(&disk.path));
    let _mounted = Mounted::new(&disk.path, bench.path("mnt"));
    let card = bench.used_card("mnt/card", 16 * MIB);
    partition(&card.backing);
    run(&mut Command::new("sync"));
    let folder = bench.path("mnt");
    let frozen = Frozen::new(&folder);
    let child = provisioner()
        .arg(&image)
        .args([card.name(), "--yes", card.name()])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the provisioner starts");
    let id = child.id();
    // For good: while it is loaded it waits for a disk as well, for moments.
    wait_until(|| {
        (0..10).all(|_| {
            std::thread::sleep(Duration::from_millis(50));
            waits_for_a_disk(id)
        })
    });
    kill(
        Pid::from_raw(i32::try_from(id).expect("small")),
        Signal::SIGINT,
    )
    .expect("it runs");
    drop(frozen);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(
        stderr(&output),
        format!(
            "{}: stopped; it has no partition table, so nothing boots from it\nerror: 1 of 1 cards do not hold the image\n",
            card.name()
        )
    );
    assert_eq!(output.status.code(), Some(1));
    assert_blank(&card);
}

/// Whether a thread of the process sleeps on a disk.
fn waits_for_a_disk(id: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else {
        return false;
    };
    threads.flatten().any(|thread| {
        std::fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" D "))
        })
    })
}

fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..6000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it did not happen within 30 s");
}
