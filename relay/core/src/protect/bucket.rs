//! How much may go, and when more may: a token bucket.
//!
//! Invariant: in any span what went is at most the burst and what came in meanwhile.

use std::time::{Duration, Instant};

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// At once.
    pub(super) burst: u32,
    /// From then on.
    pub(super) per_s: u32,
}

/// What is left of a [`Rate`]; full at first.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    /// When it is full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one token, if there is one at `now`.
    pub(super) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let every = Duration::from_secs(1) / rate.per_s.max(1);
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + every;
        let has = full_at.saturating_duration_since(now) <= every.saturating_mul(rate.burst);
        if has {
            self.full_at = Some(full_at);
        }
        has
    }

    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However often somebody asks: never more than the burst and one more each interval, and never less.
        #[test]
        fn what_goes_is_the_burst_and_what_came_in(pauses in proptest::collection::vec(0_u64..400, 1..300)) {
            let rate = Rate { burst: 5, per_s: 10 };
            let start = Instant::now();
            let (mut bucket, mut now, mut taken) = (Bucket::default(), start, 0_u64);
            for pause in pauses {
                now += Duration::from_millis(pause);
                let was_full = bucket.is_full(now);
                let took = bucket.take(now, rate);
                prop_assert!(took || !was_full);
                taken += u64::from(took);
                let elapsed_ms = now.duration_since(start).as_millis() as u64;
                prop_assert!(taken <= 5 + elapsed_ms / 100);
            }
            prop_assert!(bucket.take(now + Duration::from_millis(100), rate), "the next token is there in time");
        }
    }
}
