#![expect(clippy::unwrap_used, reason = "tests")]
//! Recorded machines, and what is refused on each.

use super::*;

/// A notebook: an encrypted LVM system disk, a card reader with a card and one without, a DVD drive.
const NOTEBOOK: &str = r#"{"blockdevices": [
  {"kname":"nvme0n1","path":"/dev/nvme0n1","maj:min":"259:0","type":"disk","size":512110190592,"ro":false,"model":"SAMSUNG MZVL","serial":"S1","tran":"nvme","fstype":null,"mountpoints":[null],"children":[
    {"kname":"nvme0n1p1","path":"/dev/nvme0n1p1","maj:min":"259:1","type":"part","size":536870912,"ro":false,"model":null,"serial":null,"tran":"nvme","fstype":"vfat","mountpoints":["/boot/efi"]},
    {"kname":"nvme0n1p2","path":"/dev/nvme0n1p2","maj:min":"259:2","type":"part","size":511572271104,"ro":false,"model":null,"serial":null,"tran":"nvme","fstype":"crypto_LUKS","mountpoints":[null],"children":[
      {"kname":"dm-0","path":"/dev/mapper/cr","maj:min":"252:0","type":"crypt","size":511555493888,"ro":false,"model":null,"serial":null,"tran":null,"fstype":"LVM2_member","mountpoints":[null],"children":[
        {"kname":"dm-1","path":"/dev/mapper/vg-root","maj:min":"252:1","type":"lvm","size":500000000000,"ro":false,"model":null,"serial":null,"tran":null,"fstype":"ext4","mountpoints":["/"]},
        {"kname":"dm-2","path":"/dev/mapper/vg-swap","maj:min":"252:2","type":"lvm","size":8000000000,"ro":false,"model":null,"serial":null,"tran":null,"fstype":"swap","mountpoints":["[SWAP]"]}]}]}]},
  {"kname":"sda","path":"/dev/sda","maj:min":"8:0","type":"disk","size":31914983424,"ro":false,"model":"STORAGE DEVICE","serial":"000000000821","tran":"usb","fstype":null,"mountpoints":[null],"children":[
    {"kname":"sda1","path":"/dev/sda1","maj:min":"8:1","type":"part","size":536870912,"ro":false,"model":null,"serial":null,"tran":null,"fstype":"vfat","mountpoints":[null]}]},
  {"kname":"sdb","path":"/dev/sdb","maj:min":"8:16","type":"disk","size":0,"ro":true,"model":"STORAGE DEVICE","serial":"000000000821","tran":"usb","fstype":null,"mountpoints":[null]},
  {"kname":"sr0","path":"/dev/sr0","maj:min":"11:0","type":"rom","size":1073741312,"ro":false,"model":"DVDRAM","serial":null,"tran":"sata","fstype":null,"mountpoints":[null]},
  {"kname":"loop0","path":"/dev/loop0","maj:min":"7:0","type":"loop","size":0,"ro":false,"model":null,"serial":null,"tran":null,"fstype":null,"mountpoints":[null]}
]}"#;

const MOUNTS: &str = "27 1 252:1 / / rw,relatime - ext4 /dev/mapper/vg-root rw\n28 27 259:1 / /boot/efi rw - vfat /dev/nvme0n1p1 rw\n29 27 0:40 / /media/my\\040card rw - tmpfs tmpfs rw\n";
const SWAPS: &str = "Filename\tType\tSize\tUsed\tPriority\n/dev/dm-2 partition 7812496 0 -2\n";

fn notebook() -> Survey {
    Survey::parse(NOTEBOOK, MOUNTS, SWAPS).unwrap()
}

fn limits() -> Limits {
    Limits {
        most_bytes: 256 << 30,
        image_bytes: Some(4 << 30),
    }
}

fn said(survey: &Survey, name: &str) -> Vec<String> {
    let device = survey
        .devices
        .iter()
        .flat_map(Device::stack)
        .find(|device| device.name == name)
        .unwrap();
    survey
        .refusals(device, &limits())
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_running_systems_whole_stack_is_refused() {
    let mut survey = notebook();
    survey
        .holders
        .insert("nvme0n1p2".to_owned(), vec!["dm-0".to_owned()]);
    assert_eq!(
        said(&survey, "nvme0n1"),
        [
            "nvme0n1 holds /boot/efi of this system",
            "nvme0n1 holds / of this system",
            "dm-2 is in use as swap",
            "nvme0n1p2 is held by dm-0",
            "dm-0 belongs to LVM (LVM2_member)",
            "nvme0n1 has 512110190592 bytes, at most 274877906944 are allowed",
        ]
    );
}

#[test]
fn a_card_may_be_overwritten_and_an_empty_reader_may_not() {
    let survey = notebook();
    assert_eq!(said(&survey, "sda"), [""; 0]);
    assert_eq!(
        said(&survey, "sdb"),
        ["sdb is read-only", "sdb has no medium"]
    );
    let candidates: Vec<_> = survey
        .candidates()
        .map(|device| device.name.as_str())
        .collect();
    assert_eq!(candidates, ["nvme0n1", "sda", "sdb", "sr0"]);
}

#[test]
fn only_whole_disks_are_taken() {
    let survey = notebook();
    assert_eq!(
        said(&survey, "sda1"),
        ["sda1 is a partition of sda, expected a whole disk"]
    );
    assert_eq!(
        said(&survey, "dm-1"),
        ["dm-1 is of type lvm, expected a disk"]
    );
    assert_eq!(
        said(&survey, "sr0"),
        ["sr0 is of type rom, expected a disk"]
    );
}

#[test]
fn a_root_that_only_mountinfo_knows_is_seen() {
    // btrfs: no device number of a disk, and lsblk shows one mount point of many.
    let mounts = "27 1 0:30 /@ / rw - btrfs /dev/sda1 rw\n28 27 8:1 / /srv/my\\040data rw - ext4 /dev/root rw\n";
    let survey = Survey::parse(NOTEBOOK, mounts, "Filename\n").unwrap();
    assert_eq!(
        said(&survey, "sda"),
        [
            "sda holds / of this system",
            "sda1 is mounted at /srv/my data"
        ]
    );
}

#[test]
fn holders_members_and_loops_are_seen_on_partitions_too() {
    let mut survey = notebook();
    survey
        .holders
        .insert("sda1".to_owned(), vec!["md127".to_owned()]);
    survey
        .loops
        .insert("loop7".to_owned(), PathBuf::from("/dev/sda"));
    survey.signatures.insert(
        "sda1".to_owned(),
        vec!["linux_raid_member".to_owned(), "vfat".to_owned()],
    );
    survey
        .signatures
        .insert("sda".to_owned(), vec!["zfs_member".to_owned()]);
    assert_eq!(
        said(&survey, "sda"),
        [
            "sda is behind loop device loop7",
            "sda1 is held by md127",
            "sda belongs to a ZFS pool (zfs_member)",
            "sda1 belongs to a RAID (linux_raid_member)",
        ]
    );
}

#[test]
fn what_does_not_open_is_refused() {
    let mut survey = notebook();
    survey.unopened.insert(
        "sda".to_owned(),
        (io::ErrorKind::ResourceBusy, "busy".to_owned()),
    );
    assert_eq!(
        said(&survey, "sda"),
        ["sda is held open exclusively by another program"]
    );
    survey.unopened.insert(
        "sda".to_owned(),
        (io::ErrorKind::PermissionDenied, "denied".to_owned()),
    );
    let refusals = survey.refusals(survey.find("8:0").unwrap(), &limits());
    assert_eq!(refusals[0].to_string(), "sda cannot be opened");
    assert_eq!(
        refusals[0].hint().as_deref(),
        Some("root may write to devices")
    );
}

#[test]
fn another_programs_output_is_refused() {
    let error = Survey::parse("{}", "", "").unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected a listing of devices as `lsblk --json --bytes` prints it"
    );
}
