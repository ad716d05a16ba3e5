//! Who did what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// One thing that somebody did or was refused. Entries are a chain: each one's hash is over it and over the hash of the one
/// before (`lekiwi_protocol::audit` says how).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its place, from 1, without gaps.
    pub number: u64,
    /// When, by the relay's clock.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Who, such as `person:ada`, `robot:kiwi-01`, `system:r1` or `nobody`.
    pub who: String,
    /// From which address; empty where there was none.
    pub address: String,
    /// What they did, such as `login` or `robot-command`.
    pub action: String,
    /// On what, as the path of the interface names it, such as `robots/kiwi-01`.
    pub on: String,
    /// `done`, or the type of the problem that refused it.
    pub outcome: String,
    /// The trace of the request, where it said one.
    pub trace: String,
    /// More, by name. Never a secret.
    pub detail: BTreeMap<String, String>,
    /// SHA-256, in hex.
    pub hash: String,
}

/// `GET /api/v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditPage {
    /// In ascending order.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins (`after`), if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
}

/// `GET /api/v1/audit/checkpoint`: how far the chain went at a time, signed. Whoever has one notices when what it
/// speaks of is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AuditCheckpoint {
    /// JSON: the number and hash of the last entry, and when.
    pub document: String,
    /// A file of minisign, over exactly the document.
    pub signature: String,
    /// The relay's public key, as minisign writes it.
    pub key: String,
}
