//! Waits until something that changes in bursts has settled: a network that comes up is a dozen messages
//! of the kernel, one that flaps is many more. Pure; called by the driver.

use std::time::{Duration, Instant};

/// Quiet time after which the state counts as settled.
pub const QUIET: Duration = Duration::from_millis(200);
/// When it is looked at although it does not become quiet.
pub const AT_MOST: Duration = Duration::from_secs(2);

/// A burst of changes that is seen as one.
#[derive(Debug, Default)]
pub struct Settle {
    first: Option<Instant>,
    due: Option<Instant>,
}

impl Settle {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        let first = *self.first.get_or_insert(now);
        self.due = Some((now + QUIET).min(first + AT_MOST));
    }

    /// Whether a burst is over; true once for each.
    pub fn take(&mut self, now: Instant) -> bool {
        let over = self.due.is_some_and(|due| due <= now);
        if over {
            *self = Self::default();
        }
        over
    }

    /// When [`Self::take`] may be true.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_change_and_an_endless_one_is_looked_at_regularly() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut settle = Settle::default();
        assert!(!settle.take(at(0)) && settle.poll_timeout().is_none());
        settle.changed(at(0));
        settle.changed(at(150));
        assert!(!settle.take(at(300)));
        assert_eq!(settle.poll_timeout(), Some(at(350)));
        assert!(settle.take(at(350)) && !settle.take(at(350)));
        let mut taken = Vec::new();
        for ms in (1_000..10_000).step_by(100) {
            settle.changed(at(ms));
            if settle.take(at(ms)) {
                taken.push(ms);
            }
        }
        assert_eq!(taken, [3_000, 5_100, 7_200, 9_300]);
    }
}
