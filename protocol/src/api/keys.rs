//! API keys: what programs show instead of a session.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::UserName;
use crate::rights::{Permissions, Scope};
use crate::timestamp::Timestamp;

/// The header in which a program can show its key; `Authorization: Bearer …` does as well.
pub const API_KEY: &str = "x-api-key";

/// `POST /api/v1/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// What its program is called: 1 to 64 bytes.
    pub name: String,
    /// What else there is to say: at most 200 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// What it may, as long as its owner may.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::rights::Permission>))]
    pub permissions: Permissions,
    /// Where, as far as its owner may there: `fleet`, `group:NAME` or `robot:ID`.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^(fleet|group:[a-z0-9][a-z0-9-]{0,39}|robot:[a-z0-9][a-z0-9-]{0,62})$"))]
    pub on: Scope,
    /// For how many seconds; 90 days when absent, 365 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 60, maximum = 31536000))]
    pub lifetime_s: Option<u64>,
}

/// `POST /api/v1/keys/{id}/rotate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RotationRequest {
    /// For how many seconds the secret until now goes on working; a day when absent, a week at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 604800))]
    pub overlap_s: Option<u64>,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyInfo {
    /// Which one.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub id: Uuid,
    /// What its program is called.
    pub name: String,
    /// What else its owner said of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Who made it, and answers for it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub owner: UserName,
    /// What it may, as long as its owner may.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::rights::Permission>))]
    pub permissions: Permissions,
    /// Where.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub on: Scope,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it ends by itself.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
    /// When it was shown last, give or take a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub used_at: Option<Timestamp>,
    /// Until when the secret before the last rotation works as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub old_until: Option<Timestamp>,
}

/// The answer to a [`KeyRequest`] or [`RotationRequest`]: the only time the secret is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyCreated {
    /// The secret, `lka_…`.
    pub key: String,
    /// What it is from now on.
    pub info: KeyInfo,
}

/// Keys of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyList {
    /// All that were not revoked, the newest first; those that ended are kept for 30 days.
    pub keys: Vec<KeyInfo>,
}
