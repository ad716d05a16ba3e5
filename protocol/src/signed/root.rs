//! The root of trust: which keys may sign what, and how many of them must. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::minisign::{Ed25519, Prehash, PublicKey, Signature, SignatureError};
use super::{Role, Signed};
use crate::limits::{MAX_DOCUMENT_BYTES, MAX_KEYS, MAX_SIGNATURES};
use crate::timestamp::Timestamp;

/// Why a document is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Too long to be looked at.
    #[error("expected a document of at most {MAX_DOCUMENT_BYTES} bytes, got {0}")]
    Size(usize),
    /// Too many to be looked at.
    #[error("expected at most {MAX_SIGNATURES} signatures, got {0}")]
    Signatures(usize),
    /// A signature that is none, or that a key of the role did not make.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Not signed by enough of those who must.
    #[error("expected signatures of {threshold} keys of root {version} for {role}, got {got}")]
    Threshold {
        /// Whose keys.
        role: Role,
        /// Of which root.
        version: u64,
        /// How many of them must have signed.
        threshold: u8,
        /// How many have.
        got: usize,
    },
    /// Nobody may sign such a thing.
    #[error("expected keys for {role} in root {version}, got none")]
    NoKeys {
        /// Which thing.
        role: Role,
        /// Of which root.
        version: u64,
    },
    /// Signed, and still not what the role's documents are.
    #[error("expected a document for {role}: {reason}")]
    Document {
        /// Whose.
        role: Role,
        /// What was expected.
        reason: String,
    },
    /// Roots follow one another without a gap.
    #[error("expected root {expected}, got {got}")]
    Version {
        /// The one after the one that is known.
        expected: u64,
        /// What it is.
        got: u64,
    },
    /// There is nothing to begin with.
    #[error("expected a root, got none")]
    NoRoot,
}

/// What the keys of one role sign.
pub trait Document: DeserializeOwned {
    /// The role.
    const ROLE: Role;

    /// The role that it says.
    fn role(&self) -> Role;

    /// Which one it is, from 1.
    fn version(&self) -> u64;

    /// Until when it may be taken.
    fn expires(&self) -> Timestamp;

    /// Checks what the type cannot say.
    ///
    /// # Errors
    /// What was expected, for people.
    fn check(&self) -> Result<(), String>;

    /// Reads one, whoever signed it.
    ///
    /// # Errors
    /// When it is too long, of another role, or cannot be.
    fn parse(text: &str) -> Result<Self, SignedError> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(SignedError::Size(text.len()));
        }
        let wrong = |reason| SignedError::Document {
            role: Self::ROLE,
            reason,
        };
        let this: Self = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if this.role() != Self::ROLE {
            return Err(wrong(format!(
                "expected the role {}, got {}",
                Self::ROLE,
                this.role()
            )));
        }
        if this.version() == 0 {
            return Err(wrong("expected a version from 1, got 0".to_owned()));
        }
        this.check().map_err(wrong)?;
        Ok(this)
    }
}

/// Those who sign for one role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// At most [`MAX_KEYS`], none twice.
    pub keys: Vec<PublicKey>,
    /// How many different ones of them must sign.
    pub threshold: u8,
}

impl Keys {
    fn check(&self) -> Result<(), String> {
        let count = self.keys.len();
        if !(1..=MAX_KEYS).contains(&count) {
            return Err(format!("expected 1 to {MAX_KEYS} keys, got {count}"));
        }
        if !(1..=count).contains(&usize::from(self.threshold)) {
            let threshold = self.threshold;
            return Err(format!(
                "expected a threshold from 1 to {count}, got {threshold}"
            ));
        }
        // A key that is there twice would count twice, and one found by another's number never.
        let numbers: BTreeSet<_> = self.keys.iter().map(|key| key.id).collect();
        let keys: BTreeSet<_> = self.keys.iter().map(|key| key.key).collect();
        if numbers.len() < count || keys.len() < count {
            return Err("expected each key and each key's number once".to_owned());
        }
        Ok(())
    }

    /// Whether enough of these keys are among `others` to sign there.
    #[must_use]
    pub fn could_sign_for(&self, others: &Self) -> bool {
        let known = |key: &&PublicKey| others.keys.iter().any(|other| other.key == key.key);
        self.keys.iter().filter(known).count() >= usize::from(others.threshold)
    }
}

/// A version of the root. Roles and fields that are not known are passed over: a robot that could not read a later root would
/// never believe anything again. Statements, on the other hand, are refused for what is not known of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// [`Role::Root`]: no other document is one.
    pub role: Role,
    /// Counts up, from 1, without a gap.
    pub version: u64,
    /// From then on nothing is believed because of it, until there is a next one.
    pub expires: Timestamp,
    /// Who signs what; nobody what is not there.
    pub roles: BTreeMap<String, Keys>,
}

impl Document for Root {
    const ROLE: Role = Role::Root;

    fn role(&self) -> Role {
        self.role
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn expires(&self) -> Timestamp {
        self.expires
    }

    fn check(&self) -> Result<(), String> {
        for (role, keys) in &self.roles {
            keys.check()
                .map_err(|reason| format!("roles.{role}: {reason}"))?;
        }
        if self.keys(Role::Root).is_none() {
            return Err("roles: expected root".to_owned());
        }
        Ok(())
    }
}

impl Root {
    /// Who signs for a role, if anybody does.
    #[must_use]
    pub fn keys(&self, role: Role) -> Option<&Keys> {
        self.roles.get(role.as_str())
    }

    /// The last of roots of which the first is believed because of where it lies: on the robot, or with its owner.
    /// That one, too, must be signed by its own keys: what was damaged or is a draft is none.
    ///
    /// # Errors
    /// When there is none, or one does not follow from the one before.
    pub fn pinned(roots: &[Signed], ed25519: Ed25519<'_>) -> Result<Self, SignedError> {
        let (first, later) = roots.split_first().ok_or(SignedError::NoRoot)?;
        let root = Self::parse(&first.document)?;
        root.signed(Role::Root, first, ed25519)?;
        later
            .iter()
            .try_fold(root, |root, next| root.next(next, ed25519))
    }

    /// The next version, signed by enough keys of this one and of its own. Whether they ended is not asked: roots in
    /// the middle of a row often have.
    ///
    /// # Errors
    /// When it is not signed so, or not the next.
    pub fn next(&self, signed: &Signed, ed25519: Ed25519<'_>) -> Result<Self, SignedError> {
        let next: Self = self.believe(signed, ed25519)?;
        let expected = self.version.saturating_add(1);
        if next.version != expected {
            let got = next.version;
            return Err(SignedError::Version { expected, got });
        }
        next.signed(Role::Root, signed, ed25519)?;
        Ok(next)
    }

    /// Reads a document that enough keys of its role signed. Whether it ended, or is older than another, is
    /// not asked.
    ///
    /// # Errors
    /// When it is not signed so, or signed and wrong.
    pub fn believe<D: Document>(
        &self,
        signed: &Signed,
        ed25519: Ed25519<'_>,
    ) -> Result<D, SignedError> {
        // Nothing of it is read before it is known whose it is.
        self.signed(D::ROLE, signed, ed25519)?;
        D::parse(&signed.document)
    }

    /// Whether enough keys signed it. Signatures of other keys count nothing and harm nothing: a new root has those of two
    /// versions. One that claims a key of the role must hold.
    fn signed(&self, role: Role, signed: &Signed, ed25519: Ed25519<'_>) -> Result<(), SignedError> {
        let Signed {
            document,
            signatures,
        } = signed;
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(SignedError::Size(document.len()));
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(SignedError::Signatures(signatures.len()));
        }
        let version = self.version;
        let Some(Keys { keys, threshold }) = self.keys(role) else {
            return Err(SignedError::NoKeys { role, version });
        };
        let document = Prehash::of(document.as_bytes());
        let mut signers = BTreeSet::new();
        for signature in signatures {
            let signature = Signature::parse(signature)?;
            if let Some(key) = keys.iter().find(|key| key.id == signature.key) {
                signature.verify(key, &document, ed25519)?;
                signers.insert(key);
            }
        }
        let got = signers.len();
        if got < usize::from(*threshold) {
            return Err(SignedError::Threshold {
                role,
                version,
                threshold: *threshold,
                got,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
