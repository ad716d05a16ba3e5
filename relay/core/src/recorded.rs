//! What the log says of one robot: registration, wanted configuration, presence. Pure; a function of the robot's
//! events and nothing else, so that it is the same from the whole log, and from a picture and the events after it.
//! [`Fleet`](crate::Fleet) folds it beside what it hears; [`Past`](crate::Past) shows it at an earlier position.

use std::time::Duration;

use lekiwi_protocol::api::{Claim, Registration, Status};
use lekiwi_protocol::message::{ConnectionState, RegistrationStatus};
use lekiwi_protocol::{RobotId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What token and request said at an enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Enrolment {
    /// The profile of the request.
    pub profile: Option<String>,
    /// The profile that the token was made for.
    pub token_profile: Option<String>,
    /// The board serial of the request.
    pub serial: Option<String>,
    /// Whether the token was made for this very robot.
    pub bound: bool,
}

/// An event about a robot that is in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// Whose.
    pub robot: RobotId,
    /// The event's place in the log.
    pub position: u64,
    /// When, by a relay's clock.
    pub at: Timestamp,
    /// What happened.
    pub what: What,
}

/// What happened, as far as it changes what is known. Who takes part, which configuration is wanted and whether a
/// robot is there are the relay's own words.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// It got a certificate.
    Registered(Enrolment),
    /// It waits for a person.
    Quarantined {
        /// Why.
        reason: String,
    },
    /// A person let it in.
    Approved {
        /// The person.
        by: String,
        /// The profile to take it as, where the person named one.
        profile: Option<String>,
        /// What the robot had said of itself.
        seen: Claim,
    },
    /// A person turned it away.
    Rejected {
        /// The person.
        by: String,
    },
    /// Somebody wants this version of a configuration.
    Desired {
        /// Counts up.
        version: u64,
    },
    /// It came online.
    Connected {
        /// The session of its birth.
        session: Uuid,
    },
    /// It went.
    Disconnected {
        /// The session that ended.
        session: Uuid,
        /// How.
        state: ConnectionState,
    },
    /// It is connected, and silent for too long.
    Stale,
    /// It has another board.
    HardwareChanged {
        /// The new one.
        serial: String,
    },
    /// It said that it was restarted.
    Rebooted {
        /// The new boot.
        boot: Uuid,
    },
    /// Something else.
    Other,
}

impl What {
    /// Whether the robot was heard.
    fn is_heard(&self) -> bool {
        matches!(self, Self::Connected { .. } | Self::Rebooted { .. })
    }
}

/// Whether it was there, by the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Presence {
    pub(crate) connection: ConnectionState,
    /// Of the last birth; nil where only a view is known.
    session: Uuid,
    /// Since when it is silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stale_at: Option<Timestamp>,
}

/// What the log says of a robot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// When it got its first certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registered_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registration: Option<Registration>,
    /// The hardware profile by its last enrolment or approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
    /// The version of the configuration that is wanted, 0 for none.
    #[serde(default)]
    pub(crate) desired: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) presence: Option<Presence>,
    /// When it was last heard, by what is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) heard_at: Option<Timestamp>,
    /// Its last boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<Uuid>,
    /// The serial number of the board that it changed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<String>,
}

impl Presence {
    /// As an earlier relay showed it.
    pub(crate) fn shown(status: &Status) -> Option<Self> {
        let since = status.last_seen?;
        Some(Self {
            connection: status.connection,
            session: Uuid::nil(),
            stale_at: status.stale.then(|| since.plus(Duration::from_millis(1))),
        })
    }
}

impl Recorded {
    /// Takes the robot's next event.
    pub(crate) fn fold(&mut self, fact: &Fact) {
        let at = fact.at;
        if fact.what.is_heard() {
            self.heard_at = self.heard_at.max(Some(at));
            if let Some(presence) = &mut self.presence {
                presence.stale_at = None;
            }
        }
        match &fact.what {
            What::Registered(enrolment) => {
                self.registered_at.get_or_insert(at);
                let named = enrolment.profile.as_ref();
                if let Some(profile) = named.or(enrolment.token_profile.as_ref()) {
                    self.profile = Some(profile.clone());
                }
                enrol(&mut self.registration, at, enrolment);
            }
            What::Quarantined { reason } => {
                quarantine(self.registration.get_or_insert_default(), at, reason);
            }
            What::Approved { by, profile, seen } => {
                if profile.is_some() {
                    self.profile.clone_from(profile);
                }
                let known = self.registration.get_or_insert_default();
                approve(known, at, by, profile.as_deref(), seen);
            }
            What::Rejected { by } => {
                reject(self.registration.get_or_insert_default(), at, by);
            }
            What::Desired { version } => self.desired = self.desired.max(*version),
            What::Connected { session } => {
                self.presence = Some(Presence {
                    connection: ConnectionState::Online,
                    session: *session,
                    stale_at: None,
                });
            }
            What::Disconnected { session, state } => self.end(*session, *state),
            What::Stale => {
                if let Some(presence) = &mut self.presence {
                    presence.stale_at = Some(at);
                }
            }
            What::HardwareChanged { serial } => self.serial = Some(serial.clone()),
            What::Rebooted { boot } => self.boot = Some(*boot),
            What::Other => {}
        }
    }

    /// The end of an older session ends no newer one. Its birth may be forgotten by now.
    fn end(&mut self, session: Uuid, state: ConnectionState) {
        let is_of_another = |known: &Presence| known.session != session && !known.session.is_nil();
        if !self.presence.as_ref().is_some_and(is_of_another) {
            self.presence = Some(Presence {
                connection: state,
                session,
                stale_at: None,
            });
        }
    }

    /// The session of its last birth.
    pub(crate) fn session(&self) -> Option<Uuid> {
        let known = self.presence.as_ref().map(|presence| presence.session);
        known.filter(|session| !session.is_nil())
    }

    /// Whether it was there.
    pub(crate) fn connection(&self) -> ConnectionState {
        let presence = self.presence.as_ref();
        presence.map_or(ConnectionState::Offline, |presence| presence.connection)
    }

    /// Whether it was silent for too long, though there, when it was last heard of at `heard_at`.
    pub(crate) fn is_stale(&self, heard_at: Option<Timestamp>) -> bool {
        let presence = self.presence.as_ref();
        presence.is_some_and(|presence| {
            presence.connection == ConnectionState::Online
                && presence.stale_at.is_some_and(|at| Some(at) > heard_at)
        })
    }
}

/// As whom the log's new enrolment finds a robot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enrolled {
    Newcomer,
    Known,
    /// It was turned away, then, and nobody wants it back.
    Rejected(Timestamp),
}

/// The log has an enrolment.
pub(crate) fn enrol(
    registration: &mut Option<Registration>,
    at: Timestamp,
    enrolment: &Enrolment,
) -> Enrolled {
    let newcomer = registration.is_none();
    let known = registration.get_or_insert_with(|| Registration {
        since: at,
        ..Registration::default()
    });
    if enrolment.token_profile.is_some() && known.profile != enrolment.token_profile {
        // What the hardware says is looked at again, against the new token.
        if let Some(accepted) = &mut known.accepted {
            accepted.profile.clear();
        }
        known.profile.clone_from(&enrolment.token_profile);
    }
    if known.serial.is_none() {
        known.serial = enrolment.serial.clone().filter(|serial| counts(serial));
    }
    if known.status != RegistrationStatus::Rejected {
        return if newcomer {
            Enrolled::Newcomer
        } else {
            Enrolled::Known
        };
    }
    if !enrolment.bound {
        return Enrolled::Rejected(known.since);
    }
    // Whoever made a token for it wants it back.
    *known = Registration {
        since: at,
        profile: known.profile.take(),
        serial: known.serial.take(),
        ..Registration::default()
    };
    Enrolled::Newcomer
}

/// The log says that it waits.
pub(crate) fn quarantine(known: &mut Registration, at: Timestamp, reason: &str) {
    if known.status != RegistrationStatus::Quarantined {
        known.since = at;
    }
    known.status = RegistrationStatus::Quarantined;
    known.reason = Some(reason.to_owned());
    known.approved_by = None;
}

/// The log says that a person let it in.
pub(crate) fn approve(
    known: &mut Registration,
    at: Timestamp,
    by: &str,
    profile: Option<&str>,
    seen: &Claim,
) {
    known.status = RegistrationStatus::Registered;
    known.reason = None;
    known.since = at;
    known.approved_by = Some(by.to_owned());
    known.accepted = Some(seen.clone());
    if let Some(profile) = profile {
        known.profile = Some(profile.to_owned());
    }
}

/// The log says that a person turned it away.
pub(crate) fn reject(known: &mut Registration, at: Timestamp, by: &str) {
    known.status = RegistrationStatus::Rejected;
    known.reason = Some(format!("rejected by {by}"));
    known.since = at;
    known.approved_by = None;
}

/// Whether a serial number tells one board from another: some boards have none, or zeros.
pub(crate) fn counts(serial: &str) -> bool {
    serial.bytes().any(|b| b != b'0')
}
