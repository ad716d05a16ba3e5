//! The only place of the provisioner's command line where "now" is asked.

use std::time::Instant;

/// The monotonic clock, for how long things take.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
