//! Roll-ups: what is left of the samples of a span once they are too many. Pure.
//!
//! Invariant: rolling up roll-ups is rolling up the samples; sums may differ in their last digits, and do not where samples
//! have at most six decimals.

use lekiwi_protocol::api::Aggregate;

use super::Sample;

/// The samples of one span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rollup {
    /// Where the span begins, a multiple of its length, in milliseconds since the epoch.
    pub start_ms: u64,
    /// How many samples, at least one.
    pub count: u64,
    /// The lowest value.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// All values together.
    pub sum: f64,
    /// The latest value.
    pub last: f64,
}

impl Rollup {
    /// One sample.
    #[must_use]
    pub fn of(sample: Sample) -> Self {
        let Sample { ts_ms, value } = sample;
        Self {
            start_ms: ts_ms,
            count: 1,
            min: value,
            max: value,
            sum: value,
            last: value,
        }
    }

    /// The mean of the samples.
    #[must_use]
    pub fn mean(&self) -> f64 {
        // A sum without its last digits must not leave the range of what it sums up.
        (self.sum / self.count as f64).clamp(self.min, self.max)
    }

    /// What `aggregate` says of the samples.
    #[must_use]
    pub fn value(&self, aggregate: Aggregate) -> f64 {
        match aggregate {
            Aggregate::Mean => self.mean(),
            Aggregate::Min => self.min,
            Aggregate::Max => self.max,
            Aggregate::Sum => self.sum,
            Aggregate::Count => self.count as f64,
            Aggregate::Last => self.last,
        }
    }

    /// Takes in what came after it.
    fn join(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.sum = add(self.sum, later.sum);
        self.last = later.last;
    }
}

/// Six decimals of a sum count: more are errors of adding up, and cost eight bytes in a block.
fn add(a: f64, b: f64) -> f64 {
    const MICRO: f64 = 1e6;
    /// Above it a `f64` has no six decimals.
    const MOST: f64 = 9e9;
    // What is larger than any number stays one: JSON has no infinity.
    let sum = (a + b).clamp(f64::MIN, f64::MAX);
    if sum.abs() < MOST {
        (sum * MICRO).round() / MICRO
    } else {
        sum
    }
}

/// Rolls up by spans of `width_ms`, which is not 0, what comes after that which made `spans`. All of it is in ascending order
/// of time.
pub fn extend(spans: &mut Vec<Rollup>, parts: impl IntoIterator<Item = Rollup>, width_ms: u64) {
    for part in parts {
        let start_ms = part.start_ms - part.start_ms % width_ms;
        match spans.last_mut() {
            Some(span) if span.start_ms == start_ms => span.join(&part),
            _ => spans.push(Rollup { start_ms, ..part }),
        }
    }
}

/// Rolls up samples in ascending order of time.
#[must_use]
pub fn fold(samples: &[Sample], width_ms: u64) -> Vec<Rollup> {
    let mut spans = Vec::new();
    extend(
        &mut spans,
        samples.iter().copied().map(Rollup::of),
        width_ms,
    );
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_says_how_many_how_low_how_high_and_what_was_last() {
        let samples = [
            (60_000, 2.5),
            (61_000, -1.0),
            (119_999, 0.1),
            (240_000, 7.0),
        ];
        let samples = samples.map(|(ts_ms, value)| Sample { ts_ms, value });
        let spans = fold(&samples, 60_000);
        let first = Rollup {
            start_ms: 60_000,
            count: 3,
            min: -1.0,
            max: 2.5,
            sum: 1.6,
            last: 0.1,
        };
        // A span without samples is none.
        assert_eq!(
            spans,
            [
                first,
                Rollup {
                    start_ms: 240_000,
                    ..Rollup::of(samples[3])
                }
            ]
        );
        let said = Aggregate::ALL.map(|aggregate| first.value(aggregate));
        assert_eq!(said, [1.6 / 3.0, -1.0, 2.5, 1.6, 3.0, 0.1]);
    }

    #[test]
    fn values_at_the_end_of_what_there_is_stay_numbers() {
        let samples = [(0, f64::MAX), (1, f64::MAX), (2, f64::MAX)];
        let samples = samples.map(|(ts_ms, value)| Sample { ts_ms, value });
        let span = fold(&samples, 60_000)[0];
        assert_eq!((span.sum, span.max, span.count), (f64::MAX, f64::MAX, 3));
        assert!(span.mean().is_finite());
    }
}
