//! Who is not let in for a while.

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// `GET /api/v1/bans`: clients and addresses that were sent away for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BanList {
    /// Those that end soonest first.
    pub bans: Vec<Ban>,
}

/// Somebody who was sent away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ban {
    /// A client that proved its id, such as `kiwi-01`, or an address: of IPv6 the first half, for all of its network.
    pub who: String,
    /// What for: `messages`, `handshake`, `silence`, `login`.
    pub reason: String,
    /// Which ban it is without a day of peace between them, from 1. Each is twice as long as the one before.
    pub count: u32,
    /// When it ends by itself.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub until: Timestamp,
}
