//! The only place of this program that reads the clock.

use std::time::Instant;

/// Now, for deadlines and durations.
#[expect(clippy::disallowed_methods, reason = "the one reader of this clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
