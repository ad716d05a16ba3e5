//! The contract between robots, relays and everyone who listens to them: topics, messages, limits
//! and the REST types. Pure: no IO, no runtime, no clock. Every other crate depends on this one.
//!
//! * [`topic`] owns every MQTT topic; nothing else in the workspace spells one out.
//! * [`access`] says who may publish, subscribe and leave a will where.
//! * [`rights`] are what people and programs may be allowed, and the roles that bundle it.
//! * [`envelope`] is what every robot message is wrapped in; [`message`] holds the payloads.
//! * [`alert`] has the rules of alerts and what becomes of them.
//! * [`limits`] are the contract's numbers.
//! * `profile` (feature `profile`) is what a type of robot is made of and brings along; `yaml` reads
//!   files that people write.
//! * [`api`] are the bodies of the relay's HTTP interface.
//! * `audit` (of the feature `signed`) checks a record of who did what.
//! * [`discovery`] is how robots and relays of a local network find each other.
//! * [`signed`] is what the owner of a fleet signs offline (most of it a feature of that name).
//! * [`trace`] says which trace a message belongs to.
//! * `pinned` (a feature) is how a client knows its relay.
//!
//! Unknown fields of messages are ignored everywhere (an older reader survives a newer writer); an unknown
//! major version of a topic is refused.

pub mod access;
pub mod alert;
pub mod api;
#[cfg(feature = "signed")]
pub mod audit;
pub mod discovery;
pub mod envelope;
pub mod id;
pub mod limits;
pub mod message;
#[cfg(feature = "pinned")]
pub mod pinned;
#[cfg(feature = "profile")]
pub mod profile;
pub mod rights;
#[cfg(feature = "schema")]
pub mod schema;
pub mod signed;
pub mod timestamp;
pub mod topic;
pub mod trace;
#[cfg(feature = "profile")]
pub mod yaml;

pub use envelope::{Clock, Envelope, MessageType};
pub use id::{
    ConsumerName, GroupName, MetricName, Org, ProfileName, ReceiverName, RelayId, RobotId,
    RuleName, UserName,
};
pub use rights::{Permission, Permissions, Role, Scope};
pub use timestamp::Timestamp;
pub use topic::{FromRobot, Root, ToRobot, Topic};
