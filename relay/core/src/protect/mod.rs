//! Whom the relay lets in, how much it takes of them, and whom it sends away for a while. Pure: `relay/src/protect.rs`
//! asks at each connection and message, and tells what was wrong.
//!
//! Who has proved who it is answers for itself; who has not, for its address. So a robot that floods is banned and the
//! robots behind the same router are not, and nobody is banned for what a stranger claims to be.
//!
//! * [`Limits`] are the numbers, of a [`Tier`] or the operator's own.
//! * [`Overload`] is when what is given up is said, and [`Urgency`] what is first.
//! * [`Guard`] counts connections, messages and offences, and remembers bans.

mod bucket;
mod guard;
mod limits;
mod overload;

pub use guard::{Ban, Guard, Offender, Port, Refusal};
pub use limits::{Limits, Network, NetworkError, Tier};
pub use overload::{Overload, Said, Urgency};
