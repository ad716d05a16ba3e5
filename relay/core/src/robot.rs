//! One robot's picture. Pure; owned by [`Fleet`](crate::Fleet).

use std::collections::BTreeMap;

use lekiwi_protocol::api::{RobotView, Status};
use lekiwi_protocol::limits::{MAX_METRICS, STALE_AFTER};
use lekiwi_protocol::message::{
    Activity, Connection, ConnectionState, Deployment, Factsheet, Metrics, Network, OperatingMode,
    RobotHealth, State, Teleoperation,
};
use lekiwi_protocol::{Envelope, MetricName, RobotId, Timestamp};
use uuid::Uuid;

use crate::Link;

/// The newest value of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading {
    value: f64,
    at: Timestamp,
    /// Not yet handed to history.
    fresh: bool,
}

/// What is known about one robot.
#[derive(Debug, Clone)]
pub(crate) struct Robot {
    pub(crate) id: RobotId,
    /// The connection that stands, where the broker tells.
    pub(crate) link: Option<Link>,
    /// The last birth, whole, so that it can be said again.
    pub(crate) birth: Option<Envelope<Connection>>,
    pub(crate) connection: ConnectionState,
    pub(crate) stale: bool,
    pub(crate) last_seen: Option<Timestamp>,
    pub(crate) registered_at: Option<Timestamp>,
    /// Whether a staleness deadline of it is queued.
    pub(crate) watched: bool,
    /// Whether it has readings that history has not seen.
    pub(crate) fresh: bool,
    /// Whether it differs from its snapshot by more than telemetry.
    pub(crate) changed: bool,
    uptime_s: Option<u64>,
    robot_type: Option<String>,
    factsheet: Option<Factsheet>,
    network: Option<Network>,
    deployment: Option<Deployment>,
    activity: Option<Activity>,
    operating_mode: Option<OperatingMode>,
    teleoperation: Option<Teleoperation>,
    health: Option<RobotHealth>,
    readings: BTreeMap<MetricName, Reading>,
    readings_at: Option<Timestamp>,
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
            registered_at: None,
            watched: false,
            fresh: false,
            changed: true,
            uptime_s: None,
            robot_type: None,
            factsheet: None,
            network: None,
            deployment: None,
            activity: None,
            operating_mode: None,
            teleoperation: None,
            health: None,
            readings: BTreeMap::new(),
            readings_at: None,
        }
    }

    /// As it was when the relay stopped, but not connected: that it has to say itself.
    pub(crate) fn restored(view: RobotView) -> Self {
        let connection = match view.status.connection {
            ConnectionState::Online => ConnectionState::ConnectionBroken,
            other => other,
        };
        let at = view.resources_at.unwrap_or_default();
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
                    },
                )
            })
            .collect();
        Self {
            connection,
            last_seen: view.status.last_seen,
            registered_at: view.status.registered_at,
            changed: false,
            uptime_s: view.status.uptime_s,
            robot_type: Some(view.robot_type).filter(|t| !t.is_empty()),
            factsheet: view.factsheet,
            network: view.network,
            deployment: view.deployment,
            activity: view.activity,
            operating_mode: view.operating_mode,
            teleoperation: view.teleoperation,
            health: view.health,
            readings,
            readings_at: view.resources_at,
            ..Self::new(view.id)
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection == ConnectionState::Online
    }

    /// The session of the last birth.
    pub(crate) fn session(&self) -> Option<Uuid> {
        self.birth.as_ref().map(|birth| birth.payload.session)
    }

    /// When it counts as stale, unless it is heard before.
    pub(crate) fn stale_at(&self) -> Timestamp {
        self.last_seen.unwrap_or_default().plus(STALE_AFTER)
    }

    pub(crate) fn set_type(&mut self, profile: &str) {
        self.robot_type = Some(profile.to_owned());
    }

    pub(crate) fn set_uptime(&mut self, uptime_s: u64) {
        self.uptime_s = Some(uptime_s);
    }

    pub(crate) fn set_factsheet(&mut self, factsheet: Factsheet) {
        self.robot_type = Some(factsheet.profile.clone());
        self.factsheet = Some(factsheet);
    }

    /// A full state replaces what was known; metrics that it lacks are gone.
    pub(crate) fn set_state(&mut self, now: Timestamp, state: &State) {
        self.uptime_s = Some(state.uptime_s);
        self.network = Some(state.network.clone());
        self.deployment = Some(state.deployment.clone());
        self.activity = Some(state.activity);
        self.operating_mode = Some(state.operating_mode);
        self.teleoperation = Some(state.teleoperation.clone());
        self.health.clone_from(&state.health);
        self.readings
            .retain(|name, _| state.resources.contains_key(name));
        self.merge(now, &state.resources);
    }

    /// Newest wins. Names beyond the contract's number are left out until the next full state.
    pub(crate) fn merge(&mut self, now: Timestamp, metrics: &Metrics) {
        for (name, value) in metrics {
            let reading = Reading {
                value: *value,
                at: now,
                fresh: true,
            };
            if let Some(known) = self.readings.get_mut(name) {
                *known = reading;
            } else if self.readings.len() < MAX_METRICS {
                self.readings.insert(name.clone(), reading);
            }
        }
        self.readings_at = Some(now);
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

    pub(crate) fn view(&self) -> RobotView {
        RobotView {
            id: self.id.clone(),
            robot_type: self.robot_type.clone().unwrap_or_default(),
            status: Status {
                online: self.is_connected() && !self.stale,
                stale: self.is_connected() && self.stale,
                connection: self.connection,
                last_seen: self.last_seen,
                registered_at: self.registered_at,
                uptime_s: self.uptime_s,
            },
            factsheet: self.factsheet.clone(),
            network: self.network.clone(),
            deployment: self.deployment.clone(),
            activity: self.activity,
            operating_mode: self.operating_mode,
            teleoperation: self.teleoperation.clone(),
            health: self.health.clone(),
            resources: self
                .readings
                .iter()
                .map(|(name, reading)| (name.clone(), reading.value))
                .collect(),
            resources_at: self.readings_at,
        }
    }
}
