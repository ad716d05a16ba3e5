//! What events of the log say of robots. Pure.

use lekiwi_protocol::api::Claim;
use lekiwi_protocol::message::{ConnectionState, kind};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::alerts::history::Name;
use lekiwi_relay_core::alerts::{ALERT, Logged};
use lekiwi_relay_core::{Enrolment, Fact, What};
use serde::Deserialize;
use uuid::Uuid;

use super::records::{OWN_SOURCE, StoredEvent};

/// What the relay's own events about robots say; each kind has some of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    profile: Option<String>,
    token_profile: Option<String>,
    hardware_serial: Option<String>,
    bound: bool,
    reason: Option<String>,
    by: Option<String>,
    version: u64,
    seen: Claim,
    new_serial: String,
}

/// The same of births and deaths; a birth has no state.
#[derive(Debug, Deserialize)]
struct Session {
    session: Uuid,
    state: Option<ConnectionState>,
}

/// What a robot says of its restart.
#[derive(Debug, Deserialize)]
struct Boot {
    boot_id: Uuid,
}

impl StoredEvent {
    /// The robot that it is about, where it is about one.
    #[must_use]
    pub fn robot(&self) -> Option<RobotId> {
        let is_robots = self.event.aggregate_type == "robot";
        is_robots.then(|| RobotId::new(&self.event.aggregate_id).ok())?
    }

    /// The robot under whose name it is told live: an alert's is the one that it is about.
    #[must_use]
    pub fn told_as(&self) -> Option<RobotId> {
        if self.event.aggregate_type == ALERT {
            return Some(Name::parse(&self.event.aggregate_id)?.robot);
        }
        self.robot()
    }

    /// The event as alerts look at it.
    #[must_use]
    pub fn logged(&self) -> Logged<'_> {
        let event = &self.event;
        Logged {
            position: self.position,
            at: Timestamp::from_ms(event.ts_ms),
            kind: &event.kind,
            aggregate_id: &event.aggregate_id,
            data: &event.data,
        }
    }

    /// What it says of a robot, where it is about one.
    #[must_use]
    pub fn fact(&self) -> Option<Fact> {
        let event = &self.event;
        let robot = self.robot()?;
        // Only the relay decides who takes part; a robot may say what it likes.
        let is_own = event.source.starts_with(OWN_SOURCE);
        let data = || serde_json::from_str::<Data>(&event.data).unwrap_or_default();
        let what = match (&*event.kind, is_own) {
            (kind::REGISTERED, true) => {
                let data = data();
                What::Registered(Enrolment {
                    profile: data.profile,
                    token_profile: data.token_profile,
                    serial: data.hardware_serial,
                    bound: data.bound,
                })
            }
            (kind::QUARANTINED, true) => What::Quarantined {
                reason: data().reason.unwrap_or_default(),
            },
            (kind::APPROVED, true) => {
                let data = data();
                What::Approved {
                    by: data.by.unwrap_or_default(),
                    profile: data.profile,
                    seen: data.seen,
                }
            }
            (kind::REJECTED, true) => What::Rejected {
                by: data().by.unwrap_or_default(),
            },
            (kind::CONFIGURATION_DESIRED, true) => What::Desired {
                version: data().version,
            },
            (kind::CONNECTED | kind::DISCONNECTED, true) => {
                match serde_json::from_str(&event.data) {
                    Ok(Session {
                        session,
                        state: Some(state),
                    }) => What::Disconnected { session, state },
                    Ok(Session {
                        session,
                        state: None,
                    }) => What::Connected { session },
                    Err(_) => What::Other,
                }
            }
            (kind::STALE, true) => What::Stale,
            (kind::HARDWARE_CHANGED, true) => What::HardwareChanged {
                serial: data().new_serial,
            },
            (kind::REBOOTED, false) => match serde_json::from_str(&event.data) {
                Ok(Boot { boot_id }) => What::Rebooted { boot: boot_id },
                Err(_) => What::Other,
            },
            _ => What::Other,
        };
        // The relay's own time: robots' clocks decide nothing.
        let at_ms = if is_own {
            event.ts_ms
        } else {
            event.received_ms
        };
        Some(Fact {
            robot,
            position: self.position,
            at: Timestamp::from_ms(at_ms),
            what,
        })
    }
}
