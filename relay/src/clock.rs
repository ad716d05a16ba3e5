//! The only place of the relay where "now" is asked. Everything else takes time as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// A time that never goes back, for measuring spans.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}
