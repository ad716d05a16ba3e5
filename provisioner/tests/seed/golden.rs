//! Each system's seed, byte for byte, and what the systems' own tools say to it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{judge, provisioner, token};

/// As Raspberry Pi OS ships it.
const STOCK: &str = "console=serial0,115200 console=tty1 root=PARTUUID=0e1c1c3a-02 rootfstype=ext4 fsck.repair=yes rootwait resize\n";

#[test]
fn trixie() {
    both("raspios-trixie");
}

#[test]
fn bookworm() {
    both("raspios-bookworm");
}

#[test]
fn ubuntu() {
    both("ubuntu-24.04");
}

#[test]
fn debian() {
    both("debian");
}

fn both(os: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("writable");
        path.to_str().expect("UTF-8").to_owned()
    };
    let key = file(
        "key.pub",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample o'perator\n",
    );
    let hash = file(
        "hash",
        "$6$saltsalt$aVeryLongHashOfSomething./ABCDEFGHIJKLMNOPQRSTUVWXYZ\n",
    );
    let password = file("wifi", "correct horse 'battery' $staple\n");
    let deb = file("lekiwi-agent_0.1.0_arm64.deb", "a package");
    check(
        os,
        "given-dhcp",
        &[
            "--robot-id",
            "kiwi-01",
            "--profile",
            "lekiwi",
            "--ssh-key",
            &key,
            "--agent-deb",
            &deb,
        ],
    );
    check(
        os,
        "serial-wifi-static",
        &[
            "--prefix",
            "kiwi",
            "--user",
            "operator",
            "--ssh-key",
            &key,
            "--password-hash-file",
            &hash,
            "--wifi",
            "Werkstatt \"7\"",
            "--wifi-password-file",
            &password,
            "--wifi-country",
            "DE",
            "--address",
            "192.168.7.20/24",
            "--gateway",
            "192.168.7.1",
            "--dns",
            "192.168.7.1",
            "--dns",
            "fd00::1",
            "--time-zone",
            "Europe/Berlin",
            "--locale",
            "de_DE.UTF-8",
            "--keyboard",
            "de",
        ],
    );
}

fn check(os: &str, case: &str, options: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("bootfs");
    fs::create_dir(&out).expect("writable");
    if os.starts_with("raspios") {
        fs::write(out.join("cmdline.txt"), STOCK).expect("writable");
    }
    let output = provisioner(
        &out,
        &token(folder.path()),
        &[&["--os", os], options].concat(),
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(os)
        .join(case);
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    if update {
        let _ = fs::remove_dir_all(&golden);
        fs::create_dir_all(&golden).expect("writable");
    }
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).expect("a folder (hint: UPDATE_GOLDEN=1 writes it)");
        let mut names: Vec<String> = entries
            .map(|entry| {
                let name = entry.expect("readable").file_name();
                name.into_string().expect("UTF-8")
            })
            .collect();
        names.sort();
        names
    };
    for name in names(&out) {
        let actual = fs::read_to_string(out.join(&name)).expect("written");
        if update {
            fs::write(golden.join(&name), &actual).expect("writable");
        }
        let expected = fs::read_to_string(golden.join(&name)).unwrap_or_default();
        assert_eq!(
            actual, expected,
            "{os}/{case}/{name} (hint: UPDATE_GOLDEN=1 cargo test -p lekiwi-provisioner)"
        );
    }
    assert_eq!(names(&out), names(&golden));
    judged(&out);
    let linted = Command::new(env!("CARGO_BIN_EXE_lekiwi-provisioner"))
        .arg("lint")
        .arg(&out)
        .output()
        .expect("the provisioner starts");
    assert_eq!(String::from_utf8_lossy(&linted.stdout), "nothing found\n");
    assert!(linted.status.success());
}

fn judged(out: &Path) {
    if out.join("firstrun.sh").exists() {
        let script = out.join("firstrun.sh");
        judge(Command::new("bash").arg("-n").arg(&script), "bash").expect("bash takes it");
        shellcheck(&script);
        return;
    }
    let user_data = out.join("user-data");
    let schema = |more: &[&str], file: &Path| {
        judge(
            Command::new("cloud-init")
                .arg("schema")
                .args(more)
                .arg("--config-file")
                .arg(file),
            "cloud-init",
        )
    };
    schema(&[], &user_data).expect("cloud-init takes the user data");
    // Releases before 23.4 judge user data only; netplan below judges the network by itself.
    let network = out.join("network-config");
    if let Err(said) = schema(&["--schema-type", "network-config"], &network) {
        assert!(
            said.contains("unrecognized arguments: --schema-type"),
            "{said}"
        );
    }
    netplan(&network);
    let text = fs::read_to_string(&user_data).expect("written");
    let parsed: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
    let script = out.join("bootcmd.sh");
    let command = parsed["bootcmd"][0][2].as_str().expect("a script");
    fs::write(&script, format!("#!/bin/sh\n{command}")).expect("writable");
    shellcheck(&script);
    fs::remove_file(&script).expect("there");
}

fn shellcheck(script: &Path) {
    judge(
        // Single quotes protect values, and what looks like a variable in one is none.
        Command::new("shellcheck")
            .args(["--exclude", "SC2016"])
            .arg(script),
        "shellcheck",
    )
    .expect("shellcheck finds nothing");
}

/// netplan reads what cloud-init hands on to it.
fn netplan(config: &Path) {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("etc/netplan");
    fs::create_dir_all(&folder).expect("writable");
    let text = fs::read_to_string(config).expect("written");
    let lines: String = text.lines().map(|line| format!("  {line}\n")).collect();
    let file = folder.join("50-cloud-init.yaml");
    fs::write(&file, format!("network:\n{lines}")).expect("writable");
    judge(
        Command::new("netplan")
            .args(["generate", "--root-dir"])
            .arg(root.path()),
        "netplan.io",
    )
    .expect("netplan takes the network");
    let made = root.path().join("run/systemd/network");
    assert!(
        fs::read_dir(&made).is_ok_and(|entries| entries.count() > 0),
        "netplan made nothing of {text}"
    );
}
