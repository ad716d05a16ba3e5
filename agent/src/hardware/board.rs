//! Which computer this is: from a Pi's revision code and device tree, or by what a virtual machine or a
//! PC says. Reads `/proc` and `/sys` below a root.
//!
//! A revision code of the new style has bit 23 set; bits 20 to 22 are the memory (256 MB doubled that
//! often), bits 4 to 11 the type. The rest (maker, chip, revision) varies within a type.

use std::fs;
use std::path::Path;

use lekiwi_agent_core::hardware::Board;

use crate::machine::Machine;

const NEW_STYLE: u32 = 1 << 23;

/// Types of new-style revision codes that run a robot's software.
const TYPES: [(u32, &str); 18] = [
    (0x04, "pi2"),
    (0x06, "cm1"),
    (0x08, "pi3"),
    (0x09, "zero"),
    (0x0a, "cm3"),
    (0x0c, "zero"),
    (0x0d, "pi3"),
    (0x0e, "pi3"),
    (0x10, "cm3"),
    (0x11, "pi4"),
    (0x12, "zero2"),
    (0x13, "pi400"),
    (0x14, "cm4"),
    (0x15, "cm4"),
    (0x17, "pi5"),
    (0x18, "cm5"),
    (0x19, "pi500"),
    (0x1a, "cm5"),
];

/// The same in the device tree, for kernels that show no revision.
const COMPATIBLE: [(&str, &str); 13] = [
    ("raspberrypi,5-model-b", "pi5"),
    ("raspberrypi,5-compute-module", "cm5"),
    ("raspberrypi,500", "pi500"),
    ("raspberrypi,4-model-b", "pi4"),
    ("raspberrypi,4-compute-module", "cm4"),
    ("raspberrypi,400", "pi400"),
    ("raspberrypi,3-model-b", "pi3"),
    ("raspberrypi,3-model-b-plus", "pi3"),
    ("raspberrypi,3-model-a-plus", "pi3"),
    ("raspberrypi,3-compute-module", "cm3"),
    ("raspberrypi,model-zero-2-w", "zero2"),
    ("raspberrypi,model-zero-2", "zero2"),
    ("linux,dummy-virt", "virt"),
];

/// What the machine below `root` says about itself.
pub(super) fn read(root: &Path) -> Board {
    let hardware = Machine::new(root.to_owned()).hardware();
    let tree = root.join("proc/device-tree");
    let revision = fs::read(tree.join("system/linux,revision"))
        .ok()
        .and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)))
        .or_else(|| u32::from_str_radix(&hardware.revision, 16).ok())
        .filter(|revision| revision & NEW_STYLE != 0);
    let compatible = fs::read(tree.join("compatible")).unwrap_or_default();
    let names: Vec<_> = compatible.split(|byte| *byte == 0).collect();
    let named = || {
        let of = |name: &str| names.contains(&name.as_bytes());
        let mut known = COMPATIBLE.iter().filter(|(name, _)| of(name));
        known.next().map(|(_, kind)| *kind)
    };
    let kind = revision.and_then(kind).or_else(named);
    let memory_gb = match revision {
        // 4 is 4 GB: 256 MB doubled four times.
        Some(revision) => (256_u32 << ((revision >> 20) & 0b111)) / 1024,
        None => as_sold(hardware.memory_bytes),
    };
    Board {
        kind: kind.unwrap_or_else(|| other(root)).to_owned(),
        model: hardware.model,
        serial: hardware.serial,
        memory_gb,
        hat: hat(&tree),
    }
}

fn kind(revision: u32) -> Option<&'static str> {
    let code = (revision >> 4) & 0xFF;
    let mut known = TYPES.iter().filter(|(known, _)| *known == code);
    known.next().map(|(_, kind)| *kind)
}

/// A machine that is no Pi: by its maker, if it has DMI tables.
fn other(root: &Path) -> &'static str {
    match fs::read_to_string(root.join("sys/class/dmi/id/sys_vendor")) {
        Ok(vendor) if vendor.trim() == "QEMU" => "virt",
        Ok(_) => "pc",
        Err(_) => "",
    }
}

/// The kernel keeps some for itself: the next power of two, or three quarters of it.
fn as_sold(bytes: u64) -> u32 {
    const GB: u64 = 1 << 30;
    let sizes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];
    let fits = |size: &&u32| bytes <= u64::from(**size) * GB;
    match sizes.iter().find(fits) {
        _ if bytes < GB / 2 => 0,
        Some(size) => *size,
        None => u32::try_from(bytes / GB).unwrap_or(u32::MAX),
    }
}

fn hat(tree: &Path) -> Option<String> {
    let bytes = fs::read(tree.join("hat/product")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn board(files: &[(&str, &[u8])]) -> (String, u32, Option<String>) {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let board = read(root.path());
        (board.kind, board.memory_gb, board.hat)
    }

    fn of(kind: &str, memory_gb: u32) -> (String, u32, Option<String>) {
        (kind.to_owned(), memory_gb, None)
    }

    #[test]
    fn a_pi_is_known_by_its_revision() {
        for (revision, kind, memory) in [
            (0x00a0_2082_u32, "pi3", 1),
            (0x00a0_20d3, "pi3", 1),
            (0x0090_2120, "zero2", 0),
            (0x00c0_3115, "pi4", 4),
            (0x00d0_3114, "pi4", 8),
            (0x00b0_3140, "cm4", 2),
            (0x00c0_4170, "pi5", 4),
            (0x00d0_4171, "pi5", 8),
            (0x00e0_4171, "pi5", 16),
            (0x00c0_4180, "cm5", 4),
        ] {
            let name = "proc/device-tree/system/linux,revision";
            assert_eq!(
                board(&[(name, &revision.to_be_bytes())]),
                of(kind, memory),
                "{revision:x}"
            );
            let text = format!("Hardware\t: BCM2835\nRevision\t: {revision:x}\n");
            assert_eq!(
                board(&[("proc/cpuinfo", text.as_bytes())]),
                of(kind, memory)
            );
        }
    }

    #[test]
    fn without_a_revision_the_device_tree_and_the_kernels_memory_count() {
        let memory = b"MemTotal:        4028000 kB\n";
        let files: [(&str, &[u8]); 3] = [
            (
                "proc/device-tree/compatible",
                b"raspberrypi,5-model-b\0brcm,bcm2712\0",
            ),
            ("proc/device-tree/hat/product", b"Servo HAT\0"),
            ("proc/meminfo", memory),
        ];
        assert_eq!(
            board(&files),
            ("pi5".to_owned(), 4, Some("Servo HAT".to_owned()))
        );
        let virt: [(&str, &[u8]); 1] = [("proc/device-tree/compatible", b"linux,dummy-virt\0")];
        assert_eq!(board(&virt), of("virt", 0));
        let old: [(&str, &[u8]); 1] = [("proc/cpuinfo", b"Revision\t: 0010\n")];
        assert_eq!(board(&old), of("", 0));
    }

    #[test]
    fn a_pc_is_a_pc_and_a_mute_machine_is_nothing() {
        assert_eq!(
            board(&[("sys/class/dmi/id/sys_vendor", b"LENOVO\n")]),
            of("pc", 0)
        );
        assert_eq!(
            board(&[("sys/class/dmi/id/sys_vendor", b"QEMU\n")]),
            of("virt", 0)
        );
        assert_eq!(board(&[]), of("", 0));
    }
}
