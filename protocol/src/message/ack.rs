//! "These are safe": what lets a robot forget.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// First and last number, both included.
pub type SeqRange = [u64; 2];

/// `to/ack`: event numbers that are in the relay's log, by stream. Sent after the commit, and again for
/// duplicates. Ranges, not a high-water mark: what overtook is acknowledged where it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ack {
    /// Ascending, disjoint ranges; at most [`crate::limits::MAX_ACK_RANGES`] in all.
    pub acks: BTreeMap<Uuid, Vec<SeqRange>>,
}

/// Merges numbers into ascending, disjoint, maximal ranges.
#[must_use]
pub fn ranges(numbers: impl IntoIterator<Item = u64>) -> Vec<SeqRange> {
    let mut numbers: Vec<u64> = numbers.into_iter().collect();
    numbers.sort_unstable();
    let mut ranges: Vec<SeqRange> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some([_, last]) if number <= last.saturating_add(1) => *last = number.max(*last),
            _ => ranges.push([number, number]),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_merge_and_holes_stay() {
        assert_eq!(
            ranges([3, 1, 2, 2, 7, u64::MAX]),
            [[1, 3], [7, 7], [u64::MAX, u64::MAX]]
        );
        assert_eq!(ranges([]), Vec::<SeqRange>::new());
    }

    proptest! {
        #[test]
        fn ranges_cover_exactly_the_numbers(numbers in proptest::collection::btree_set(0_u64..60, 0..40)) {
            let ranges = ranges(numbers.iter().copied());
            let covered: Vec<u64> = ranges.iter().flat_map(|[from, to]| *from..=*to).collect();
            prop_assert_eq!(covered, numbers.into_iter().collect::<Vec<_>>());
            prop_assert!(ranges.windows(2).all(|pair| pair[0][1] + 1 < pair[1][0]));
        }
    }
}
