//! Who is connected to the relay.

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// `GET /connections`: a page of them, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConnectionList {
    /// At most as many as were asked for.
    pub connections: Vec<ConnectionView>,
    /// How many there are on all pages.
    pub total: u64,
    /// `after` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Where robots and programs are connected by MQTT when the relay's broker is an external one, which does not say
    /// who its clients are: none of them is listed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
}

/// A connection, since it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConnectionView {
    /// The MQTT client's id, which is a robot's own; `live:` and a number for a live stream.
    pub id: String,
    /// What it is.
    pub kind: ConnectionKind,
    /// Who listens; only of live streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
    /// Messages from it, refused ones included.
    pub received: u64,
    /// Messages to it.
    pub sent: u64,
}

/// What is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ConnectionKind {
    /// A robot, by MQTT.
    Robot,
    /// A program that listens by MQTT.
    Consumer,
    /// A live stream, by SSE or WebSocket.
    Live,
}
