//! What the provisioner reads: what operators write, what a factory line's boards send, and images that others made. Pure but for
//! one file in memory.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path};

use lekiwi_protocol::Timestamp;
use lekiwi_provisioner::build::Recipe;
use lekiwi_provisioner::flash::bmap as followed;
use lekiwi_provisioner::flash::device::{Limits, Survey};
use lekiwi_provisioner::job;
use lekiwi_provisioner::line::{dhcp, file::Line, tftp};
use lekiwi_provisioner::lint::{self, Seed, lint};
use lekiwi_provisioner::media::compressed::{self, CompressedError, Container};
use lekiwi_provisioner::media::fat::{self, BootFile, Content};
use lekiwi_provisioner::media::patch::{Patch, Patched};
use lekiwi_provisioner::media::{bmap, checksum, partition};
use lekiwi_provisioner::watch::Unwatched;

/// Panics where the bytes break something.
type Try = fn(&[u8]);

/// All of them.
pub(crate) const TARGETS: &[(&str, Try)] = &[
    ("order", order),
    ("lint", linted),
    ("board", board),
    ("blocks", blocks),
    ("packed", packed),
    ("image", image),
];

/// What an operator writes, and what `lsblk` and the kernel tell of devices.
fn order(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(cards) = job::parse(text) {
        assert!(cards.iter().all(|card| card.line > 0));
    }
    let _ = (Line::parse(text), Recipe::parse(text));
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    if let Ok(survey) = Survey::parse(next(), next(), next()) {
        let limits = Limits {
            most_bytes: 1 << 40,
            image_bytes: Some(1 << 20),
        };
        for device in survey.devices.iter().flat_map(|device| device.stack()) {
            assert!(survey.find(&device.number).is_some());
            let _ = survey.refusals(device, &limits);
        }
    }
}

/// The files of a seed, one after the other with zeros between them.
fn linted(bytes: &[u8]) {
    let names = lint::FILES.iter().map(|name| (*name).to_owned());
    let files = names.zip(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec));
    let seed = Seed {
        files: files.filter(|(_, content)| !content.is_empty()).collect(),
        label: None,
    };
    for finding in lint(&seed, Timestamp::from_ms(1_800_000_000_000)) {
        // A person has to find the place.
        let file = seed.files.get(&finding.file);
        if let (Some(line), Some(file)) = (finding.line, file) {
            // YAML has both as ends of lines.
            let ends = file.iter().filter(|byte| b"\r\n".contains(byte)).count();
            assert!((1..=ends + 1).contains(&line), "{finding}");
        }
    }
}

/// Datagrams of a board that boots from the network.
fn board(bytes: &[u8]) {
    if let Ok(request) = dhcp::parse(bytes) {
        let _ = request.sighting();
        for port in [dhcp::SERVER_PORT, dhcp::PXE_PORT] {
            if let Some(reply) = request.reply(port, Ipv4Addr::new(192, 0, 2, 1)) {
                // What we answer is nobody's question.
                dhcp::parse(&reply.bytes).expect_err("an answer");
            }
        }
    }
    if let Ok(request) = tftp::parse(bytes) {
        if let Ok(places) = tftp::places(&request.name) {
            for path in &places.candidates {
                let plain = path
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)));
                assert!(plain, "{}", path.display());
            }
        }
        if let Ok(mut transfer) = tftp::Transfer::new(&request, 100_000) {
            let _ = transfer.start();
            for datagram in bytes.chunks(4) {
                if let tftp::Next::Blocks(numbers) = transfer.receive(datagram) {
                    for number in numbers {
                        let (begin, length) = transfer.range(number);
                        assert!(begin + length as u64 <= 100_000);
                    }
                }
            }
        }
    }
}

/// Block maps and checksums that come with an image. A map's own checksum is put where it says `SEAL`.
fn blocks(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(sum) = checksum::parse(text) {
        assert_eq!(checksum::parse(&sum).ok(), Some(sum));
    }
    if let Err(followed::BmapError::Checksum { actual, .. }) =
        followed::Bmap::parse(&text.replacen("SEAL", &"0".repeat(64), 1))
        && let Ok(map) = followed::Bmap::parse(&text.replacen("SEAL", &actual, 1))
    {
        // All of the image, in its order and once.
        let mut at = 0;
        for span in map.spans() {
            assert_eq!(span.start, at);
            at += span.bytes;
        }
        assert_eq!(at, map.image_bytes());
        assert!(map.writes().iter().map(|(_, bytes)| bytes).sum::<u64>() >= map.mapped_bytes());
    }
}

/// As much as is unpacked: a few kilobytes can hold gigabytes.
const MOST_UNPACKED: usize = 8 << 20;

/// An image as it is distributed.
fn packed(bytes: &[u8]) {
    let file = file(bytes, None);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut unpacked = Vec::new();
    let end = compressed::unpack(Path::new(&path), &Unwatched, |piece: &[u8]| {
        if unpacked.len() > MOST_UNPACKED {
            return Err(CompressedError::Stopped);
        }
        unpacked.extend_from_slice(piece);
        Ok(())
    });
    if Container::of(bytes).is_none() {
        end.expect("what is not packed is copied");
        assert_eq!(unpacked, bytes);
    }
}

/// Of every image: room for the smallest FAT16, most of it empty.
const IMAGE_BYTES: u64 = 3 << 20;

/// The beginning of a disk image: its table, and what is on its partitions. What is written into one is read back, and the map of
/// its blocks is one that is followed.
fn image(bytes: &[u8]) {
    let base = file(bytes, Some(IMAGE_BYTES));
    let Ok(partitions) = partition::read(&base, IMAGE_BYTES) else {
        return;
    };
    let mut patch = Patch::default();
    if let Ok(boot) = partition::boot(&base, &partitions) {
        let _ = fat::read(&base, &boot, "overlays/README");
        let wanted = BootFile {
            path: "user-data".to_owned(),
            content: Content::Bytes(b"#cloud-config\n".to_vec()),
        };
        if let Ok(made) = fat::write(&base, &boot, std::slice::from_ref(&wanted)) {
            let end = boot.start + boot.len;
            for (offset, piece) in made.pieces() {
                assert!(offset >= boot.start && offset + piece.len() as u64 <= end);
            }
            patch = made;
        }
    }
    let map = bmap::Bmap::of(
        Patched {
            base: &base,
            patch: &patch,
        },
        IMAGE_BYTES,
        &partitions,
        &mut bmap::Known::default(),
        &Unwatched,
    );
    let map = map
        .expect("an image that can be read")
        .expect("nobody stops it");
    let read = followed::Bmap::parse(&map.xml()).expect("our own map");
    assert_eq!(read.image_bytes(), IMAGE_BYTES);
}

thread_local! {
    static FILE: File = tempfile::tempfile_in("/dev/shm").expect("memory");
}

/// The file that holds `bytes`, and zeros up to `len`. It is the same one each time.
fn file(bytes: &[u8], len: Option<u64>) -> File {
    FILE.with(|file| {
        let len = len.unwrap_or(bytes.len() as u64);
        let kept = usize::try_from(len).map_or(bytes, |len| &bytes[..bytes.len().min(len)]);
        file.set_len(0)
            .and_then(|()| file.set_len(len))
            .and_then(|()| file.write_all_at(kept, 0))
            .and_then(|()| file.try_clone())
            .expect("memory")
    })
}
