//! `lekiwi-agent setup` as a child process on a folder instead of a robot: real files, a real Python
//! environment from a real wheel, stand-ins for Debian's programs, an agent that only takes events.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod python;
mod robot;
mod steps;
