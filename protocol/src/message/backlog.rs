//! Telemetry of an outage, told afterwards: for history, never for the picture of now.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::telemetry::{Metrics, TelemetryError, check};
use crate::limits::MAX_SAMPLES_PER_MESSAGE;
use crate::timestamp::Timestamp;

/// `from/backlog`, QoS 1: what telemetry would have said while the link was down, in ascending `seq`, at
/// most [`MAX_SAMPLES_PER_MESSAGE`]. Kept by the robot until acknowledged by number, as events are; a
/// sample that comes twice changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Backlog {
    /// The stream that the numbers count in: a new one whenever the agent starts. Never an event's.
    pub stream: Uuid,
    /// Which stream of late samples of this robot it is, counted from 1: streams sort by it.
    pub ordinal: u32,
    /// The samples.
    pub samples: Vec<LateSample>,
}

/// What one telemetry message would have said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LateSample {
    /// Number within the stream, ascending. Holes are what was thinned out.
    pub seq: u64,
    /// When it was measured, by the robot's clock.
    pub timestamp: Timestamp,
    /// The metrics that had moved since the sample before. At most [`crate::limits::MAX_METRICS`].
    pub metrics: Metrics,
}

/// Data of a [`super::kind::THINNED`] event: so many samples of this time were given up or merged into
/// their successors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Thinned {
    /// When the earliest of them was measured.
    pub from: Timestamp,
    /// When the latest was.
    pub to: Timestamp,
    /// How many.
    pub samples: u64,
}

/// Why a backlog is refused although it parses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BacklogError {
    /// Too many samples.
    #[error("expected at most {MAX_SAMPLES_PER_MESSAGE} samples, got {0}")]
    Samples(usize),
    /// Numbers that do not ascend, or no signed 64-bit integers.
    #[error("expected ascending sample numbers from 1, got {seq} after {last}")]
    Order {
        /// The number.
        seq: u64,
        /// The one before; 0 before the first.
        last: u64,
    },
    /// Too many metrics in one sample.
    #[error(transparent)]
    Metrics(#[from] TelemetryError),
}

impl Backlog {
    /// Checks what the type cannot say.
    ///
    /// # Errors
    /// When there are too many samples or metrics, or numbers do not ascend.
    pub fn check(&self) -> Result<(), BacklogError> {
        if self.samples.len() > MAX_SAMPLES_PER_MESSAGE {
            return Err(BacklogError::Samples(self.samples.len()));
        }
        let mut last = 0;
        for sample in &self.samples {
            let seq = sample.seq;
            if seq <= last || seq > i64::MAX as u64 {
                return Err(BacklogError::Order { seq, last });
            }
            check(&sample.metrics)?;
            last = seq;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(seqs: impl IntoIterator<Item = u64>, metrics: usize) -> Result<(), String> {
        let name = |n| crate::MetricName::new(&format!("m{n}")).expect("a name");
        let metrics: Metrics = (0..metrics).map(|n| (name(n), 1.0)).collect();
        let sample = |seq| LateSample {
            seq,
            timestamp: Timestamp::from_ms(1),
            metrics: metrics.clone(),
        };
        let backlog = Backlog {
            stream: Uuid::nil(),
            ordinal: 1,
            samples: seqs.into_iter().map(sample).collect(),
        };
        backlog.check().map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_type_cannot_say_is_checked() {
        assert_eq!(checked([1, 2, 9], 256), Ok(()));
        for (seqs, metrics, refusal) in [
            (
                vec![0],
                1,
                "expected ascending sample numbers from 1, got 0 after 0",
            ),
            (
                vec![4, 4],
                1,
                "expected ascending sample numbers from 1, got 4 after 4",
            ),
            (
                vec![1 << 63],
                1,
                "expected ascending sample numbers from 1, got 9223372036854775808 after 0",
            ),
            (vec![1], 257, "expected at most 256 metrics, got 257"),
            (
                (1..=101).collect(),
                1,
                "expected at most 100 samples, got 101",
            ),
        ] {
            assert_eq!(checked(seqs, metrics), Err(refusal.to_owned()));
        }
    }
}
