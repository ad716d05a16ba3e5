//! Seeds as operating systems read them: golden folders, the judgement of the real tools, and the scripts run.

mod golden;
mod scripts;
mod support;

use std::fs;

use support::{TOKEN, failed, provisioner, token};

#[test]
fn bad_input_says_what_was_expected_and_writes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("bootfs");
    fs::create_dir(&out).expect("writable");
    let token = token(folder.path());
    let given = ["--os", "ubuntu-24.04", "--robot-id", "kiwi-01"];
    for (more, expected) in [
        (
            ["--org", "Größe"].as_slice(),
            "error: invalid value 'Größe' for '--org <NAME>': expected an organisation: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"Größe\"\n\nFor more information, try '--help'.\n",
        ),
        (
            &["--ssh-key", "/nonexistent.pub"],
            "error: /nonexistent.pub could not be read: No such file or directory (os error 2)\n",
        ),
        (
            &["--wifi", "a", "--wifi-country", "Deutschland"],
            "error: expected a country of two capital letters such as DE, got \"Deutschland\"\n",
        ),
        (
            &["--agent-deb", "/nonexistent.deb"],
            "error: cannot read /nonexistent.deb: No such file or directory (os error 2)\n",
        ),
    ] {
        let output = provisioner(&out, &token, &[&given, more].concat());
        assert_eq!(failed(&output), expected);
    }
    for (content, expected) in [
        (
            "topsecret",
            "error: expected an enrolment token that starts with lkt_ and has letters, digits, '-' and '_' only\n  (hint: make one with `lekiwi token create`)\n".to_owned(),
        ),
        (
            "{\"token\": \"topsecret\"}",
            format!("error: expected a token or the JSON of `lekiwi token create --json` in {}, got other JSON\n", token.display()),
        ),
    ] {
        fs::write(&token, content).expect("writable");
        assert_eq!(failed(&provisioner(&out, &token, &given)), expected);
    }
    assert_eq!(fs::read_dir(&out).expect("readable").count(), 0);
}

#[test]
fn a_card_without_a_command_line_is_no_raspberry_pi_os() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = provisioner(
        folder.path(),
        &token(folder.path()),
        &["--os", "raspios-trixie"],
    );
    assert_eq!(
        failed(&output),
        format!(
            "error: cannot edit {}: expected a cmdline.txt on the boot partition, found none\n  (hint: Raspberry Pi OS has one on its boot partition, labelled bootfs; --os says for which system the seed is)\n",
            folder.path().join("cmdline.txt").display()
        )
    );
    assert!(!folder.path().join("user-data").exists());
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = provisioner(
        folder.path(),
        &token(folder.path()),
        &["--os", "raspios-trixie", "--dry-run"],
    );
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let place = |name: &str| folder.path().join(name).display().to_string();
    assert_eq!(
        said,
        format!(
            "would write with secrets: {}\nwould write: {}\nwould write: {}\nwould write: {}\nwould edit: {}\n",
            place("user-data"),
            place("meta-data"),
            place("network-config"),
            place("lekiwi.json"),
            place("cmdline.txt")
        )
    );
    assert!(!folder.path().join("user-data").exists());
}

#[test]
fn the_relays_answer_is_a_token_file_too_and_says_when_it_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("bootfs");
    fs::create_dir(&out).expect("writable");
    let file = folder.path().join("token.json");
    let answer = serde_json::json!({
        "token": TOKEN,
        "info": {
            "id": "00000000-0000-4000-8000-000000000000",
            "created_at": "2026-01-01T00:00:00.000Z",
            "expires_at": "2126-01-02T00:00:00.000Z",
        },
    });
    fs::write(&file, answer.to_string()).expect("writable");
    let output = provisioner(&out, &file, &["--os", "debian"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let sidecar = fs::read_to_string(out.join("lekiwi.json")).expect("written");
    assert!(
        sidecar.contains("\"token_expires\": \"2126-01-02T00:00:00.000Z\""),
        "{sidecar}"
    );
    assert!(!sidecar.contains(TOKEN));
}
