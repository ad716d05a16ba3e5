//! The decisions of the agent on the robot, without IO: no socket, file, clock or runtime. Time,
//! randomness and numbers are arguments; outputs are values that `lekiwi-agent`'s driver carries out.
//!
//! * [`lifecycle`]: the link to the relay and what the robot does, two machines side by side.
//! * [`setup`]: the installation of the robot's own software, step by step.
//! * [`health`]: whether that software works.
//! * [`debounce`]: when a metric is worth a message, and when it is an alert.
//! * [`feetech`]: what is said on a servo bus to ask who is there.
//! * [`hardware`]: which profile fits what the probes found, and why.
//! * [`endpoints`]: which of several ways to the relay is taken.
//! * [`settle`]: when a burst of changes is over.
//! * [`outbox`]: how many events are kept, which are sent (again), and what is said about dropped ones.

pub mod debounce;
pub mod endpoints;
pub mod feetech;
pub mod hardware;
pub mod health;
pub mod lifecycle;
pub mod outbox;
pub mod settle;
pub mod setup;
