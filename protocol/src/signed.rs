//! What the owner of a fleet signs offline, and what a robot believes because of it. Pure; whoever checks brings the
//! cryptography, each program its own.
//!
//! * [`Signed`] is a document and minisign's signatures over exactly the bytes that travel: nothing is written anew
//!   before it is checked, so that there is no canonical form to agree on.
//! * `Root` (feature `signed`, as all that follows) names the keys of each [`Role`] and how many of them must sign.
//!   The next root is signed by enough keys of the one before and of its own.
//! * `Configuration` and `Artefacts` are the statements of the other roles. Both end, and count their versions up.
//! * `minisign` has keys and signatures as the program of that name writes them.
//!
//! Which attacks this is against, and what a robot remembers, is the agent's: `agent/core/src/trust.rs`.

#[cfg(feature = "signed")]
pub mod minisign;
#[cfg(feature = "signed")]
mod root;
#[cfg(feature = "signed")]
mod statement;

use std::fmt;

use serde::{Deserialize, Serialize};

#[cfg(feature = "signed")]
pub use root::{Document, Keys, Root, SignedError};
#[cfg(feature = "signed")]
pub use statement::{Artefact, ArtefactError, Artefacts, Configuration, Receiving, Robots};

/// What a key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Which keys there are.
    Root,
    /// Which software, models and images there are.
    Artefacts,
    /// What robots are configured as.
    Configuration,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Root, Self::Artefacts, Self::Configuration];

    /// The role as documents spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Artefacts => "artefacts",
            Self::Configuration => "configuration",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A document, and signatures over its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Signed {
    /// JSON; at most [`crate::limits::MAX_DOCUMENT_BYTES`].
    pub document: String,
    /// Files of minisign, at most [`crate::limits::MAX_SIGNATURES`], each of at most
    /// [`crate::limits::MAX_SIGNATURE_BYTES`].
    pub signatures: Vec<String>,
}

/// Why something is to be believed: a statement, and the roots that lead to the keys that signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Proof {
    /// Roots, one version after the other; those that a robot has already are passed over. At most
    /// [`crate::limits::MAX_ROOTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<Signed>,
    /// What is said.
    pub statement: Signed,
}
