//! Desired configurations on their way to robots, and what robots say of them.

use lekiwi_protocol::message::{Desired, Reported, kind};
use lekiwi_protocol::{Envelope, MessageType, RobotId, Timestamp, ToRobot};
use lekiwi_relay_core::Input as Heard;
use lekiwi_relay_core::twins::{Output, Twins};

use super::check::Refusal;
use super::{Ingest, to};
use crate::broker::Broker;
use crate::store::records::{OWN_SOURCE, StoredEvent};
use crate::store::{Store, StoreError};

/// What robots should have, as it was when the relay stopped.
pub(super) async fn restore(store: &Store) -> Result<Twins, StoreError> {
    let mut twins = Twins::default();
    for (robot, desired, is_settled) in store.desired_configurations().await? {
        twins.restore(robot, desired, is_settled);
    }
    Ok(twins)
}

impl Ingest {
    /// A robot says which configuration it has.
    pub(super) fn reported(
        &mut self,
        envelope: Envelope<Reported>,
        received_ms: u64,
    ) -> Result<Heard, Refusal> {
        let Envelope {
            robot_id: robot,
            payload: reported,
            ..
        } = envelope;
        let check = reported.check();
        check.map_err(|error| ("reported", error.to_string()))?;
        let now = Timestamp::from_ms(received_ms);
        self.twins.reported(now, &robot, reported.clone());
        Ok(Heard::Reported { robot, reported })
    }

    /// An event is in the log; if it is a configuration of the relay's own, its way begins.
    /// Relays that share a log may give two configurations one number: the first in the log has it.
    pub(super) fn configured(&mut self, robot: Option<&RobotId>, stored: &StoredEvent) {
        let event = &stored.event;
        let is_ours = event.source.starts_with(OWN_SOURCE);
        if *event.kind != *kind::CONFIGURATION_DESIRED || !is_ours {
            return;
        }
        if let (Some(robot), Ok(desired)) = (robot, serde_json::from_str::<Desired>(&event.data)) {
            let now = Timestamp::from_ms(event.received_ms);
            if let Err(newest) = self.twins.desired(now, robot.clone(), desired) {
                self.overtaken(stored, newest);
            }
        }
    }

    /// Sends what is due, and writes down what became of it.
    pub(super) async fn look_after_twins(&mut self, broker: &Broker, now: Timestamp) {
        self.twins.handle_timeout(now);
        while let Some(output) = self.twins.poll_output() {
            match output {
                _ if !self.leads => {}
                Output::Send(robot, desired) => {
                    // Who waits to be let in has time for it then.
                    if self.is_admitted(&robot) {
                        let json = to(&robot, MessageType::Desired, desired).to_json();
                        let topic = self.settings.root.to_robot(&robot, ToRobot::Desired);
                        broker.publish(&topic, json, false).await;
                    }
                }
                Output::Event { robot, kind, data } => {
                    self.own_event(now, &robot, kind, &data);
                }
            }
        }
    }

    fn is_admitted(&self, robot: &RobotId) -> bool {
        let fleet = self.fleet.read();
        let fleet = fleet.unwrap_or_else(std::sync::PoisonError::into_inner);
        fleet.is_admitted(robot)
    }
}
