//! The decisions of the agent on the robot, without IO: no socket, file, clock or runtime. Time,
//! randomness and numbers are arguments; outputs are values that `lekiwi-agent`'s driver carries out.
//!
//! * [`lifecycle`]: the link to the relay and what the robot does, two machines side by side.
//! * [`command`]: what the relay tells the robot to do, at most once and to an end.
//! * [`setup`]: the installation of the robot's own software, step by step.
//! * [`health`]: whether that software works.
//! * [`services`]: what is told of each service, and when one changes too often to tell.
//! * [`catalogue`]: the metrics, and the rules that they have by default.
//! * [`debounce`]: when a metric is worth a message, and when it is an alert.
//! * [`patience`]: when an expensive probe waits for a busy machine.
//! * [`pattern`]: command lines with `*`.
//! * [`feetech`]: what is said on a servo bus to ask who is there.
//! * [`hardware`]: which profile fits what the probes found, and why.
//! * [`ros`]: which nodes of ROS 2 there are, and what they command.
//! * [`teleop`]: whether somebody drives the robot, and who.
//! * [`backlog`]: how much telemetry of an outage is kept, which of it goes first, and at which pace it is told later.
//! * [`local`]: what the robot's own programs say, and how long it counts.
//! * [`bucket`]: how much may go, and when more may.
//! * [`logs`]: which words ask for a part of the journal, and at which pace it is uploaded.
//! * [`renewal`]: when the next certificate is asked for, and when it counts.
//! * [`endpoints`]: which of several ways to the relay is taken.
//! * [`race`]: when the next of them is tried beside the first.
//! * [`settle`]: when a burst of changes is over.
//! * [`outbox`]: how many events are kept, which are sent (again), and what is said about dropped ones.
//! * [`twin`]: the configuration that operators want, tried before it counts.
//! * [`trust`]: whose signatures are believed, and what was signed by them.
//! * [`time`]: what time certificates are judged by, and whether a clock was set.

pub mod backlog;
pub mod bucket;
pub mod catalogue;
pub mod command;
pub mod debounce;
pub mod endpoints;
pub mod feetech;
pub mod hardware;
pub mod health;
pub mod lifecycle;
pub mod local;
pub mod logs;
pub mod outbox;
pub mod patience;
pub mod pattern;
pub mod race;
pub mod renewal;
pub mod ros;
pub mod services;
pub mod settle;
pub mod setup;
pub mod teleop;
pub mod time;
pub mod trust;
pub mod twin;
