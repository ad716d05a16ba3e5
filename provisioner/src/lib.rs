//! Takes a card from blank to a robot that registers itself. Data goes one way: [`order`] checks what was
//! asked for, [`plan`] renders every file, [`apply`] is the only part that touches a disk. [`line`] does it for
//! many boards at once, over the network.

pub mod apply;
pub mod build;
pub mod clock;
pub mod cmdline;
pub mod customise;
pub mod flash;
pub mod job;
pub mod line;
pub mod lint;
pub mod media;
pub mod order;
pub mod plan;
pub mod relay;
pub mod watch;
