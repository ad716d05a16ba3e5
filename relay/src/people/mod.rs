//! Who may use the interface: the administrator's password, sessions, and the brake on guessing.
//!
//! * [`password`] makes and checks slow hashes; [`admin`] is the credential of the first start.
//! * [`sessions`] are what a login gives, [`keys`] what programs have instead; [`throttle`] slows down those who guess.

pub mod admin;
pub mod keys;
pub mod password;
pub mod sessions;
pub mod throttle;
