//! The only place of the command line where "now" is asked.
#![expect(clippy::disallowed_methods, reason = "this is the clock")]

use std::time::{Instant, SystemTime};

use lekiwi_protocol::Timestamp;

/// The wall clock. Ages of robots go by the relay's time where an answer has it.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Monotonic time.
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}
