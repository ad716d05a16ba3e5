//! What the keys of the roles beside the root say. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Document, Role};
use crate::id::{NameError, RobotId};
use crate::limits::{MAX_ARTEFACT_NAME_BYTES, MAX_ARTEFACTS, MAX_SETTINGS_BYTES};
use crate::message::Settings;
use crate::timestamp::Timestamp;

/// Which robots a statement is for; printed as a robot's id, or as `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Robots {
    /// All of the fleet.
    All,
    /// This one.
    One(RobotId),
}

impl Robots {
    /// Whether it is for this robot.
    #[must_use]
    pub fn include(&self, robot: &RobotId) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == robot,
        }
    }
}

impl TryFrom<String> for Robots {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        match text.as_str() {
            "*" => Ok(Self::All),
            id => RobotId::new(id).map(Self::One),
        }
    }
}

impl From<Robots> for String {
    fn from(robots: Robots) -> Self {
        robots.to_string()
    }
}

impl fmt::Display for Robots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::One(robot) => f.write_str(robot.as_str()),
        }
    }
}

/// What robots are to be configured as. The settings themselves are in it, so that no other settings go with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// [`Role::Configuration`]: no other document is one.
    pub role: Role,
    /// Counts up, from 1, over all that a robot is told; gaps are fine.
    pub version: u64,
    /// From then on no robot takes it any more; what is in force by then stays.
    pub expires: Timestamp,
    /// For whom.
    pub robots: Robots,
    /// All that is to differ from the robot's own configuration.
    pub settings: Settings,
}

impl Document for Configuration {
    const ROLE: Role = Role::Configuration;

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
        // String keys and JSON values always become JSON.
        let bytes = serde_json::to_vec(&self.settings).map_or(usize::MAX, |json| json.len());
        if bytes > MAX_SETTINGS_BYTES {
            return Err(format!(
                "expected settings of at most {MAX_SETTINGS_BYTES} bytes, got {bytes}"
            ));
        }
        Ok(())
    }
}

/// Which software, models and images there are: all of one version together, so that none goes with those of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefacts {
    /// [`Role::Artefacts`]: no other document is one.
    pub role: Role,
    /// Counts up, from 1; gaps are fine.
    pub version: u64,
    /// From then on no robot takes it any more.
    pub expires: Timestamp,
    /// By their names, which are no paths; at most [`MAX_ARTEFACTS`].
    pub artefacts: BTreeMap<String, Artefact>,
}

/// What is to be had under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// In bytes.
    pub length: u64,
    /// In lower-case hex digits.
    pub sha256: String,
}

impl Document for Artefacts {
    const ROLE: Role = Role::Artefacts;

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
        let count = self.artefacts.len();
        if !(1..=MAX_ARTEFACTS).contains(&count) {
            return Err(format!(
                "artefacts: expected 1 to {MAX_ARTEFACTS}, got {count}"
            ));
        }
        for (name, artefact) in &self.artefacts {
            if !is_name(name) {
                let name: String = name.chars().take(80).collect();
                return Err(format!(
                    "artefacts: expected a name of letters, digits and +-._~ that begins with a letter or digit, got {name:?}"
                ));
            }
            let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if artefact.sha256.len() != 64 || !artefact.sha256.bytes().all(digit) {
                return Err(format!(
                    "artefacts.{name}.sha256: expected 64 lower-case hex digits"
                ));
            }
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._~".contains(&byte);
    name.len() <= MAX_ARTEFACT_NAME_BYTES
        && name.bytes().all(fits)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Why bytes are not the artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArtefactError {
    /// More than there should be.
    #[error("expected {0} bytes, got more")]
    More(u64),
    /// Fewer.
    #[error("expected {expected} bytes, got {got}")]
    Fewer {
        /// How many there should be.
        expected: u64,
        /// How many there are.
        got: u64,
    },
    /// As many, and others.
    #[error("expected the bytes that were signed, got others of the same length")]
    Content,
}

/// An artefact that comes in pieces; its length bounds what is taken of it.
#[derive(Debug, Clone)]
pub struct Receiving {
    artefact: Artefact,
    left: u64,
    hash: Sha256,
}

impl Receiving {
    /// Before its first piece.
    #[must_use]
    pub fn new(artefact: Artefact) -> Self {
        Self {
            left: artefact.length,
            artefact,
            hash: Sha256::new(),
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// As soon as there is more than was signed; nothing else of it has to be read then.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), ArtefactError> {
        let left = self.left.checked_sub(piece.len() as u64);
        self.left = left.ok_or(ArtefactError::More(self.artefact.length))?;
        self.hash.update(piece);
        Ok(())
    }

    /// After its last piece.
    ///
    /// # Errors
    /// When something is missing or other than it was signed.
    pub fn finish(self) -> Result<(), ArtefactError> {
        if self.left > 0 {
            let expected = self.artefact.length;
            let got = expected - self.left;
            return Err(ArtefactError::Fewer { expected, got });
        }
        if hex::encode(self.hash.finalize()) != self.artefact.sha256 {
            return Err(ArtefactError::Content);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
