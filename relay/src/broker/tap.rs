//! The way of messages from the broker to ingest, and what does not get through when ingest is behind.

use std::sync::Arc;

use lekiwi_protocol::FromRobot;
use lekiwi_relay_core::protect::Urgency;
use tokio::sync::mpsc;

use super::{Input, Inputs};
use crate::metrics::Metrics;
use crate::store::records::Refused;

/// Messages that may wait for ingest. Births, deaths and states beyond it wait with their clients. Of the others, the
/// less urgent find less room; events that find none stay unacknowledged.
const BULK: usize = 65_536;
const URGENT: usize = 16_384;

/// The sending ends.
#[derive(Debug, Clone)]
pub(super) struct Tap {
    urgent: mpsc::Sender<Input>,
    bulk: mpsc::Sender<Input>,
    refused: mpsc::Sender<Refused>,
    metrics: Arc<Metrics>,
}

/// How urgent a message is, and what is counted when there is no room; nothing for those that wait.
fn urgency(from: &FromRobot) -> Option<(Urgency, &'static str)> {
    match from {
        FromRobot::Backlog => Some((Urgency::Late, "backlog")),
        FromRobot::Telemetry => Some((Urgency::Telemetry, "ingest")),
        FromRobot::Heartbeat | FromRobot::ControlAck => Some((Urgency::Rest, "ingest")),
        FromRobot::Events => Some((Urgency::Rest, "events")),
        _ => None,
    }
}

impl Tap {
    pub(super) fn new(metrics: Arc<Metrics>) -> (Self, Inputs) {
        let (urgent, urgent_inputs) = mpsc::channel(URGENT);
        let (bulk, bulk_inputs) = mpsc::channel(BULK);
        let (refused, refused_inputs) = mpsc::channel(1_024);
        let inputs = Inputs {
            urgent: urgent_inputs,
            bulk: bulk_inputs,
            refused: refused_inputs,
        };
        let tap = Self {
            urgent,
            bulk,
            refused,
            metrics,
        };
        (tap, inputs)
    }

    pub(super) async fn message(&self, input: Input) {
        let lane = match &input {
            Input::Message { from, .. } => urgency(from),
            _ => None,
        };
        if let Some((urgency, place)) = lane {
            let fits = urgency.fits(self.bulk.capacity(), BULK);
            if !fits || self.bulk.try_send(input).is_err() {
                self.metrics.shed(place, 1);
            }
        } else {
            // Waits only when ingest is far behind, and then only this one client does. An error means
            // that ingest has ended, with the process.
            let _ = self.urgent.send(input).await;
        }
    }

    pub(super) fn refused(&self, refused: Refused) {
        // Counted already; a flood of refusals keeps only its first part.
        let _ = self.refused.try_send(refused);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_less_urgent_is_given_up_first_and_events_last() {
        let metrics = Arc::new(Metrics::default());
        let (tap, mut inputs) = Tap::new(metrics.clone());
        let say = async |from: FromRobot, times: usize| {
            for _ in 0..times {
                let robot = "kiwi-01".parse().unwrap();
                let from = from.clone();
                let payload = bytes::Bytes::new();
                tap.message(Input::Message {
                    robot,
                    from,
                    payload,
                    received_ms: 0,
                    trace: None,
                })
                .await;
            }
        };
        let shed = |place: &str| {
            let line = format!("lekiwi_shed_total{{place=\"{place}\"}} ");
            let text = metrics.encode();
            let found = text.lines().find_map(|text| text.strip_prefix(&line));
            found.map_or(0, |count| count.parse::<usize>().unwrap())
        };
        // Nobody takes anything out.
        say(FromRobot::Backlog, BULK / 2 + 10).await;
        assert_eq!((shed("backlog"), shed("ingest")), (10, 0));
        say(FromRobot::Telemetry, BULK / 4 + 7).await;
        assert_eq!((shed("backlog"), shed("ingest")), (10, 7));
        say(FromRobot::Events, BULK / 4).await;
        assert_eq!(shed("events"), 0, "all the room that was kept is theirs");
        say(FromRobot::Events, 3).await;
        assert_eq!(
            shed("events"),
            3,
            "they are not acknowledged, and come again"
        );
        assert_eq!(metrics.overloaded(), 20);
        say(FromRobot::State, 5).await;
        assert_eq!(inputs.urgent.len(), 5);
        let mut taken = Vec::new();
        assert_eq!(inputs.bulk.recv_many(&mut taken, BULK).await, BULK);
    }
}
