//! What the outbox keeps, sends and gives up. Pure; called by the agent's outbox and driver.
//!
//! Terms: a *stream* is one run of durable numbering; its *ordinal* sorts streams; a *cursor* is a
//! place in the order (ordinal, seq); *progress* is one for each priority. Invariants: an event is
//! forgotten only when it was acknowledged or when a numbered tombstone says that it was dropped; none is
//! dropped while there are samples to give up; at most so many are on the way at a time; what is not
//! acknowledged in time is sent again, and all of it after a reconnect.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lekiwi_protocol::message::{Dropped, Priority, SeqRange};
use uuid::Uuid;

/// Bytes that one event adds to a message beside its data: keys, number, time, type.
pub const EVENT_OVERHEAD_BYTES: u64 = 96;
/// Events older than this are dropped, where the clock can be believed.
pub const MAX_EVENT_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most ranges in one tombstone, which keeps it well below the largest event.
pub const MAX_TOMBSTONE_RANGES: usize = 400;

/// How much is kept for a relay that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most bytes of events and samples together.
    pub max_bytes: u64,
    /// Most bytes of samples, of these.
    pub max_sample_bytes: u64,
}

/// How many bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Of events.
    pub events: u64,
    /// Of samples.
    pub samples: u64,
}

impl Bounds {
    /// On disk: about 75,000 events of the usual size beside weeks of an idle robot's telemetry.
    pub const DISK: Self = Self {
        max_bytes: 16 * 1024 * 1024,
        max_sample_bytes: 4 * 1024 * 1024,
    };
    /// In memory, while the disk does not take any. Samples have a bound of their own there.
    pub const MEMORY: Self = Self {
        max_bytes: 256 * 1024,
        max_sample_bytes: 32 * 1024,
    };

    /// How many bytes of the least urgent events must go before `incoming` more are taken. When any
    /// must go, an eighth of the bound goes at once, so that tombstones stay rare.
    #[must_use]
    pub fn excess(self, held: u64, incoming: u64) -> u64 {
        let wanted = held.saturating_add(incoming);
        if wanted <= self.max_bytes {
            0
        } else {
            wanted - self.max_bytes + self.max_bytes / 8
        }
    }

    /// What must go before an event of `incoming` bytes is taken: samples first, events only when no
    /// sample is left.
    #[must_use]
    pub fn room_for_event(self, held: Held, incoming: u64) -> Held {
        let wanted = held.events.saturating_add(incoming);
        let over = wanted
            .saturating_add(held.samples)
            .saturating_sub(self.max_bytes);
        Held {
            samples: over.min(held.samples),
            events: self.excess(held.events, incoming),
        }
    }

    /// How many bytes of samples must go before `incoming` more of them are taken. No event ever goes for
    /// them: what does not fit then is given up itself.
    #[must_use]
    pub fn room_for_samples(self, held: Held, incoming: u64) -> u64 {
        let most = self.samples_beside(held.events);
        held.samples.saturating_add(incoming).saturating_sub(most)
    }

    /// Most bytes of samples beside so many of events.
    #[must_use]
    pub fn samples_beside(self, events: u64) -> u64 {
        self.max_sample_bytes
            .min(self.max_bytes.saturating_sub(events))
    }
}

/// A place in the order in which events of one priority are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cursor {
    /// Which stream of this robot.
    pub ordinal: u32,
    /// Which event of it; 0 is before the first.
    pub seq: u64,
}

/// How far the events of each priority are: urgent ones overtake, so one cursor does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress([Cursor; Priority::ALL.len()]);

impl Progress {
    /// The last event of a priority that is done.
    #[must_use]
    pub fn of(&self, priority: Priority) -> Cursor {
        self.0[priority as usize]
    }

    /// Everything of a priority up to `last` is done.
    pub fn advance(&mut self, priority: Priority, last: Cursor) {
        self.0[priority as usize] = last;
    }
}

/// Numbers of events that were given up, by stream.
#[derive(Debug, Default)]
pub struct Losses(BTreeMap<Uuid, Vec<SeqRange>>);

impl Losses {
    /// One event of `stream`. What comes in order takes no more room than its ranges.
    pub fn add(&mut self, stream: Uuid, [from, to]: SeqRange) {
        let ranges = self.0.entry(stream).or_default();
        match ranges.last_mut() {
            Some([first, last]) if *first <= from && from <= last.saturating_add(1) => {
                *last = to.max(*last);
            }
            _ => ranges.push([from, to]),
        }
    }

    /// All that an earlier tombstone speaks of, when that is given up itself.
    pub fn add_dropped(&mut self, dropped: &Dropped) {
        let whole = [[dropped.from, dropped.to]];
        let ranges: &[SeqRange] = match dropped.ranges.is_empty() {
            true => &whole,
            false => &dropped.ranges,
        };
        for range in ranges {
            self.add(dropped.stream, *range);
        }
    }

    /// As few tombstones as say all of it.
    #[must_use]
    pub fn tombstones(self) -> Vec<Dropped> {
        let mut tombstones = Vec::new();
        for (stream, ranges) in self.0 {
            for ranges in union(ranges).chunks(MAX_TOMBSTONE_RANGES) {
                if let ([[from, _], ..], [.., [_, to]]) = (ranges, ranges) {
                    tombstones.push(Dropped {
                        stream,
                        from: *from,
                        to: *to,
                        ranges: if ranges.len() > 1 {
                            ranges.to_vec()
                        } else {
                            Vec::new()
                        },
                    });
                }
            }
        }
        tombstones
    }
}

/// The same numbers in ascending, disjoint, maximal ranges.
#[must_use]
pub fn union(mut ranges: Vec<SeqRange>) -> Vec<SeqRange> {
    ranges.sort_unstable();
    ranges.dedup_by(|[from, to], [_, last]| {
        let touches = *from <= last.saturating_add(1);
        if touches {
            *last = (*last).max(*to);
        }
        touches
    });
    ranges
}

/// Whether `seq` lies in one of `ranges`.
#[must_use]
pub fn covers(ranges: &[SeqRange], seq: u64) -> bool {
    ranges.iter().any(|[from, to]| (*from..=*to).contains(&seq))
}

/// Most events on the way.
pub const MAX_EVENTS_ON_THE_WAY: usize = 400;
/// How long the first acknowledgement of an event is waited for.
pub const EVENT_PATIENCE: Duration = Duration::from_secs(5);

/// Which numbered things go out next. Knows how far it sent (`P` says that; its default is before all),
/// how much of that is unanswered, and when to begin again; the things themselves stay where they are.
#[derive(Debug)]
pub struct Window<P> {
    limit: usize,
    online: bool,
    sent: P,
    unanswered: usize,
    resend_at: Option<Instant>,
    first_patience: Duration,
    patience: Duration,
}

impl<P: Default + Copy> Window<P> {
    /// Longest wait between two attempts.
    pub const MAX_PATIENCE: Duration = Duration::from_secs(60);

    /// Offline, nothing sent; at most `limit` on the way. An acknowledgement is waited for as long as
    /// `first_patience`, which doubles up to [`Self::MAX_PATIENCE`].
    #[must_use]
    pub fn new(limit: usize, first_patience: Duration) -> Self {
        Self {
            limit,
            first_patience,
            online: false,
            sent: P::default(),
            unanswered: 0,
            resend_at: None,
            patience: first_patience,
        }
    }

    /// The link came up: everything that is kept goes out again, from the beginning.
    pub fn link_up(&mut self) {
        *self = Self {
            online: true,
            ..Self::new(self.limit, self.first_patience)
        };
    }

    /// The link went down: nothing goes out.
    pub fn link_down(&mut self) {
        *self = Self::new(self.limit, self.first_patience);
    }

    /// After which place, and how many at most, may go out now; `None` while offline or full.
    #[must_use]
    pub fn poll_output(&self) -> Option<(P, usize)> {
        let room = self.limit.saturating_sub(self.unanswered);
        (self.online && room > 0).then_some((self.sent, room))
    }

    /// `count` more were handed to the link, all up to `progress` now.
    pub fn sent(&mut self, now: Instant, progress: P, count: usize) {
        self.sent = progress;
        self.unanswered += count;
        self.resend_at.get_or_insert(now + self.patience);
    }

    /// `count` of what is kept were acknowledged.
    pub fn acknowledged(&mut self, now: Instant, count: usize) {
        if count == 0 {
            return;
        }
        self.patience = self.first_patience;
        self.unanswered = self.unanswered.saturating_sub(count);
        self.resend_at = (self.unanswered > 0).then_some(now + self.patience);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.resend_at
    }

    /// Begins again from the beginning when acknowledgements are overdue. Says whether it did.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.resend_at.is_none_or(|at| now < at) {
            return false;
        }
        self.begin_again();
        self.patience = (self.patience * 2).min(Self::MAX_PATIENCE);
        true
    }

    /// Everything that is kept goes out again, from the beginning: some of it was not there before.
    pub fn begin_again(&mut self) {
        self.sent = P::default();
        self.unanswered = 0;
        self.resend_at = None;
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 400;
    const PATIENCE: Duration = EVENT_PATIENCE;

    fn window() -> Window<u64> {
        Window::new(LIMIT, PATIENCE)
    }

    fn bounds(max_bytes: u64, max_sample_bytes: u64) -> Bounds {
        Bounds {
            max_bytes,
            max_sample_bytes,
        }
    }

    #[test]
    fn bounds_make_room_in_steps() {
        let bounds = bounds(800, 0);
        assert_eq!(bounds.excess(700, 100), 0);
        assert_eq!(bounds.excess(700, 101), 1 + 100);
        assert_eq!(bounds.excess(800, 50), 50 + 100);
    }

    #[test]
    fn unanswered_events_go_out_again_with_growing_patience() {
        let start = Instant::now();
        let mut window = window();
        assert_eq!(window.poll_output(), None, "offline");
        window.link_up();
        assert_eq!(window.poll_output(), Some((0, LIMIT)));
        window.sent(start, 100, 100);
        assert_eq!(window.poll_output(), Some((100, LIMIT - 100)));

        let first = start + PATIENCE;
        assert_eq!(window.poll_timeout(), Some(first));
        assert!(!window.handle_timeout(first - Duration::from_millis(1)));
        assert!(window.handle_timeout(first));
        assert_eq!(window.poll_output(), Some((0, LIMIT)));
        window.sent(first, 100, 100);
        assert_eq!(window.poll_timeout(), Some(first + PATIENCE * 2));

        window.acknowledged(first, 60);
        assert_eq!(window.poll_timeout(), Some(first + PATIENCE));
        window.acknowledged(first, 40);
        assert_eq!(window.poll_timeout(), None);
        assert_eq!(window.poll_output(), Some((100, LIMIT)));
    }

    #[test]
    fn a_full_window_waits_and_a_reconnect_begins_again() {
        let now = Instant::now();
        let mut window = window();
        window.link_up();
        window.sent(now, 400, LIMIT);
        assert_eq!(window.poll_output(), None);
        window.link_down();
        assert_eq!(window.poll_timeout(), None);
        window.link_up();
        assert_eq!(window.poll_output(), Some((0, LIMIT)));
    }

    #[test]
    fn samples_go_before_events() {
        let bounds = bounds(1_000, 400);
        let room = |events, samples, incoming| {
            let Held { events, samples } =
                bounds.room_for_event(Held { events, samples }, incoming);
            (samples, events)
        };
        assert_eq!(room(600, 300, 100), (0, 0));
        assert_eq!(room(600, 400, 100), (100, 0));
        assert_eq!(room(950, 40, 100), (40, 50 + 125));
        assert_eq!(
            bounds.room_for_samples(
                Held {
                    events: 0,
                    samples: 390
                },
                20
            ),
            10
        );
        assert_eq!(
            bounds.room_for_samples(
                Held {
                    events: 800,
                    samples: 190
                },
                20
            ),
            10
        );
        assert_eq!(bounds.samples_beside(2_000), 0);
    }

    proptest! {
        #[test]
        fn tombstones_cover_exactly_what_was_dropped(
            ranges in proptest::collection::vec((0_u128..3, 1_u64..60, 0_u64..8), 0..40)
        ) {
            let mut losses = Losses::default();
            for (stream, from, more) in &ranges {
                losses.add(Uuid::from_u128(*stream), [*from, from + more]);
            }
            // Given up once more, and a tombstone of it all remains.
            let mut again = Losses::default();
            for tombstone in losses.tombstones() {
                again.add_dropped(&tombstone);
            }
            let tombstones = again.tombstones();
            for stream in 0..3 {
                let of = Uuid::from_u128(stream);
                for seq in 0..80 {
                    let lost = ranges.iter().any(|(s, from, more)| *s == stream && (*from..=from + more).contains(&seq));
                    let said = tombstones.iter().any(|d| d.stream == of && d.covers(seq));
                    prop_assert_eq!(lost, said);
                }
            }
            prop_assert!(tombstones.len() <= 3);
            for ranges in tombstones.iter().map(|d| &d.ranges) {
                prop_assert!(ranges.windows(2).all(|pair| pair[0][1] + 1 < pair[1][0]));
            }
        }

        #[test]
        fn room_is_made_whenever_the_bound_would_be_passed(held in 0_u64..2_000, incoming in 0_u64..2_000) {
            let bounds = bounds(1_000, 0);
            let left = held.saturating_sub(bounds.excess(held, incoming));
            prop_assert!(left + incoming <= bounds.max_bytes.max(incoming));
        }

        #[test]
        fn no_event_goes_while_a_sample_is_left(events in 0_u64..2_000, samples in 0_u64..1_000, incoming in 0_u64..1_000) {
            let bounds = bounds(1_000, 400);
            let room = bounds.room_for_event(Held { events, samples }, incoming);
            prop_assert!(room.events == 0 || room.samples == samples);
            let left = events.saturating_sub(room.events) + (samples - room.samples);
            prop_assert!(left + incoming <= bounds.max_bytes.max(incoming));
        }
    }
}
