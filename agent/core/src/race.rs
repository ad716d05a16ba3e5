//! Several ways to the relay, beside each other when the best is slow: each has a head start over the next,
//! which begins at once when one fails (as RFC 8305 does with addresses). A way that takes the connection
//! and then says nothing so costs its head start, and not its whole patience. Pure; called by the link.
//!
//! Invariants: all begin in their order, and until one has won each begins in the end; without a failure
//! two of them begin at least [`HEAD_START`] apart.

use std::time::{Duration, Instant};

/// Head start of a way over the next: two round trips on a bad mobile network. With what it takes to notice
/// that a connection is dead and with the first backoff, a robot is back within 30 s (H10).
pub const HEAD_START: Duration = Duration::from_secs(2);

/// Who has begun, and who begins when.
#[derive(Debug)]
pub struct Race {
    waiting: std::ops::Range<usize>,
    running: Vec<usize>,
    next_at: Option<Instant>,
}

impl Race {
    /// So many ways, called by their numbers, the best first.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            waiting: 0..count,
            running: Vec::new(),
            next_at: None,
        }
    }

    /// The next way to begin, if it is time.
    pub fn poll_begin(&mut self, now: Instant) -> Option<usize> {
        if self.next_at.is_some_and(|at| now < at) {
            return None;
        }
        let way = self.waiting.next()?;
        self.running.push(way);
        self.next_at = Some(now + HEAD_START);
        Some(way)
    }

    /// When [`Self::poll_begin`] next has something, if nothing fails before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_at.filter(|_| !self.waiting.is_empty())
    }

    /// A way came to nothing: the next one does not wait for it.
    pub fn failed(&mut self, way: usize) {
        self.running.retain(|running| *running != way);
        self.next_at = None;
    }

    /// Whether all have failed.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Those which have begun and are not done yet.
    #[must_use]
    pub fn running(&self) -> &[usize] {
        &self.running
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_silent_way_costs_its_head_start_and_a_failed_one_nothing() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut race = Race::new(3);
        assert_eq!(race.poll_timeout(), None, "at once");
        assert_eq!(race.poll_begin(at(0)), Some(0));
        assert_eq!(race.poll_begin(at(1999)), None);
        assert_eq!(race.poll_timeout(), Some(at(2000)));
        assert_eq!(race.poll_begin(at(2000)), Some(1));
        assert_eq!(race.running(), [0, 1]);
        race.failed(1);
        assert_eq!(race.poll_begin(at(2001)), Some(2));
        assert_eq!(race.poll_timeout(), None, "there is no other");
        race.failed(2);
        assert!(!race.is_lost(), "the first may still answer");
        race.failed(0);
        assert!(race.is_lost());
    }

    proptest! {
        /// Whatever fails when: each begins once, in order, and a head start after the one before unless one
        /// failed in between; and it ends.
        #[test]
        fn each_begins_once_and_in_order(
            count in 0_usize..6,
            acts in proptest::collection::vec((0_u64..3_000, proptest::option::of(0_usize..6)), 0..60),
        ) {
            let (mut race, mut now) = (Race::new(count), Instant::now());
            let (mut begun, mut last): (Vec<usize>, Option<Instant>) = (Vec::new(), None);
            for (pause, fails) in acts {
                now += Duration::from_millis(pause);
                if let Some(way) = race.poll_begin(now) {
                    prop_assert_eq!(way, begun.len());
                    prop_assert!(last.is_none_or(|last| now - last >= HEAD_START));
                    begun.push(way);
                    last = Some(now);
                }
                if let Some(way) = fails.filter(|way| race.running().contains(way)) {
                    race.failed(way);
                    last = None;
                }
                prop_assert!(race.poll_timeout().is_none() || begun.len() < count);
            }
            for _ in 0..count {
                now += HEAD_START;
                begun.extend(race.poll_begin(now));
            }
            prop_assert_eq!(begun, (0..count).collect::<Vec<_>>());
            for way in race.running().to_vec() {
                prop_assert!(!race.is_lost());
                race.failed(way);
            }
            prop_assert!(race.is_lost());
        }
    }
}
