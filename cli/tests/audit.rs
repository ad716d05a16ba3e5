//! `lekiwi audit …` as a person runs it: exports are checked without the relay that made them.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::sync::OnceLock;

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{AuditEntry, AuditPage};
use lekiwi_protocol::audit::{Mark, START, checkpoint, hash, public_key};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use support::{Canned, JSON, Relay, SESSION, check, lekiwi, login};

fn entries() -> Vec<AuditEntry> {
    let mut previous = START;
    let made = (1..=4).map(|number| {
        let mut entry = AuditEntry {
            number,
            at: Timestamp::from_ms(1_795_233_120_000 + number),
            who: "person:ada".into(),
            address: "192.0.2.7".into(),
            action: "robot-command".into(),
            on: "robots/kiwi-01/commands".into(),
            outcome: "done".into(),
            trace: String::new(),
            detail: BTreeMap::from([("op".into(), "re\u{1b}boot".into())]),
            hash: String::new(),
        };
        previous = hash(&previous, &entry);
        entry.hash = hex::encode(previous);
        entry
    });
    made.collect()
}

/// What the relay signs of the first so many entries, with the key of this seed.
fn signed(entries: &[AuditEntry], seed: u8) -> String {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let last = entries.last().unwrap();
    let mark = Mark {
        number: last.number,
        hash: last.hash.clone(),
        at: last.at,
    };
    let key = public_key(pair.public_key().as_ref().try_into().unwrap());
    let sign = |bytes: &[u8]| pair.sign(bytes).as_ref().try_into().unwrap();
    serde_json::to_string(&checkpoint(&mark, &key, sign)).unwrap()
}

fn key(seed: u8) -> String {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    public_key(pair.public_key().as_ref().try_into().unwrap()).to_string()
}

/// The relay has all four entries; its checkpoint is of the first three.
fn relay(line: &str) -> Canned {
    static PAGES: OnceLock<[String; 2]> = OnceLock::new();
    static CHECKPOINT: OnceLock<String> = OnceLock::new();
    let pages = PAGES.get_or_init(|| {
        let entries = entries();
        let page = |entries: &[AuditEntry], next_after| {
            let entries = entries.to_vec();
            serde_json::to_string(&AuditPage {
                entries,
                next_after,
            })
            .unwrap()
        };
        [page(&entries[..2], Some(2)), page(&entries[2..], None)]
    });
    match line {
        "POST /api/v1/session" => SESSION,
        "GET /api/v1/audit?after=0&limit=1000" => (200, JSON, &pages[0]),
        "GET /api/v1/audit?after=2&limit=1000" => (200, JSON, &pages[1]),
        "GET /api/v1/audit?who=person%3Aada&robot=kiwi-01&limit=50" => (200, JSON, &pages[1]),
        "GET /api/v1/audit/checkpoint" => {
            let text = CHECKPOINT.get_or_init(|| signed(&entries()[..3], 7));
            (200, JSON, text)
        }
        _ => (404, JSON, "{}"),
    }
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn an_export_is_checked_offline_and_every_change_of_it_is_found() {
    let relay = Relay::start(relay);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    login(home, &relay);
    let run = |arguments: &[&str]| said(&lekiwi(home, arguments, ""));
    let (code, shown, _) = run(&["audit", "--who", "person:ada", "--robot", "kiwi-01"]);
    assert_eq!(code, 0);
    assert_eq!(
        shown.lines().next().unwrap(),
        "3 2026-11-21T03:52:00.003Z person:ada robot-command robots/kiwi-01/commands done op=re\\u{1b}boot"
    );
    let export = home.join("audit.ndjson");
    let file = export.to_str().unwrap();
    let (code, shown, error) = run(&["audit", "export", file]);
    assert_eq!((code, error.as_str()), (0, ""));
    let ours = key(7);
    assert_eq!(shown, format!("{file}: entries 1 to 3, signed by {ours}\n"));
    let whole = format!("{file}: entries 1 to 3 are whole\n");
    // Without the relay: it is asked nothing.
    let asked = relay.requests().len();
    let arguments = ["audit", "verify", file, "--key", &ours];
    check(&lekiwi(home, &arguments, ""), 0, &whole, "");
    assert_eq!(relay.requests().len(), asked);
    let (code, _, error) = run(&["audit", "verify", file, "--key", &key(8)]);
    assert_eq!(code, 1);
    assert!(error.contains("expected a checkpoint of key"), "{error}");
    let (code, shown, error) = run(&["audit", "verify", "--since", file]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(shown.ends_with("entries 1 to 4 are whole\n"), "{shown}");

    let text = std::fs::read_to_string(&export).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    let refused = |lines: &[&str], expected: &str| {
        let path: &Path = &home.join("changed.ndjson");
        std::fs::write(path, lines.join("\n")).unwrap();
        let (code, _, error) = run(&["audit", "verify", path.to_str().unwrap()]);
        assert_eq!(code, 1, "{lines:?}");
        assert!(error.contains(expected), "{error}");
    };
    let changed = lines[1].replace("person:ada", "person:bob");
    let broken = "the audit is not whole: expected entry 2";
    refused(&[lines[0], &changed, lines[2], lines[3]], broken);
    refused(&[lines[0], lines[2], lines[3]], broken);
    refused(&[lines[1], lines[2], lines[3]], "got it from entry 2");
    refused(
        &[lines[0], lines[1], lines[3]],
        "expected the audit up to entry 3, which a checkpoint speaks of, got it up to 2",
    );
    refused(&lines[..3], "expected a checkpoint in line 3");
    let forged = lines[3].replace("\\\"number\\\":3", "\\\"number\\\":2");
    refused(&[lines[0], lines[1], &forged], "over exactly this document");
    // An earlier export of another relay.
    let other = signed(&entries()[..2], 9);
    let since = home.join("since.ndjson");
    std::fs::write(&since, other).unwrap();
    let since = since.to_str().unwrap();
    let (code, _, error) = run(&["audit", "verify", file, "--since", since, "--key", &ours]);
    assert_eq!(code, 1);
    assert!(error.contains("expected a checkpoint of key"), "{error}");
}
