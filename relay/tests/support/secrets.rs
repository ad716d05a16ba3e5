//! No secret in any log: whoever starts a program in a suite has its log looked through when it ends, for what looks like a
//! secret and for those that the suite has made, sent or been told. A secret that is found is named by its kind, never shown.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// Secrets that look like nothing in particular, and their kinds.
static KNOWN: Mutex<BTreeMap<String, &str>> = Mutex::new(BTreeMap::new());

/// Shorter ones are words that a log may have for other reasons.
const SHORTEST: usize = 10;

/// What secrets begin with, and how many letters must follow before that is one, and not only spoken of.
const SHAPES: [(&str, &str, usize); 8] = [
    ("a session", "lks_", 20),
    ("an API key", "lka_", 20),
    ("an invitation", "lki_", 20),
    ("an enrolment token", "lkt_", 20),
    ("a private key", "-----BEGIN PRIVATE KEY", 0),
    ("a private key", "-----BEGIN EC PRIVATE KEY", 0),
    ("a key of minisign", "RWRTY0Iy", 20),
    ("the hash of a password", "$argon2id$", 20),
];

/// Fields of requests and answers that have secrets without a shape in them. What is called a token or a key elsewhere may be
/// its id, which logs have.
const FIELDS: [(&str, &str); 5] = [
    ("password", "a password"),
    ("current", "a password"),
    ("new", "a password"),
    ("secret", "the secret of an authenticator"),
    ("recovery_codes", "a recovery code"),
];

/// From now on no log may have this.
pub(crate) fn keep(kind: &'static str, secret: &str) {
    if secret.len() >= SHORTEST {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(secret.to_owned(), kind);
    }
}

/// The same for each secret of a request or an answer.
pub(crate) fn keep_fields(body: &Value) {
    match body {
        Value::Object(fields) => {
            for (name, value) in fields {
                let kind = FIELDS.iter().find(|(field, _)| field == name);
                match (kind, value) {
                    (Some((_, kind)), Value::String(secret)) => keep(kind, secret),
                    (Some((_, kind)), Value::Array(secrets)) => {
                        let secrets = secrets.iter().filter_map(Value::as_str);
                        secrets.for_each(|secret| keep(kind, secret));
                    }
                    (_, value) => keep_fields(value),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(keep_fields),
        _ => {}
    }
}

/// The kind of secret in a text, and in which line, if there is any.
fn find(text: &str) -> Option<(&'static str, usize)> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_letter = |letter: &char| !letter.is_whitespace() && *letter != '"';
    text.lines().enumerate().find_map(|(number, line)| {
        let known = known.iter().find(|(secret, _)| line.contains(*secret));
        let shaped = SHAPES.iter().find(|(_, start, least)| {
            let mut parts = line.split(start).skip(1);
            parts.any(|rest| rest.chars().take_while(is_letter).count() >= *least)
        });
        let kind = known.map(|(_, kind)| *kind);
        Some((kind.or(shaped.map(|(kind, ..)| *kind))?, number + 1))
    })
}

/// Looks through the log of a program that has ended.
///
/// # Panics
/// When there is a secret in it.
pub(crate) fn check(log: &Path) {
    let text = std::fs::read(log).unwrap_or_default();
    if let Some((kind, line)) = find(&String::from_utf8_lossy(&text)) {
        panic!(
            "expected no secret in {}, got {kind} in line {line}",
            log.display()
        );
    }
}

#[test]
fn secrets_are_found_by_value_and_by_shape() {
    keep("a password", "tes kiwi 7");
    assert_eq!(
        find("a\nuser=admin password=\"tes kiwi 7\""),
        Some(("a password", 2))
    );
    let token = format!("token=lkt_{}", "A1".repeat(12));
    assert_eq!(find(&token), Some(("an enrolment token", 1)));
    let key = "a\n-----BEGIN PRIVATE KEY-----";
    assert_eq!(find(key), Some(("a private key", 2)));
    assert_eq!(find("tokens begin with lkt_ and sessions with lks_"), None);

    let told = serde_json::json!({
        "info": [{ "secret": "GEZDGNBVGY3TQOJQ" }],
        "recovery_codes": ["aaaa-bbbb-cccc-dddd"],
        "name": "not a secret",
        "password": "hunter2",
    });
    keep_fields(&told);
    for (line, kind) in [
        (
            "secret of ada: GEZDGNBVGY3TQOJQ",
            Some("the secret of an authenticator"),
        ),
        ("code=aaaa-bbbb-cccc-dddd", Some("a recovery code")),
        ("not a secret, hunter2", None),
    ] {
        assert_eq!(find(line).map(|(kind, _)| kind), kind, "{line}");
    }
}
