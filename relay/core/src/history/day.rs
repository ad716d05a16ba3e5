//! A day of one metric: what was packed of it, and what came since. Pure.
//!
//! Invariant: the same rows twice change nothing, and in which order they come changes nothing as long as no two of them
//! have the same time.

use super::Sample;
use super::block::MOST;
use super::rollup::{Rollup, fold};

/// Beyond [`MOST`] samples of a day, one of each such span is kept.
const THINNED_MS: u64 = 1_000;

/// The packed samples of a day with rows that came later, all in ascending order of time. A row replaces what was packed with
/// its time. Of more than [`MOST`] the last of each second stays.
#[must_use]
pub fn merge(packed: Vec<Sample>, rows: &[Sample]) -> Vec<Sample> {
    let mut samples = packed;
    let is_behind = match (samples.last(), rows.first()) {
        (Some(packed), Some(row)) => packed.ts_ms < row.ts_ms,
        _ => true,
    };
    samples.extend_from_slice(rows);
    if !is_behind {
        // Stable: of two with the same time the row is the later one.
        samples.sort_by_key(|sample| sample.ts_ms);
        keep_last(&mut samples, 1);
    }
    if samples.len() > MOST {
        keep_last(&mut samples, THINNED_MS);
    }
    samples
}

/// Of samples within the same `span_ms` the last one stays.
fn keep_last(samples: &mut Vec<Sample>, span_ms: u64) {
    samples.dedup_by(|later, kept| {
        let is_same = later.ts_ms / span_ms == kept.ts_ms / span_ms;
        if is_same {
            *kept = *later;
        }
        is_same
    });
}

/// Roll-ups by `width_ms` of a day: made of its samples anew where those are all that there were. Where samples of it are
/// gone already (`is_whole` is false), the `known` roll-ups stay, and spans that had none get theirs: time that the relay
/// heard nothing of, told after samples of it were given up.
#[must_use]
pub fn rolled_up(
    known: Vec<Rollup>,
    samples: &[Sample],
    is_whole: bool,
    width_ms: u64,
) -> Vec<Rollup> {
    let mut spans = fold(samples, width_ms);
    if !is_whole {
        let is_new = |span: &Rollup| {
            known
                .binary_search_by_key(&span.start_ms, |known| known.start_ms)
                .is_err()
        };
        spans.retain(is_new);
        spans.extend(known);
        spans.sort_by_key(|span| span.start_ms);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: &[(u64, f64)]) -> Vec<Sample> {
        let sample = |(ts_ms, value): &(u64, f64)| Sample {
            ts_ms: *ts_ms,
            value: *value,
        };
        of.iter().map(sample).collect()
    }

    #[test]
    fn rows_replace_what_was_packed_with_their_time() {
        let packed = samples(&[(1_000, 1.0), (2_000, 2.0), (9_000, 9.0)]);
        let rows = samples(&[(500, 0.5), (2_000, 2.5), (9_500, 9.5)]);
        let both = samples(&[
            (500, 0.5),
            (1_000, 1.0),
            (2_000, 2.5),
            (9_000, 9.0),
            (9_500, 9.5),
        ]);
        assert_eq!(merge(packed, &rows), both);
        assert_eq!(merge(both.clone(), &rows), both);
        assert_eq!(merge(Vec::new(), &rows), rows);
    }

    #[test]
    fn a_day_keeps_one_sample_a_second_of_too_many() {
        let count = MOST as u64 + 10;
        let many: Vec<(u64, f64)> = (0..count).map(|n| (n * 900, n as f64)).collect();
        let kept = merge(Vec::new(), &samples(&many));
        assert!(kept.len() < MOST, "{}", kept.len());
        assert_eq!(kept.last(), samples(&many).last());
        assert_eq!(
            kept[..3],
            samples(&[(900, 1.0), (1_800, 2.0), (2_700, 3.0)])
        );
        assert_eq!(merge(kept.clone(), &[]), kept);
    }

    #[test]
    fn late_samples_of_a_time_whose_samples_are_gone_fill_its_holes_only() {
        let first = samples(&[(1_000, 1.0), (2_000, 3.0), (200_000, 5.0)]);
        let known = rolled_up(Vec::new(), &first, true, 60_000);
        let late = samples(&[(3_000, 99.0), (70_000, 7.0), (71_000, 8.0)]);
        let filled = rolled_up(known.clone(), &late, false, 60_000);
        let starts: Vec<u64> = filled.iter().map(|span| span.start_ms).collect();
        assert_eq!(starts, [0, 60_000, 180_000]);
        assert_eq!(
            (filled[0], filled[1].count, filled[2]),
            (known[0], 2, known[1])
        );
        // The same again changes nothing.
        assert_eq!(rolled_up(filled.clone(), &late, false, 60_000), filled);
    }
}
