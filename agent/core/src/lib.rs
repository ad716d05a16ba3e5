//! The decisions of the agent on the robot, without IO: no socket, file, clock or runtime. Time,
//! randomness and numbers are arguments; outputs are values that `lekiwi-agent`'s driver carries out.
//!
//! * [`outbox`]: how many events are kept, which are sent (again), and what is said about dropped ones.

pub mod outbox;
