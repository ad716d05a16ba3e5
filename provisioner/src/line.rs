//! The factory line: boards boot from the network or report by a script, get their image and their seed, and
//! are followed until the relay shows them healthy. One unit that fails never holds up another.
//!
//! [`file`] is what a person writes. The pure parts are [`unit`] (one unit's life), [`roster`] (which unit is
//! meant), [`dhcp`] and [`tftp`] (what goes over the wire); [`store`] keeps it all, [`desk`] ties the two
//! together, and [`serve`] owns sockets and clocks. [`table`] and [`label`] are what people take away.

pub mod board;
pub mod desk;
pub mod dhcp;
mod dhcp_server;
pub mod file;
mod http;
pub mod label;
mod operator;
mod page;
pub mod roster;
pub mod serve;
pub mod store;
pub mod table;
pub mod tftp;
mod tftp_server;
pub mod unit;
mod watcher;
