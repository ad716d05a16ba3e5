#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair};
use webpki::ring::ED25519;

use super::*;

// Made by minisign 0.11: `minisign -G -W`, then `-S` and `-S -l` over this document.
const DOCUMENT: &[u8] = b"{\"a\":1}\n";
const PUBLIC: &str = "untrusted comment: minisign public key 5A8693F90C9C7A93\n\
    RWSTepwM+ZOGWk7r44E0cfVn+0oGI7PRgYPshDn05/Z+fgubYTB3DLBo\n";
const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
    RUSTepwM+ZOGWvqjkkciSLmw4XbAfU71pj5iZLtLOH2DKYm7UHHX0Voy8Y4CcIxEnX0nU4mMzgzks4UVGHza8HD+hvt4ht/ppQ4=\n\
    trusted comment: timestamp:1795363321\tfile:d.json\thashed\n\
    yYE/bqrvhF9G+L5Vm4vw5pm+Y2yrmwgiPH2V3wLdhlja4DHKVZ6rIMfiK2+Mjf0Xpd6CHRo/JdNZC3wT4fl5DQ==\n";
const LEGACY: &str = "untrusted comment: signature from minisign secret key\n\
    RWSTepwM+ZOGWmX0l0jJqDhaI+gSgNqyQoXwNME9naLiURgp8NSoI6IuhkdNcbHwpf3zRBNrpGiCy9mAG9dfuXhwvr4QxcBPkAA=\n\
    trusted comment: timestamp:1795363321\tfile:d.json\n\
    /dNiTG9OGRYpqrZcGVdLWPPrmkOpJKQBNxGD6BYgYx+nST3m1Nfxed4aRcQLY6P2DS433e4JUvPZn/sdeUAqDg==\n";

fn holds(signature: &str, document: &[u8]) -> Result<(), String> {
    let key = PublicKey::from_file(PUBLIC).unwrap();
    let signature = Signature::parse(signature).map_err(|error| error.to_string())?;
    assert_eq!(signature.key, key.id);
    signature
        .verify(&key, &Prehash::of(document), ED25519)
        .map_err(|error| error.to_string())
}

#[test]
fn what_minisign_wrote_is_read_and_holds() {
    let key = PublicKey::from_file(PUBLIC).unwrap();
    assert_eq!(key.id.to_string(), "5A8693F90C9C7A93");
    let line = PUBLIC.lines().nth(1).unwrap();
    assert_eq!(key.to_string(), line);
    assert_eq!(PublicKey::from_file(line).unwrap(), key);
    assert_eq!(holds(SIGNATURE, DOCUMENT), Ok(()));
    assert_eq!(holds(&SIGNATURE.replace('\n', "\r\n"), DOCUMENT), Ok(()));
    assert_eq!(holds(SIGNATURE.trim_end(), DOCUMENT), Ok(()));
    let renamed = SIGNATURE.replace("signature from", "anything about");
    assert_eq!(holds(&renamed, DOCUMENT), Ok(()));
}

#[test]
fn another_document_comment_or_format_is_refused_with_what_was_expected() {
    let comment = SIGNATURE.replace("d.json", "e.json");
    let more = format!("{SIGNATURE}{SIGNATURE}");
    let long = SIGNATURE.replace("hashed", &"x".repeat(MAX_SIGNATURE_BYTES));
    for (signature, document, expected) in [
        (
            SIGNATURE,
            &b"{\"a\":2}\n"[..],
            "expected a signature of key 5A8693F90C9C7A93 over exactly this document",
        ),
        (
            &comment,
            DOCUMENT,
            "expected a signature of key 5A8693F90C9C7A93 over the trusted comment too",
        ),
        (
            LEGACY,
            DOCUMENT,
            "expected a prehashed signature (ED) of minisign, got a legacy one (Ed)",
        ),
        (
            &SIGNATURE.replace("RUST", "RXST"),
            DOCUMENT,
            "expected the algorithm ED in a signature of minisign",
        ),
        (
            "",
            DOCUMENT,
            "expected an untrusted comment in a signature of minisign",
        ),
        (
            PUBLIC,
            DOCUMENT,
            "expected base64 of 74 bytes in a signature of minisign",
        ),
        (
            &SIGNATURE.replace("\ntrusted", "\nTrusted"),
            DOCUMENT,
            "expected a trusted comment in a signature of minisign",
        ),
        (
            &SIGNATURE.replace("5DQ==", "5DQ="),
            DOCUMENT,
            "expected base64 of 64 bytes in a signature of minisign",
        ),
        (
            &more,
            DOCUMENT,
            "expected four lines in a signature of minisign",
        ),
        (
            &long,
            DOCUMENT,
            "expected a signature of at most 2048 bytes, got 2343",
        ),
    ] {
        assert_eq!(holds(signature, document), Err(expected.to_owned()));
    }
}

#[test]
fn what_is_no_public_key_is_refused() {
    let line = PUBLIC.lines().nth(1).unwrap();
    for text in [
        "",
        "RWQ",
        &line.replace("RWS", "RUS"),
        &line[..40],
        &format!("{line}\n{line}"),
        &format!("{PUBLIC}{line}"),
        &format!("trusted comment: x\n{line}"),
    ] {
        let refused = PublicKey::from_file(text).unwrap_err().to_string();
        assert!(
            refused.starts_with("expected a public key of minisign"),
            "{text:?}: {refused}"
        );
    }
}

proptest! {
    /// What is signed here holds, and no longer when any byte of it is another.
    #[test]
    fn signing_and_checking_are_inverse(
        seed: [u8; 32], id: [u8; 8], document: Vec<u8>, comment in "\\PC{0,80}", at: prop::sample::Index,
    ) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let key = PublicKey { id: KeyId(id), key: pair.public_key().as_ref().try_into().unwrap() };
        let text = sign(&document, key.id, &comment, |bytes| pair.sign(bytes).as_ref().try_into().unwrap());
        let signature = Signature::parse(&text).unwrap();
        prop_assert_eq!(signature.key, key.id);
        prop_assert_eq!(signature.verify(&key, &Prehash::of(&document), ED25519), Ok(()));
        prop_assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        let mut other = [&document[..], b"x"].concat();
        prop_assert!(signature.verify(&key, &Prehash::of(&other), ED25519).is_err());
        other.pop();
        if !other.is_empty() {
            let at = at.index(other.len());
            other[at] ^= 1;
            prop_assert!(signature.verify(&key, &Prehash::of(&other), ED25519).is_err());
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text: String) {
        let _ = (Signature::parse(&text), PublicKey::from_file(&text));
    }
}
