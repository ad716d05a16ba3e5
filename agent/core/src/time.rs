//! What time it is, on a machine whose clock may be anything: no battery behind it, set late by the network,
//! years ahead or behind. Pure; called by the agent's clock and driver.
//!
//! Certificates are judged by [`Known::certificate_time`]. Three things are known: what is *certain* (a
//! signature or this program's build proves that it has passed), what was *kept* from the last synchronised
//! clock, and what the clock says now. Invariants: never judged by a time before what is certain; a clock
//! that is synchronised is believed from there on, also when it was wrong before, so that no false time stays
//! for ever; one that is not is only believed to lie after what was kept, and when it lies implausibly far
//! ahead then in every second attempt only, so that neither a clock in 2038 nor a robot that slept on a shelf
//! is locked out.
//!
//! [`Watch`] notices that a clock was set, and that the machine slept: what was stamped before means another
//! time then.

use std::time::{Duration, Instant};

use lekiwi_protocol::{Clock, Timestamp};

/// An unsynchronised clock that lies further ahead of what was kept may be wrong.
pub const PLAUSIBLE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Differences between clocks up to this are drift, or the time between two readings.
pub const SLACK: Duration = Duration::from_secs(2);

/// What is known to have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    certain: Timestamp,
    kept: Timestamp,
}

impl Known {
    /// `certain` has passed beyond doubt, `kept` was written down by a synchronised clock.
    #[must_use]
    pub fn new(certain: Timestamp, kept: Timestamp) -> Self {
        Self {
            certain,
            kept: kept.max(certain),
        }
    }

    /// `time` has passed beyond doubt: it stands in something that was signed.
    pub fn passed(&mut self, time: Timestamp) {
        self.certain = self.certain.max(time);
        self.kept = self.kept.max(time);
    }

    /// A synchronised clock says `wall`.
    pub fn synchronised(&mut self, wall: Timestamp) {
        self.kept = wall.max(self.certain);
    }

    /// What is to be written down.
    #[must_use]
    pub fn kept(&self) -> Timestamp {
        self.kept
    }

    /// The latest time that is known, by which what is signed ends: a clock that nobody vouches for can neither keep
    /// a statement alive nor end one.
    #[must_use]
    pub fn latest(&self, wall: Timestamp, clock: Clock) -> Timestamp {
        match clock {
            Clock::Synced => wall.max(self.certain),
            Clock::Unsynced => self.kept,
        }
    }

    /// The time that certificates are judged by in the `attempt`th attempt, from 0, when the clock says `wall`.
    #[must_use]
    pub fn certificate_time(&self, wall: Timestamp, clock: Clock, attempt: u32) -> Timestamp {
        match clock {
            Clock::Synced => wall.max(self.certain),
            Clock::Unsynced if wall.since(self.kept) > PLAUSIBLE && attempt % 2 == 1 => self.kept,
            Clock::Unsynced => wall.max(self.kept),
        }
    }
}

/// What happened to the clock between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// It was set, forward or back.
    Stepped {
        /// Seconds, rounded; negative when it was set back.
        by_s: i64,
    },
    /// The machine slept.
    Slept {
        /// Seconds, rounded.
        for_s: u64,
    },
}

/// One reading of the three clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Stands still while the machine sleeps.
    pub monotonic: Instant,
    /// Since boot, sleep included.
    pub uptime: Duration,
    /// The time of day.
    pub wall: Timestamp,
}

/// Compares readings.
#[derive(Debug, Default)]
pub struct Watch {
    last: Option<Reading>,
    jumps: std::collections::VecDeque<Jump>,
}

impl Watch {
    /// Takes a reading; [`Self::poll_jump`] tells what happened since the last.
    pub fn observe(&mut self, reading: Reading) {
        let Some(last) = self.last.replace(reading) else {
            return;
        };
        let awake = reading.monotonic.saturating_duration_since(last.monotonic);
        let passed = reading.uptime.saturating_sub(last.uptime);
        let slept = passed.saturating_sub(awake);
        if slept > SLACK {
            let for_s = rounded_s(slept);
            self.jumps.push_back(Jump::Slept { for_s });
        }
        // Uptimes are read in whole seconds: they tell no finer than the slack.
        let passed = if slept > SLACK { passed } else { awake };
        let expected = last.wall.plus(passed);
        let (ahead, behind) = (reading.wall.since(expected), expected.since(reading.wall));
        if ahead.max(behind) > SLACK {
            let by = |duration| i64::try_from(rounded_s(duration)).unwrap_or(i64::MAX);
            let by_s = by(ahead) - by(behind);
            self.jumps.push_back(Jump::Stepped { by_s });
        }
    }

    /// What happened, oldest first.
    pub fn poll_jump(&mut self) -> Option<Jump> {
        self.jumps.pop_front()
    }
}

fn rounded_s(duration: Duration) -> u64 {
    duration
        .saturating_add(Duration::from_millis(500))
        .as_secs()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

    fn year(year: u64) -> Timestamp {
        Timestamp::from_ms((year - 1970) * YEAR_MS)
    }

    #[test]
    fn a_clock_that_lags_by_decades_is_behind_what_was_kept() {
        let known = Known::new(year(2024), year(2026));
        for attempt in 0..4 {
            let judged = known.certificate_time(year(1970), Clock::Unsynced, attempt);
            assert_eq!(judged, year(2026));
        }
    }

    #[test]
    fn a_clock_far_ahead_locks_nobody_out() {
        let known = Known::new(year(2024), year(2026));
        let judged = |attempt| known.certificate_time(year(2038), Clock::Unsynced, attempt);
        assert_eq!(
            [judged(0), judged(1), judged(2), judged(3)],
            [year(2038), year(2026), year(2038), year(2026)]
        );
        let soon = year(2026).plus(PLAUSIBLE);
        for attempt in 0..4 {
            assert_eq!(known.certificate_time(soon, Clock::Unsynced, attempt), soon);
        }
    }

    #[test]
    fn a_false_time_that_was_kept_ends_with_the_next_right_one() {
        let mut known = Known::new(year(2024), year(2026));
        known.synchronised(year(2036));
        assert_eq!(
            known.certificate_time(year(2026), Clock::Unsynced, 0),
            year(2036)
        );
        assert_eq!(
            known.certificate_time(year(2026), Clock::Synced, 0),
            year(2026)
        );
        known.synchronised(year(2026));
        assert_eq!(known.kept(), year(2026));
        // Whatever the network says: a signature is a proof.
        known.passed(year(2025));
        known.synchronised(year(1980));
        assert_eq!(
            known.certificate_time(year(1980), Clock::Synced, 0),
            year(2025)
        );
    }

    #[test]
    fn what_is_signed_ends_by_a_clock_that_somebody_vouches_for() {
        let known = Known::new(year(2024), year(2026));
        for (wall, clock, expected) in [
            (year(1970), Clock::Unsynced, year(2026)),
            (year(2038), Clock::Unsynced, year(2026)),
            (year(2027), Clock::Synced, year(2027)),
            (year(2025), Clock::Synced, year(2025)),
            (year(1970), Clock::Synced, year(2024)),
        ] {
            assert_eq!(known.latest(wall, clock), expected, "{wall} {clock:?}");
        }
    }

    fn jumps(readings: &[(u64, u64, u64)]) -> Vec<Jump> {
        let start = Instant::now();
        let mut watch = Watch::default();
        for (monotonic_ms, uptime_s, wall_ms) in readings {
            watch.observe(Reading {
                monotonic: start + Duration::from_millis(*monotonic_ms),
                uptime: Duration::from_secs(*uptime_s),
                wall: Timestamp::from_ms(*wall_ms),
            });
        }
        std::iter::from_fn(|| watch.poll_jump()).collect()
    }

    #[test]
    fn steps_and_sleep_are_told_apart() {
        let wall = 50 * YEAR_MS;
        assert_eq!(
            jumps(&[
                (0, 10, wall),
                (2_000, 12, wall + 2_000),
                (4_100, 14, wall + 3_900)
            ]),
            []
        );
        // From 1970 to 2026, and back.
        assert_eq!(
            jumps(&[(0, 10, 0), (2_000, 12, wall), (4_000, 14, 0)]),
            [
                Jump::Stepped {
                    by_s: 50 * 365 * 24 * 3600 - 2
                },
                Jump::Stepped {
                    by_s: -(50 * 365 * 24 * 3600 + 2)
                },
            ]
        );
        // Asleep for an hour, and the clock went on.
        assert_eq!(
            jumps(&[(0, 10, wall), (2_000, 3_612, wall + 3_602_000)]),
            [Jump::Slept { for_s: 3_600 }]
        );
        // Asleep for an hour with a clock that stood still.
        assert_eq!(
            jumps(&[(0, 10, wall), (2_000, 3_612, wall + 2_000)]),
            [Jump::Slept { for_s: 3_600 }, Jump::Stepped { by_s: -3_600 }]
        );
        // Stopped for ten minutes: no clock did anything.
        assert_eq!(jumps(&[(0, 10, wall), (600_000, 610, wall + 600_000)]), []);
    }

    proptest! {
        #[test]
        fn never_before_what_is_certain(
            certain in 0_u64..80, kept in 0_u64..80, synced in 0_u64..80, wall in 0_u64..80,
            is_synced: bool, attempt: u32,
        ) {
            let at = |years| Timestamp::from_ms(years * YEAR_MS);
            let mut known = Known::new(at(certain), at(kept));
            known.synchronised(at(synced));
            let clock = if is_synced { Clock::Synced } else { Clock::Unsynced };
            prop_assert!(known.certificate_time(at(wall), clock, attempt) >= at(certain));
            prop_assert!(known.kept() >= at(certain));
        }

        /// Whatever the clocks say, a reading never breaks anything, and nothing is told of the first.
        #[test]
        fn any_readings_are_survived(readings in proptest::collection::vec(any::<(u32, u32, u64)>(), 0..50)) {
            let readings: Vec<_> = readings.into_iter().map(|(a, b, c)| (a.into(), b.into(), c)).collect();
            prop_assert!(jumps(&readings).len() <= 2 * readings.len().saturating_sub(1));
        }
    }
}
