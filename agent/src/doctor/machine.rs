//! The machine below the agent: power, Wi-Fi, journal, wear. Reads files; what a machine does not say is
//! left out or unknown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Finding;

pub(super) fn examine(root: &Path, findings: &mut Vec<Finding>) {
    findings.extend(power(root));
    findings.extend(wifi(root));
    findings.extend(journal(root));
    findings.extend(wear(root));
}

/// What a Pi's firmware complains of: bits of now, and 16 higher of any time since boot.
fn power(root: &Path) -> Option<Finding> {
    const CHECK: &str = "power";
    const COMPLAINTS: [(u32, &str); 4] = [
        (0, "under-voltage"),
        (1, "frequency capped"),
        (2, "throttled"),
        (3, "too hot"),
    ];
    let path = root.join("sys/devices/platform/soc/soc:firmware/get_throttled");
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    let Ok(bits) = u32::from_str_radix(text.trim_start_matches("0x"), 16) else {
        let text = format!("expected hex digits from the firmware, got {text:?}");
        return Some(Finding::unknown(CHECK, text, ""));
    };
    let said = |shift: u32| {
        let set = COMPLAINTS
            .iter()
            .filter(|(bit, _)| bits >> (bit + shift) & 1 == 1);
        set.map(|(_, what)| *what).collect::<Vec<_>>().join(", ")
    };
    let hint = "a stronger power supply and a shorter cable, or more air";
    Some(match (said(0), said(16)) {
        (now, _) if !now.is_empty() => Finding::failed(CHECK, format!("{now} now"), hint),
        (_, before) if !before.is_empty() => {
            Finding::warning(CHECK, format!("{before} since boot"), hint)
        }
        _ => Finding::ok(CHECK, "enough since boot"),
    })
}

/// Power save makes an idle link answer late, and some lose it altogether.
fn wifi(root: &Path) -> Vec<Finding> {
    const CHECK: &str = "wi-fi";
    let folder = root.join("sys/class/net");
    let interfaces = files(&folder)
        .into_iter()
        .filter(|path| path.join("wireless").exists() || path.join("phy80211").exists());
    let names = interfaces.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let judge = |name: String| {
        let said = Command::new("iw")
            .args(["dev", &name, "get", "power_save"])
            .output();
        match said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()) {
            Ok(said) if said.contains("Power save: on") => Finding::warning(
                CHECK,
                format!("{name} saves power, and may answer late"),
                &format!("`iw dev {name} set power_save off`"),
            ),
            Ok(said) if said.contains("Power save: off") => {
                Finding::ok(CHECK, format!("{name} does not save power"))
            }
            _ => Finding::unknown(
                CHECK,
                format!("whether {name} saves power"),
                "the package iw can tell",
            ),
        }
    };
    names.map(judge).collect()
}

/// Whether the journal outlives a restart.
fn journal(root: &Path) -> Option<Finding> {
    const CHECK: &str = "journal";
    let mut settings = Vec::new();
    for folder in ["usr/lib/systemd", "etc/systemd"] {
        settings.push(root.join(folder).join("journald.conf"));
        settings.extend(files(&root.join(folder).join("journald.conf.d")));
    }
    let texts: Vec<String> = settings
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    if texts.is_empty() && !root.join("run/systemd/journal").exists() {
        return None;
    }
    let lines = texts.iter().flat_map(|text| text.lines());
    let mut storage = lines.filter_map(|line| line.trim().strip_prefix("Storage="));
    let storage = storage.next_back().unwrap_or("auto");
    let is_kept = match storage {
        "persistent" => true,
        "auto" => root.join("var/log/journal").is_dir(),
        _ => false,
    };
    Some(match is_kept {
        true => Finding::ok(CHECK, "outlives a restart"),
        false => Finding::warning(
            CHECK,
            format!("ends at each restart (Storage={storage})"),
            "`mkdir -p /var/log/journal && systemctl restart systemd-journald`",
        ),
    })
}

/// How far an eMMC is used up: its own estimate in steps of 10 %, the worse of its two kinds of memory.
fn wear(root: &Path) -> Option<Finding> {
    const CHECK: &str = "disk wear";
    let hex = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let estimates = files(&root.join("sys/block"))
        .into_iter()
        .filter_map(|disk| {
            let text = fs::read_to_string(disk.join("device/life_time")).ok()?;
            let worst = text.split_whitespace().filter_map(hex).max()?;
            Some((disk.file_name()?.to_str()?.to_owned(), worst))
        });
    let (disk, worst) = estimates.max_by_key(|(_, worst)| *worst)?;
    let hint = "have a new one at hand; the robot is re-flashed with a token of its own";
    Some(match worst {
        11.. => Finding::failed(CHECK, format!("{disk} is used up"), hint),
        9 | 10 => Finding::warning(CHECK, format!("{disk} is used by {worst}0 %"), hint),
        // 0 is "not defined".
        0 => return None,
        _ => Finding::ok(CHECK, format!("{disk} is used by at most {worst}0 %")),
    })
}

/// A folder's entries in order; none of a folder that is not there.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<(&'static str, Verdict, String)> {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut findings = Vec::new();
        examine(folder.path(), &mut findings);
        let words = findings.into_iter();
        words
            .map(|found| (found.check, found.verdict, found.text))
            .collect()
    }

    #[test]
    fn a_machine_that_says_nothing_is_not_complained_of() {
        assert_eq!(found(&[]), []);
    }

    #[test]
    fn the_firmwares_bits_are_told_in_words() {
        let power = |text: &str| {
            let path = "sys/devices/platform/soc/soc:firmware/get_throttled";
            let (check, verdict, text) = found(&[(path, text)]).remove(0);
            assert_eq!(check, "power");
            (verdict, text)
        };
        for (bits, verdict, text) in [
            ("0\n", Verdict::Ok, "enough since boot"),
            (
                "50000\n",
                Verdict::Warning,
                "under-voltage, throttled since boot",
            ),
            ("0x50005", Verdict::Failed, "under-voltage, throttled now"),
            ("80008", Verdict::Failed, "too hot now"),
            (
                "soon",
                Verdict::Unknown,
                "expected hex digits from the firmware, got \"soon\"",
            ),
        ] {
            assert_eq!(power(bits), (verdict, text.to_owned()));
        }
    }

    #[test]
    fn a_journal_is_kept_by_its_folder_or_its_setting() {
        let journal = |files: &[(&str, &str)]| {
            let (_, verdict, text) = found(files).remove(0);
            (verdict, text)
        };
        let main = ("etc/systemd/journald.conf", "[Journal]\n#Storage=auto\n");
        let lost = (
            Verdict::Warning,
            "ends at each restart (Storage=auto)".to_owned(),
        );
        let kept = (Verdict::Ok, "outlives a restart".to_owned());
        assert_eq!(journal(&[main]), lost);
        assert_eq!(journal(&[main, ("var/log/journal/x", "")]), kept);
        let own = "etc/systemd/journald.conf.d/50-robot.conf";
        assert_eq!(
            journal(&[main, (own, "[Journal]\nStorage=persistent\n")]),
            kept
        );
        assert_eq!(
            journal(&[(own, "Storage=volatile\n"), ("var/log/journal/x", "")]),
            (
                Verdict::Warning,
                "ends at each restart (Storage=volatile)".to_owned()
            )
        );
    }

    #[test]
    fn wear_is_the_worst_that_a_disk_says_of_itself() {
        let wear = |text: &str| {
            let file = ("sys/block/mmcblk0/device/life_time", text);
            found(&[file]).into_iter().next()
        };
        let says = |verdict, text: &str| Some(("disk wear", verdict, text.to_owned()));
        assert_eq!(
            wear("0x01 0x03\n"),
            says(Verdict::Ok, "mmcblk0 is used by at most 30 %")
        );
        assert_eq!(
            wear("0x01 0x0a\n"),
            says(Verdict::Warning, "mmcblk0 is used by 100 %")
        );
        assert_eq!(
            wear("0x0b 0x01\n"),
            says(Verdict::Failed, "mmcblk0 is used up")
        );
        assert_eq!(wear("0x00 0x00\n"), None);
    }

    #[test]
    fn an_interface_that_nobody_can_ask_is_unknown() {
        let wireless = ("sys/class/net/wlan-none/wireless/x", "");
        let wired = ("sys/class/net/eth0/address", "");
        assert_eq!(
            found(&[wireless, wired]),
            [(
                "wi-fi",
                Verdict::Unknown,
                "whether wlan-none saves power".to_owned()
            )]
        );
    }
}
