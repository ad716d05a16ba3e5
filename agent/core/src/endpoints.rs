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

    /// Whom to try now, one after the other: by circuit, rank, and among equals by latency. One that was
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
mod tests;
