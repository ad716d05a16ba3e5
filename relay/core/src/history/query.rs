//! From a range of time and a number of points to what is read, and to the points. Pure.

use lekiwi_protocol::api::{Aggregate, Resolution, TelemetrySeries};

use super::rollup::{self, Rollup};
use super::{LEVELS, Retention, Sample, day_of, lttb, width_ms};

/// Steps of points that are made of samples are multiples of it.
const SAMPLE_STEP_MS: u64 = 1_000;

/// What somebody wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// From this time on, in milliseconds since the epoch.
    pub from_ms: u64,
    /// Up to this time, exclusive; not before `from_ms`.
    pub to_ms: u64,
    /// At most so many points, and never fewer than [`lttb::FEWEST`].
    pub points: usize,
    /// One value for each step of time; the shape of the whole when absent.
    pub aggregate: Option<Aggregate>,
}

/// How that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Of which level.
    pub level: Resolution,
    /// How long a point's time is; none where points are samples.
    pub step_ms: Option<u64>,
    range: Range,
    first_raw_day: u64,
}

impl Plan {
    /// The coarsest level with a roll-up for each point, or a coarser one where that is not kept any more of the range's start.
    #[must_use]
    pub fn new(range: Range, retention: &Retention, now_ms: u64) -> Self {
        let range = Range {
            points: range.points.max(lttb::FEWEST),
            ..range
        };
        let span = (range.to_ms - range.from_ms).div_ceil(range.points as u64);
        let (first, today) = (day_of(range.from_ms), day_of(now_ms));
        let is_fine = |level: &Resolution| width_ms(*level).is_none_or(|width| width <= span);
        let is_kept = |level: &Resolution| retention.keeps(*level, first, today);
        let finest = LEVELS.into_iter().find(is_kept).unwrap_or(Resolution::Hour);
        let coarsest = LEVELS.into_iter().rfind(is_fine).unwrap_or(Resolution::Raw);
        let level = finest.max(coarsest);
        let step_ms = match (width_ms(level), range.aggregate) {
            (None, None) => None,
            (width, _) => Some(step(range, width.unwrap_or(SAMPLE_STEP_MS))),
        };
        Self {
            level,
            step_ms,
            range,
            first_raw_day: retention.first_day(Resolution::Raw, today),
        }
    }

    /// The time that is read: whole roll-ups, where it is roll-ups.
    #[must_use]
    pub fn reads(&self) -> std::ops::Range<u64> {
        let width = width_ms(self.level).unwrap_or(1);
        let (from, to) = (self.range.from_ms, self.range.to_ms);
        from - from % width..to.checked_next_multiple_of(width).unwrap_or(to)
    }

    /// Whether samples that are packed of a day still count: what is kept no longer may be incomplete.
    #[must_use]
    pub const fn counts_samples(&self, day: u64) -> bool {
        day >= self.first_raw_day
    }

    /// Points of samples in ascending order of time, all of them within [`reads`](Self::reads).
    #[must_use]
    pub fn of_samples(&self, metric: String, samples: &[Sample]) -> TelemetrySeries {
        match self.step_ms {
            None => {
                let shape = lttb::reduce(samples, self.range.points);
                TelemetrySeries {
                    metric,
                    points: shape.iter().map(|s| (s.ts_ms, s.value)).collect(),
                    ranges: Vec::new(),
                }
            }
            Some(step) => self.of_steps(metric, &rollup::fold(samples, step)),
        }
    }

    /// Points of roll-ups by the plan's step, in ascending order of time.
    #[must_use]
    pub fn of_steps(&self, metric: String, steps: &[Rollup]) -> TelemetrySeries {
        let aggregate = self.range.aggregate.unwrap_or(Aggregate::Mean);
        let value = |step: &Rollup| (step.start_ms, step.value(aggregate));
        let range = |step: &Rollup| (step.min, step.max);
        let is_shape = self.range.aggregate.is_none();
        TelemetrySeries {
            metric,
            points: steps.iter().map(value).collect(),
            ranges: steps.iter().filter(|_| is_shape).map(range).collect(),
        }
    }
}

/// A step, in multiples of `width`, of which no more than the points touch the range. Steps begin at multiples of themselves,
/// so that a chart that moves on keeps its points: the first and the last are cut, which is one more than the range's length has.
fn step(range: Range, width: u64) -> u64 {
    let points = range.points as u64;
    (range.to_ms - range.from_ms)
        .div_ceil(points - 1)
        .max(1)
        .checked_next_multiple_of(width)
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::DAY_MS;

    const NOW: u64 = 20_000 * DAY_MS + 50_000_000;
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;

    fn plan(before: u64, length: u64, points: usize, aggregate: Option<Aggregate>) -> Plan {
        let from_ms = NOW - before;
        let range = Range {
            from_ms,
            to_ms: from_ms + length,
            points,
            aggregate,
        };
        Plan::new(range, &Retention::default(), NOW)
    }

    #[test]
    fn the_level_is_told_by_range_points_and_age() {
        let day = DAY_MS;
        let cases = [
            (HOUR, HOUR, 300, None, Resolution::Raw, None),
            (6 * HOUR, 6 * HOUR, 300, None, Resolution::Minute, Some(2)),
            (day, day, 300, None, Resolution::Minute, Some(5)),
            (7 * day, 7 * day, 300, None, Resolution::Quarter, Some(45)),
            (90 * day, 90 * day, 300, None, Resolution::Hour, Some(480)),
            (day, day, 10_000, None, Resolution::Raw, None),
            // Points that stand for a time each, of samples.
            (HOUR, HOUR, 300, Some(Aggregate::Max), Resolution::Raw, None),
            // What is old is there as roll-ups only.
            (20 * day, HOUR, 300, None, Resolution::Minute, Some(1)),
            (40 * day, HOUR, 300, None, Resolution::Quarter, Some(15)),
            (400 * day, HOUR, 300, None, Resolution::Hour, Some(60)),
            (5_000 * day, HOUR, 300, None, Resolution::Hour, Some(60)),
            (HOUR, 0, 300, None, Resolution::Raw, None),
        ];
        for (before, length, points, aggregate, level, minutes) in cases {
            let plan = plan(before, length, points, aggregate);
            assert_eq!(plan.level, level, "{before} {length} {points}");
            match aggregate {
                None => assert_eq!(plan.step_ms, minutes.map(|m| m * MINUTE), "{before}"),
                Some(_) => assert_eq!(plan.step_ms, Some(13_000)),
            }
        }
    }

    #[test]
    fn steps_are_never_more_than_the_points() {
        let lengths = [(1, 5), (HOUR, 5), (HOUR, 7), (DAY_MS + 12_345, 333), (1, 1)];
        for (length, points) in lengths {
            for shift in [0, 1, 999, 59_999, 123_456] {
                let plan = plan(40 * DAY_MS + shift, length, points, Some(Aggregate::Sum));
                let step = plan.step_ms.unwrap_or_default();
                let reads = plan.reads();
                assert!(reads.start.is_multiple_of(900_000));
                let touched = reads.end.div_ceil(step) - reads.start / step;
                assert!(touched <= points.max(lttb::FEWEST) as u64, "{touched}");
            }
        }
    }

    #[test]
    fn all_of_time_is_a_range() {
        let all = Range {
            from_ms: 0,
            to_ms: u64::MAX,
            points: 0,
            aggregate: None,
        };
        let plan = Plan::new(all, &Retention::default(), NOW);
        assert_eq!(plan.reads(), 0..u64::MAX);
        assert_eq!(plan.step_ms, Some(u64::MAX / 4 / HOUR * HOUR + HOUR));
    }

    #[test]
    fn roll_ups_keep_what_was_lowest_and_highest() {
        let plan = plan(DAY_MS, DAY_MS, 300, None);
        let samples = [(0, 5.0), (1, -3.0), (2, 11.0), (3, 6.0)].map(|(at, value)| Sample {
            ts_ms: plan.reads().start + at,
            value,
        });
        let start = samples[0].ts_ms - samples[0].ts_ms % (5 * MINUTE);
        let series = plan.of_samples("cpu_percent".into(), &samples);
        assert_eq!(series.points, [(start, 4.75)]);
        assert_eq!(series.ranges, [(-3.0, 11.0)]);
    }
}
