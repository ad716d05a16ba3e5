//! Secret keys of minisign that have no password: a comment, and base64 of what is below.

use lekiwi_protocol::signed::minisign::KeyId;
use ring::signature::Ed25519KeyPair;

/// Algorithm, key derivation and checksum, two bytes each; salt and limits of the derivation.
const BEFORE: usize = 3 * 2 + 32 + 2 * 8;
/// Number, seed, public key and checksum.
const KEY: usize = 8 + 32 + 32 + 32;
const NO_PASSWORD: [u8; 2] = [0; 2];

/// The key and its number.
pub(super) fn parse(text: &str) -> Result<(KeyId, Ed25519KeyPair), &'static str> {
    let expected = "expected a secret key of `minisign -G -W`";
    let line = text.lines().nth(1).ok_or(expected)?;
    let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, line.trim_end());
    let bytes: [u8; BEFORE + KEY] = bytes
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(expected)?;
    let (before, key) = bytes.split_at(BEFORE);
    if before[..2] != *b"Ed" {
        return Err(expected);
    }
    if before[2..4] != NO_PASSWORD {
        return Err(
            "expected a key without a password (hint: with one, sign by `minisign -S -s KEY -m FILE`)",
        );
    }
    let (id, key) = key.split_first_chunk().ok_or(expected)?;
    let (seed, public) = (&key[..32], &key[32..64]);
    let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| expected)?;
    Ok((KeyId(*id), pair))
}

/// Ed25519's signature of these bytes.
pub(super) fn sign(pair: &Ed25519KeyPair, bytes: &[u8]) -> [u8; 64] {
    let mut signature = [0; 64];
    signature.copy_from_slice(pair.sign(bytes).as_ref());
    signature
}
