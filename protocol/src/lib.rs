//! The contract between robots, relays and everyone who listens to them: topics, messages, limits
//! and the REST types. Pure: no IO, no runtime, no clock. Every other crate depends on this one.
//!
//! * [`topic`] owns every MQTT topic; nothing else in the workspace spells one out.
//! * [`access`] says who may publish, subscribe and leave a will where.
//! * [`envelope`] is what every robot message is wrapped in; [`message`] holds the payloads.
//! * [`limits`] are the contract's numbers.
//! * [`api`] are the bodies of the relay's HTTP interface.
//! * `pinned` (a feature) is how a client knows its relay.
//!
//! Unknown fields are ignored everywhere (an older reader survives a newer writer); an unknown
//! major version of a topic is refused.

pub mod access;
pub mod api;
pub mod envelope;
pub mod id;
pub mod limits;
pub mod message;
#[cfg(feature = "pinned")]
pub mod pinned;
#[cfg(feature = "schema")]
pub mod schema;
pub mod timestamp;
pub mod topic;

pub use envelope::{Clock, Envelope, MessageType};
pub use id::{ConsumerName, MetricName, Org, RelayId, RobotId};
pub use timestamp::Timestamp;
pub use topic::{FromRobot, Root, ToRobot, Topic};
