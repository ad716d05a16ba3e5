//! What the outbox keeps, sends and gives up. Pure; called by the agent's outbox and driver.
//!
//! Terms: a *stream* is one run of durable numbering; its *ordinal* sorts streams; a *cursor* is a
//! place in the order (ordinal, seq). Invariants: an event is forgotten only when it was acknowledged
//! or when a numbered tombstone says that it was dropped; at most [`Window::LIMIT`] events are on the
//! way at a time; what is not acknowledged in time is sent again, and all of it after a reconnect.

use std::time::{Duration, Instant};

use lekiwi_protocol::message::{Dropped, SeqRange};

/// Bytes that one event adds to a message beside its data: keys, number, time, type.
pub const EVENT_OVERHEAD_BYTES: u64 = 96;

/// How much is kept for a relay that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most bytes of events.
    pub max_bytes: u64,
}

impl Bounds {
    /// On disk: about 100,000 events of the usual size.
    pub const DISK: Self = Self {
        max_bytes: 16 * 1024 * 1024,
    };
    /// In memory, while the disk does not take any.
    pub const MEMORY: Self = Self {
        max_bytes: 256 * 1024,
    };

    /// How many bytes of the oldest events must go before `incoming` more are taken. When any must
    /// go, an eighth of the bound goes at once, so that tombstones stay rare.
    #[must_use]
    pub fn excess(self, held: u64, incoming: u64) -> u64 {
        let wanted = held.saturating_add(incoming);
        if wanted <= self.max_bytes {
            0
        } else {
            wanted - self.max_bytes + self.max_bytes / 8
        }
    }
}

/// A place in the order in which events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cursor {
    /// Which stream of this robot.
    pub ordinal: u32,
    /// Which event of it; 0 is before the first.
    pub seq: u64,
}

/// Merges neighbouring dropped ranges of the same stream, so that one tombstone says it all. A dropped
/// tombstone's own range belongs into `dropped` beside its number.
#[must_use]
pub fn tombstones(mut dropped: Vec<Dropped>) -> Vec<Dropped> {
    dropped.sort_by_key(|range| (range.stream, range.from));
    let mut merged: Vec<Dropped> = Vec::new();
    for range in dropped {
        match merged.last_mut() {
            Some(last)
                if last.stream == range.stream && range.from <= last.to.saturating_add(1) =>
            {
                last.to = last.to.max(range.to);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Whether `seq` lies in one of `ranges`.
#[must_use]
pub fn covers(ranges: &[SeqRange], seq: u64) -> bool {
    ranges.iter().any(|[from, to]| (*from..=*to).contains(&seq))
}

/// Which events go out next. Knows how far it sent, how much of that is unanswered, and when to begin
/// again; the events themselves stay in the outbox.
#[derive(Debug)]
pub struct Window {
    online: bool,
    sent: Cursor,
    unanswered: usize,
    resend_at: Option<Instant>,
    patience: Duration,
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// Most events on the way.
    pub const LIMIT: usize = 400;
    /// How long the first acknowledgement is waited for; doubles up to [`Self::MAX_PATIENCE`].
    pub const PATIENCE: Duration = Duration::from_secs(5);
    /// Longest wait between two attempts.
    pub const MAX_PATIENCE: Duration = Duration::from_secs(60);

    /// Offline, nothing sent.
    #[must_use]
    pub fn new() -> Self {
        Self {
            online: false,
            sent: Cursor::default(),
            unanswered: 0,
            resend_at: None,
            patience: Self::PATIENCE,
        }
    }

    /// The link came up: everything that is kept goes out again, oldest first.
    pub fn link_up(&mut self) {
        *self = Self {
            online: true,
            ..Self::new()
        };
    }

    /// The link went down: nothing goes out.
    pub fn link_down(&mut self) {
        *self = Self::new();
    }

    /// After which event, and how many at most, may go out now; `None` while offline or full.
    #[must_use]
    pub fn poll_output(&self) -> Option<(Cursor, usize)> {
        let room = Self::LIMIT.saturating_sub(self.unanswered);
        (self.online && room > 0).then_some((self.sent, room))
    }

    /// `count` events up to `last` were handed to the link.
    pub fn sent(&mut self, now: Instant, last: Cursor, count: usize) {
        self.sent = last;
        self.unanswered += count;
        self.resend_at.get_or_insert(now + self.patience);
    }

    /// `count` kept events were acknowledged.
    pub fn acknowledged(&mut self, now: Instant, count: usize) {
        if count == 0 {
            return;
        }
        self.patience = Self::PATIENCE;
        self.unanswered = self.unanswered.saturating_sub(count);
        self.resend_at = (self.unanswered > 0).then_some(now + self.patience);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.resend_at
    }

    /// Begins again from the oldest kept event when acknowledgements are overdue. Says whether it did.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.resend_at.is_none_or(|at| now < at) {
            return false;
        }
        self.sent = Cursor::default();
        self.unanswered = 0;
        self.resend_at = None;
        self.patience = (self.patience * 2).min(Self::MAX_PATIENCE);
        true
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn at(seq: u64) -> Cursor {
        Cursor { ordinal: 1, seq }
    }

    #[test]
    fn bounds_make_room_in_steps() {
        let bounds = Bounds { max_bytes: 800 };
        assert_eq!(bounds.excess(700, 100), 0);
        assert_eq!(bounds.excess(700, 101), 1 + 100);
        assert_eq!(bounds.excess(800, 50), 50 + 100);
    }

    #[test]
    fn unanswered_events_go_out_again_with_growing_patience() {
        let start = Instant::now();
        let mut window = Window::new();
        assert_eq!(window.poll_output(), None, "offline");
        window.link_up();
        assert_eq!(
            window.poll_output(),
            Some((Cursor::default(), Window::LIMIT))
        );
        window.sent(start, at(100), 100);
        assert_eq!(window.poll_output(), Some((at(100), Window::LIMIT - 100)));

        let first = start + Window::PATIENCE;
        assert_eq!(window.poll_timeout(), Some(first));
        assert!(!window.handle_timeout(first - Duration::from_millis(1)));
        assert!(window.handle_timeout(first));
        assert_eq!(
            window.poll_output(),
            Some((Cursor::default(), Window::LIMIT))
        );
        window.sent(first, at(100), 100);
        assert_eq!(window.poll_timeout(), Some(first + Window::PATIENCE * 2));

        window.acknowledged(first, 60);
        assert_eq!(window.poll_timeout(), Some(first + Window::PATIENCE));
        window.acknowledged(first, 40);
        assert_eq!(window.poll_timeout(), None);
        assert_eq!(window.poll_output(), Some((at(100), Window::LIMIT)));
    }

    #[test]
    fn a_full_window_waits_and_a_reconnect_begins_again() {
        let now = Instant::now();
        let mut window = Window::new();
        window.link_up();
        window.sent(now, at(400), Window::LIMIT);
        assert_eq!(window.poll_output(), None);
        window.link_down();
        assert_eq!(window.poll_timeout(), None);
        window.link_up();
        assert_eq!(
            window.poll_output(),
            Some((Cursor::default(), Window::LIMIT))
        );
    }

    proptest! {
        #[test]
        fn tombstones_cover_exactly_what_was_dropped(
            ranges in proptest::collection::vec((0_u128..3, 1_u64..60, 0_u64..8), 0..40)
        ) {
            let dropped: Vec<Dropped> = ranges
                .iter()
                .map(|(stream, from, more)| Dropped {
                    stream: Uuid::from_u128(*stream),
                    from: *from,
                    to: from + more,
                })
                .collect();
            let covered = |list: &[Dropped], stream: u128, seq: u64| {
                list.iter().any(|d| d.stream == Uuid::from_u128(stream) && (d.from..=d.to).contains(&seq))
            };
            let merged = tombstones(dropped.clone());
            for stream in 0..3 {
                for seq in 0..80 {
                    prop_assert_eq!(covered(&dropped, stream, seq), covered(&merged, stream, seq));
                }
            }
            let apart = |pair: &[Dropped]| {
                pair[0].stream != pair[1].stream || pair[0].to + 1 < pair[1].from
            };
            prop_assert!(merged.windows(2).all(apart));
        }

        #[test]
        fn room_is_made_whenever_the_bound_would_be_passed(held in 0_u64..2_000, incoming in 0_u64..2_000) {
            let bounds = Bounds { max_bytes: 1_000 };
            let left = held.saturating_sub(bounds.excess(held, incoming));
            prop_assert!(left + incoming <= bounds.max_bytes.max(incoming));
        }
    }
}
