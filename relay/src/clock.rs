//! The only place of the relay where "now" is asked. Everything else takes time as an argument.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far wall clock and time may come apart between two looks: more is a clock that was set.
const DRIFT: Duration = Duration::from_secs(60);

/// Milliseconds since the epoch.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds since the epoch, for what takes less than a millisecond.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now_ns() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// A time that never goes back, for measuring spans.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// The time of timers, in milliseconds since the epoch as the wall clock had it at the start: it goes on steadily,
/// whatever that is set to later.
#[must_use]
pub fn steady_ms() -> u64 {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let (at, ms) = START.get_or_init(|| (monotonic(), now_ms()));
    ms.saturating_add(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Whether the wall clock goes as time does. What is deleted by its age is deleted by a steady clock only: one that
/// was just set forward would make everything old.
#[derive(Debug, Default)]
pub struct Gait {
    last: Option<(Instant, u64)>,
}

impl Gait {
    /// Whether the wall clock has gone as time did since the last look; not at the first one.
    pub fn is_steady(&mut self, now: Instant, wall_ms: u64) -> bool {
        let Some((at, before_ms)) = self.last.replace((now, wall_ms)) else {
            return false;
        };
        let passed_ms = now.saturating_duration_since(at).as_millis();
        let expected_ms = u128::from(before_ms) + passed_ms;
        u128::from(wall_ms).abs_diff(expected_ms) <= DRIFT.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_not_steady_until_an_hour_has_passed_by_it() {
        const HOUR_MS: u64 = 3_600_000;
        const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
        let (start, mut gait) = (monotonic(), Gait::default());
        let mut looks = 0;
        let mut look = |wall_ms| {
            looks += 1;
            gait.is_steady(start + Duration::from_secs(3_600 * looks), wall_ms)
        };
        assert!(!look(50 * YEAR_MS), "nothing to compare it with");
        assert!(look(50 * YEAR_MS + HOUR_MS));
        assert!(look(50 * YEAR_MS + 2 * HOUR_MS + 59_000), "it drifts");
        assert!(!look(60 * YEAR_MS), "set forward");
        assert!(!look(50 * YEAR_MS + 4 * HOUR_MS), "and back");
        assert!(look(50 * YEAR_MS + 5 * HOUR_MS));
    }
}
