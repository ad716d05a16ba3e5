//! How much may go, and when more may: a token bucket. Pure; for what local programs say, what an older
//! system changes, and how fast a backlog is told.
//!
//! Invariant: in any span what went is at most the burst, what came in meanwhile, and what one message is
//! longer than one token.

use std::time::{Duration, Instant};

/// Holds `burst` tokens, and gets one each `every`.
#[derive(Debug, Clone)]
pub struct Bucket {
    burst: u32,
    every: Duration,
    /// When it is full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            full_at: None,
        }
    }

    /// A full one which gets so many tokens a second.
    #[must_use]
    pub fn per_second(burst: u32, tokens: u32) -> Self {
        Self::new(burst, Duration::from_secs(1) / tokens.max(1))
    }

    /// Until when nothing may go; `None` when there is a token at `now`.
    #[must_use]
    pub fn closed_until(&self, now: Instant) -> Option<Instant> {
        let others = self.every * self.burst.saturating_sub(1);
        let at = self.full_at?.checked_sub(others)?;
        (at > now).then_some(at)
    }

    /// So many tokens went at `now`. They may be more than there were: the next one waits for that.
    pub fn spend(&mut self, now: Instant, tokens: u64) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let cost = self.every.saturating_mul(tokens);
        self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + cost);
    }

    /// Takes one token.
    ///
    /// # Errors
    /// When there is none: how long to wait.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        match self.closed_until(now) {
            Some(at) => Err(at.saturating_duration_since(now)),
            None => {
                self.spend(now, 1);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever asks however often: never more than the burst and one more each interval, and whoever
        /// waits as long as told is let through.
        #[test]
        fn one_by_one_it_holds(pauses in proptest::collection::vec(0_u64..2000, 1..300)) {
            let (burst, every) = (5, Duration::from_secs(1));
            let start = Instant::now();
            let mut bucket = Bucket::new(burst, every);
            let (mut now, mut taken) = (start, 0_u32);
            for pause in pauses {
                now += Duration::from_millis(pause);
                match bucket.take(now) {
                    Ok(()) => taken += 1,
                    Err(wait) => prop_assert_eq!(bucket.clone().take(now + wait), Ok(())),
                }
                let most = burst + (now - start).as_secs() as u32;
                prop_assert!(taken <= most, "{} of {}", taken, most);
            }
        }

        /// In any span, what went is what the bucket held, what came in, and at most one message more.
        #[test]
        fn by_messages_it_holds(messages in proptest::collection::vec((0_u64..3_000, 1_u64..5_000), 1..100)) {
            let (rate, burst) = (2_048_u32, 8_192_u32);
            let start = Instant::now();
            let mut bucket = Bucket::per_second(burst, rate);
            let mut now = start;
            let mut went: Vec<(Instant, u64)> = Vec::new();
            for (pause_ms, bytes) in messages {
                now += Duration::from_millis(pause_ms);
                match bucket.closed_until(now) {
                    Some(at) => {
                        prop_assert!(at > now);
                        prop_assert_eq!(bucket.closed_until(at), None);
                    }
                    None => {
                        bucket.spend(now, bytes);
                        went.push((now, bytes));
                    }
                }
            }
            for (index, (from, _)) in went.iter().enumerate() {
                let mut sum = 0;
                for (to, bytes) in &went[index..] {
                    sum += bytes;
                    let most = f64::from(rate) * (*to - *from).as_secs_f64() + f64::from(burst) + *bytes as f64;
                    prop_assert!(sum as f64 <= most + 1.0, "{} in {:?}", sum, *to - *from);
                }
            }
        }
    }

    #[test]
    fn a_message_may_take_more_than_there_is_and_the_next_waits_for_it() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2, Duration::from_secs(1));
        bucket.spend(start, 5);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(bucket.closed_until(start), Some(at(4)));
        assert_eq!(bucket.take(at(1)), Err(Duration::from_secs(3)));
        assert_eq!(bucket.take(at(4)), Ok(()));
    }
}
