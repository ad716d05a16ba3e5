//! Whom this robot believes: the root of trust that its image pinned, those that followed, and the newest version of
//! each role's statements that it has seen. Pure; the driver brings time and cryptography, and keeps [`Trust::record`] on
//! the disk before it does anything because of a statement.
//!
//! These are the update framework's attacks, and what stops each (the tests have their names):
//!
//! * arbitrary software, the wrong role, keys compromised below the threshold: nothing is read before enough keys of
//!   the role have signed it;
//! * rollback and replay: versions only go forward, and one version is one document;
//! * freeze: a statement and a root end, by the latest time that the robot knows;
//! * mix and match: settings are within what is signed, and artefacts are signed all together;
//! * the wrong robot: a statement says for whom it is, and one for others is not even counted as seen;
//! * endless data: documents, signatures, roots and artefacts have lengths, asked before anything is read;
//! * fast-forward: versions seen count as long as the keys that signed them could still sign. A root that takes enough
//!   of these keys away lets the robot begin anew, and nothing that they signed before holds any more.
//!
//! Invariants: roots follow one another from the pinned one, also when the record is read again; a refused statement leaves
//! the versions seen as they were.

use std::collections::BTreeMap;

use lekiwi_protocol::limits::MAX_ROOTS;
use lekiwi_protocol::message::Desired;
use lekiwi_protocol::signed::minisign::Ed25519;
use lekiwi_protocol::signed::{
    Artefacts, Configuration, Document, Keys, Proof, Robots, Role, Root, Signed, SignedError,
};
use lekiwi_protocol::{RobotId, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The newest statement of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    version: u64,
    /// Of the document.
    sha256: String,
    /// Who could sign it then.
    keys: Keys,
}

/// What is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// Those that followed the pinned one.
    #[serde(default)]
    roots: Vec<Signed>,
    #[serde(default)]
    seen: BTreeMap<Role, Seen>,
}

/// Why a statement is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody vouches for it.
    #[error("expected a signed configuration, as this robot has a root of trust")]
    Unsigned,
    /// Not signed as it must be.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// Too many to be looked at.
    #[error("expected at most {MAX_ROOTS} roots, got {0}")]
    Roots(usize),
    /// The newest root ended: who knows what came after.
    #[error("expected a root later than {version}, which ended at {expires}; it is {now}")]
    RootExpired {
        /// The root.
        version: u64,
        /// When it ended.
        expires: Timestamp,
        /// The latest time known.
        now: Timestamp,
    },
    /// The statement ended.
    #[error(
        "expected a statement for {role} that has not ended, got one until {expires}; it is {now}"
    )]
    Expired {
        /// Whose.
        role: Role,
        /// When it ended.
        expires: Timestamp,
        /// The latest time known.
        now: Timestamp,
    },
    /// A later one was seen.
    #[error("expected version {seen} for {role} or a later one, got {got}")]
    Rollback {
        /// Whose.
        role: Role,
        /// The newest that was seen.
        seen: u64,
        /// What came.
        got: u64,
    },
    /// The same version said something else.
    #[error("expected version {version} for {role} to say what it said before, or a later version")]
    Changed {
        /// Whose.
        role: Role,
        /// Which.
        version: u64,
    },
    /// For somebody else.
    #[error("expected a configuration for {robot}, got one for {robots}")]
    Robot {
        /// This robot.
        robot: RobotId,
        /// For whom it is.
        robots: Robots,
    },
    /// What is wanted is not what was signed.
    #[error("expected the settings that were signed as version {0}, got others")]
    Settings(u64),
}

/// What one robot believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    root: Root,
    record: Record,
}

impl Trust {
    /// Begins with the root that is pinned, the last of a row, and goes on with what the disk has. Roots there that do
    /// not follow from the pinned one, and that it does not include, are dropped, and why is the second answer.
    ///
    /// # Errors
    /// When what is pinned is no row of roots.
    pub fn open(
        pinned: &[Signed],
        record: Record,
        ed25519: Ed25519<'_>,
    ) -> Result<(Self, Option<SignedError>), SignedError> {
        let mut this = Self {
            root: Root::pinned(pinned, ed25519)?,
            record: Record {
                roots: Vec::new(),
                seen: record.seen,
            },
        };
        let dropped = this.advance(&record.roots, ed25519).err();
        Ok((this, dropped))
    }

    /// What is to be on the disk.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The root that counts.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Whether the settings that are desired of `robot` were signed; `now` is the latest time known. Roots that come along are
    /// taken also where the statement is refused: they may be the reason.
    ///
    /// # Errors
    /// Why they are not to be in force.
    pub fn configuration(
        &mut self,
        now: Timestamp,
        robot: &RobotId,
        desired: &Desired,
        ed25519: Ed25519<'_>,
    ) -> Result<(), Refusal> {
        let proof = desired.proof.as_ref().ok_or(Refusal::Unsigned)?;
        let fits = |statement: &Configuration| {
            if !statement.robots.include(robot) {
                return Err(Refusal::Robot {
                    robot: robot.clone(),
                    robots: statement.robots.clone(),
                });
            }
            if statement.settings != desired.settings {
                return Err(Refusal::Settings(statement.version));
            }
            Ok(())
        };
        self.follow(now, proof, ed25519, fits).map(drop)
    }

    /// The artefacts that there are; `now` is the latest time known.
    ///
    /// # Errors
    /// Why they are not to be believed.
    pub fn artefacts(
        &mut self,
        now: Timestamp,
        proof: &Proof,
        ed25519: Ed25519<'_>,
    ) -> Result<Artefacts, Refusal> {
        self.follow(now, proof, ed25519, |_| Ok(()))
    }

    fn follow<D: Document>(
        &mut self,
        now: Timestamp,
        proof: &Proof,
        ed25519: Ed25519<'_>,
        fits: impl FnOnce(&D) -> Result<(), Refusal>,
    ) -> Result<D, Refusal> {
        if proof.roots.len() > MAX_ROOTS {
            return Err(Refusal::Roots(proof.roots.len()));
        }
        self.advance(&proof.roots, ed25519)?;
        if self.root.expires <= now {
            return Err(Refusal::RootExpired {
                version: self.root.version,
                expires: self.root.expires,
                now,
            });
        }
        let document: D = self.root.believe(&proof.statement, ed25519)?;
        let (role, expires) = (D::ROLE, document.expires());
        if expires <= now {
            return Err(Refusal::Expired { role, expires, now });
        }
        fits(&document)?;
        self.see(role, document.version(), &proof.statement)?;
        Ok(document)
    }

    /// Takes the roots that follow the one that is known; those up to it are passed over.
    fn advance(&mut self, roots: &[Signed], ed25519: Ed25519<'_>) -> Result<(), SignedError> {
        for signed in roots {
            // Only a number so far: what is behind it is read once it is known who signed it.
            if Root::parse(&signed.document)?.version <= self.root.version {
                continue;
            }
            self.root = self.root.next(signed, ed25519)?;
            self.record.roots.push(signed.clone());
        }
        Ok(())
    }

    fn see(&mut self, role: Role, version: u64, statement: &Signed) -> Result<(), Refusal> {
        let no_keys = SignedError::NoKeys {
            role,
            version: self.root.version,
        };
        let keys = self.root.keys(role).ok_or(no_keys)?;
        let sha256 = hex::encode(Sha256::digest(&statement.document));
        if let Some(seen) = self.record.seen.get(&role)
            && seen.keys.could_sign_for(keys)
        {
            if version < seen.version {
                return Err(Refusal::Rollback {
                    role,
                    seen: seen.version,
                    got: version,
                });
            }
            if version == seen.version && sha256 != seen.sha256 {
                return Err(Refusal::Changed { role, version });
            }
        }
        let keys = keys.clone();
        self.record.seen.insert(
            role,
            Seen {
                version,
                sha256,
                keys,
            },
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
