//! API keys of programs: `lka_`, and in base64url 256 random bits with a checksum of 32. Prefix and checksum are for scanners
//! of source code: what matches `lka_[A-Za-z0-9_-]{48}` and has its last four bytes right is a key that somebody published.
//! Called by the HTTP interface.
//!
//! The relay keeps SHA-256 of a secret. A slow hash with salt is for what people choose; of 256 random bits nobody tries a
//! noticeable part, at whatever speed. Nor is there anything to measure at the comparison: what is looked up is the digest of
//! what was shown, so that whoever tries secrets cannot choose the bytes that are compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lekiwi_protocol::api::{KeyCreated, KeyInfo, KeyRequest};
use lekiwi_protocol::{Permission, Timestamp, UserName};
use lekiwi_relay_core::policy::{Right, Source};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock;
use crate::identity::tokens::Secret;
use crate::store::records::Key;
use crate::store::{Store, StoreError};

const PREFIX: &str = "lka_";
const RANDOM_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
/// How long a key works where nobody says.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
const MIN_LIFETIME: Duration = Duration::from_secs(60);
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the secret before goes on working where nobody says.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);
const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long keys that ended are kept, so that whoever wonders finds them in the list.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most keys of a person.
const MAX_KEYS: u64 = 100;
const MAX_NAME_BYTES: usize = 64;
const MAX_NOTE_BYTES: usize = 200;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The name is none.
    #[error("expected a name of 1 to {MAX_NAME_BYTES} bytes without control characters, got {0:?}")]
    Name(String),
    /// The note is none.
    #[error("expected a note of at most {MAX_NOTE_BYTES} bytes without control characters")]
    Note,
    /// Nothing would be allowed.
    #[error("expected at least one permission")]
    Nothing,
    /// Keys let nobody in.
    #[error("expected permissions of programs, got `manage`")]
    Manage,
    /// It would end too early or too late.
    #[error(
        "expected lifetime_s to be {min} to {max}, got {0}",
        min = MIN_LIFETIME.as_secs(), max = MAX_LIFETIME.as_secs()
    )]
    Lifetime(u64),
    /// The secret before would work for too long.
    #[error("expected overlap_s to be at most {max}, got {0}", max = MAX_OVERLAP.as_secs())]
    Overlap(u64),
    /// Their owner has enough.
    #[error("expected at most {MAX_KEYS} keys of {0}")]
    TooMany(UserName),
    /// There is none.
    #[error("there is no key {0:?} that is yours")]
    Unknown(String),
    /// The system gave no random numbers.
    #[error("cannot draw random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The store refused.
    #[error("cannot keep the key")]
    Store(#[from] StoreError),
}

fn checksum(random: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::digest(random);
    std::array::from_fn(|at| digest[at])
}

fn secret(random: [u8; RANDOM_BYTES]) -> Secret {
    let bytes = [&random[..], &checksum(&random)].concat();
    Secret::shown(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn fresh() -> Result<Secret, getrandom::Error> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random)?;
    Ok(secret(random))
}

/// Whether a text is meant to be a key.
#[must_use]
pub fn is_one(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Whether a text can be a key, as opposed to one that was cut or mistyped.
#[must_use]
pub fn is_whole(text: &str) -> bool {
    let encoded = text.strip_prefix(PREFIX);
    let bytes = encoded.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    bytes.is_some_and(|bytes| {
        bytes
            .split_at_checked(RANDOM_BYTES)
            .is_some_and(|(random, rest)| rest == checksum(random))
    })
}

/// The key for which a secret works now, and the secret's digest. From memory.
#[must_use]
pub fn find(store: &Store, shown: &str, now: Timestamp) -> Option<(Arc<Key>, [u8; 32])> {
    if !is_whole(shown) {
        return None;
    }
    let digest = Secret::shown(shown).digest();
    Some((store.key(&digest, now.as_ms())?, digest))
}

/// What people are told of a kept key.
#[must_use]
pub fn info(key: &Key, now: Timestamp) -> KeyInfo {
    let used_ms = key.used_ms.load(Ordering::Relaxed);
    let old = key.old.map(|(_, until)| Timestamp::from_ms(until));
    KeyInfo {
        id: key.id,
        name: key.name.clone(),
        note: key.note.clone(),
        owner: key.owner.clone(),
        permissions: key.right.permissions,
        on: key.right.on.clone(),
        created_at: Timestamp::from_ms(key.created_ms),
        expires_at: Timestamp::from_ms(key.expires_ms),
        used_at: (used_ms > 0).then(|| Timestamp::from_ms(used_ms)),
        old_until: old.filter(|until| *until > now),
    }
}

/// The keys of a person, the newest first. From memory.
#[must_use]
pub fn of(store: &Store, owner: &UserName) -> Vec<Arc<Key>> {
    let people = store.people();
    // Each is found by its own digest, and maybe by the one before.
    let keys = people.keys.iter().filter(|(hash, key)| key.hash == **hash);
    let own = keys.filter(|(_, key)| key.owner == *owner);
    let mut own: Vec<Arc<Key>> = own.map(|(_, key)| Arc::clone(key)).collect();
    own.sort_by_key(|key| (std::cmp::Reverse(key.created_ms), key.id));
    own
}

/// Makes a key and keeps it. What its owner may is not asked here.
///
/// # Errors
/// When the request is out of bounds, the owner has too many, or the store cannot write.
pub async fn create(
    store: &Store,
    request: KeyRequest,
    owner: &UserName,
    now: Timestamp,
) -> Result<KeyCreated, KeyError> {
    let is_text = |text: &str| !text.chars().any(char::is_control);
    let name = request.name.trim();
    if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !is_text(name) {
        return Err(KeyError::Name(name.chars().take(MAX_NAME_BYTES).collect()));
    }
    if request.note.len() > MAX_NOTE_BYTES || !is_text(&request.note) {
        return Err(KeyError::Note);
    }
    if request.permissions.is_empty() {
        return Err(KeyError::Nothing);
    }
    if request.permissions.has(Permission::Manage) {
        return Err(KeyError::Manage);
    }
    let lifetime_s = request.lifetime_s.unwrap_or(LIFETIME.as_secs());
    if !(MIN_LIFETIME.as_secs()..=MAX_LIFETIME.as_secs()).contains(&lifetime_s) {
        return Err(KeyError::Lifetime(lifetime_s));
    }
    let secret = fresh()?;
    let expires = now.plus(Duration::from_secs(lifetime_s));
    let key = Key {
        id: Uuid::new_v4(),
        owner: owner.clone(),
        name: name.to_owned(),
        note: request.note,
        right: Right {
            permissions: request.permissions,
            on: request.on,
            until: Some(expires),
            source: Source::Key,
        },
        hash: secret.digest(),
        old: None,
        created_ms: now.as_ms(),
        expires_ms: expires.as_ms(),
        used_ms: AtomicU64::default(),
    };
    let info = info(&key, now);
    if !store.insert_key(key, MAX_KEYS).await? {
        return Err(KeyError::TooMany(owner.clone()));
    }
    Ok(KeyCreated {
        key: secret.expose().to_owned(),
        info,
    })
}

/// Gives a key another secret. That with the digest `shown` goes on working for `overlap_s` seconds, and never beyond the time
/// that it had already; all others end.
///
/// # Errors
/// When the overlap is out of bounds, the key is gone, or the store cannot write.
pub async fn rotate(
    store: &Store,
    key: &Key,
    shown: [u8; 32],
    overlap_s: Option<u64>,
    now: Timestamp,
) -> Result<KeyCreated, KeyError> {
    let overlap_s = overlap_s.unwrap_or(OVERLAP.as_secs());
    if overlap_s > MAX_OVERLAP.as_secs() {
        return Err(KeyError::Overlap(overlap_s));
    }
    let secret = fresh()?;
    let digest = secret.digest();
    let until = now.plus(Duration::from_secs(overlap_s));
    let rotated = store.rotate_key(key.id, shown, digest, until.as_ms());
    let unknown = || KeyError::Unknown(key.id.to_string());
    if !rotated.await? {
        return Err(unknown());
    }
    let rotated = store.people().keys.get(&digest).cloned();
    let rotated = rotated.ok_or_else(unknown)?;
    Ok(KeyCreated {
        key: secret.expose().to_owned(),
        info: info(&rotated, now),
    })
}

/// Forgets keys that ended long ago; how many.
///
/// # Errors
/// When the store cannot write.
pub async fn expire(store: &Store) -> Result<u64, StoreError> {
    let kept_ms = KEPT.as_millis() as u64;
    let before_ms = clock::now_ms().saturating_sub(kept_ms);
    store.expire_keys(before_ms).await
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
