#![expect(clippy::unwrap_used, reason = "tests")]

use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use webpki::ring::ED25519;

use super::*;
use crate::signed::Configuration;
use crate::signed::minisign::{KeyId, sign};

fn pair(number: u8) -> (Ed25519KeyPair, PublicKey) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
    let key = pair.public_key().as_ref().try_into().unwrap();
    let id = KeyId([number; 8]);
    (pair, PublicKey { id, key })
}

fn key(number: u8) -> String {
    pair(number).1.to_string()
}

fn signed(document: &Value, signers: &[u8]) -> Signed {
    let document = document.to_string();
    let sign = |number: &u8| {
        let (pair, key) = pair(*number);
        sign(document.as_bytes(), key.id, "", |bytes| {
            pair.sign(bytes).as_ref().try_into().unwrap()
        })
    };
    Signed {
        signatures: signers.iter().map(sign).collect(),
        document,
    }
}

fn root(version: u64, threshold: u8, keys: &[u8]) -> Value {
    let keys: Vec<_> = keys.iter().copied().map(key).collect();
    json!({
        "role": "root", "version": version, "expires": "2030-01-01T00:00:00.000Z",
        "roles": {
            "root": { "keys": keys, "threshold": threshold },
            "configuration": { "keys": [key(9)], "threshold": 1 },
        },
    })
}

fn pinned(roots: &[Signed]) -> Result<u64, String> {
    let root = Root::pinned(roots, ED25519).map_err(|error| error.to_string())?;
    Ok(root.version)
}

#[test]
fn roots_follow_one_another() {
    let first = signed(&root(1, 2, &[1, 2, 3]), &[1, 3]);
    // Two of the old keys and two of the new.
    let second = signed(&root(2, 2, &[3, 4, 5]), &[2, 3, 4]);
    let third = signed(&root(3, 1, &[6]), &[4, 5, 6]);
    assert_eq!(pinned(&[first.clone(), second.clone(), third]), Ok(3));
    for (next, expected) in [
        (
            signed(&root(2, 2, &[3, 4, 5]), &[3, 4, 5]),
            "expected signatures of 2 keys of root 1 for root, got 1",
        ),
        (
            signed(&root(2, 2, &[3, 4, 5]), &[1, 2, 4]),
            "expected signatures of 2 keys of root 2 for root, got 1",
        ),
        (
            signed(&root(3, 2, &[3, 4, 5]), &[1, 2, 3, 4]),
            "expected root 2, got 3",
        ),
        (
            signed(&root(1, 2, &[3, 4, 5]), &[1, 2, 3, 4]),
            "expected root 2, got 1",
        ),
    ] {
        assert_eq!(
            pinned(&[first.clone(), next]),
            Err(expected.to_owned()),
            "after {first:?}"
        );
    }
    assert_eq!(
        pinned(&[second]),
        Ok(2),
        "a row begins wherever its owner says"
    );
    assert_eq!(pinned(&[]), Err("expected a root, got none".to_owned()));
}

#[test]
fn a_key_signs_once_however_often_it_does() {
    let one = signed(&root(1, 2, &[1, 2]), &[1, 1]);
    let expected = "expected signatures of 2 keys of root 1 for root, got 1";
    assert_eq!(pinned(&[one]), Err(expected.to_owned()));
    let mut foreign = signed(&root(1, 2, &[1, 2]), &[1, 7, 8]);
    assert_eq!(pinned(&[foreign.clone()]), Err(expected.to_owned()));
    let whole = signed(&root(1, 2, &[1, 2]), &[2]);
    foreign.signatures.extend(whole.signatures);
    assert_eq!(pinned(&[foreign]), Ok(1), "those of others harm nothing");
}

#[test]
fn a_root_that_cannot_be_is_refused() {
    let changed = |change: fn(&mut Value)| {
        let mut root = root(1, 1, &[1]);
        change(&mut root);
        let signed = signed(&root, &[1]);
        pinned(&[signed]).unwrap_err()
    };
    let of_root = "expected a document for root: ";
    for (refused, expected) in [
        (
            changed(|root| root["version"] = 0.into()),
            "expected a version from 1, got 0",
        ),
        (
            changed(|root| root["role"] = "configuration".into()),
            "expected the role root, got configuration",
        ),
        (
            changed(|root| root["roles"]["root"]["threshold"] = 0.into()),
            "roles.root: expected a threshold from 1 to 1, got 0",
        ),
        (
            changed(|root| root["roles"]["root"]["threshold"] = 2.into()),
            "roles.root: expected a threshold from 1 to 1, got 2",
        ),
        (
            changed(|root| root["roles"]["configuration"]["keys"] = json!([])),
            "roles.configuration: expected 1 to 8 keys, got 0",
        ),
        (
            changed(|root| {
                root["roles"]["root"] = json!({ "keys": [key(1), key(1)], "threshold": 2 });
            }),
            "roles.root: expected each key and each key's number once",
        ),
        (
            changed(|root| {
                let roles = root["roles"].as_object_mut().unwrap();
                roles.remove("root");
            }),
            "roles: expected root",
        ),
    ] {
        assert_eq!(refused, format!("{of_root}{expected}"));
    }
}

/// A robot that cannot read a later root is lost to its owner for ever.
#[test]
fn what_later_roots_say_beyond_this_is_passed_over() {
    let mut later = root(1, 1, &[1]);
    later["roles"]["models"] = json!({ "keys": [key(2)], "threshold": 1, "delegates": true });
    later["issued"] = "2029-01-01T00:00:00.000Z".into();
    assert_eq!(pinned(&[signed(&later, &[1])]), Ok(1));
}

#[test]
fn a_document_has_an_end_before_it_is_read() {
    let trust = Root::parse(&root(1, 1, &[1]).to_string()).unwrap();
    let believe = |signed: &Signed| {
        let believed = trust.believe::<Configuration>(signed, ED25519);
        believed.unwrap_err().to_string()
    };
    let long = Signed {
        document: " ".repeat(MAX_DOCUMENT_BYTES + 1),
        signatures: Vec::new(),
    };
    assert_eq!(
        believe(&long),
        "expected a document of at most 32768 bytes, got 32769"
    );
    let many = Signed {
        document: String::new(),
        signatures: vec![String::new(); MAX_SIGNATURES + 1],
    };
    assert_eq!(believe(&many), "expected at most 16 signatures, got 17");
}
