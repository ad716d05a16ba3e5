//! What holds of telemetry history whatever robots say, and in which order it comes.
#![expect(clippy::unwrap_used, reason = "tests")]

use lekiwi_protocol::api::Aggregate;
use lekiwi_relay_core::history::block::{
    pack_rollups, pack_samples, unpack_rollups, unpack_samples,
};
use lekiwi_relay_core::history::day::{merge, rolled_up};
use lekiwi_relay_core::history::query::{Plan, Range};
use lekiwi_relay_core::history::rollup::{Rollup, extend, fold};
use lekiwi_relay_core::history::{DAY_MS, LEVELS, Retention, Sample, lttb, width_ms};
use proptest::prelude::*;

const START: u64 = 20_000 * DAY_MS;

/// What sensors say, and everything else that is a number.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-100_000i64..100_000).prop_map(|n| n as f64 / 100.0),
        1 => prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO,
        1 => prop::sample::select(vec![0.0, -0.0, f64::MAX, f64::MIN, 1e15, 0.1 + 0.2, 1e-7]),
    ]
}

/// A day's samples, ascending, no two of one time.
fn day(value: impl Strategy<Value = f64>) -> impl Strategy<Value = Vec<Sample>> {
    prop::collection::btree_map(0..DAY_MS, value, 0..200).prop_map(|values| {
        let sample = |(at, value)| Sample {
            ts_ms: START + at,
            value,
        };
        values.into_iter().map(sample).collect()
    })
}

fn decimals() -> impl Strategy<Value = f64> {
    (-100_000_000i64..100_000_000).prop_map(|n| n as f64 / 10_000.0)
}

fn bits(samples: &[Sample]) -> Vec<(u64, u64)> {
    let both = |sample: &Sample| (sample.ts_ms, sample.value.to_bits());
    samples.iter().map(both).collect()
}

fn rolled(parts: &[Rollup], width: u64) -> Vec<Rollup> {
    let mut spans = Vec::new();
    extend(&mut spans, parts.iter().copied(), width);
    spans
}

proptest! {
    #[test]
    fn what_was_packed_comes_back(samples in day(value())) {
        let block = pack_samples(START, &samples);
        prop_assert_eq!(bits(&unpack_samples(START, &block).unwrap()), bits(&samples));
        for width in LEVELS.into_iter().filter_map(width_ms) {
            let spans = fold(&samples, width);
            let block = pack_rollups(START, width, &spans);
            let back = unpack_rollups(START, width, &block).unwrap();
            // Debug tells 0.0 from -0.0.
            prop_assert_eq!(format!("{back:?}"), format!("{spans:?}"));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(mut block in prop::collection::vec(any::<u8>(), 0..64), known in any::<bool>()) {
        if known && !block.is_empty() {
            block[0] = 1;
        }
        if let Ok(samples) = unpack_samples(START, &block) {
            prop_assert!(samples.len() <= block.len());
            prop_assert!(samples.iter().all(|sample| sample.value.is_finite()));
        }
        if let Ok(spans) = unpack_rollups(START, 60_000, &block) {
            prop_assert!(spans.len() <= block.len());
        }
    }

    #[test]
    fn rolling_up_roll_ups_is_rolling_up_samples(samples in day(decimals())) {
        let minutes = fold(&samples, 60_000);
        let quarters = rolled(&minutes, 900_000);
        prop_assert_eq!(&quarters, &fold(&samples, 900_000));
        prop_assert_eq!(rolled(&quarters, 3_600_000), fold(&samples, 3_600_000));
        let count: u64 = minutes.iter().map(|span| span.count).sum();
        prop_assert_eq!(count, samples.len() as u64);
        for span in &minutes {
            prop_assert!(span.min <= span.mean() && span.mean() <= span.max);
        }
    }

    #[test]
    fn in_which_order_rows_come_changes_nothing(samples in day(decimals()), picks in prop::collection::vec(0usize..4, 200)) {
        // Rows come in four parts, some of them twice, as a robot's backlog does.
        let part = |n: usize| -> Vec<Sample> {
            samples.iter().zip(&picks).filter(|(_, pick)| **pick == n).map(|(sample, _)| *sample).collect()
        };
        for order in [[0, 1, 2, 3, 0, 1], [3, 2, 1, 0, 3, 3], [1, 3, 0, 2, 2, 0]] {
            let merged = order.into_iter().fold(Vec::new(), |packed, n| merge(packed, &part(n)));
            prop_assert_eq!(&merged, &samples);
            prop_assert_eq!(rolled_up(fold(&part(0), 60_000), &merged, true, 60_000), fold(&samples, 60_000));
        }
    }

    #[test]
    fn fewer_points_keep_the_ends_and_the_extremes(samples in day(value()), most in 0usize..60) {
        let reduced = lttb::reduce(&samples, most);
        prop_assert!(reduced.len() <= most.max(lttb::FEWEST));
        prop_assert_eq!(reduced.first(), samples.first());
        prop_assert_eq!(reduced.last(), samples.last());
        let extremes = |samples: &[Sample]| {
            let values = || samples.iter().map(|sample| sample.value);
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
        };
        prop_assert_eq!(extremes(&reduced), extremes(&samples));
        let mut rest = samples.iter();
        prop_assert!(reduced.iter().all(|kept| rest.any(|sample| sample == kept)), "a part of them, in order");
        if samples.len() <= most {
            prop_assert_eq!(reduced, samples);
        }
    }

    #[test]
    fn an_answer_has_as_many_points_as_asked_for_and_the_true_extremes(
        samples in day(decimals()),
        from in 0..DAY_MS,
        length in 0..DAY_MS,
        points in 5usize..400,
        aggregate in prop::option::of(prop::sample::select(Aggregate::ALL.to_vec())),
        age in 0u64..2_000,
    ) {
        let range = Range {
            from_ms: START + from,
            to_ms: START + (from + length).min(DAY_MS),
            points,
            aggregate,
        };
        let plan = Plan::new(range, &Retention::default(), START + age * DAY_MS);
        let reads = plan.reads();
        prop_assert!(reads.start <= range.from_ms && reads.end >= range.to_ms);
        let read: Vec<Sample> = samples.iter().copied().filter(|sample| reads.contains(&sample.ts_ms)).collect();
        let series = match width_ms(plan.level) {
            None => plan.of_samples("m".into(), &read),
            Some(width) => plan.of_steps("m".into(), &rolled(&fold(&read, width), plan.step_ms.unwrap())),
        };
        prop_assert!(series.points.len() <= points, "{} of {points}", series.points.len());
        prop_assert!(series.points.is_sorted_by(|a, b| a.0 < b.0));
        prop_assert_eq!(series.points.is_empty(), read.is_empty());
        let lowest = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let truth = lowest(&mut read.iter().map(|sample| sample.value));
        match (aggregate, plan.step_ms) {
            (None, Some(_)) => {
                prop_assert_eq!(series.ranges.len(), series.points.len());
                prop_assert_eq!(lowest(&mut series.ranges.iter().map(|range| range.0)), truth);
            }
            (None, None) | (Some(Aggregate::Min), _) => {
                prop_assert_eq!(series.ranges.len(), 0);
                prop_assert_eq!(lowest(&mut series.points.iter().map(|point| point.1)), truth);
            }
            (Some(Aggregate::Count), _) => {
                let count: f64 = series.points.iter().map(|point| point.1).sum();
                prop_assert_eq!(count, read.len() as f64);
            }
            (Some(_), _) => prop_assert_eq!(series.ranges.len(), 0),
        }
    }
}
