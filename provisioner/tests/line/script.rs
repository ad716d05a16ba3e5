//! The script that installs a board from any Linux: it writes, reads back, and says what stops it.

use crate::line::{Line, output, program, sample};
use crate::net::network;
use crate::pi::Pi;

/// A loop device over a file, for a disk.
struct Disk(String);

impl Disk {
    fn new(line: &Line, bytes: u64) -> Self {
        let path = line.path("disk");
        std::fs::File::create(&path)
            .and_then(|file| file.set_len(bytes))
            .expect("a file");
        let name = output(
            program("losetup", "mount")
                .args(["--show", "-f"])
                .arg(&path),
        );
        Self(name.trim().to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = program("losetup", "mount").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn the_script_writes_the_image_reads_it_back_and_says_what_stops_it() {
    let boards = network(1);
    let mut line = Line::new(2);
    // An image that must be unpacked.
    let image = line.path("images/base.img");
    output(program("xz", "xz-utils").args(["--keep", "-1"]).arg(&image));
    let text = std::fs::read_to_string(line.path("line.yml")).expect("text");
    std::fs::write(
        line.path("line.yml"),
        text.replace("base.img", "base.img.xz"),
    )
    .expect("written");
    line.start();
    let pi = Pi {
        number: 0,
        model: 4,
    };
    let script = |target: &str| {
        boards.there(|| {
            program("sh", "dash")
                .args(["-c", "curl -fsS http://10.77.0.1:8080/bootstrap | sh"])
                .env("LEKIWI_SERIAL", pi.serial())
                .env("LEKIWI_TARGET", target)
                .env("LEKIWI_RESTART", "no")
                .output()
                .expect("it starts")
        })
    };
    let none = script("/dev/null");
    assert_eq!(
        String::from_utf8_lossy(&none.stderr),
        "error: expected a disk to write to, got '/dev/null'\n"
    );
    assert_eq!(
        line.unit(pi)["reason"],
        "expected a disk to write to, got '/dev/null'"
    );
    assert!(line.command(&["retry", "kiwi-00"]).status.success());
    line.wait("the retry", |line| {
        (line.unit(pi)["attempt"] == 2).then_some(())
    });

    let disk = Disk::new(&line, 8_000_000);
    let done = script(&disk.0);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    // This image has no partitions, and that is where it ends.
    let reason = format!("expected a FAT partition on {}", disk.0);
    assert_eq!(
        String::from_utf8_lossy(&done.stderr),
        format!("error: {reason}\n"),
        "{said}"
    );
    assert!(
        said.contains(&format!(
            "written: 3000000 bytes to {0}\nverified: {0}\n",
            disk.0
        )),
        "{said}"
    );
    let written = std::fs::read(line.path("disk")).expect("read");
    assert!(
        written[..3_000_000] == sample(3_000_000, 3),
        "the image is on the disk"
    );
    let unit = line.unit(pi);
    assert_eq!(
        (&unit["state"], &unit["reason"]),
        (&"failed".into(), &reason.into())
    );
    assert!(
        unit["memory_mib"].as_u64() > Some(0) && unit["mac"].is_string(),
        "{unit}"
    );

    // A disk that is too small.
    drop(disk);
    assert!(line.command(&["retry", "kiwi-00"]).status.success());
    line.wait("the retry", |line| {
        (line.unit(pi)["attempt"] == 3).then_some(())
    });
    let disk = Disk::new(&line, 1_000_000);
    script(&disk.0);
    let reason = line.unit(pi)["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        reason.starts_with(&format!("writing {}: ", disk.0)) && reason.contains("No space left"),
        "{reason}"
    );
}
