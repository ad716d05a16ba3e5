//! Slows down those who guess passwords. Pure: time is an argument. Called by `sessions`.
//!
//! The first few wrong passwords of a user at an address cost nothing (people mistype); each further one
//! doubles the time that this pair must wait, up to a minute. The same holds for an address as a whole,
//! with more to begin with, so that trying many names helps nobody. Memory is bounded: when the table is
//! full, those who failed longest ago are forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Failures of one user at one address that cost nothing.
const FREE: u32 = 5;
/// Failures of one address, whatever the user, that cost nothing.
const FREE_OF_ADDRESS: u32 = 20;
const LONGEST: Duration = Duration::from_secs(60);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
const MOST_ENTRIES: usize = 10_000;

/// A user at an address, or the address as a whole.
type Source = (Option<String>, IpAddr);

/// The failures of late.
#[derive(Debug, Default)]
pub struct Throttle {
    sources: HashMap<Source, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn pause(self, free: u32) -> Duration {
        match self.count.checked_sub(free) {
            None => Duration::ZERO,
            Some(beyond) => Duration::from_secs(1 << beyond.min(6)).min(LONGEST),
        }
    }
}

fn sources(user: &str, address: IpAddr) -> [(Source, u32); 2] {
    [
        ((Some(user.to_owned()), address), FREE),
        ((None, address), FREE_OF_ADDRESS),
    ]
}

impl Throttle {
    /// How long this user at this address must still wait; `None` when it may try.
    #[must_use]
    pub fn wait(&self, now: Instant, user: &str, address: IpAddr) -> Option<Duration> {
        let waits = sources(user, address)
            .into_iter()
            .filter_map(|(source, free)| {
                let failures = self.sources.get(&source)?;
                (failures.last + failures.pause(free)).checked_duration_since(now)
            });
        waits.max().filter(|wait| !wait.is_zero())
    }

    /// Notes a try before its outcome is known, so that many at once count too.
    pub fn tried(&mut self, now: Instant, user: &str, address: IpAddr) {
        for (source, _) in sources(user, address) {
            self.make_room(now);
            let failures = self.sources.entry(source).or_insert(Failures {
                count: 0,
                last: now,
            });
            if failures.last + FORGOTTEN_AFTER <= now {
                failures.count = 0;
            }
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.sources.len() < MOST_ENTRIES {
            return;
        }
        let mut ages: Vec<Instant> = self.sources.values().map(|f| f.last).collect();
        // A tenth at once, so that a full table does not cost a search at every try.
        let (_, tenth, _) = ages.select_nth_unstable(MOST_ENTRIES / 10);
        let forgotten = now
            .checked_sub(FORGOTTEN_AFTER)
            .map_or(*tenth, |then| then.max(*tenth));
        self.sources.retain(|_, failures| failures.last > forgotten);
    }

    /// Notes that the password was right: the user's earlier failures are forgiven, and the try does
    /// not count for the address.
    pub fn succeeded(&mut self, user: &str, address: IpAddr) {
        self.sources.remove(&(Some(user.to_owned()), address));
        if let Some(failures) = self.sources.get_mut(&(None, address)) {
            failures.count = failures.count.saturating_sub(1);
        }
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
    fn many_names_from_one_address_are_slowed_down_too() {
        let now = crate::clock::monotonic();
        let mut throttle = Throttle::default();
        for n in 0..20 {
            assert_eq!(throttle.wait(now, &n.to_string(), HERE), None);
            throttle.tried(now, &n.to_string(), HERE);
        }
        assert_eq!(
            throttle.wait(now, "another", HERE),
            Some(Duration::from_secs(1))
        );
        throttle.tried(now, "admin", HERE);
        throttle.succeeded("admin", HERE);
        assert_eq!(
            throttle.wait(now, "admin", HERE),
            Some(Duration::from_secs(1))
        );
    }

    #[test]
    fn memory_is_bounded() {
        let start = crate::clock::monotonic();
        let mut throttle = Throttle::default();
        for n in 0..MOST_ENTRIES as u32 {
            let address = IpAddr::from(n.to_be_bytes());
            throttle.tried(start + Duration::from_millis(n.into()), "admin", address);
        }
        assert!(throttle.sources.len() <= MOST_ENTRIES);
        let first = IpAddr::from([0; 4]);
        assert!(
            !throttle.sources.contains_key(&(None, first)),
            "the oldest goes"
        );
    }
}
