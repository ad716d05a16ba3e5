//! Slows down those who guess passwords. Pure: time is an argument. Called by `sessions`.
//!
//! The first few wrong passwords of a user at an address cost nothing (people mistype); each further one
//! doubles the time that this pair must wait, up to a minute. Memory is bounded: when the table is full
//! the pair that failed longest ago is forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const FREE: u32 = 5;
const LONGEST: Duration = Duration::from_secs(60);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
const MOST_PAIRS: usize = 10_000;

/// The failures of late.
#[derive(Debug, Default)]
pub struct Throttle {
    pairs: HashMap<(String, IpAddr), Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn pause(self) -> Duration {
        match self.count.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(beyond) => Duration::from_secs(1 << beyond.min(6)).min(LONGEST),
        }
    }
}

impl Throttle {
    /// How long this pair must still wait; `None` when it may try.
    #[must_use]
    pub fn wait(&self, now: Instant, user: &str, address: IpAddr) -> Option<Duration> {
        let failures = self.pairs.get(&(user.to_owned(), address))?;
        let until = failures.last + failures.pause();
        until
            .checked_duration_since(now)
            .filter(|wait| !wait.is_zero())
    }

    /// Notes a try before its outcome is known, so that many at once count too.
    pub fn tried(&mut self, now: Instant, user: &str, address: IpAddr) {
        if self.pairs.len() >= MOST_PAIRS {
            self.pairs
                .retain(|_, failures| failures.last + FORGOTTEN_AFTER > now);
        }
        if self.pairs.len() >= MOST_PAIRS
            && let Some(oldest) = self
                .pairs
                .iter()
                .min_by_key(|(_, f)| f.last)
                .map(|(pair, _)| pair.clone())
        {
            self.pairs.remove(&oldest);
        }
        let failures = self
            .pairs
            .entry((user.to_owned(), address))
            .or_insert(Failures {
                count: 0,
                last: now,
            });
        if failures.last + FORGOTTEN_AFTER <= now {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
    }

    /// Notes that the password was right: earlier failures are forgiven.
    pub fn succeeded(&mut self, user: &str, address: IpAddr) {
        self.pairs.remove(&(user.to_owned(), address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn guessing_gets_slower_and_slower() {
        let mut now = crate::clock::monotonic();
        let mut throttle = Throttle::default();
        let mut waits = Vec::new();
        for _ in 0..14 {
            let wait = throttle.wait(now, "admin", HERE).unwrap_or_default();
            waits.push(wait.as_secs());
            now += wait;
            throttle.tried(now, "admin", HERE);
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(
            throttle.wait(now, "admin", "10.0.0.1".parse().unwrap_or(HERE)),
            None
        );
        assert_eq!(throttle.wait(now, "other", HERE), None);

        throttle.succeeded("admin", HERE);
        assert_eq!(throttle.wait(now, "admin", HERE), None);
    }

    #[test]
    fn memory_is_bounded() {
        let start = crate::clock::monotonic();
        let mut throttle = Throttle::default();
        for n in 0..MOST_PAIRS + 50 {
            throttle.tried(
                start + Duration::from_millis(n as u64),
                &n.to_string(),
                HERE,
            );
        }
        assert_eq!(throttle.pairs.len(), MOST_PAIRS);
        assert!(
            !throttle.pairs.contains_key(&("0".to_owned(), HERE)),
            "the oldest goes"
        );
    }
}
