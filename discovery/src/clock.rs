//! The only place of this crate that reads a clock.

use std::time::Instant;

/// Monotonic time, for the pure cores.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
