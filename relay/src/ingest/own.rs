//! Events that the relay makes itself.

use std::sync::Arc;

use lekiwi_protocol::{RobotId, Timestamp};

use super::Ingest;
use crate::store::records::NewEvent;

impl Ingest {
    /// Puts an event of the relay's own on its way into the log; its number.
    pub(super) fn own_event(
        &mut self,
        now: Timestamp,
        robot: &RobotId,
        kind: &str,
        data: &serde_json::Value,
    ) -> u64 {
        self.record(now, "robot", robot.as_str().into(), kind, data)
    }

    /// The same of anything that events are about.
    pub(super) fn record(
        &mut self,
        now: Timestamp,
        aggregate_type: &'static str,
        aggregate_id: Arc<str>,
        kind: &str,
        data: &serde_json::Value,
    ) -> u64 {
        self.seq += 1;
        self.batch.events.push(NewEvent {
            aggregate_type,
            aggregate_id,
            source: self.source.clone(),
            stream: self.stream,
            seq: self.seq,
            kind: kind.into(),
            ts_ms: now.as_ms(),
            received_ms: now.as_ms(),
            data: data.to_string().into(),
            metadata: "{}".into(),
        });
        self.seq
    }
}
