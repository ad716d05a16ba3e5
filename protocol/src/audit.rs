//! Whether a record of who did what is whole: each entry has a hash over itself and the hash before it, and checkpoints
//! that were signed say how far it once went. Pure; whoever checks brings the cryptography.
//!
//! What the hash is over: a tag, the hash of the entry before (zeros before the first), number and time as 64 bits, then
//! each text with its length, and the details by name. No two different entries make the same bytes.
//!
//! The beginning is forgotten after a while. The entry that says so ([`PRUNED`]) has number and hash of the last one that
//! went, and is itself part of the chain: from it the first entry that is left can be checked.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::{AuditCheckpoint, AuditEntry};
use crate::signed::minisign::{
    Ed25519, KeyError, KeyId, Prehash, PublicKey, Signature, SignatureError, sign,
};
use crate::timestamp::Timestamp;

/// The action of an entry that says that everything up to `number`, whose hash is `hash`, was forgotten.
pub const PRUNED: &str = "audit-prune";
/// The names of its details.
pub const PRUNED_NUMBER: &str = "number";
/// See [`PRUNED_NUMBER`].
pub const PRUNED_HASH: &str = "hash";

const TAG: &[u8] = b"lekiwi audit 1\n";

/// What an entry's hash is.
pub type Hash = [u8; 32];

/// The hash before the first entry.
pub const START: Hash = [0; 32];

/// The hash of an entry, whatever hash it says, after the one before it.
#[must_use]
pub fn hash(previous: &Hash, entry: &AuditEntry) -> Hash {
    let mut sum = Sha256::new();
    sum.update(TAG);
    sum.update(previous);
    sum.update(entry.number.to_be_bytes());
    sum.update(entry.at.as_ms().to_be_bytes());
    let mut text = |text: &str| {
        sum.update((text.len() as u64).to_be_bytes());
        sum.update(text);
    };
    for part in [
        &entry.who,
        &entry.address,
        &entry.action,
        &entry.on,
        &entry.outcome,
        &entry.trace,
    ] {
        text(part);
    }
    for (name, value) in &entry.detail {
        text(name);
        text(value);
    }
    sum.finalize().into()
}

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Entries are missing, or in another order.
    #[error("expected entry {expected} of the audit, got {got}")]
    Gap {
        /// The one that should follow.
        expected: u64,
        /// The one that does.
        got: u64,
    },
    /// An entry, or the one before it, is not what it was.
    #[error("expected entry {0} of the audit as it was written, got another one")]
    Changed(u64),
    /// The beginning is missing, and no entry says that it was forgotten.
    #[error(
        "expected the audit from its beginning, or from where it was pruned, got it from entry {0}"
    )]
    Start(u64),
    /// A checkpoint speaks of another entry.
    #[error(
        "expected entry {0} of the audit as it was when a checkpoint was signed, got another one"
    )]
    Mark(u64),
    /// A checkpoint speaks of an entry that is not there.
    #[error(
        "expected the audit up to entry {expected}, which a checkpoint speaks of, got it up to {got}"
    )]
    Short {
        /// How far it went.
        expected: u64,
        /// How far it goes.
        got: u64,
    },
}

/// How far a chain went at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The last entry.
    pub number: u64,
    /// Its hash, in hex.
    pub hash: String,
    /// When.
    pub at: Timestamp,
}

/// What a whole chain has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whole {
    /// The first entry that is left; 0 where there is none.
    pub first: u64,
    /// The last entry.
    pub last: u64,
    /// Its hash, in hex.
    pub hash: String,
}

/// Checks entries one after the other, from the first that there is to the last.
#[derive(Debug, Default)]
pub struct Chain {
    marks: Vec<Mark>,
    /// The first entry, where nothing before it is known yet.
    unproven: Option<Box<AuditEntry>>,
    whole: Whole,
    previous: Hash,
    /// Number and hash up to which the last entry that says so forgot.
    pruned: Option<(u64, Hash)>,
}

impl Chain {
    /// A chain that `marks` were signed of.
    #[must_use]
    pub fn expecting(marks: Vec<Mark>) -> Self {
        Self {
            marks,
            ..Self::default()
        }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// When it does not follow.
    pub fn take(&mut self, entry: &AuditEntry) -> Result<(), Broken> {
        let number = entry.number;
        let actual = read_hash(&entry.hash).ok_or(Broken::Changed(number))?;
        let is_first = self.whole.first == 0;
        if is_first {
            self.whole.first = number;
        } else if number != self.whole.last + 1 {
            let expected = self.whole.last + 1;
            return Err(Broken::Gap {
                expected,
                got: number,
            });
        }
        if is_first && number != 1 {
            self.unproven = Some(Box::new(entry.clone()));
        } else if hash(&self.previous, entry) != actual {
            return Err(Broken::Changed(number));
        }
        let is_marked = |mark: &&Mark| mark.number == number;
        if let Some(mark) = self.marks.iter().find(is_marked)
            && mark.hash != entry.hash
        {
            return Err(Broken::Mark(number));
        }
        if entry.action == PRUNED {
            let detail = |name| entry.detail.get(name);
            let upto = detail(PRUNED_NUMBER).and_then(|text| text.parse().ok());
            self.pruned = upto.zip(detail(PRUNED_HASH).and_then(|text| read_hash(text)));
        }
        self.previous = actual;
        self.whole.last = number;
        entry.hash.clone_into(&mut self.whole.hash);
        Ok(())
    }

    /// There are no more.
    ///
    /// # Errors
    /// When the beginning does not hold, or marks speak of more.
    pub fn finish(self) -> Result<Whole, Broken> {
        if let Some(first) = self.unproven {
            let holds = self.pruned.is_some_and(|(number, before)| {
                number + 1 == first.number && hex::encode(hash(&before, &first)) == first.hash
            });
            if !holds {
                return Err(Broken::Start(first.number));
            }
        }
        let got = self.whole.last;
        match self.marks.iter().map(|mark| mark.number).max() {
            Some(expected) if expected > got => Err(Broken::Short { expected, got }),
            _ => Ok(self.whole),
        }
    }
}

fn read_hash(text: &str) -> Option<Hash> {
    let hash: Hash = hex::decode(text).ok()?.try_into().ok()?;
    // One spelling only.
    (hex::encode(hash) == text).then_some(hash)
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Of another key.
    #[error("expected a checkpoint of key {expected}, got one of {got}")]
    OtherKey {
        /// The key that was asked for.
        expected: PublicKey,
        /// The key that it names.
        got: PublicKey,
    },
    /// The signature does not hold.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Signed, and still none.
    #[error("expected a checkpoint of an audit in the document")]
    Document,
}

/// Signs a mark; `ed25519` signs bytes with that key.
pub fn checkpoint(
    mark: &Mark,
    key: &PublicKey,
    ed25519: impl Fn(&[u8]) -> [u8; 64],
) -> AuditCheckpoint {
    // Numbers and texts always become JSON.
    let document = serde_json::to_string(mark).unwrap_or_default();
    let comment = format!("lekiwi audit up to entry {}", mark.number);
    AuditCheckpoint {
        signature: sign(document.as_bytes(), key.id, &comment, ed25519),
        key: key.to_string(),
        document,
    }
}

impl AuditCheckpoint {
    /// What it says, if it is signed by the key that it names; and by `key`, where that is known from elsewhere.
    ///
    /// # Errors
    /// When it is not.
    pub fn read(
        &self,
        key: Option<&PublicKey>,
        ed25519: Ed25519<'_>,
    ) -> Result<Mark, CheckpointError> {
        let named: PublicKey = self.key.parse()?;
        if let Some(expected) = key.filter(|key| **key != named) {
            return Err(CheckpointError::OtherKey {
                expected: *expected,
                got: named,
            });
        }
        let document = Prehash::of(self.document.as_bytes());
        Signature::parse(&self.signature)?.verify(&named, &document, ed25519)?;
        serde_json::from_str(&self.document).map_err(|_| CheckpointError::Document)
    }
}

/// The key's number is a part of its hash: the same key has the same one everywhere.
#[must_use]
pub fn public_key(key: [u8; 32]) -> PublicKey {
    let digest = Sha256::digest(key);
    let (id, _) = digest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    PublicKey {
        id: KeyId(*id),
        key,
    }
}

#[cfg(test)]
mod tests;
