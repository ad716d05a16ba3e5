//! Certificates that the relay has given to robots and programs.

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// Whose certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// A robot's.
    Robot,
    /// A read-only broker client's.
    Consumer,
}

/// What a certificate is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum IdentityState {
    /// It counts.
    Active,
    /// It counts, and takes the place of another as soon as the robot connects with it.
    Unused,
    /// Another took its place.
    Replaced,
    /// It was taken back.
    Revoked,
    /// Its time is over.
    Expired,
}

impl IdentityState {
    /// The state as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unused => "unused",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    /// Whether it lets its owner in.
    #[must_use]
    pub fn counts(self) -> bool {
        matches!(self, Self::Active | Self::Unused)
    }
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IdentityView {
    /// Its serial number, lower-case hex without leading zeros.
    pub serial: String,
    /// Its common name: a robot's id, or `consumer:` and a name.
    pub name: String,
    /// Whose it is.
    pub kind: IdentityKind,
    /// What it is worth.
    pub state: IdentityState,
    /// When it began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub not_before: Timestamp,
    /// When it ends by itself.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub not_after: Timestamp,
    /// When it ended before its time, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub revoked: Option<Timestamp>,
    /// The serial of the certificate that it renews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews: Option<String>,
}

/// The certificate that a robot has in use, as it is part of the robot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateView {
    /// Its serial number, lower-case hex without leading zeros.
    pub serial: String,
    /// When it ends, or has ended.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub not_after: Timestamp,
}

/// `GET /api/v1/identities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IdentityList {
    /// By name, the newest first.
    pub identities: Vec<IdentityView>,
}

/// `POST /api/v1/identities/{serial}/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IdentityRevoked {
    /// The serials that count no more from now on: this one, and those that were asked for with it and not used yet.
    pub serials: Vec<String>,
}
