//! What the store was slow with: counted, and said in the log now and then. Never with its parameters, which are other
//! people's.

use std::sync::Arc;
use std::time::Duration;

use super::writer::Batch;
use crate::clock;
use crate::logging::Seldom;
use crate::metrics::{Metrics, StoreLabels};

/// From here on somebody notices.
const SLOW: Duration = Duration::from_millis(500);

/// The log of slow reads, or of slow writes.
pub(super) struct Slow {
    metrics: Arc<Metrics>,
    said: Seldom,
}

impl Slow {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            said: Seldom::default(),
        }
    }

    /// A read took so long; of it, it waited for a connection.
    pub(super) fn read(&self, what: &'static str, waited: Duration, took: Duration) {
        if let Some(unsaid) = self.notices("read", took) {
            let (waited_ms, took_ms) = (waited.as_millis(), took.as_millis());
            tracing::warn!(
                what,
                took_ms,
                waited_ms,
                unsaid,
                "the store was slow to read"
            );
        }
    }

    /// Writing all of this took so long, until it was on disk.
    pub(super) fn write(&self, batches: &[Batch], jobs: usize, took: Duration) {
        if let Some(unsaid) = self.notices("write", took) {
            let sum = |rows: fn(&Batch) -> usize| batches.iter().map(rows).sum::<usize>();
            tracing::warn!(
                events = sum(|batch| batch.events.len()),
                samples = sum(Batch::samples),
                pictures = sum(|batch| batch.snapshots.len()),
                jobs,
                took_ms = took.as_millis(),
                unsaid,
                "the store was slow to write"
            );
        }
    }

    /// A step of a chore, such as packing history, took so long.
    pub(super) fn chore(&self, what: &'static str, took: Duration) {
        if let Some(unsaid) = self.notices("write", took) {
            let took_ms = took.as_millis();
            tracing::warn!(what, took_ms, unsaid, "the store was slow to write");
        }
    }

    /// Counts it, if it is slow; how many were not said since the last one, if this one is to be.
    fn notices(&self, work: &'static str, took: Duration) -> Option<u64> {
        if took < SLOW {
            return None;
        }
        self.metrics
            .slow_store
            .get_or_create(&StoreLabels { work })
            .inc();
        self.said.may_say(clock::monotonic())
    }
}
