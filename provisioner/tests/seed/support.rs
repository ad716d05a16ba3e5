//! The program, and what it needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) const TOKEN: &str = "lkt_abcdefghijklmnopqrstuvwxyz0123456789-_ABCDE";

/// `lekiwi-provisioner seed` into a folder, for a relay.
pub(crate) fn provisioner(out: &Path, token: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lekiwi-provisioner"))
        .args(["seed", "--relay-https", "https://relay.example:8443"])
        .args(["--relay-mqtt", "mqtts://relay.example:8883"])
        .args([
            "--ca-fingerprint",
            &format!("sha256:{}", "0f".repeat(32)),
            "--token-file",
        ])
        .arg(token)
        .arg("--out")
        .arg(out)
        .args(more)
        .output()
        .expect("the provisioner starts")
}

/// A file with a token.
pub(crate) fn token(folder: &Path) -> PathBuf {
    let path = folder.join("token");
    fs::write(&path, format!("{TOKEN}\n")).expect("writable");
    path
}

/// What a program said that failed.
pub(crate) fn failed(output: &Output) -> String {
    assert!(!output.status.success(), "it did not fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a tool, whose package is named where it is missing; what it said when it failed.
pub(crate) fn judge(command: &mut Command, package: &str) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .unwrap_or_else(|_| panic!("{program} is missing (hint: apt-get install -y {package})"));
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        Ok(())
    } else {
        Err(said)
    }
}
