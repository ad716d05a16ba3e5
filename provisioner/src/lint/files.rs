//! Rules about which files there are, and their bytes.

use super::{FILES, Report, Seed};

pub(super) fn check(seed: &Seed, report: &mut Report) {
    let has = |name: &str| seed.files.contains_key(name);
    let cloud = ["user-data", "meta-data", "network-config"];
    if !cloud.iter().any(|name| has(name)) && !has("firstrun.sh") {
        report.error(
            "missing-file",
            ("user-data", None),
            "neither user-data nor firstrun.sh is here: the system boots as it is, without a seed",
        );
        report.hint("give the folder where the boot partition is mounted");
    } else if cloud.iter().any(|name| has(name)) {
        for name in ["user-data", "meta-data"] {
            if !has(name) {
                report.error(
                    "missing-file",
                    (name, None),
                    "the file is missing, and cloud-init takes no seed without it",
                );
                report.hint("an empty file is enough");
            }
        }
        if !has("network-config") {
            report.warning(
                "missing-file",
                ("network-config", None),
                "the file is missing: the network is whatever the image says",
            );
            report.hint("an empty file says that this is meant");
        }
    }
    for name in FILES {
        let Some(bytes) = seed.files.get(name) else {
            continue;
        };
        if bytes.starts_with(b"\xef\xbb\xbf") {
            report.error(
                "byte-order-mark",
                (name, Some(1)),
                "the file begins with a byte order mark, so its first line is not what it looks like",
            );
            report.hint("save it as UTF-8 without a mark");
        }
        if let Err(error) = std::str::from_utf8(bytes) {
            let before = &bytes[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            report.error("utf-8", (name, Some(line)), "the file is not UTF-8");
            report.hint("save it as UTF-8 without a mark");
        }
        if let Some(at) = bytes.windows(2).position(|pair| pair == b"\r\n") {
            let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            let what = match name {
                "cmdline.txt" => "the kernel takes the carriage return for a part of the last word",
                "firstrun.sh" => "the shell takes the carriage returns for a part of each line",
                _ => "what is written to files and run by shells has carriage returns at its ends",
            };
            report.error(
                "line-ends",
                (name, Some(line)),
                format!("lines end as on Windows: {what}"),
            );
            report.hint("save it with Unix line ends");
        }
    }
    if let Some(bytes) = seed.files.get("user-data") {
        let first = bytes
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        let first = first.trim_start_matches('\u{feff}').trim_end();
        // What cloud-init tells kinds of user data by.
        let kinds = [
            "#cloud-config",
            "#!",
            "#include",
            "#cloud-boothook",
            "#part-handler",
            "## template:",
            "Content-Type:",
            "MIME-Version:",
            "#cloud-config-archive",
        ];
        if !bytes.is_empty() && !kinds.iter().any(|kind| first.starts_with(kind)) {
            report.error(
                "first-line",
                ("user-data", Some(1)),
                format!(
                    "expected #cloud-config on the first line, got {:?}: cloud-init ignores the whole file",
                    first.chars().take(40).collect::<String>()
                ),
            );
            report.hint("nothing may stand before it, no comment and no empty line");
        }
    }
    if let Some(bytes) = seed.files.get("firstrun.sh")
        && !bytes.starts_with(b"#!")
    {
        report.error(
            "first-line",
            ("firstrun.sh", Some(1)),
            "expected #!/bin/bash on the first line: systemd cannot run the script",
        );
    }
    if let Some(label) = &seed.label
        && !["bootfs", "system-boot"].contains(&label.as_str())
    {
        report.error(
            "label",
            ("user-data", None),
            format!(
                "expected a partition labelled bootfs (Raspberry Pi OS, Debian) or system-boot (Ubuntu), got {label:?}: cloud-init finds its seed by the label"
            ),
        );
        report.hint("fatlabel sets it");
    }
}
