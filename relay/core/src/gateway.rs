//! The gateway's rules: who is told what, how often, and in which order. Pure; the time is since the relay's start.
//! The driver (`relay/src/live`) brings messages, asks each [`Client`] what is to be done, and does it.
//!
//! * [`Index`] finds the clients that may want a message; [`Client::offer`] decides.
//! * [`Pattern`] and [`Wanted`] are what clients ask for, checked.
//! * The queue of a client is bounded: `queue.rs` has the policy. `throttle.rs` has how often, `replay.rs` the
//!   seam between stored and live events.

mod client;
mod index;
mod message;
mod queue;
mod replay;
mod throttle;
mod topic;
mod wanted;

pub use client::{Client, Output, Read};
pub use index::{ClientId, Index, Key};
pub use message::{Content, Message, deadline};
pub use queue::{MAX_WAITING_BYTES, SLOW_AT_LEAST, count, earliest};
pub use topic::{KindKey, Kinds, PLAIN, PRESENCE, Pattern, PatternError};
pub use wanted::{
    MAX_ID_BYTES, MAX_NAMES, MAX_REQUEST_BYTES, MAX_SUBSCRIPTIONS, RequestError, Wanted, Within,
    parse_json,
};
