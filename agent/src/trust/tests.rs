#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use lekiwi_protocol::signed::Proof;
use lekiwi_protocol::signed::minisign::{KeyId, PublicKey, sign};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn pair() -> (Ed25519KeyPair, PublicKey) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let key = pair.public_key().as_ref().try_into().unwrap();
    let id = KeyId([1; 8]);
    (pair, PublicKey { id, key })
}

fn signed(document: &Value) -> Signed {
    let document = document.to_string();
    let (pair, key) = pair();
    let signature = sign(document.as_bytes(), key.id, "", |bytes| {
        pair.sign(bytes).as_ref().try_into().unwrap()
    });
    Signed {
        document,
        signatures: vec![signature],
    }
}

fn root() -> Signed {
    let keys = json!({ "keys": [pair().1], "threshold": 1 });
    signed(&json!({
        "role": "root", "version": 1, "expires": "2030-01-01T00:00:00.000Z",
        "roles": { "root": keys, "configuration": keys },
    }))
}

fn desired(version: u64) -> Desired {
    let statement = signed(&json!({
        "role": "configuration", "version": version, "expires": "2029-01-01T00:00:00.000Z",
        "robots": "*", "settings": { "heartbeat_s": version },
    }));
    let desired = json!({
        "version": 1, "settings": { "heartbeat_s": version }, "by": "admin",
        "issued_at": "2026-11-21T12:00:00.000Z", "proof": Proof { roots: Vec::new(), statement },
    });
    serde_json::from_value(desired).unwrap()
}

struct Place {
    _folder: TempDir,
    pinned: std::path::PathBuf,
    state_dir: std::path::PathBuf,
}

impl Place {
    fn new(pinned: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Self {
            pinned: folder.path().join("pinned.json"),
            state_dir: folder.path().join("state"),
            _folder: folder,
        };
        fs::create_dir(&place.state_dir).unwrap();
        if let Some(text) = pinned {
            fs::write(&place.pinned, text).unwrap();
        }
        place
    }

    fn with_root() -> Self {
        Self::new(Some(&json!([root()]).to_string()))
    }

    fn open(&self) -> Anchor {
        Anchor::open(&self.pinned, &self.state_dir, None)
    }
}

fn check(anchor: &mut Anchor, desired: &Desired) -> Result<(), Refused> {
    let now = "2026-11-22T00:00:00.000Z".parse().unwrap();
    anchor.check(now, &RobotId::new("kiwi-01").unwrap(), desired)
}

fn unbelieved(outcome: Result<(), Refused>) -> String {
    match outcome {
        Err(Refused::Unbelieved(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_root_the_relay_is_believed() {
    let place = Place::new(None);
    let unsigned = Desired {
        proof: None,
        ..desired(1)
    };
    assert_eq!(check(&mut place.open(), &unsigned), Ok(()));
    assert!(!place.state_dir.join(FILE).exists());
}

#[test]
fn with_a_root_only_its_keys_are_and_what_was_seen_is_on_the_disk_first() {
    let place = Place::with_root();
    let mut anchor = place.open();
    let unsigned = Desired {
        proof: None,
        ..desired(1)
    };
    let refused = unbelieved(check(&mut anchor, &unsigned));
    assert!(
        refused.starts_with("expected a signed configuration"),
        "{refused}"
    );
    assert_eq!(check(&mut anchor, &desired(7)), Ok(()));
    // Whenever the power goes from here on.
    let refused = unbelieved(check(&mut place.open(), &desired(6)));
    let expected = "expected version 7 for configuration or a later one, got 6";
    assert_eq!(refused, expected);
}

#[test]
fn what_the_disk_does_not_take_has_not_been_seen() {
    let place = Place::with_root();
    let mut anchor = place.open();
    fs::remove_dir(&place.state_dir).unwrap();
    for _ in 0..2 {
        let outcome = check(&mut anchor, &desired(7));
        assert!(matches!(outcome, Err(Refused::Unkept(_))), "{outcome:?}");
    }
    fs::create_dir(&place.state_dir).unwrap();
    assert_eq!(check(&mut anchor, &desired(7)), Ok(()));
}

#[test]
fn what_cannot_be_read_lets_nobody_be_believed() {
    for (pinned, kept) in [
        ("", None),
        ("[]", None),
        ("{}", None),
        (&*json!([root()]).to_string(), Some("{")),
    ] {
        let place = Place::new(Some(pinned));
        if let Some(kept) = kept {
            fs::write(place.state_dir.join(FILE), kept).unwrap();
        }
        let refused = unbelieved(check(&mut place.open(), &desired(7)));
        assert!(
            refused.starts_with("expected a root of trust in /"),
            "{refused}"
        );
    }
}
