//! Who may use the interface: passwords and second factors, sessions, invitations, and the brake on guessing.
//!
//! * [`password`] makes and checks slow hashes; [`admin`] is the credential of the first start, and of who lost theirs.
//! * [`factor`] are codes of authenticators; [`invitations`] let people choose their first password themselves.
//! * [`oidc`] is what others than the relay say.
//! * [`sessions`] are what a login gives, [`keys`] what programs have instead; [`throttle`] slows down those who guess.

pub mod admin;
pub mod factor;
pub mod invitations;
pub mod keys;
pub mod oidc;
pub mod password;
pub mod sessions;
pub mod throttle;
