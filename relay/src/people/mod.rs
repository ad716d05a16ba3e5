//! Who may use the interface: the administrator's password, sessions, and the brake on guessing.
//!
//! * [`oidc`] is what others than the relay say.
//! * [`password`] makes and checks slow hashes; [`admin`] is the credential of the first start.
//! * [`sessions`] are what a login gives; [`throttle`] slows down those who guess.

pub mod admin;
pub mod oidc;
pub mod password;
pub mod sessions;
pub mod throttle;
