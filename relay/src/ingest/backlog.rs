//! Late telemetry on its way into history: it changes nothing that is shown of now.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lekiwi_protocol::message::{Backlog, LateSample};
use lekiwi_protocol::{Envelope, RobotId};

use super::Ingest;
use super::check::Refusal;
use crate::store::records::{NewBacklog, NewSample};

/// How far ahead of this relay a robot's clock may be. What is later than that would stay in history for
/// longer than it should, and above everything else.
const MAX_AHEAD: Duration = Duration::from_secs(24 * 3600);

impl Ingest {
    /// Takes late samples of a registered robot; they are acknowledged after their commit. Of others nothing
    /// is taken, as with telemetry; they keep it.
    pub(super) fn robot_backlog(
        &mut self,
        robot: &RobotId,
        envelope: Envelope<Backlog>,
        received_ms: u64,
    ) -> Result<(), Refusal> {
        let backlog = envelope.payload;
        backlog
            .check()
            .map_err(|error| ("backlog", error.to_string()))?;
        let is_admitted = self
            .fleet
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_admitted(robot);
        if !is_admitted {
            return Ok(());
        }
        let oldest = self.settings.retention.oldest_ms(received_ms);
        let newest = received_ms.saturating_add(MAX_AHEAD.as_millis() as u64);
        let source: Arc<str> = robot.as_str().into();
        let seqs = backlog.samples.iter().map(|sample| sample.seq).collect();
        let (kept, strange): (Vec<LateSample>, Vec<LateSample>) = backlog
            .samples
            .into_iter()
            .partition(|sample| (oldest..=newest).contains(&sample.timestamp.as_ms()));
        if !strange.is_empty() {
            // Acknowledged all the same: no later attempt would be better.
            self.metrics.shed("clock", strange.len() as u64);
        }
        let mut samples = Vec::new();
        let mut fleet = self.fleet.write().unwrap_or_else(PoisonError::into_inner);
        for LateSample {
            timestamp,
            mut metrics,
            ..
        } in kept
        {
            // Of too many names the rest is given up, as with telemetry of now.
            metrics.retain(|metric, _| fleet.takes_late(robot, metric));
            samples.extend(metrics.into_iter().map(|(metric, value)| NewSample {
                robot: source.clone(),
                metric: metric.as_str().into(),
                ts_ms: timestamp.as_ms(),
                value,
            }));
        }
        drop(fleet);
        self.batch.backlogs.push(NewBacklog {
            source,
            stream: backlog.stream,
            seqs,
            samples,
        });
        Ok(())
    }
}
