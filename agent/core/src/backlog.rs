//! What is kept of telemetry while nobody listens, which of it goes first when there is no room, and how
//! fast the rest goes out afterwards. Pure; the samples themselves stay on a [`Shelf`], which the agent's
//! outbox has. Called by that and by the driver.
//!
//! Terms: a *sample* is what one telemetry message would have said; an *outage* is the time between two
//! connections. *Thinning* merges every second sample of an outage into its successor: what only the older
//! one says still held when the newer one was measured, or that would have said it. It goes on from the oldest
//! until what it left takes half of the room, and then begins anew with half the resolution: all of an outage
//! but its newest part is told equally well, and nothing of it is cut off.
//!
//! Invariants: the first and the last sample of an outage survive while there is anything between them;
//! within an outage the distances between samples never grow towards now; whatever is asked for is freed;
//! no more than [`Drain::RATE_BYTES_PER_S`] goes out, so that heartbeats stay in time.

use std::time::{Duration, Instant};

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{Metrics, Thinned};

use crate::bucket::Bucket;
use crate::outbox::Window;

/// Bytes that one sample adds to a message beside its metrics: keys, number, time.
pub const SAMPLE_OVERHEAD_BYTES: u64 = 64;
/// Samples older than this are given up, where the clock can be believed.
pub const MAX_SAMPLE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// One kept sample, without what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its number; they ascend.
    pub seq: u64,
    /// Of which outage it is.
    pub outage: u32,
    /// When it was measured.
    pub timestamp: Timestamp,
    /// How much room it takes.
    pub bytes: u64,
}

/// Where samples are kept, in the order of their numbers.
pub trait Shelf {
    /// Why it could not.
    type Error;

    /// How many there are.
    fn count(&self) -> u64;

    /// The next two after a number.
    ///
    /// # Errors
    /// When they cannot be read.
    fn after(&self, seq: u64) -> Result<[Option<Place>; 2], Self::Error>;

    /// Gives up `removed`; `into` says from now on what only that one said. How many bytes that freed.
    ///
    /// # Errors
    /// When it cannot be written.
    fn merge(&mut self, removed: Place, into: Place) -> Result<u64, Self::Error>;

    /// Gives up one for good.
    ///
    /// # Errors
    /// When it cannot be written.
    fn remove(&mut self, place: Place) -> Result<(), Self::Error>;
}

/// What the newer sample says, and what only the older one says: its metrics had not moved since.
#[must_use]
pub fn merged(older: Metrics, newer: Metrics) -> Metrics {
    let mut all = older;
    all.extend(newer);
    all
}

/// Adds to the account of what was given up.
pub fn account(total: &mut Option<Thinned>, more: Thinned) {
    *total = Some(match *total {
        None => more,
        Some(sum) => Thinned {
            from: sum.from.min(more.from),
            to: sum.to.max(more.to),
            samples: sum.samples + more.samples,
        },
    });
}

/// Makes room on a shelf. Remembers how far it is, so that each call does only as much as it must.
#[derive(Debug, Clone, Copy, Default)]
pub struct Thinner {
    /// The last sample that stays, and its distance to the one before it in its outage; merging goes on
    /// behind it.
    after: Option<(Place, u64)>,
    /// How many samples this round has left where they are.
    kept: u64,
    /// Largest distance that this round makes, counted in what was measured. Twice that of the last round.
    reach: u64,
    /// The outage that the last round began with; 0 before the first.
    oldest_outage: u32,
    /// Whether this round has merged any.
    has_merged: bool,
    /// Samples to give up for good: the last round found nothing to merge.
    to_drop: u64,
}

/// What a [`Thinner`] does next.
enum Step {
    /// Look again, further on.
    Next,
    Merge(Place, Place),
    Drop(Place),
    Empty,
}

impl Thinner {
    /// Frees at least `bytes`, or all there is. Gives what was freed, and the account of it.
    ///
    /// # Errors
    /// Those of the shelf.
    pub fn make_room<S: Shelf>(
        &mut self,
        shelf: &mut S,
        bytes: u64,
    ) -> Result<(u64, Option<Thinned>), S::Error> {
        let (mut freed, mut thinned) = (0, None);
        while freed < bytes {
            let after = self.after.map_or(0, |(place, _)| place.seq);
            let gone = match self.step(shelf.count(), shelf.after(after)?) {
                Step::Next => continue,
                Step::Empty => break,
                Step::Merge(removed, into) => {
                    freed += shelf.merge(removed, into)?;
                    removed
                }
                Step::Drop(place) => {
                    shelf.remove(place)?;
                    freed += place.bytes;
                    place
                }
            };
            let once = Thinned {
                from: gone.timestamp,
                to: gone.timestamp,
                samples: 1,
            };
            account(&mut thinned, once);
        }
        Ok((freed, thinned))
    }

    /// What to do with `next`, the two samples behind [`Self::after`], of `count` in all.
    fn step(&mut self, count: u64, next: [Option<Place>; 2]) -> Step {
        let Some((after, before)) = self.after else {
            return self.begin(next);
        };
        // A round ends when what it left is half of all, but not before it found something.
        if self.kept * 2 >= count && self.has_merged {
            return self.end();
        }
        match next {
            [Some(place), Some(successor)] => {
                // Never further than what is older lies apart.
                let distance = successor.seq - after.seq;
                if place.outage == after.outage
                    && place.outage == successor.outage
                    && distance <= before.min(self.reach)
                {
                    self.has_merged = true;
                    return Step::Merge(place, successor);
                }
                // Far enough, or the first or the last of its outage.
                let is_first = place.outage != after.outage;
                let before = if is_first {
                    u64::MAX
                } else {
                    place.seq - after.seq
                };
                self.keep(place, before);
                Step::Next
            }
            // The newest sample stays, and nothing goes on behind it: there will be more of its outage.
            _ => {
                if !self.has_merged && self.reach > after.seq {
                    // Nothing but ends of outages: the oldest go, several at once where there are many.
                    self.to_drop = (count / 8).max(1);
                }
                self.end()
            }
        }
    }

    fn begin(&mut self, next: [Option<Place>; 2]) -> Step {
        let [Some(oldest), second] = next else {
            *self = Self::default();
            return Step::Empty;
        };
        if self.to_drop > 0 {
            self.to_drop -= 1;
            return Step::Drop(oldest);
        }
        let apart = second
            .filter(|second| second.outage == oldest.outage)
            .map_or(1, |second| second.seq - oldest.seq);
        // A new account begins as the oldest samples lie by now.
        let reach = if self.oldest_outage == oldest.outage {
            self.reach
        } else {
            apart
        };
        self.reach = reach.saturating_mul(2);
        self.oldest_outage = oldest.outage;
        self.kept = 0;
        self.keep(oldest, u64::MAX);
        Step::Next
    }

    fn keep(&mut self, place: Place, before: u64) {
        self.kept += 1;
        self.after = Some((place, before));
    }

    fn end(&mut self) -> Step {
        self.after = None;
        self.has_merged = false;
        Step::Next
    }
}

/// How what is kept goes out after an outage: a window over numbers, at a pace.
#[derive(Debug)]
pub struct Drain {
    window: Window<u64>,
    pace: Bucket,
    /// When the pace lets the next message through, if one was held back.
    wait: Option<Instant>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            window: Window::new(Self::MAX_ON_THE_WAY, Self::PATIENCE),
            pace: Bucket::per_second(Self::BURST_BYTES, Self::RATE_BYTES_PER_S),
            wait: None,
        }
    }
}

impl Drain {
    /// Bytes of samples a second. A day of a busy robot takes minutes, its link stays free for what is
    /// new, and a fleet that comes back does not take its relay's breath.
    pub const RATE_BYTES_PER_S: u32 = 2_048;
    /// What may go at once after a rest.
    pub const BURST_BYTES: u32 = 8_192;
    /// Most bytes of samples in one message: what a heartbeat may have to wait for.
    pub const MESSAGE_BYTES: u64 = 4_096;
    /// How long the first acknowledgement is waited for. On a slow link the events before it take their
    /// time, and nobody is in a hurry.
    pub const PATIENCE: Duration = Duration::from_secs(30);
    /// Most samples that are not acknowledged.
    pub const MAX_ON_THE_WAY: usize = 64;

    /// The link came up: everything that is kept goes out, oldest first.
    pub fn link_up(&mut self) {
        self.window.link_up();
    }

    /// The link went down: nothing goes out.
    pub fn link_down(&mut self) {
        self.window.link_down();
        self.wait = None;
    }

    /// After which sample, and how many at most, may go out at `now`.
    pub fn poll_output(&mut self, now: Instant) -> Option<(u64, usize)> {
        let output = self.window.poll_output()?;
        self.wait = self.pace.closed_until(now);
        self.wait.is_none().then_some(output)
    }

    /// `count` samples up to number `last` were handed to the link.
    pub fn sent(&mut self, now: Instant, last: u64, count: usize, bytes: u64) {
        self.window.sent(now, last, count);
        self.pace.spend(now, bytes);
    }

    /// `count` kept samples were acknowledged.
    pub fn acknowledged(&mut self, now: Instant, count: usize) {
        self.window.acknowledged(now, count);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wait
            .into_iter()
            .chain(self.window.poll_timeout())
            .min()
    }

    /// Time has passed: another message may go, or all of it again. Says whether it begins again.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        self.wait = self.wait.filter(|at| *at > now);
        self.window.handle_timeout(now)
    }
}
