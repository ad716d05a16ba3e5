//! Fewer points with the same shape: largest triangle three buckets (S. Steinarsson, 2013). Pure.
//!
//! Invariant: at most as many points as asked for, all of them among those given and in their order, the first, the last, and
//! a lowest and a highest included.

use super::Sample;

/// Fewest points that can be asked for: first, last, lowest, highest, and one for the shape.
pub const FEWEST: usize = 5;

/// At most `most` points (but not fewer than [`FEWEST`]) of `samples`, which are in ascending order of time.
#[must_use]
pub fn reduce(samples: &[Sample], most: usize) -> Vec<Sample> {
    let most = most.max(FEWEST);
    if samples.len() <= most {
        return samples.to_vec();
    }
    // Room for the extremes, which a triangle's area does not always find.
    let mut chosen = triangles(samples, most - 2);
    let by_value = |a: &usize, b: &usize| samples[*a].value.total_cmp(&samples[*b].value);
    let lowest = (0..samples.len()).min_by(by_value);
    let highest = (0..samples.len()).max_by(by_value);
    chosen.extend(lowest.into_iter().chain(highest));
    chosen.sort_unstable();
    chosen.dedup();
    chosen.into_iter().map(|index| samples[index]).collect()
}

/// The indices of `count` samples, at least three of more: the first, the last, and of each part between them the sample that makes the
/// largest triangle with the one chosen before and the mean of the part behind.
fn triangles(samples: &[Sample], count: usize) -> Vec<usize> {
    let end = samples.len() - 1;
    let parts = count - 2;
    // Where part `n` begins; those between the first and the last sample are shared out evenly.
    let begin = |part: usize| 1 + part * (end - 1) / parts;
    let mut chosen = vec![0];
    let mut before = samples[0];
    for part in 0..parts {
        let behind = if part + 1 == parts {
            point(samples[end])
        } else {
            mean(&samples[begin(part + 1)..begin(part + 2)])
        };
        let area = |sample: &Sample| {
            let ((ax, ay), (bx, by), (cx, cy)) = (point(before), point(*sample), behind);
            // Twice the area; only the order counts.
            ((ax - cx) * (by - ay) - (ax - bx) * (cy - ay)).abs()
        };
        let best = (begin(part)..begin(part + 1))
            .max_by(|a, b| area(&samples[*a]).total_cmp(&area(&samples[*b])));
        if let Some(best) = best {
            chosen.push(best);
            before = samples[best];
        }
    }
    chosen.push(end);
    chosen
}

fn point(sample: Sample) -> (f64, f64) {
    (sample.ts_ms as f64, sample.value)
}

fn mean(samples: &[Sample]) -> (f64, f64) {
    let count = samples.len() as f64;
    samples.iter().fold((0.0, 0.0), |(x, y), sample| {
        let (ts, value) = point(*sample);
        (x + ts / count, y + value / count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_stays_and_what_is_flat_goes() {
        let samples: Vec<Sample> = (0..1_000)
            .map(|n| Sample {
                ts_ms: n * 1_000,
                value: if n == 617 { 99.0 } else { 5.0 },
            })
            .collect();
        let reduced = reduce(&samples, 20);
        assert!(reduced.len() <= 20, "{}", reduced.len());
        assert!(reduced.contains(&samples[617]));
        assert_eq!(reduced.first(), samples.first());
        assert_eq!(reduced.last(), samples.last());
        assert_eq!(reduce(&samples[..20], 20), samples[..20]);
        assert_eq!(reduce(&[], 20), []);
        let fewest = reduce(&samples, 0);
        assert_eq!(fewest, [samples[0], samples[617], samples[999]]);
    }
}
