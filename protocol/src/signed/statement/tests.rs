#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::signed::SignedError;

fn configuration() -> Value {
    json!({
        "role": "configuration", "version": 7, "expires": "2027-01-01T00:00:00.000Z",
        "robots": "kiwi-01", "settings": { "heartbeat_s": 5 },
    })
}

fn artefacts(name: &str, sha256: &str) -> Value {
    json!({
        "role": "artefacts", "version": 1, "expires": "2027-01-01T00:00:00.000Z",
        "artefacts": { name: { "length": 3, "sha256": sha256 } },
    })
}

fn refused<D: Document + std::fmt::Debug>(document: &Value) -> String {
    match D::parse(&document.to_string()).unwrap_err() {
        SignedError::Document { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn a_configuration_is_for_one_robot_or_for_all() {
    let [one, other] = ["kiwi-01", "kiwi-02"].map(|id| RobotId::new(id).unwrap());
    let mut document = configuration();
    let read = Configuration::parse(&document.to_string()).unwrap();
    assert!(read.robots.include(&one) && !read.robots.include(&other));
    document["robots"] = "*".into();
    let read = Configuration::parse(&document.to_string()).unwrap();
    assert!(read.robots.include(&one) && read.robots.include(&other));
    assert_eq!(serde_json::to_value(&read).unwrap(), document);
}

#[test]
fn what_is_not_known_of_a_statement_is_refused() {
    for (key, value, expected) in [
        ("not_before", json!(1), "unknown field `not_before`"),
        ("robots", json!("kiwi-*"), "expected a robot id"),
        ("robots", Value::Null, "invalid type: null"),
        ("version", json!(-7), "invalid value: integer `-7`"),
        (
            "expires",
            json!("tomorrow"),
            "expected a UTC time such as 2026-11-21T03:52:00.000Z",
        ),
        (
            "role",
            json!("artefacts"),
            "expected the role configuration, got artefacts",
        ),
        (
            "settings",
            json!({ "log": "x".repeat(MAX_SETTINGS_BYTES) }),
            "expected settings of at most 16384 bytes, got 16394",
        ),
    ] {
        let mut document = configuration();
        document[key] = value;
        let refused = refused::<Configuration>(&document);
        assert!(refused.starts_with(expected), "{refused}");
    }
    let mut document = configuration();
    document.as_object_mut().unwrap().remove("robots");
    let refused = refused::<Configuration>(&document);
    assert!(refused.starts_with("missing field `robots`"), "{refused}");
}

#[test]
fn names_of_artefacts_are_no_paths() {
    let digits = "0a".repeat(32);
    for name in ["lekiwi-agent_1.2.0+rc.1~2_arm64.deb", "a"] {
        Artefacts::parse(&artefacts(name, &digits).to_string()).unwrap();
    }
    for name in [
        "",
        "..",
        "../x",
        "/x",
        ".hidden",
        "a/b",
        "a b",
        "-rf",
        &"x".repeat(129),
    ] {
        let refused = refused::<Artefacts>(&artefacts(name, &digits));
        assert!(
            refused.starts_with("artefacts: expected a name of letters"),
            "{name}: {refused}"
        );
    }
    for wrong in [&digits[1..], &digits.to_uppercase(), &"0g".repeat(32)] {
        assert_eq!(
            refused::<Artefacts>(&artefacts("a", wrong)),
            "artefacts.a.sha256: expected 64 lower-case hex digits"
        );
    }
    let none = json!({
        "role": "artefacts", "version": 1, "expires": "2027-01-01T00:00:00.000Z", "artefacts": {},
    });
    assert_eq!(
        refused::<Artefacts>(&none),
        "artefacts: expected 1 to 128, got 0"
    );
}

#[test]
fn an_artefact_ends_where_it_was_signed_to_end() {
    let artefact = Artefact {
        length: 3,
        sha256: hex::encode(Sha256::digest(b"abc")),
    };
    let receive = |pieces: &[&[u8]]| {
        let mut receiving = Receiving::new(artefact.clone());
        for (taken, piece) in pieces.iter().enumerate() {
            receiving.take(piece).map_err(|error| (taken, error))?;
        }
        receiving.finish().map_err(|error| (pieces.len(), error))
    };
    assert_eq!(receive(&[b"a", b"", b"bc"]), Ok(()));
    let endless: &[&[u8]] = &[b"abc", b"d", b"e", b"f"];
    assert_eq!(receive(endless), Err((1, ArtefactError::More(3))));
    let fewer = ArtefactError::Fewer {
        expected: 3,
        got: 2,
    };
    assert_eq!(receive(&[b"ab"]), Err((1, fewer)));
    assert_eq!(receive(&[b"abd"]), Err((1, ArtefactError::Content)));
}
