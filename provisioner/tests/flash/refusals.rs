//! Every refusal, with the program's own words, on a real device where the kernel can make one. Device-mapper and
//! RAID holders are judged on recorded machines (`src/flash/device/tests.rs`).

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use nix::fcntl::OFlag;

use crate::devices::{Bench, Loop, Mounted, flash, partition, provisioner, run, stderr};

const MIB: usize = 1 << 20;

/// The program refuses with exactly this, and leaves the card as it was.
fn refused(card: &Loop, image: &Path, more: &[&str], expected: &str) {
    let before = card.content();
    let output = flash(image, &[card], more);
    assert_eq!(stderr(&output), expected.replace("{}", card.name()));
    assert_eq!(output.status.code(), Some(1));
    assert!(card.content() == before, "the card was written to");
}

#[test]
fn mounted_cards_and_partitions_are_refused() {
    let bench = Bench::new();
    let image = bench.image("image", 4 * MIB);
    let card = bench.card("card", 16 << 20);
    run(Command::new("mke2fs").arg("-q").arg(&card.path));
    let mounted = Mounted::new(&card.path, bench.path("mnt"));
    let at = mounted.0.display().to_string();
    refused(
        &card,
        &image,
        &[],
        &format!(
            "error: {{}} is mounted at {at}\n  (hint: `umount {at}`, once nothing needs it)\n"
        ),
    );
    drop(mounted);

    let disk = bench.card("disk", 16 << 20);
    partition(&disk.backing);
    let disk_path = disk.backing.clone();
    drop(disk);
    let disk = Loop::partitioned(&disk_path);
    let part = format!("{}p2", disk.path.display());
    run(Command::new("mke2fs").args(["-q", &part]));
    let mounted = Mounted::new(Path::new(&part), bench.path("part"));
    let at = mounted.0.display().to_string();
    refused(
        &disk,
        &image,
        &[],
        &format!(
            "error: {{}}p2 is mounted at {at}\n  (hint: `umount {at}`, once nothing needs it)\n"
        ),
    );
}

#[test]
fn a_partition_is_not_a_card() {
    let bench = Bench::new();
    let image = bench.image("image", 4 * MIB);
    let path = bench.image("disk", 16 * MIB);
    let disk = Loop::partitioned(&path);
    let output = provisioner()
        .arg(&image)
        .arg(format!("{}p2", disk.path.display()))
        .output()
        .expect("the provisioner starts");
    let name = disk.name();
    assert_eq!(
        stderr(&output),
        format!(
            "error: {name}p2 is a partition of {name}, expected a whole disk\n  (hint: the whole disk is {name})\n"
        )
    );
}

#[test]
fn what_runs_this_system_is_refused() {
    let bench = Bench::new();
    let image = bench.image("image", 4 * MIB);
    let card = bench.card("card", 16 << 20);
    run(Command::new("mke2fs").arg("-q").arg(&card.path));
    // A system of its own, for this one command.
    let output = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            "mount \"$1\" /boot && shift && exec \"$@\"",
            "sh",
        ])
        .arg(&card.path)
        .arg(env!("CARGO_BIN_EXE_lekiwi-provisioner"))
        .arg("flash")
        .arg(&image)
        .args([card.name(), "--yes", card.name()])
        .output()
        .expect("unshare starts");
    assert_eq!(
        stderr(&output),
        format!("error: {} holds /boot of this system\n", card.name())
    );
}

#[test]
fn swap_is_refused() {
    let bench = Bench::new();
    let image = bench.image("image", 4 * MIB);
    let card = bench.used_card("card", 16 * MIB);
    run(Command::new("mkswap").arg(&card.path));
    run(Command::new("swapon").arg(&card.path));
    let output = flash(&image, &[&card], &[]);
    run(Command::new("swapoff").arg(&card.path));
    let name = card.name();
    assert_eq!(
        stderr(&output),
        format!(
            "error: {name} is in use as swap\n  (hint: `swapoff /dev/{name}`, once nothing needs it)\n"
        )
    );
}

#[test]
fn members_of_lvm_and_raid_are_refused_even_when_nothing_is_assembled() {
    let bench = Bench::new();
    let image = bench.image("image", 4 * MIB);
    let hint = "  (hint: `wipefs --all /dev/{}` takes the mark off a disk that nothing needs)\n";
    let card = bench.card("lvm", 16 << 20);
    run(Command::new("pvcreate")
        .args(["--yes", "--quiet"])
        .arg(&card.path));
    refused(
        &card,
        &image,
        &[],
        &format!("error: {{}} belongs to LVM (LVM2_member)\n{hint}"),
    );
    let card = bench.card("raid", 16 << 20);
    File::options()
        .write(true)
        .open(&card.backing)
        .and_then(|file| file.write_all_at(&raid_superblock(), 4096))
        .expect("writable");
    refused(
        &card,
        &image,
        &[],
        &format!("error: {{}} belongs to a RAID (linux_raid_member)\n{hint}"),
    );
}

/// The superblock of a Linux RAID, format 1.2, of one member (`struct mdp_superblock_1` of the kernel).
fn raid_superblock() -> Vec<u8> {
    let mut block = vec![0; 256];
    let mut put = |at: usize, value: u32| block[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0, 0xa92b_4efc); // magic
    put(4, 1); // major version
    put(16, 0x4b49_5749); // some identity
    put(72, 1); // level
    put(92, 2); // disks
    put(144, 8); // where this block is, in sectors
    let sum: u64 = block
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]])))
        .sum();
    let folded = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).expect("few words are set");
    block[216..220].copy_from_slice(&folded.to_le_bytes());
    block
}

#[test]
fn sizes_are_held_against_the_cap_and_the_image() {
    let bench = Bench::new();
    let image = bench.image("image", 4 * MIB);
    let card = bench.used_card("card", 3 * MIB);
    refused(
        &card,
        &image,
        &[],
        "error: {} has 3145728 bytes, the image has 4194304\n",
    );
    let card = bench.used_card("large", 5 * MIB);
    refused(
        &card,
        &image,
        &["--max-size", "4M"],
        "error: {} has 5242880 bytes, at most 4194304 are allowed\n  (hint: --max-size allows larger ones)\n",
    );
    let unbound = run(Command::new("losetup").arg("--find"));
    let name = unbound.trim().trim_start_matches("/dev/");
    let output = provisioner()
        .arg(&image)
        .args([name, "--yes", name])
        .output()
        .expect("the provisioner starts");
    assert_eq!(stderr(&output), format!("error: {name} has no medium\n"));
}

#[test]
fn what_somebody_else_has_is_refused() {
    let bench = Bench::new();
    let image = bench.image("image", 4 * MIB);
    let card = bench.used_card("card", 8 * MIB);
    let held = File::options()
        .read(true)
        .custom_flags(OFlag::O_EXCL.bits())
        .open(&card.path)
        .expect("opens");
    refused(
        &card,
        &image,
        &[],
        "error: {} is held open exclusively by another program\n",
    );
    drop(held);
    let over = Loop::over(&card.path, &[]);
    refused(
        &card,
        &image,
        &[],
        &format!(
            "error: {{}} is behind loop device {0}\n  (hint: `losetup --detach /dev/{0}`)\n",
            over.name()
        ),
    );
    drop(over);
    let path = card.backing.clone();
    drop(card);
    let card = Loop::over(&path, &["--read-only"]);
    refused(
        &card,
        &image,
        &[],
        "error: {} is read-only\n  (hint: a card's lock switch, or a card at the end of its life)\n",
    );
}

#[test]
fn what_is_named_must_be_one_device_each() {
    let bench = Bench::new();
    let image = bench.image("image", 4 * MIB);
    let card = bench.used_card("card", 8 * MIB);
    let name = card.name();
    let said = |arguments: &[&str]| {
        let output = provisioner()
            .arg(&image)
            .args(arguments)
            .output()
            .expect("the provisioner starts");
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let file = image.display().to_string();
    let list = "`lekiwi-provisioner flash --list` shows what there is";
    assert_eq!(
        said(&[&file]),
        format!("error: expected a block device, got {file}, a file\n  (hint: {list})\n")
    );
    assert_eq!(
        said(&["nonexistent"]),
        format!(
            "error: expected a block device, got /dev/nonexistent: No such file or directory (os error 2)\n  (hint: {list})\n"
        )
    );
    assert_eq!(
        said(&[]),
        format!("error: expected the cards to write to\n  (hint: {list})\n")
    );
    assert_eq!(
        said(&[name, &format!("/dev/{name}")]),
        format!("error: expected different devices, got {name} twice\n")
    );
    assert_eq!(
        said(&[name, "--yes", "sdx"]),
        "error: expected --yes with the name of a device to write to, got \"sdx\"\n"
    );
    // Nobody to ask; a link is shown with what it leads to.
    let link = bench.path("by-id");
    std::os::unix::fs::symlink(&card.path, &link).expect("writable");
    assert_eq!(
        said(&[&link.display().to_string()]),
        format!(
            "error: expected a terminal to ask whether {} -> /dev/{name} may be overwritten\n  (hint: --yes {name} overwrites it without asking)\n",
            link.display()
        )
    );
    assert!(card.content() == vec![0xAA; 8 * MIB]);
}

#[test]
fn a_person_confirms_with_the_devices_own_name() {
    let bench = Bench::new();
    let image = bench.image("image", 4 * MIB);
    let card = bench.used_card("card", 8 * MIB);
    let name = card.name();
    let answered = |answer: &str| {
        // `script` is the terminal.
        let command = format!(
            "{} flash {} {name}",
            env!("CARGO_BIN_EXE_lekiwi-provisioner"),
            image.display()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("script is missing (hint: apt-get install -y bsdutils)");
        let mut input = script.stdin.take().expect("piped");
        std::io::Write::write_all(&mut input, answer.as_bytes()).expect("script reads");
        let output = script.wait_with_output().expect("script ends");
        drop(input);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, said) = answered("yes\n");
    assert!(
        said.contains(&format!(
            "/dev/{name}, 8.3 MB\r\nEverything on it will be lost. Type its name ({name}) to go on: "
        )),
        "{said}"
    );
    assert!(
        said.contains(&format!(
            "error: expected {name}, got \"yes\": nothing was written"
        )),
        "{said}"
    );
    assert_eq!(code, Some(1));
    assert!(card.content() == vec![0xAA; 8 * MIB]);
    let (code, said) = answered(&format!("{name}\n"));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        card.content()
            .starts_with(&std::fs::read(&image).expect("readable"))
    );
}

#[test]
fn the_list_says_what_may_be_overwritten_and_why_not() {
    let bench = Bench::new();
    let free = bench.used_card("free", 8 * MIB);
    let mounted = bench.card("mounted", 16 << 20);
    run(Command::new("mke2fs").arg("-q").arg(&mounted.path));
    let at = Mounted::new(&mounted.path, bench.path("mnt"));
    let listed = run(provisioner().args(["--list", "--json"]));
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let device = |card: &Loop| {
        listed["devices"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|device| device["name"] == card.name())
            .cloned()
            .expect("listed")
    };
    assert_eq!(
        device(&free),
        serde_json::json!({
            "name": free.name(), "path": free.path, "bytes": 8 * MIB,
            "model": null, "serial": null, "transport": null, "refused": [],
        })
    );
    assert_eq!(
        device(&mounted)["refused"],
        serde_json::json!([format!(
            "{} is mounted at {}",
            mounted.name(),
            at.0.display()
        )])
    );
    let text = run(provisioner().arg("--list"));
    assert!(text.starts_with("NAME"), "{text}");
    let line = |card: &Loop| {
        text.lines()
            .find(|line| line.starts_with(card.name()))
            .expect("listed")
            .to_owned()
    };
    assert!(line(&free).ends_with("  yes"), "{text}");
    assert!(line(&mounted).contains("  no: "), "{text}");
}
