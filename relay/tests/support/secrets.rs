//! No secret in any log: whoever starts a relay in its suite has its log looked through when it ends, for what looks
//! like a secret and for those that the test has made. A secret that is found is named by its kind, never shown.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Secrets that look like nothing in particular: kind and value.
static KNOWN: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());

/// What secrets begin with, and how many letters must follow before that is one, and not only spoken of.
const SHAPES: [(&str, &str, usize); 4] = [
    ("a session", "lks_", 20),
    ("an enrolment token", "lkt_", 20),
    ("a private key", "-----BEGIN PRIVATE KEY", 0),
    ("the hash of a password", "$argon2id$", 20),
];

/// From now on no log may have this.
pub(crate) fn keep(kind: &'static str, secret: &str) {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.push((kind, secret.to_owned()));
}

/// The kind of secret in a text, and in which line, if there is any.
fn find(text: &str) -> Option<(&'static str, usize)> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_letter = |letter: &char| !letter.is_whitespace() && *letter != '"';
    text.lines().enumerate().find_map(|(number, line)| {
        let known = known.iter().find(|(_, secret)| line.contains(secret));
        let shaped = SHAPES.iter().find(|(_, start, least)| {
            let mut parts = line.split(start).skip(1);
            parts.any(|rest| rest.chars().take_while(is_letter).count() >= *least)
        });
        let kind = known.map(|(kind, _)| *kind);
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
}
