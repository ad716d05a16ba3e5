//! The only place of the command line where "now" is asked.

use std::time::SystemTime;

use lekiwi_protocol::Timestamp;

/// The wall clock. Ages of robots go by the relay's time where an answer has it.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}
