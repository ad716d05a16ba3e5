//! Keys and signatures as minisign writes them: Ed25519 over BLAKE2b-512 of the file ("ED"), and over that signature
//! together with the trusted comment. The older signatures over the file itself ("Ed") are refused: they cannot be
//! checked without holding all of it. Pure.
//!
//! The formats are those of minisign's own documentation: lines of comments, and base64 of an algorithm (two
//! bytes), a key's number (eight) and the key or signature itself.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2b512, Digest};
use rustls_pki_types::SignatureVerificationAlgorithm;
use serde::{Deserialize, Serialize};

use crate::limits::MAX_SIGNATURE_BYTES;

const UNTRUSTED: &str = "untrusted comment: ";
const TRUSTED: &str = "trusted comment: ";
const PREHASHED: [u8; 2] = *b"ED";
/// Of keys, and of signatures over the file itself.
const PURE: [u8; 2] = *b"Ed";

/// Ed25519 of whichever library a program has.
pub type Ed25519<'a> = &'a dyn SignatureVerificationAlgorithm;

/// The number by which a key is found; minisign draws it at random, and it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key that signatures are checked with; printed as the second line of a file of `minisign -G`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey {
    /// By what it is found.
    pub id: KeyId,
    /// Ed25519's.
    pub key: [u8; 32],
}

/// Why a text is no [`PublicKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a public key of minisign such as RWQ and 53 more letters, got {0:?}")]
pub struct KeyError(String);

impl PublicKey {
    /// The key in a file of `minisign -G`: a comment and the key, or the key alone.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_file(text: &str) -> Result<Self, KeyError> {
        let mut lines = text.trim_end().lines();
        let (comment, line) = (lines.next_back(), lines.next_back());
        let (key, comment) = (comment.unwrap_or_default(), line);
        if lines.next().is_some() || comment.is_some_and(|line| !line.starts_with(UNTRUSTED)) {
            return Err(KeyError(cut(text)));
        }
        key.parse()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let wrong = || KeyError(cut(text));
        let bytes: [u8; 42] = decode(text).ok_or_else(wrong)?;
        let (algorithm, id, key) = split(&bytes);
        if algorithm != PURE {
            return Err(wrong());
        }
        let key = key.try_into().map_err(|_| wrong())?;
        Ok(Self { id, key })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&PURE[..], &self.id.0, &self.key].concat();
        f.write_str(&STANDARD.encode(bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// What a signature of minisign is made over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prehash([u8; 64]);

impl Prehash {
    /// Of a whole document.
    #[must_use]
    pub fn of(document: &[u8]) -> Self {
        Self(Blake2b512::digest(document).into())
    }
}

/// Why a signature is none, or does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Too long to be looked at.
    #[error("expected a signature of at most {MAX_SIGNATURE_BYTES} bytes, got {0}")]
    Size(usize),
    /// Not what minisign writes.
    #[error("expected {0} in a signature of minisign")]
    Shape(&'static str),
    /// Of an algorithm that is not taken any more.
    #[error("expected a prehashed signature (ED) of minisign, got a legacy one (Ed)")]
    Legacy,
    /// Made by another key, or over something else.
    #[error("expected a signature of key {0} over exactly this document")]
    Wrong(KeyId),
    /// The trusted comment was changed.
    #[error("expected a signature of key {0} over the trusted comment too")]
    Comment(KeyId),
}

/// A signature, read and not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Of the key that is said to have made it.
    pub key: KeyId,
    signature: [u8; 64],
    comment: String,
    over_comment: [u8; 64],
}

impl Signature {
    /// Reads what `minisign -S` writes.
    ///
    /// # Errors
    /// When it is something else, or of the legacy format.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        use SignatureError::Shape;
        if text.len() > MAX_SIGNATURE_BYTES {
            return Err(SignatureError::Size(text.len()));
        }
        let mut lines = text.lines();
        let mut line = || lines.next().unwrap_or_default();
        if !line().starts_with(UNTRUSTED) {
            return Err(Shape("an untrusted comment"));
        }
        let bytes: [u8; 74] = decode(line()).ok_or(Shape("base64 of 74 bytes"))?;
        let comment = line();
        let comment = comment
            .strip_prefix(TRUSTED)
            .ok_or(Shape("a trusted comment"))?;
        let over_comment = decode(line()).ok_or(Shape("base64 of 64 bytes"))?;
        if lines.next().is_some() {
            return Err(Shape("four lines"));
        }
        let (algorithm, key, signature) = split(&bytes);
        match algorithm {
            PREHASHED => {}
            PURE => return Err(SignatureError::Legacy),
            _ => return Err(Shape("the algorithm ED")),
        }
        Ok(Self {
            key,
            signature: signature.try_into().map_err(|_| Shape("64 bytes"))?,
            comment: comment.to_owned(),
            over_comment,
        })
    }

    /// Checks it against the document's hash and a key, whose number is the caller's to compare.
    ///
    /// # Errors
    /// When it does not hold, or its trusted comment was changed.
    pub fn verify(
        &self,
        key: &PublicKey,
        document: &Prehash,
        ed25519: Ed25519<'_>,
    ) -> Result<(), SignatureError> {
        ed25519
            .verify_signature(&key.key, &document.0, &self.signature)
            .map_err(|_| SignatureError::Wrong(key.id))?;
        let comment = over(&self.signature, &self.comment);
        ed25519
            .verify_signature(&key.key, &comment, &self.over_comment)
            .map_err(|_| SignatureError::Comment(key.id))
    }
}

/// Signs as `minisign -S` does; `ed25519` signs bytes with the key of that number. Line breaks have no place in a comment.
pub fn sign(
    document: &[u8],
    key: KeyId,
    comment: &str,
    ed25519: impl Fn(&[u8]) -> [u8; 64],
) -> String {
    let comment = comment.replace(['\r', '\n'], " ");
    let signature = ed25519(&Prehash::of(document).0);
    let over_comment = ed25519(&over(&signature, &comment));
    let bytes = [&PREHASHED[..], &key.0, &signature].concat();
    format!(
        "{UNTRUSTED}signature of key {key}\n{}\n{TRUSTED}{comment}\n{}\n",
        STANDARD.encode(bytes),
        STANDARD.encode(over_comment)
    )
}

fn over(signature: &[u8; 64], comment: &str) -> Vec<u8> {
    [signature, comment.as_bytes()].concat()
}

fn split(bytes: &[u8]) -> ([u8; 2], KeyId, &[u8]) {
    let (algorithm, rest) = bytes.split_first_chunk().unwrap_or((&[0; 2], &[]));
    let (id, rest) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    (*algorithm, KeyId(*id), rest)
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
