//! Which of several ways to the relay is taken, and when a better one is looked at again. Pure; called by
//! the driver, which dials.
//!
//! Each endpoint has a circuit breaker: CLOSED until [`THRESHOLD`] failures in a row, then OPEN for
//! [`OPEN_FOR`], then HALF-OPEN: one failure opens it again. A connection that did not last [`STABLE`] is a
//! failure too, so that an endpoint which takes everybody and drops them soon does not win for ever.
//!
//! Invariants: somebody is always left to try, because a robot without a link has nothing better to do: an
//! open circuit is tried last, not never. A last resort is tried only when everything else failed
//! [`LAST_RESORT_AFTER`] times. A better endpoint is looked at only while the robot is idle, and more and
//! more seldom while that leads to nothing.

use std::time::{Duration, Instant};

use crate::lifecycle::STABLE;

/// Failures in a row that open a circuit (H10).
pub const THRESHOLD: u32 = 5;
/// How long it stays open (H10).
pub const OPEN_FOR: Duration = Duration::from_secs(60);
/// Failures of everything else before a last resort is tried.
pub const LAST_RESORT_AFTER: u32 = 3;
/// Longest pause between two looks at a better endpoint.
pub const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// When a robot that is busy is asked again.
const BUSY: Duration = Duration::from_secs(30);

/// Where an endpoint stands among the others; the lower, the better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Behind everything that is not.
    pub last_resort: bool,
    /// Lowest first, as in the mail exchangers of the DNS.
    pub preference: u16,
}

/// The state of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// In use.
    Closed,
    /// It failed too often: tried last.
    Open,
    /// It may show whether it works again.
    HalfOpen,
}

#[derive(Debug)]
struct Endpoint {
    rank: Rank,
    latency: Option<Duration>,
    failures: u32,
    failed_at: Option<Instant>,
}

impl Endpoint {
    fn circuit(&self, now: Instant) -> Circuit {
        match self.failed_at {
            Some(at) if self.failures >= THRESHOLD => {
                if now.saturating_duration_since(at) < OPEN_FOR {
                    Circuit::Open
                } else {
                    Circuit::HalfOpen
                }
            }
            _ => Circuit::Closed,
        }
    }

    fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
    }

    /// A mean that forgets: three quarters old, one quarter new.
    fn measured(&mut self, latency: Duration) {
        self.latency = Some(match self.latency {
            Some(mean) => (mean * 3 + latency) / 4,
            None => latency,
        });
    }
}

/// All endpoints of one relay.
#[derive(Debug)]
pub struct Endpoints {
    all: Vec<Endpoint>,
    /// The one in use, or used last.
    last: Option<usize>,
    /// Since when it is in use.
    since: Option<Instant>,
    /// Time on a worse endpoint before a better one is looked at.
    fail_back: Duration,
    pause: Duration,
    look_at: Option<Instant>,
}

impl Endpoints {
    /// In the order of the configuration, by which they are called from now on.
    #[must_use]
    pub fn new(ranks: impl IntoIterator<Item = Rank>, fail_back: Duration) -> Self {
        let endpoint = |rank| Endpoint {
            rank,
            latency: None,
            failures: 0,
            failed_at: None,
        };
        Self {
            all: ranks.into_iter().map(endpoint).collect(),
            last: None,
            since: None,
            fail_back,
            pause: fail_back,
            look_at: None,
        }
    }

    /// Whom to try now, the best first: by circuit, rank, and among equals by latency. One that was
    /// never tried counts as quick, so that it is measured; the last one used keeps its place unless
    /// another is a fifth quicker.
    #[must_use]
    pub fn order(&self, now: Instant) -> Vec<usize> {
        let mut others = self.all.iter().filter(|one| !one.rank.last_resort);
        let desperate = others.all(|one| one.failures >= LAST_RESORT_AFTER);
        let mut order: Vec<usize> = (0..self.all.len())
            .filter(|index| desperate || !self.all[*index].rank.last_resort)
            .collect();
        order.sort_by_key(|index| {
            let one = &self.all[*index];
            let latency = one.latency.unwrap_or_default();
            let latency = match self.last == Some(*index) {
                true => latency * 4 / 5,
                false => latency,
            };
            (one.circuit(now) == Circuit::Open, one.rank, latency)
        });
        order
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Instant, index: usize) {
        if let Some(one) = self.all.get_mut(index) {
            one.failed(now);
        }
    }

    /// It is in use from now on; `latency` is what the connection took.
    pub fn connected(&mut self, now: Instant, index: usize, latency: Duration) {
        let Some(one) = self.all.get_mut(index) else {
            return;
        };
        one.measured(latency);
        self.last = Some(index);
        self.since = Some(now);
        self.look_at = self.has_better(index).then(|| now + self.pause);
    }

    /// The connection is over, whoever ended it.
    pub fn lost(&mut self, now: Instant) {
        self.look_at = None;
        let (Some(index), Some(since)) = (self.last, self.since.take()) else {
            return;
        };
        if now.saturating_duration_since(since) < STABLE {
            return self.failed(now, index);
        }
        self.all[index].failures = 0;
        if !self.has_better(index) {
            self.pause = self.fail_back;
        }
    }

    /// The better endpoint to look at now, if it is time and the robot is `idle`: answer
    /// [`Self::looked`].
    pub fn handle_timeout(&mut self, now: Instant, idle: bool) -> Option<usize> {
        if self.look_at.is_none_or(|at| now < at) {
            return None;
        }
        if !idle {
            self.look_at = Some(now + BUSY);
            return None;
        }
        let rank = self.all[self.last?].rank;
        let better = self.all.iter().filter(|one| one.rank < rank);
        let first_failed = better.filter_map(|one| one.failed_at).min();
        let order = self.order_of_better(now, rank);
        let Some(index) = order.into_iter().next() else {
            // All are open: the first to be half-open is looked at as soon as it is.
            self.look_at = first_failed.map(|at| at + OPEN_FOR);
            return None;
        };
        self.look_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE).max(self.fail_back);
        Some(index)
    }

    /// When [`Self::handle_timeout`] may have something.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.look_at
    }

    /// What a look at `index` found: its latency, or nothing. Returns whether to go there.
    pub fn looked(&mut self, now: Instant, index: usize, latency: Option<Duration>) -> bool {
        let Some(one) = self.all.get_mut(index) else {
            return false;
        };
        let Some(latency) = latency else {
            one.failed(now);
            return false;
        };
        one.measured(latency);
        let (rank, last) = (one.rank, self.last);
        // It may have been lost, or left, meanwhile.
        self.since.is_some() && last.is_some_and(|last| rank < self.all[last].rank)
    }

    /// The circuit of `index`.
    #[must_use]
    pub fn circuit(&self, now: Instant, index: usize) -> Option<Circuit> {
        self.all.get(index).map(|one| one.circuit(now))
    }

    /// The endpoint in use, or used last.
    #[must_use]
    pub fn last(&self) -> Option<usize> {
        self.last
    }

    fn has_better(&self, index: usize) -> bool {
        let rank = self.all[index].rank;
        self.all.iter().any(|one| one.rank < rank)
    }

    fn order_of_better(&self, now: Instant, rank: Rank) -> Vec<usize> {
        let mut better: Vec<usize> = (0..self.all.len())
            .filter(|index| {
                let one = &self.all[*index];
                one.rank < rank && one.circuit(now) != Circuit::Open
            })
            .collect();
        better.sort_by_key(|index| (self.all[*index].rank, self.all[*index].latency));
        better
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAIL_BACK: Duration = Duration::from_secs(300);
    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn rank(preference: u16) -> Rank {
        Rank {
            last_resort: false,
            preference,
        }
    }

    const LAST_RESORT: Rank = Rank {
        last_resort: true,
        preference: 0,
    };

    fn seconds(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn preference_comes_first_and_latency_among_equals() {
        let start = Instant::now();
        let mut endpoints = Endpoints::new([rank(2), rank(1), rank(1)], FAIL_BACK);
        assert_eq!(endpoints.order(start), [1, 2, 0]);
        endpoints.connected(start, 1, MS(50));
        assert_eq!(endpoints.order(start), [2, 1, 0], "2 was never measured");
        endpoints.connected(start, 2, MS(45));
        assert_eq!(endpoints.order(start), [2, 1, 0]);
        endpoints.connected(start, 1, MS(50));
        assert_eq!(endpoints.order(start), [1, 2, 0], "no change for a tenth");
        for _ in 0..8 {
            endpoints.looked(start, 2, Some(MS(10)));
        }
        assert_eq!(endpoints.order(start), [2, 1, 0], "but for a fifth");
    }

    #[test]
    fn a_circuit_opens_after_five_failures_and_lets_one_try_after_a_minute() {
        let start = Instant::now();
        let mut endpoints = Endpoints::new([rank(1), rank(2)], FAIL_BACK);
        for failures in 1..=5 {
            assert_eq!(endpoints.order(start), [0, 1]);
            endpoints.failed(start, 0);
            let open = failures == 5;
            let expected = if open { Circuit::Open } else { Circuit::Closed };
            assert_eq!(endpoints.circuit(start, 0), Some(expected));
        }
        assert_eq!(endpoints.order(start), [1, 0], "last, but not never");
        let later = seconds(start, 60);
        assert_eq!(endpoints.circuit(later, 0), Some(Circuit::HalfOpen));
        assert_eq!(endpoints.order(later), [0, 1]);
        endpoints.failed(later, 0);
        assert_eq!(
            endpoints.circuit(later, 0),
            Some(Circuit::Open),
            "one is enough"
        );
        let later = seconds(start, 120);
        endpoints.connected(later, 0, MS(5));
        endpoints.lost(later + STABLE);
        assert_eq!(endpoints.circuit(later, 0), Some(Circuit::Closed));
    }

    #[test]
    fn an_endpoint_that_takes_and_drops_is_a_failing_one() {
        let start = Instant::now();
        let mut endpoints = Endpoints::new([rank(1), rank(2)], FAIL_BACK);
        for _ in 0..5 {
            endpoints.connected(start, 0, MS(5));
            endpoints.lost(seconds(start, 1));
        }
        assert_eq!(endpoints.order(seconds(start, 2)), [1, 0]);
    }

    #[test]
    fn the_last_resort_waits_until_all_else_failed_three_times() {
        let start = Instant::now();
        let mut endpoints = Endpoints::new([LAST_RESORT, rank(9), rank(1)], FAIL_BACK);
        for _ in 0..3 {
            assert_eq!(endpoints.order(start), [2, 1]);
            endpoints.failed(start, 2);
        }
        assert_eq!(endpoints.order(start), [2, 1], "1 did not fail");
        (0..3).for_each(|_| endpoints.failed(start, 1));
        assert_eq!(endpoints.order(start), [2, 1, 0]);
    }

    #[test]
    fn a_better_endpoint_is_looked_at_while_idle_and_more_seldom_in_vain() {
        let start = Instant::now();
        let mut endpoints = Endpoints::new([rank(1), rank(2)], FAIL_BACK);
        endpoints.failed(start, 0);
        endpoints.connected(start, 1, MS(5));
        let at = |s| seconds(start, s);
        assert_eq!(endpoints.poll_timeout(), Some(at(300)));
        assert_eq!(endpoints.handle_timeout(at(299), true), None);
        assert_eq!(
            endpoints.handle_timeout(at(300), false),
            None,
            "it is driven"
        );
        assert_eq!(endpoints.handle_timeout(at(330), true), Some(0));
        assert!(!endpoints.looked(at(331), 0, None));
        assert_eq!(endpoints.poll_timeout(), Some(at(630)));
        assert_eq!(endpoints.handle_timeout(at(630), true), Some(0));
        assert_eq!(endpoints.poll_timeout(), Some(at(1230)));
        assert!(endpoints.looked(at(631), 0, Some(MS(4))), "go there");
        endpoints.lost(at(631));
        assert_eq!(endpoints.order(at(631)), [0, 1]);
        endpoints.connected(at(632), 0, MS(4));
        assert_eq!(endpoints.poll_timeout(), None, "there is nothing better");
        endpoints.lost(at(700));
        assert!(
            !endpoints.looked(at(701), 0, Some(MS(4))),
            "it was lost meanwhile"
        );
        endpoints.connected(at(702), 1, MS(5));
        assert_eq!(endpoints.poll_timeout(), Some(at(1002)), "it had lasted");
    }

    #[test]
    fn an_open_better_endpoint_is_looked_at_as_soon_as_it_is_half_open() {
        let start = Instant::now();
        let at = |s| seconds(start, s);
        let mut endpoints = Endpoints::new([rank(1), rank(2)], Duration::from_secs(5));
        (0..5).for_each(|_| endpoints.failed(start, 0));
        endpoints.connected(at(1), 1, MS(5));
        assert_eq!(endpoints.handle_timeout(at(6), true), None);
        assert_eq!(endpoints.poll_timeout(), Some(at(60)));
        assert_eq!(endpoints.handle_timeout(at(60), true), Some(0));
        assert_eq!(endpoints.poll_timeout(), Some(at(65)));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Round,
        Connect(usize),
        Lose,
        Timeout(bool),
        Looked(usize, Option<u64>),
    }

    fn any_act() -> impl Strategy<Value = Act> {
        prop_oneof![
            Just(Act::Round),
            (0_usize..4).prop_map(Act::Connect),
            Just(Act::Lose),
            any::<bool>().prop_map(Act::Timeout),
            (0_usize..4, proptest::option::of(0_u64..5_000))
                .prop_map(|(index, latency)| Act::Looked(index, latency)),
        ]
    }

    proptest! {
        /// Whatever happens: somebody is left to try, nobody twice, and no open circuit before a closed one;
        /// looks are at better endpoints of idle robots, and at least the pause apart.
        #[test]
        fn any_order_of_events_is_survived(
            ranks in proptest::collection::vec((any::<bool>(), 0_u16..3), 1..4),
            acts in proptest::collection::vec((0_u64..90_000, any_act()), 0..200),
        ) {
            let mut now = Instant::now();
            let ranks: Vec<Rank> = ranks
                .into_iter()
                .enumerate()
                // The first is an ordinary one.
                .map(|(index, (last_resort, preference))| Rank { last_resort: last_resort && index > 0, preference })
                .collect();
            let mut endpoints = Endpoints::new(ranks.clone(), FAIL_BACK);
            let mut online = None;
            let mut looked: Option<Instant> = None;
            for (pause, act) in acts {
                now += MS(pause);
                match act {
                    Act::Round => {
                        endpoints.lost(now);
                        for index in endpoints.order(now) {
                            endpoints.failed(now, index);
                        }
                        online = None;
                    }
                    Act::Connect(index) if index < ranks.len() => {
                        endpoints.lost(now);
                        endpoints.connected(now, index, MS(pause % 500));
                        online = Some(index);
                        looked = Some(now);
                    }
                    Act::Connect(_) => {}
                    Act::Lose => {
                        endpoints.lost(now);
                        online = None;
                    }
                    Act::Timeout(idle) => if let Some(index) = endpoints.handle_timeout(now, idle) {
                        prop_assert!(idle);
                        let current = online.expect("looks only while online");
                        prop_assert!(ranks[index] < ranks[current]);
                        prop_assert!(looked.is_some_and(|at| now.duration_since(at) >= FAIL_BACK));
                        looked = Some(now);
                    },
                    Act::Looked(index, latency) => {
                        let go = endpoints.looked(now, index, latency.map(MS));
                        if go {
                            prop_assert!(online.is_some_and(|current| ranks[index] < ranks[current]));
                        }
                    }
                }
                let order = endpoints.order(now);
                prop_assert!(!order.is_empty());
                let mut each = order.clone();
                each.sort_unstable();
                each.dedup();
                prop_assert_eq!(each.len(), order.len());
                let open: Vec<bool> = order
                    .iter()
                    .map(|index| endpoints.circuit(now, *index) == Some(Circuit::Open))
                    .collect();
                prop_assert!(open.is_sorted(), "an open circuit before another");
                if endpoints.poll_timeout().is_some() {
                    prop_assert!(online.is_some());
                }
            }
        }
    }
}
