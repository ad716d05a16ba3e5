//! Each rule of the linter on a seed that breaks it and on one that almost does. A case is a folder below `tests/lint`:
//! the files of `bad` and `good` replace those of `base`, `without` names files that are missing, `label` the partition.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lekiwi_protocol::Timestamp;
use lekiwi_provisioner::lint::{FILES, Seed, lint};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lint")
}

fn overlay(seed: &mut Seed, folder: &Path) {
    for name in FILES {
        if let Ok(bytes) = fs::read(folder.join(name)) {
            seed.files.insert(name.to_owned(), bytes);
        }
    }
    for name in fs::read_to_string(folder.join("without"))
        .unwrap_or_default()
        .lines()
    {
        seed.files.remove(name).expect("a file of the base");
    }
    seed.label = fs::read_to_string(folder.join("label")).ok();
}

fn findings(folders: &[&Path]) -> String {
    let mut seed = Seed::default();
    for folder in folders {
        overlay(&mut seed, folder);
    }
    let now: Timestamp = "2026-01-01T00:00:00.000Z".parse().expect("a time");
    lint(&seed, now)
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect()
}

#[test]
fn each_rule_says_what_breaks_and_is_silent_otherwise() {
    let base = folder().join("base");
    let mut cases = 0;
    let mut wrong = String::new();
    for entry in fs::read_dir(folder()).expect("readable") {
        let case = entry.expect("readable").path();
        let Ok(expected) = fs::read_to_string(case.join("expected")) else {
            continue;
        };
        cases += 1;
        let name = case.file_name().expect("a name").display().to_string();
        let bad = findings(&[&base, &case.join("bad")]);
        if bad != expected {
            wrong += &format!("{name}/bad\n  expected\n{expected}  got\n{bad}\n");
        }
        let good = findings(&[&base, &case.join("good")]);
        if !good.is_empty() {
            wrong += &format!("{name}/good\n  expected nothing, got\n{good}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(cases >= 35, "{cases} cases were found");
}

#[test]
fn the_base_and_what_the_raspberry_pi_imager_writes_are_right() {
    assert_eq!(findings(&[&folder().join("base")]), "");
    assert_eq!(findings(&[&folder().join("rpi-imager")]), "");
}

#[test]
fn the_program_fails_on_errors_and_only_then() {
    let run = |path: &Path, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lekiwi-provisioner"))
            .arg("lint")
            .arg(path)
            .args(more)
            .output()
            .expect("the provisioner starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let base = folder().join("base");
    assert_eq!(
        run(&base, &[]),
        (Some(0), "nothing found\n".to_owned(), String::new())
    );
    let (code, out, err) = run(&base, &["--label", "BOOT", "--json"]);
    let object: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(object["findings"][0]["rule"], "label");
    assert_eq!(object["findings"][0]["severity"], "error");
    assert_eq!(object["errors"], 1);
    assert_eq!(code, Some(1));
    assert_eq!(
        err,
        format!("error: {} has 1 errors and 0 warnings\n", base.display())
    );
    assert_eq!(
        run(Path::new("/nonexistent"), &[]).2,
        "error: expected a folder such as a card's mounted boot partition, got /nonexistent\n"
    );
}
