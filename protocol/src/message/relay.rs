//! A relay's own birth and death.

use serde::{Deserialize, Serialize};

use crate::id::RelayId;
use crate::timestamp::Timestamp;

/// `relays/{relay_id}`, retained, without an envelope (no robot speaks here). Any one relay online
/// suffices; while none is, robots keep their events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RelayBirth {
    /// Which relay.
    pub relay_id: RelayId,
    /// Whether it takes events.
    pub online: bool,
    /// When that was so.
    pub timestamp: Timestamp,
    /// The relay's version.
    pub version: String,
}
