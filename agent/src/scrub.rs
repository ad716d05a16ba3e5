//! Takes the seed's secrets out of an enrolled robot: the token, and passphrases of wireless networks, on the boot
//! partition and in cloud-init's copies. Called by `lekiwi-agent scrub`, which `lekiwi-scrub.service` runs as root.
//!
//! Each byte of a secret is overwritten where it lies, by `0`. Lengths and all other bytes stay, so at no moment is there
//! a file that is missing, half-written or another format's; the instance id stays, so cloud-init does not run anew. A
//! cut of power leaves secrets, or parts of them, that the next run finds again: tokens by their form, passphrases by
//! their key. The system's own root-only network settings keep theirs, for they are in use.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Files that are larger hold no seed: kernels, packages.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
const MASK: u8 = b'0';
/// A card that forgets what is written must not keep the robot busy; the next run goes on.
const MOST_PASSES: usize = 64;
/// What stands before a token's secret part, and stays.
const TOKEN: &[u8] = b"lkt_";
/// The shortest secret part that is one.
const TOKEN_BYTES: usize = 20;
/// The shortest passphrase that WPA knows, and the fewest bytes of one that are searched for.
const PASSPHRASE_BYTES: usize = 8;
const KEYS: &[&[u8]] = &[b"password", b"psk"];
/// Seeds: what stands behind a key in them is a secret.
const SEEDS: &[&str] = &[
    "user-data",
    "user-data.txt",
    "user-data.txt.i",
    "cloud-config.txt",
    "network-config",
    "network-config.json",
    "vendor-data",
    "firstrun.sh",
    "wpa_supplicant.conf",
    "custom.toml",
];

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In which files secrets were masked.
    pub masked: Vec<PathBuf>,
    /// Which files could not be read or written, and why.
    pub failed: Vec<String>,
}

/// Masks every secret below `root`, whose boot partition is at `boot`: again and again until none is found, since a text
/// without its quotes may show one that was none before.
#[must_use]
pub fn scrub(root: &Path, boot: &Path) -> Report {
    let (mut masked, mut failed) = (BTreeSet::new(), Vec::new());
    for _ in 0..MOST_PASSES {
        let found = mask_all(root, boot);
        failed = found.failed;
        if found.masked.is_empty() {
            break;
        }
        masked.extend(found.masked);
    }
    Report {
        masked: masked.into_iter().collect(),
        failed,
    }
}

fn mask_all(root: &Path, boot: &Path) -> Report {
    let mut report = Report::default();
    let mut secrets = BTreeSet::new();
    let mut files = Vec::new();
    // The boot partition's folders hold the firmware's own overlays.
    collect(boot, 0, &mut files, &mut report);
    for folder in ["var/lib/cloud", "run/cloud-init"] {
        collect(&root.join(folder), 8, &mut files, &mut report);
    }
    collect(&root.join("var/log"), 0, &mut files, &mut report);
    let log = root.join("var/log");
    files.retain(|path| {
        path.parent() != Some(&log)
            || name(path).starts_with("cloud-init") && name(path).ends_with(".log")
    });

    let mut settings = Vec::new();
    for folder in ["etc/netplan", "etc/NetworkManager/system-connections"] {
        collect(&root.join(folder), 0, &mut settings, &mut report);
    }
    for path in files.iter().filter(|path| is_seed(path)).chain(&settings) {
        if let Ok(bytes) = fs::read(path) {
            for range in values(&bytes) {
                spellings(&bytes[range], &mut secrets);
            }
        }
    }
    for path in files {
        match mask(&path, &secrets) {
            Ok(true) => report.masked.push(path),
            Ok(false) => {}
            Err(error) => report.failed.push(format!("{}: {error}", path.display())),
        }
    }
    report
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn is_seed(path: &Path) -> bool {
    SEEDS.contains(&name(path))
}

/// Regular files of a folder, and of folders in it down to `depth`. Links are not followed.
fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>, report: &mut Report) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            let failure = format!("{}: {error}", folder.display());
            report.failed.push(failure);
            return;
        }
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.symlink_metadata() {
            Ok(found) if found.is_file() && found.len() <= MAX_BYTES => files.push(path),
            Ok(found) if found.is_dir() && depth > 0 => collect(&path, depth - 1, files, report),
            _ => {}
        }
    }
}

/// Overwrites the secrets of one file; whether there were any.
fn mask(path: &Path, secrets: &BTreeSet<Vec<u8>>) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    let mut ranges = tokens(&bytes);
    if is_seed(path) {
        ranges.extend(values(&bytes));
    }
    for secret in secrets {
        ranges.extend(occurrences(&bytes, secret));
    }
    ranges.retain(|range| bytes[range.clone()].iter().any(|byte| *byte != MASK));
    if ranges.is_empty() {
        return Ok(false);
    }
    let file: File = OpenOptions::new().write(true).open(path)?;
    for range in ranges {
        file.write_all_at(&vec![MASK; range.len()], range.start as u64)?;
    }
    file.sync_all()?;
    Ok(true)
}

/// The secret part of each token, whole or half-masked.
fn tokens(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = position(&bytes[at..], TOKEN) {
        let start = at + offset + TOKEN.len();
        let letters = |byte: &&u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let length = bytes[start..].iter().take_while(letters).count();
        if length >= TOKEN_BYTES {
            found.push(start..start + length);
        }
        at = start + length;
    }
    found
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// What stands behind a key, without its quotes: in YAML, JSON, shell and key files.
fn values(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        for key in KEYS {
            let mut at = 0;
            while let Some(offset) = position(&line[at..], key) {
                let (before, after) = (at + offset, at + offset + key.len());
                at = after;
                let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
                if before > 0 && is_word(&line[before - 1]) {
                    continue;
                }
                if let Some(value) = value(line, before, after) {
                    at = at.max(value.end);
                    found.push(start + value.start..start + value.end);
                }
            }
        }
        start += line.len();
    }
    found
}

/// The value of the key that ends at `at`.
fn value(line: &[u8], key: usize, mut at: usize) -> Option<Range<usize>> {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    if line.get(at).is_some_and(|byte| b"\"'".contains(byte)) {
        at += 1;
    }
    at += line[at..].iter().take_while(|byte| blank(byte)).count();
    if !line.get(at).is_some_and(|byte| b":=".contains(byte)) {
        return None;
    }
    at += 1;
    at += line[at..].iter().take_while(|byte| blank(byte)).count();
    let quote = *line.get(at)?;
    // The shell's spelling of a value that begins with a quote.
    let spelled = line[at..].starts_with(b"'\\''");
    if (quote == b'"' || quote == b'\'') && !spelled {
        let start = at + 1;
        let mut end = start;
        while line.get(end).is_some_and(|byte| *byte != quote) {
            end += if quote == b'"' && line[end] == b'\\' {
                2
            } else {
                1
            };
        }
        // Two quotes are one in YAML.
        while quote == b'\'' && line.get(end + 1) == Some(&quote) {
            end += 2;
            end += line[end.min(line.len())..]
                .iter()
                .take_while(|byte| **byte != quote)
                .count();
        }
        return (end > start && end < line.len()).then_some(start..end);
    }
    let flow = line[..key].contains(&b'{');
    let ends = |byte: &&u8| !(b"\r\n".contains(byte) || flow && b",}".contains(byte));
    let length = line[at..].iter().take_while(ends).count();
    let trimmed = line[at..at + length].trim_ascii_end().len();
    (trimmed > 0).then_some(at..at + trimmed)
}

/// How one passphrase is written, where and by whomever.
fn spellings(found: &[u8], secrets: &mut BTreeSet<Vec<u8>>) {
    let Ok(text) = std::str::from_utf8(found) else {
        return;
    };
    if found.iter().all(|byte| *byte == MASK) {
        return;
    }
    let plain = [
        text.to_owned(),
        text.replace("\\\"", "\"").replace("\\\\", "\\"),
        text.replace("''", "'"),
        text.replace("'\\''", "'"),
        text.replace("\\s", " ").replace("\\\\", "\\"),
    ];
    for text in plain {
        for spelling in [
            text.replace('\\', "\\\\").replace('"', "\\\""),
            text.replace('\\', "\\\\").replace('\'', "\\'"),
            text.replace('\'', "''"),
            text.replace('\'', "'\\''"),
            text.replace('\\', "\\\\").replace(' ', "\\s"),
            text,
        ] {
            if spelling.len() >= PASSPHRASE_BYTES {
                secrets.insert(spelling.into_bytes());
            }
        }
    }
}

/// Where a passphrase stands, whole, or half-masked from one end. One that could be a host's or a user's name counts only
/// behind its key: a name that cloud-init sets at every boot must stay.
fn occurrences(bytes: &[u8], secret: &[u8]) -> Vec<Range<usize>> {
    let label = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let ambiguous = secret.len() < 32 && secret.iter().all(label);
    let masked = |bytes: &[u8]| bytes.iter().all(|byte| *byte == MASK);
    let mut found = Vec::new();
    for (start, window) in bytes.windows(secret.len()).enumerate() {
        if window[0] != secret[0] && window[0] != MASK {
            continue;
        }
        let pairs = || window.iter().zip(secret);
        let head = pairs().take_while(|(a, b)| a == b).count();
        let tail = pairs().rev().take_while(|(a, b)| a == b).count();
        let fits = head == secret.len()
            || head >= PASSPHRASE_BYTES && masked(&window[head..])
            || tail >= PASSPHRASE_BYTES && masked(&window[..window.len() - tail]);
        let before = &bytes[start.saturating_sub(24)..start];
        let keyed = || KEYS.iter().any(|key| position(before, key).is_some());
        if fits && (!ambiguous || keyed()) {
            found.push(start..start + secret.len());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for range in values(text.as_bytes()) {
            bytes[range].fill(MASK);
        }
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn what_stands_behind_a_key_is_found_in_every_language() {
        for (text, expected) in [
            (
                r#"  "a": {"password":"x \"y\""}"#,
                r#"  "a": {"password":"0000000"}"#,
            ),
            ("password: 'it''s'\n", "password: '00000'\n"),
            ("  password: two words \n", "  password: 000000000 \n"),
            ("a: {password: abc, b: c}", "a: {password: 000, b: c}"),
            ("psk=ab\\sc\npsk=d\n", "psk=00000\npsk=0\n"),
            ("\tpsk=\"a\"\r\n", "\tpsk=\"0\"\r\n"),
            ("lock_passwd: true", "lock_passwd: true"),
            ("no_password: abc", "no_password: abc"),
            ("password: \"never closed\n", "password: \"never closed\n"),
            ("password:\npassword: ''\n", "password:\npassword: ''\n"),
            ("key-mgmt=wpa-psk\n", "key-mgmt=wpa-psk\n"),
            ("password", "password"),
            ("psk='\\''a'\\''\n", "psk=000000000\n"),
            ("password: \"a\\", "password: \"a\\"),
        ] {
            assert_eq!(masked(text), expected);
            assert_eq!(masked(expected), expected);
        }
    }

    #[test]
    fn tokens_are_found_by_their_form_also_half_masked() {
        let token = "lkt_abcdefghijklmnopqrst";
        let half = "lkt_0000000000klmnopqrst";
        let text = format!("{token}' {half}\nlkt_short x{token}");
        let found: Vec<&str> = tokens(text.as_bytes())
            .into_iter()
            .map(|range| &text[range])
            .collect();
        assert_eq!(
            found,
            [
                "abcdefghijklmnopqrst",
                "0000000000klmnopqrst",
                "abcdefghijklmnopqrst"
            ]
        );
    }

    #[test]
    fn a_passphrase_that_could_be_a_name_counts_only_behind_its_key() {
        let count =
            |text: &str, secret: &str| occurrences(text.as_bytes(), secret.as_bytes()).len();
        assert_eq!(count("hostname: raspberrypi", "raspberrypi"), 0);
        assert_eq!(
            count("\u{8}password\u{94}\u{b}raspberrypi", "raspberrypi"),
            1
        );
        assert_eq!(
            count("x Correct horse battery y", "Correct horse battery"),
            1
        );
        assert_eq!(
            count("x Correct horse 0000000 y", "Correct horse battery"),
            1
        );
        assert_eq!(
            count("x 0000000 horse battery y", "Correct horse battery"),
            1
        );
        assert_eq!(
            count("x Correct horse battles y", "Correct horse battery"),
            0
        );
    }
}
