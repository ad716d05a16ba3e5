//! Telemetry history: what is kept of it, how it is packed, and how a range of it becomes so many points. Pure; rows and
//! blocks are `relay/src/store/history.rs`'s.
//!
//! New samples are rows. Once their day is over they are packed: one [`block`] for the day's samples and one for each
//! level of roll-ups made of them, each level kept for a time of its own ([`Retention`]). A sample that comes later is a row
//! again, until it is packed into the blocks of its day. [`day`] is that step, and also what reading a day with rows does:
//! reading gives the same before and after.
//!
//! Terms: a *level* is a resolution with roll-ups; *day* is one of UTC.

pub mod block;
pub mod day;
pub mod lttb;
pub mod query;
pub mod rollup;

pub use lekiwi_protocol::api::Resolution;

/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;

/// One value of one metric at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When it was measured, in milliseconds since the epoch.
    pub ts_ms: u64,
    /// The value, finite.
    pub value: f64,
}

/// All resolutions, the finest first.
pub const LEVELS: [Resolution; 4] = [
    Resolution::Raw,
    Resolution::Minute,
    Resolution::Quarter,
    Resolution::Hour,
];

/// How long a roll-up of this level is; none for samples.
#[must_use]
pub const fn width_ms(level: Resolution) -> Option<u64> {
    match level {
        Resolution::Raw => None,
        Resolution::Minute => Some(60_000),
        Resolution::Quarter => Some(900_000),
        Resolution::Hour => Some(3_600_000),
    }
}

/// The level's number in the store.
#[must_use]
pub const fn number(level: Resolution) -> i64 {
    match level {
        Resolution::Raw => 0,
        Resolution::Minute => 1,
        Resolution::Quarter => 2,
        Resolution::Hour => 3,
    }
}

/// The day that holds a time, counted from the epoch.
#[must_use]
pub const fn day_of(ts_ms: u64) -> u64 {
    ts_ms / DAY_MS
}

/// For how many days each level is kept, today not counted. Coarser ones are kept at least as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Samples.
    pub raw_days: u32,
    /// Roll-ups of a minute.
    pub minute_days: u32,
    /// Roll-ups of a quarter of an hour.
    pub quarter_days: u32,
    /// Roll-ups of an hour.
    pub hour_days: u32,
}

impl Default for Retention {
    /// Samples outlive the week that a robot keeps of an outage: what it tells then is rolled up exactly.
    fn default() -> Self {
        Self {
            raw_days: 14,
            minute_days: 30,
            quarter_days: 180,
            hour_days: 3 * 365,
        }
    }
}

impl Retention {
    /// Days for which `level` is kept.
    #[must_use]
    pub const fn days(&self, level: Resolution) -> u32 {
        match level {
            Resolution::Raw => self.raw_days,
            Resolution::Minute => self.minute_days,
            Resolution::Quarter => self.quarter_days,
            Resolution::Hour => self.hour_days,
        }
    }

    /// The first day that `level` is kept of.
    #[must_use]
    pub fn first_day(&self, level: Resolution, today: u64) -> u64 {
        today.saturating_sub(u64::from(self.days(level)))
    }

    /// Whether `level` is kept of `day`.
    #[must_use]
    pub fn keeps(&self, level: Resolution, day: u64, today: u64) -> bool {
        day >= self.first_day(level, today)
    }

    /// The earliest time of which anything is kept.
    #[must_use]
    pub fn oldest_ms(&self, now_ms: u64) -> u64 {
        let today = day_of(now_ms);
        let first = |level| self.first_day(level, today);
        LEVELS.into_iter().map(first).min().unwrap_or(today) * DAY_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_end_by_whole_days() {
        let retention = Retention {
            raw_days: 1,
            minute_days: 2,
            quarter_days: 2,
            hour_days: 30_000,
        };
        let kept = |day| LEVELS.map(|level| retention.keeps(level, day, 20_000));
        assert_eq!(kept(20_000), [true, true, true, true]);
        assert_eq!(kept(19_999), [true, true, true, true]);
        assert_eq!(kept(19_998), [false, true, true, true]);
        assert_eq!(kept(19_997), [false, false, false, true]);
        assert_eq!(kept(0), [false, false, false, true]);
        assert_eq!(retention.oldest_ms(20_000 * DAY_MS + 7), 0);
        let usual = Retention::default();
        assert_eq!(usual.oldest_ms(20_000 * DAY_MS + 7), 18_905 * DAY_MS);
    }

    #[test]
    fn levels_of_the_store_are_numbered_by_width() {
        let numbers = LEVELS.map(number);
        assert_eq!(numbers, [0, 1, 2, 3]);
        for pair in LEVELS.windows(2) {
            assert!(width_ms(pair[0]) < width_ms(pair[1]));
        }
        for width in LEVELS.into_iter().filter_map(width_ms) {
            assert_eq!(DAY_MS % width, 0, "a day is whole roll-ups");
        }
    }
}
