//! `lekiwi keys …` as a person and a program run it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Canned, JSON, Relay, SESSION, check, lekiwi, login};

const ID: &str = "5c0f1d9e-7d51-4a56-9e0b-3d1f6a2b8c47";
const OLD: &str = "lka_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwdLsG-O";
const NEW: &str = "lka_CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg_eR1z";

fn relay(line: &str) -> Canned {
    match line {
        "POST /api/v1/session" => SESSION,
        "GET /api/v1/keys" | "GET /api/v1/people/bob%2Bx/keys" => (
            200,
            JSON,
            r#"{"keys":[{"id":"5c0f1d9e-7d51-4a56-9e0b-3d1f6a2b8c47","name":"ci","note":"nightly","owner":"ada",
                "permissions":["read","stop"],"on":"group:yard","created_at":"2026-11-20T12:00:00.000Z",
                "expires_at":"2126-11-21T12:00:00.000Z","used_at":"2026-11-21T12:00:00.000Z"}]}"#,
        ),
        "POST /api/v1/keys" | "POST /api/v1/keys/5c0f1d9e-7d51-4a56-9e0b-3d1f6a2b8c47/rotate" => (
            200,
            JSON,
            r#"{"key":"lka_CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg_eR1z","info":{"id":"5c0f1d9e-7d51-4a56-9e0b-3d1f6a2b8c47",
                "name":"ci","owner":"ada","permissions":["read"],"on":"fleet","created_at":"2026-11-20T12:00:00.000Z",
                "expires_at":"2126-11-21T12:00:00.000Z","old_until":"2026-11-22T12:00:00.000Z"}}"#,
        ),
        "GET /api/v1/me" => (
            200,
            JSON,
            r#"{"name":"ada","has_second_factor":false,"recovery_codes":0,"rights":[{"permissions":["read"],"on":"fleet","by":"a key"}],
                "key":{"id":"5c0f1d9e-7d51-4a56-9e0b-3d1f6a2b8c47","name":"ci","owner":"ada","permissions":["read"],"on":"fleet",
                "created_at":"2026-11-20T12:00:00.000Z","expires_at":"2126-11-21T12:00:00.000Z"}}"#,
        ),
        _ => (204, JSON, ""),
    }
}

/// The same of a relay that stops once it was asked who the old secret is of.
fn forgetful(line: &str) -> Canned {
    static ASKED: AtomicBool = AtomicBool::new(false);
    match line {
        "GET /api/v1/me" if ASKED.swap(true, Ordering::Relaxed) => (
            503,
            "application/problem+json",
            r#"{"type":"urn:lekiwi:problem:stopping","title":"Relay is stopping","status":503}"#,
        ),
        other => relay(other),
    }
}

fn with(home: &Path, relay: &Relay, key: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lekiwi"));
    command
        .env_clear()
        .env("XDG_CONFIG_HOME", home)
        .env("LEKIWI_URL", &relay.url)
        .env("LEKIWI_CA_FINGERPRINT", &relay.fingerprint)
        .env("LEKIWI_KEY", key)
        .stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the last request that begins so has shown.
fn shown(relay: &Relay, line: &str) -> String {
    let requests = relay.requests();
    let asked = requests.iter().rev().find(|it| it.starts_with(line));
    let mut lines = asked.unwrap().lines();
    let bearer = lines.find_map(|line| line.strip_prefix("authorization: Bearer "));
    bearer.unwrap().to_owned()
}

#[test]
fn a_person_makes_lists_and_revokes_keys() {
    let relay = Relay::start(relay);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    login(home, &relay);
    let run = |line: &str| lekiwi(home, &line.split(' ').collect::<Vec<_>>(), "");

    let row = text(&run("keys --of bob+x"));
    let cells: Vec<_> = row.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(
        cells[..5],
        [ID, "ci", "read,", "stop", "group:yard"],
        "{row}"
    );
    assert_eq!(
        cells[5..],
        [
            "2126-11-21T12:00:00.000Z",
            "2026-11-21T12:00:00.000Z",
            "nightly"
        ]
    );
    check(
        &run("keys create ci --may read,stop --on robot:kiwi-01 --for 30d"),
        0,
        &format!("{NEW}\n"),
        &format!(
            "works until 2126-11-21T12:00:00.000Z; shown only now (revoke it with `lekiwi keys revoke {ID}`)\n\
             the one before works until 2026-11-22T12:00:00.000Z\n"
        ),
    );
    let asked = relay.requests().pop().unwrap();
    assert!(
        asked.ends_with(r#"{"name":"ci","permissions":["read","stop"],"on":"robot:kiwi-01","lifetime_s":2592000}"#),
        "{asked}"
    );
    check(
        &run(&format!("keys revoke {ID}")),
        0,
        &format!("revoked {ID}\n"),
        "",
    );
    let wrong = run("keys create ci --may read,fly");
    assert_eq!(wrong.status.code(), Some(2));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        said.starts_with(
            "error: invalid value 'fly' for '--may <PERMISSIONS>': expected some of read, stop, "
        ),
        "{said}"
    );
}

#[test]
fn a_program_needs_no_session() {
    let relay = Relay::start(relay);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let file = home.join("key");
    std::fs::write(&file, format!("{OLD}\n")).unwrap();
    for key in [OLD.to_owned(), format!("@{}", file.display())] {
        let listed = with(home, &relay, &key).arg("keys").output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        assert_eq!(shown(&relay, "GET /api/v1/keys"), OLD);
    }
    let refused = with(home, &relay, "session-1")
        .arg("keys")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "error: expected an API key, lka_…, got another text\n  (hint: `lekiwi keys create` makes one)\n"
    );

    // Or logged in by it.
    let path = file.to_str().unwrap();
    let login = [
        "login",
        &relay.url,
        "--key-file",
        path,
        "--ca-fingerprint",
        &relay.fingerprint,
    ];
    let out = format!(
        "logged in to {}/ by key ci of ada until 2126-11-21T12:00:00.000Z\n",
        relay.url
    );
    check(&lekiwi(home, &login, ""), 0, &out, "");
    assert!(lekiwi(home, &["keys"], "").status.success());
    assert_eq!(shown(&relay, "GET /api/v1/keys"), OLD);
    let out = format!(
        "forgot the key of {}/; it works until it ends or is revoked\n",
        relay.url
    );
    check(&lekiwi(home, &["logout"], ""), 0, &out, "");
    assert!(!relay.requests().iter().any(|it| it.starts_with("DELETE")));
}

#[test]
fn a_key_file_is_replaced_once_the_new_one_works() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let file = home.join("key");
    std::fs::write(&file, OLD).unwrap();
    let rotate = |relay: &Relay, more: &[&str]| {
        let mut command = with(home, relay, OLD);
        command
            .args(["keys", "rotate", "--write"])
            .arg(&file)
            .args(more);
        command
    };
    // Whether the new one works cannot be asked: the file has one that does.
    let away = Relay::start(forgetful);
    let failed = rotate(&away, &[]).output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), OLD);
    let asked = away.requests();
    assert!(asked.iter().any(|it| it.contains("/rotate")), "{asked:?}");

    let relay = Relay::start(relay);
    let rotated = rotate(&relay, &["--overlap", "1h"]).output().unwrap();
    let out = format!(
        "{} has another secret of {ID} ci; it ends 2126-11-21T12:00:00.000Z\n",
        file.display()
    );
    check(&rotated, 0, &out, "");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{NEW}\n"));
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let rotation = format!("POST /api/v1/keys/{ID}/rotate");
    assert_eq!(shown(&relay, &rotation), OLD);
    assert_eq!(shown(&relay, "GET /api/v1/me"), NEW);
    let asked = relay.requests();
    assert!(asked.iter().any(|it| it.ends_with(r#"{"overlap_s":3600}"#)));

    // And again and again, each time by the one in the file.
    let mut service = rotate(&relay, &["--every", "1s"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let rotations = || {
        let requests = relay.requests();
        requests
            .iter()
            .filter(|it| it.starts_with(&rotation))
            .count()
    };
    while rotations() < 3 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    service.kill().unwrap();
    service.wait().unwrap();
    assert!(rotations() >= 3, "{} rotations", rotations());
    assert_eq!(shown(&relay, &rotation), NEW);
}
