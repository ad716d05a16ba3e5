//! Which refusals are worth an entry in the audit: who asks again and again must not fill the disk. Pure; the relay asks
//! before it writes one.
//!
//! Of the same refusal the first, the tenth, the hundredth and so on of an hour is: how often it was can be read from the
//! last. Of too many different ones at once, the later ones are not.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// After so long a refusal is a first one again.
const WINDOW: Duration = Duration::from_secs(3600);

/// Counts refusals by what tells them apart.
#[derive(Debug)]
pub struct Refusals<K> {
    most: usize,
    seen: HashMap<K, Seen>,
}

#[derive(Debug)]
struct Seen {
    since: Instant,
    count: u64,
}

impl<K: Hash + Eq> Refusals<K> {
    /// Of at most so many different ones in an hour.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            seen: HashMap::new(),
        }
    }

    /// Counts one at `now`; how many there were, where that is worth an entry.
    pub fn count(&mut self, now: Instant, key: K) -> Option<u64> {
        let is_over = |seen: &Seen| now.saturating_duration_since(seen.since) >= WINDOW;
        if let Some(seen) = self.seen.get_mut(&key).filter(|seen| !is_over(seen)) {
            seen.count += 1;
            let is_round = 10_u64.pow(seen.count.ilog10()) == seen.count;
            return is_round.then_some(seen.count);
        }
        if self.seen.len() >= self.most {
            self.seen.retain(|_, seen| !is_over(seen));
        }
        let is_known = self.seen.contains_key(&key);
        if !is_known && self.seen.len() >= self.most {
            return None;
        }
        let first = Seen {
            since: now,
            count: 1,
        };
        self.seen.insert(key, first);
        Some(1)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_handful_of_entries() {
        let start = Instant::now();
        let mut refusals = Refusals::new(2);
        let told: Vec<u64> = (0..100_000)
            .filter_map(|_| refusals.count(start, "a"))
            .collect();
        assert_eq!(told, [1, 10, 100, 1_000, 10_000, 100_000]);
        // Others are told apart, as far as there is room; and all of it ends.
        assert_eq!(refusals.count(start, "b"), Some(1));
        assert_eq!(refusals.count(start, "c"), None);
        assert_eq!(refusals.count(start + WINDOW, "c"), Some(1));
        assert_eq!(refusals.count(start + WINDOW, "a"), Some(1));
        assert_eq!(refusals.count(start + WINDOW, "a"), None);
    }
}
