//! One robot's picture. Pure; owned by [`Fleet`](crate::Fleet).

use std::collections::{BTreeMap, BTreeSet};

use lekiwi_protocol::api::{Claim, ConfigurationStatus, Registration, RobotView, Status};
use lekiwi_protocol::limits::{MAX_HISTORY_METRICS, MAX_METRICS, STALE_AFTER};
use lekiwi_protocol::message::{
    Activity, BatteryStatus, Connection, ConnectionState, Deployment, Factsheet, Metrics, Network,
    OperatingMode, RegistrationStatus, Reported, RobotHealth, Service, State, Teleoperation,
    Throttling, TimeSync,
};
use lekiwi_protocol::{Envelope, MetricName, RobotId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Link;
use crate::freshness::Known;
use crate::recorded::{self, Presence, Recorded};

/// The newest value of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading {
    value: f64,
    at: Timestamp,
    /// Not yet handed to history.
    fresh: bool,
    /// Whether history takes it.
    kept: bool,
}

/// What is known about one robot.
#[derive(Debug, Clone)]
pub(crate) struct Robot {
    pub(crate) id: RobotId,
    /// The connection that stands, where the broker tells.
    pub(crate) link: Option<Link>,
    /// The last birth, whole, so that it can be said again; or its end, where only that was heard.
    pub(crate) birth: Option<Envelope<Connection>>,
    pub(crate) connection: ConnectionState,
    pub(crate) stale: bool,
    pub(crate) last_seen: Option<Timestamp>,
    /// What the log says of it.
    pub(crate) recorded: Recorded,
    /// Whether a staleness deadline of it is queued.
    pub(crate) watched: bool,
    /// Whether it has readings that history has not seen.
    pub(crate) fresh: bool,
    /// Whether it differs from its snapshot by more than telemetry.
    pub(crate) changed: bool,
    /// Where it stands by the log, and what it says of itself since; absent until the log has its enrolment.
    pub(crate) registration: Option<Registration>,
    /// Since when and why it is in quarantine, though the log does not say so yet.
    pub(crate) suspicion: Option<(Timestamp, String)>,
    /// When it said what.
    sources: Sources,
    /// What it says of the configuration that is wanted.
    pub(crate) reported: Option<Reported>,
    uptime_s: Option<u64>,
    robot_type: Option<String>,
    factsheet: Option<Factsheet>,
    network: Option<Network>,
    deployment: Option<Deployment>,
    activity: Option<Activity>,
    operating_mode: Option<OperatingMode>,
    teleoperation: Option<Teleoperation>,
    health: Option<RobotHealth>,
    services: Vec<Service>,
    battery: Option<BatteryStatus>,
    throttling: Option<Throttling>,
    clock: Option<TimeSync>,
    readings: BTreeMap<MetricName, Reading>,
    /// Metrics that history has and the robot measures no more. They count towards the most that it has.
    gone: BTreeSet<MetricName>,
    readings_at: Option<Timestamp>,
}

/// What is kept of a robot for the next start, and for looking back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// As it was shown.
    pub view: RobotView,
    /// What the log said of it.
    pub(crate) recorded: Recorded,
    #[serde(default)]
    sources: Sources,
    /// What the log was to learn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suspicion: Option<Suspicion>,
    /// An earlier relay kept the view only: the record is what can be told by it.
    #[serde(skip)]
    is_view_only: bool,
}

/// When the robot said what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Sources {
    /// Its factsheet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hardware_at: Option<Timestamp>,
    /// Its state, or something else in the same session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_at: Option<Timestamp>,
    /// The session of its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<Uuid>,
}

/// A quarantine that the log did not have yet, and where the robot stood without it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Suspicion {
    since: Timestamp,
    reason: String,
    known: Registration,
}

impl Picture {
    /// Reads what was kept, also by relays that kept the view only.
    ///
    /// # Errors
    /// When it is neither.
    pub fn from_json(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json).or_else(|error| {
            Ok(serde_json::from_str::<RobotView>(json)
                .map_err(|_| error)?
                .into())
        })
    }

    /// Whether an earlier relay kept it, which kept the view only: [`Past::correct`](crate::Past::correct) knows the rest.
    #[must_use]
    pub fn is_view_only(&self) -> bool {
        self.is_view_only
    }
}

impl From<RobotView> for Picture {
    fn from(view: RobotView) -> Self {
        let configuration = view.configuration.as_ref();
        let recorded = Recorded {
            registered_at: view.status.registered_at,
            registration: restored(&view),
            profile: Some(view.robot_type.clone()).filter(|profile| !profile.is_empty()),
            desired: configuration.map_or(0, |configuration| configuration.desired),
            presence: Presence::shown(&view.status),
            ..Recorded::default()
        };
        Self {
            view,
            recorded,
            sources: Sources::default(),
            suspicion: None,
            is_view_only: true,
        }
    }
}

/// Where a robot stood. A picture of before there were registrations has the usual one, of unknown age.
fn restored(view: &RobotView) -> Option<Registration> {
    let known = &view.registration;
    let enrolled = view.status.registered_at;
    let since = Some(known.since).filter(|since| *since > Timestamp::default());
    Some(Registration {
        since: since.or(enrolled)?,
        ..known.clone()
    })
}

impl Robot {
    pub(crate) fn new(id: RobotId) -> Self {
        Self {
            id,
            link: None,
            birth: None,
            connection: ConnectionState::Offline,
            stale: false,
            last_seen: None,
            recorded: Recorded::default(),
            watched: false,
            fresh: false,
            changed: true,
            registration: None,
            suspicion: None,
            sources: Sources::default(),
            reported: None,
            uptime_s: None,
            robot_type: None,
            factsheet: None,
            network: None,
            deployment: None,
            activity: None,
            operating_mode: None,
            teleoperation: None,
            health: None,
            services: Vec::new(),
            battery: None,
            throttling: None,
            clock: None,
            readings: BTreeMap::new(),
            gone: BTreeSet::new(),
            readings_at: None,
        }
    }

    /// As it was when the relay stopped, but not connected: that it has to say itself.
    pub(crate) fn restored(picture: Picture) -> Self {
        let Picture {
            view,
            recorded,
            sources,
            suspicion,
            is_view_only,
        } = picture;
        let connection = match view.status.connection {
            ConnectionState::Online => ConnectionState::ConnectionBroken,
            other => other,
        };
        let (registration, suspicion) = match suspicion {
            Some(open) => (Some(open.known), Some((open.since, open.reason))),
            None => (restored(&view), None),
        };
        let at = view.resources_at.unwrap_or_default();
        let reported = view.configuration.and_then(|known| known.reported);
        let readings = view
            .resources
            .into_iter()
            .map(|(name, value)| {
                (
                    name,
                    Reading {
                        value,
                        at,
                        fresh: false,
                        kept: true,
                    },
                )
            })
            .collect();
        Self {
            connection,
            last_seen: view.status.last_seen,
            recorded,
            // It is kept again, with its record.
            changed: is_view_only,
            registration,
            suspicion,
            sources,
            reported,
            uptime_s: view.status.uptime_s,
            robot_type: Some(view.robot_type).filter(|t| !t.is_empty()),
            factsheet: view.factsheet,
            network: view.network,
            deployment: view.deployment,
            activity: view.activity,
            operating_mode: view.operating_mode,
            teleoperation: view.teleoperation,
            health: view.health,
            services: view.services,
            battery: view.battery,
            throttling: view.throttling,
            clock: view.clock,
            readings,
            readings_at: view.resources_at,
            ..Self::new(view.id)
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection == ConnectionState::Online
    }

    /// Whether somebody drives it, as it last said.
    pub(crate) fn is_teleoperated(&self) -> bool {
        self.teleoperation.as_ref().is_some_and(|now| now.active)
    }

    /// The session of the last birth.
    pub(crate) fn session(&self) -> Option<Uuid> {
        self.birth.as_ref().map(|birth| birth.payload.session)
    }

    /// When it counts as stale, unless it is heard before.
    pub(crate) fn stale_at(&self) -> Timestamp {
        self.last_seen.unwrap_or_default().plus(STALE_AFTER)
    }

    /// Whether consumers hear it.
    pub(crate) fn is_admitted(&self) -> bool {
        self.suspicion.is_none()
            && self
                .registration
                .as_ref()
                .is_some_and(|known| known.status == RegistrationStatus::Registered)
    }

    /// Where it stands, what the log does not have yet included.
    pub(crate) fn registration(&self) -> Registration {
        let known = self.registration.clone().unwrap_or_else(unregistered);
        match &self.suspicion {
            Some((since, reason)) => Registration {
                status: RegistrationStatus::Quarantined,
                reason: Some(reason.clone()),
                since: match known.status {
                    RegistrationStatus::Quarantined => known.since,
                    _ => *since,
                },
                ..known
            },
            None => known,
        }
    }

    /// The log says so.
    pub(crate) fn quarantine(&mut self, at: Timestamp, reason: &str) {
        self.suspicion = None;
        recorded::quarantine(self.registration.get_or_insert_default(), at, reason);
    }

    /// The log says so.
    pub(crate) fn approve(&mut self, at: Timestamp, by: &str, profile: Option<&str>, seen: &Claim) {
        self.suspicion = None;
        let known = self.registration.get_or_insert_default();
        recorded::approve(known, at, by, profile, seen);
        if let Some(profile) = profile {
            self.set_type(profile);
        }
    }

    /// The log says so.
    pub(crate) fn reject(&mut self, at: Timestamp, by: &str) {
        self.suspicion = None;
        recorded::reject(self.registration.get_or_insert_default(), at, by);
    }

    fn approved_profile(&self) -> Option<String> {
        let known = self.registration.as_ref()?;
        known.approved_by.as_ref()?;
        known.profile.clone()
    }

    pub(crate) fn robot_type(&self) -> Option<String> {
        self.robot_type.clone()
    }

    pub(crate) fn set_type(&mut self, profile: &str) {
        self.robot_type = Some(profile.to_owned());
    }

    pub(crate) fn set_uptime(&mut self, uptime_s: u64) {
        self.uptime_s = Some(uptime_s);
    }

    pub(crate) fn set_factsheet(&mut self, now: Timestamp, factsheet: Factsheet) {
        self.sources.hardware_at = Some(now);
        // What a person decided stands over what the robot says.
        self.robot_type = self
            .approved_profile()
            .or_else(|| Some(factsheet.profile.clone()));
        self.factsheet = Some(factsheet);
    }

    pub(crate) fn factsheet(&self) -> Option<&Factsheet> {
        self.factsheet.as_ref()
    }

    pub(crate) fn set_state(&mut self, now: Timestamp, state: &State) {
        self.sources.state_at = Some(now);
        self.sources.session = Some(state.session);
        self.uptime_s = Some(state.uptime_s);
        self.network = Some(state.network.clone());
        self.deployment = Some(state.deployment.clone());
        self.activity = Some(state.activity);
        self.operating_mode = Some(state.operating_mode);
        self.teleoperation = Some(state.teleoperation.clone());
        self.health.clone_from(&state.health);
        self.services.clone_from(&state.services);
        self.battery = state.battery;
        self.throttling = state.throttling;
        self.clock = state.clock;
    }

    /// A full state replaces what was known; metrics that it lacks are gone.
    pub(crate) fn replace(&mut self, now: Timestamp, metrics: &Metrics) {
        let gone = &mut self.gone;
        self.readings.retain(|name, reading| {
            let stays = metrics.contains_key(name);
            if !stays && reading.kept {
                gone.insert(name.clone());
            }
            stays
        });
        self.merge(now, metrics);
    }

    /// Newest wins. Names beyond the contract's number are left out until the next full state; names beyond
    /// what history takes of one robot are only in the picture.
    pub(crate) fn merge(&mut self, now: Timestamp, metrics: &Metrics) {
        let mut kept = None;
        for (name, value) in metrics {
            if let Some(known) = self.readings.get_mut(name) {
                known.value = *value;
                known.at = now;
                known.fresh = known.kept;
            } else if self.readings.len() < MAX_METRICS {
                // Counted once a message: names are rarely new.
                let count = kept.get_or_insert_with(|| {
                    self.gone.len() + self.readings.values().filter(|r| r.kept).count()
                });
                let was_there = self.gone.remove(name);
                let is_kept = was_there || *count < MAX_HISTORY_METRICS;
                if is_kept && !was_there {
                    *count += 1;
                }
                let reading = Reading {
                    value: *value,
                    at: now,
                    fresh: is_kept,
                    kept: is_kept,
                };
                self.readings.insert(name.clone(), reading);
            }
        }
        self.readings_at = Some(now);
    }

    /// Whether history takes a late value of `name`: it has that metric, or room for one more.
    pub(crate) fn takes_late(&mut self, name: &MetricName) -> bool {
        if let Some(reading) = self.readings.get(name) {
            return reading.kept;
        }
        if self.gone.contains(name) {
            return true;
        }
        let kept = self.gone.len() + self.readings.values().filter(|r| r.kept).count();
        let has_room = kept < MAX_HISTORY_METRICS;
        if has_room {
            self.gone.insert(name.clone());
        }
        has_room
    }

    /// Readings that history has not seen.
    pub(crate) fn take_fresh(&mut self) -> impl Iterator<Item = (&MetricName, Timestamp, f64)> {
        self.fresh = false;
        self.readings
            .iter_mut()
            .filter(|(_, reading)| reading.fresh)
            .map(|(name, reading)| {
                reading.fresh = false;
                (name, reading.at, reading.value)
            })
    }

    fn configuration(&self) -> Option<ConfigurationStatus> {
        let desired = self.recorded.desired;
        let is_told = desired > 0 || self.reported.is_some();
        is_told.then(|| ConfigurationStatus::new(desired, self.reported.clone()))
    }

    pub(crate) fn view(&self) -> RobotView {
        RobotView {
            id: self.id.clone(),
            robot_type: self.robot_type.clone().unwrap_or_default(),
            status: Status {
                online: self.is_connected() && !self.stale,
                stale: self.is_connected() && self.stale,
                connection: self.connection,
                last_seen: self.last_seen,
                registered_at: self.recorded.registered_at,
                uptime_s: self.uptime_s,
            },
            registration: self.registration(),
            // Whoever shows it to somebody knows.
            certificate: None,
            factsheet: self.factsheet.clone(),
            network: self.network.clone(),
            deployment: self.deployment.clone(),
            activity: self.activity,
            operating_mode: self.operating_mode,
            teleoperation: self.teleoperation.clone(),
            health: self.health.clone(),
            services: self.services.clone(),
            battery: self.battery,
            throttling: self.throttling,
            clock: self.clock,
            configuration: self.configuration(),
            resources: self
                .readings
                .iter()
                .map(|(name, reading)| (name.clone(), reading.value))
                .collect(),
            resources_at: self.readings_at,
            freshness: None,
            as_of: None,
        }
    }

    /// What it said holds as long as it is heard in the same session: it says at once what changes.
    pub(crate) fn confirm(&mut self, now: Timestamp) {
        if self.sources.session.is_some() && self.sources.session == self.session() {
            self.sources.state_at = Some(now);
        }
    }

    /// What is known of it since when, and what speaks against it.
    pub(crate) fn known(&self) -> Known {
        let recorded = &self.recorded;
        let sheet = self.factsheet.as_ref();
        let is_other_boot = |sheet: &Factsheet| recorded.boot.is_some_and(|it| it != sheet.boot_id);
        let is_other_board = |sheet: &Factsheet| {
            // A board that tells no serial is not another one.
            let said = &sheet.hardware.serial;
            let serial = recorded.serial.as_ref();
            recorded::counts(said) && serial.is_some_and(|serial| serial != said)
        };
        let session = self.session().or(recorded.session());
        Known {
            hardware_at: self.sources.hardware_at,
            is_other_hardware: sheet.is_some_and(|it| is_other_boot(it) || is_other_board(it)),
            state_at: self.sources.state_at,
            is_other_session: session.is_some() && session != self.sources.session,
            telemetry_at: self.readings_at,
        }
    }

    /// What is kept of it.
    pub(crate) fn picture(&self) -> Picture {
        let open = self.suspicion.clone();
        Picture {
            view: self.view(),
            recorded: self.recorded.clone(),
            sources: self.sources,
            suspicion: open.map(|(since, reason)| Suspicion {
                since,
                reason,
                known: self.registration.clone().unwrap_or_default(),
            }),
            is_view_only: false,
        }
    }
}

/// Where a robot stands that the log has no enrolment of.
pub(crate) fn unregistered() -> Registration {
    Registration {
        status: RegistrationStatus::Quarantined,
        reason: Some("its enrolment is not in the log yet".to_owned()),
        ..Registration::default()
    }
}
