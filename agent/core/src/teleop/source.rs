//! Where commands come from, as counts over the last seconds: a connection, the devices at the robot, or a
//! program that reports. Bounded: a fixed number of beats, whatever happens.

use std::time::{Duration, Instant};

use heapless::Deque;

/// Commands are counted over so long.
pub(super) const RECENT: Duration = Duration::from_secs(2);
/// So many commands in [`RECENT`] are a stream of them: 5/s.
pub(super) const STREAM: u32 = 10;
/// A stream whose last command is older has ended.
pub(super) const FRESH: Duration = Duration::from_millis(500);
/// Sparse commands are looked for in so long.
const STEADY: Duration = Duration::from_secs(5);
/// So many beats in [`STEADY`], 0.8/s, make them steady…
const STEADY_BEATS: usize = 4;
/// …unless all came in a burst that was shorter than this: the loading of a page, say.
const STEADY_SPREAD: Duration = Duration::from_secs(3);
/// Beats nearer to each other are one.
const SLOT: Duration = Duration::from_millis(400);
/// Room for [`STEADY`] in steps of [`SLOT`].
const BEATS: usize = 13;

/// When something came, and how much.
#[derive(Debug, Clone, Default)]
pub(super) struct Beats(Deque<(Instant, u32), BEATS>);

impl Beats {
    pub(super) fn push(&mut self, now: Instant, count: u32) {
        self.trim(now);
        if count == 0 {
            return;
        }
        match self.0.back_mut() {
            Some((at, sum)) if now.saturating_duration_since(*at) < SLOT => {
                *sum = sum.saturating_add(count);
            }
            _ => {
                if self.0.is_full() {
                    self.0.pop_front();
                }
                // There is room: one was taken out.
                let _ = self.0.push_back((now, count));
            }
        }
    }

    fn trim(&mut self, now: Instant) {
        while self
            .0
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= STEADY)
        {
            self.0.pop_front();
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much came within `span` before `now`.
    pub(super) fn sum(&self, now: Instant, span: Duration) -> u32 {
        let within = self.within(now, span);
        within.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// How often something came within `span` before `now`.
    pub(super) fn count(&self, now: Instant, span: Duration) -> usize {
        self.within(now, span).count()
    }

    fn within(&self, now: Instant, span: Duration) -> impl Iterator<Item = &(Instant, u32)> {
        let old = move |at: &Instant| now.saturating_duration_since(*at) >= span;
        self.0.iter().filter(move |(at, _)| !old(at))
    }

    /// Since when it comes steadily; `None` when it does not.
    fn steady_since(&self, now: Instant) -> Option<Instant> {
        let (first, _) = self.within(now, STEADY).next()?;
        let (last, _) = self.0.back()?;
        let enough = self.count(now, STEADY) >= STEADY_BEATS
            && last.saturating_duration_since(*first) >= STEADY_SPREAD;
        enough.then_some(*first)
    }
}

/// A source of commands.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    beats: Beats,
    steady_since: Option<Instant>,
    last: Option<Instant>,
}

impl Source {
    /// Takes `count` commands that came since the last call, the newest at `last`.
    pub(super) fn take(&mut self, now: Instant, count: u32, last: Instant) {
        self.beats.push(now, count);
        if count > 0 {
            self.last = Some(last.min(now));
        }
        self.steady_since = match self.beats.steady_since(now) {
            Some(first) => Some(self.steady_since.unwrap_or(first)),
            None => None,
        };
    }

    /// Nobody looked for a while: what was counted before says nothing about it.
    pub(super) fn forget(&mut self) {
        self.beats.clear();
        self.steady_since = None;
    }

    /// Commands in [`RECENT`].
    pub(super) fn recent(&self, now: Instant) -> u32 {
        self.beats.sum(now, RECENT)
    }

    /// Whether any came in the last seconds.
    pub(super) fn is_quiet(&self) -> bool {
        self.beats.is_empty()
    }

    /// Since when they come steadily, at least 0.8/s.
    pub(super) fn steady_since(&self) -> Option<Instant> {
        self.steady_since
    }

    /// When the last one came.
    pub(super) fn last(&self) -> Option<Instant> {
        self.last
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds commands `(ms, count)`; whether they are steady at each.
    fn steady(commands: &[(u64, u32)]) -> Vec<bool> {
        let start = Instant::now();
        let mut source = Source::default();
        let commands = commands.iter().map(|(ms, count)| {
            let now = start + Duration::from_millis(*ms);
            source.take(now, *count, now);
            source.steady_since().is_some()
        });
        commands.collect()
    }

    #[test]
    fn one_a_second_is_steady_and_the_loading_of_a_page_is_not() {
        let once_a_second = [(0, 1), (1000, 1), (2000, 1), (3000, 1), (4000, 1)];
        assert_eq!(steady(&once_a_second), [false, false, false, true, true]);
        let page = [(0, 4), (500, 9), (1000, 3), (1500, 2), (2000, 1), (4000, 0)];
        assert_eq!(steady(&page), [false; 6]);
        // Pings of a WebSocket, every 20 s from either side.
        let pings = [(0, 2), (20_000, 1), (20_400, 1), (40_000, 2)];
        assert_eq!(steady(&pings), [false; 4]);
        let ended = [
            (0, 1),
            (1000, 1),
            (2000, 1),
            (3000, 1),
            (4000, 0),
            (5000, 0),
        ];
        assert_eq!(steady(&ended), [false, false, false, true, true, false]);
    }

    #[test]
    fn beats_near_to_each_other_are_one_and_none_is_lost() {
        let start = Instant::now();
        let mut beats = Beats::default();
        for ms in 0..4999 {
            beats.push(start + Duration::from_millis(ms), 1);
        }
        let now = start + Duration::from_millis(4998);
        assert_eq!(beats.sum(now, STEADY), 4999);
        assert_eq!(beats.count(now, STEADY), BEATS);
    }

    proptest! {
        /// Never more beats than room, and never more commands than were taken.
        #[test]
        fn any_commands_at_any_time_are_survived(
            commands in proptest::collection::vec((0_u64..10_000, any::<u32>()), 0..100),
        ) {
            let mut now = Instant::now();
            let mut source = Source::default();
            let mut taken = 0_u64;
            for (pause, count) in commands {
                now += Duration::from_millis(pause);
                source.take(now, count, now);
                taken += u64::from(count);
                prop_assert!(u64::from(source.recent(now)) <= taken);
                prop_assert!(source.last().is_none_or(|last| last <= now));
                prop_assert!(source.steady_since().is_none_or(|since| since <= now));
            }
        }
    }
}
