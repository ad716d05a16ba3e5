//! What clients of the gateway and the relay say to each other beside the messages themselves
//! ([`super::Live`]): over WebSocket (`GET /api/v1/ws`), and the relay's part of it over Server-Sent Events
//! (`GET /api/v1/stream`). `docs/gateway.md` has the contract.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Lagged;
use crate::timestamp::Timestamp;

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// Tell me these.
    Subscribe(Subscribe),
    /// Not any more.
    Unsubscribe {
        /// The subscription's name.
        id: String,
    },
    /// Are you there?
    Ping {
        /// Comes back with the answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<u64>,
    },
}

/// What a client wants to be told.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Subscribe {
    /// The client's own name for it; the same name again replaces what was wanted.
    pub id: String,
    /// `heartbeat`, `teleoperation.*`, `robot.kiwi-01.*`, `robot.*.heartbeat`, `*`; everything when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Of these only some.
    #[serde(default)]
    pub filter: Filter,
    /// How often; as it comes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<Throttle>,
    /// A position of the event log: first the events beyond it, then what comes. What comes only, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
}

/// What of the topics is wanted. Nothing named means everything.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Filter {
    /// Only these robots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub robot_ids: Vec<String>,
    /// Only these types, wildcards included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_types: Vec<String>,
}

/// How often pictures (heartbeat, telemetry, state, …) are told, of each robot and type. Events, commands and
/// responses are told as they come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Throttle {
    /// Messages a second, 0.01 to 100.
    pub rate: f64,
    /// What becomes of more.
    #[serde(default)]
    pub mode: ThrottleMode,
}

/// What becomes of messages beyond the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ThrottleMode {
    /// The first of each span is told, the rest left out.
    Sample,
    /// The span's telemetry becomes one message with least, greatest and mean values at its end; of other
    /// pictures the newest is told.
    Aggregate,
    /// At the end of the span the newest is told; of telemetry, the newest value of each metric.
    #[default]
    Latest,
}

/// What the relay says beside messages. None of these has a `robot_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RelayMessage {
    /// From now on.
    Subscribed {
        /// The subscription's name.
        id: String,
        /// The event log's position as it begins.
        position: u64,
    },
    /// The events that `from` asked for were told; what follows is live.
    Replayed {
        /// The subscription's name.
        id: String,
        /// The last position that was looked at.
        position: u64,
    },
    /// After events over a WebSocket: everything up to here that the client wants was told, and here it goes on if it
    /// is cut off. Less than the position of an urgent event that overtook others.
    Bookmark {
        /// The event log's position.
        position: u64,
    },
    /// Not any more.
    Unsubscribed {
        /// The subscription's name.
        id: String,
    },
    /// The answer to a ping.
    Pong {
        /// What the ping said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<u64>,
    },
    /// A message of the client was refused.
    Error {
        /// The subscription's name, where it could be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// What was expected and what came.
        detail: String,
    },
    /// Messages were left out: there was no room for them.
    Lagged(Lagged),
    /// The client reads slowly: of pictures it gets only the newest.
    Slowed {
        /// Messages that wait for it.
        waiting: u64,
    },
    /// It has caught up: it gets everything again.
    Resumed {
        /// Messages that newer ones stood in for meanwhile.
        merged: u64,
    },
}

/// What became of a metric in a span, in the payload of aggregated telemetry below `aggregates`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Summary {
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// Mean of the values that came.
    pub mean: f64,
    /// How many came.
    pub count: u64,
}

impl Summary {
    /// Of one value.
    #[must_use]
    pub fn of(value: f64) -> Self {
        Self {
            min: value,
            max: value,
            mean: value,
            count: 1,
        }
    }

    /// With one more.
    #[must_use]
    pub fn with(self, value: f64) -> Self {
        let count = self.count + 1;
        Self {
            min: self.min.min(value),
            max: self.max.max(value),
            // Never overflows, as the sum of the values could.
            mean: self.mean + (value - self.mean) / count as f64,
            count,
        }
    }
}

/// `GET /api/v1/robots/{id}/watchers`, and the payload of a `presence` message: who looks at a robot. Only those
/// who named it count, not those who watch the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Watchers {
    /// Connections.
    pub count: u64,
    /// Whose, each with the number of connections; at most 100 are named.
    pub users: BTreeMap<String, u64>,
    /// Since when this is so; absent while nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub since: Option<Timestamp>,
}
