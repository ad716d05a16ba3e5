//! The only place of the provisioner where "now" is asked. Everything else takes time as an argument.

use std::time::SystemTime;

use lekiwi_protocol::Timestamp;

/// The wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Timestamp {
    SystemTime::now().into()
}
