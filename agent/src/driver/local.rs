//! The driver's part in what local programs say and are told.

use std::time::{Duration, Instant};

use lekiwi_agent_core::bucket::Bucket;
use lekiwi_agent_core::local::{Reported, Throttle};
use lekiwi_protocol::limits::MAX_CUSTOM_METRICS;
use lekiwi_protocol::message::{State, metric};
use serde_json::json;
use tokio::sync::mpsc;

use super::Driver;
use super::migration::Migration;
use crate::clock;
use crate::config::Config;
use crate::ipc::{self, Battery, Bus, CUSTOM, Line, Query, Question, Report, Request, Topic};

/// Events that local programs may report at once, and the time after which they may report one more: each
/// is a write to the card.
const EVENTS: Bucket = Bucket::new(30, EVENTS_EVERY);
const EVENTS_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two states, those after a connect aside.
const STATES_EVERY: Duration = Duration::from_secs(1);

/// What the driver knows from local programs, and tells them by.
pub(super) struct Local {
    pub(super) reported: Reported,
    pub(super) bus: Bus,
    pub(super) migration: Option<Migration>,
    events: Bucket,
    /// When the state is told again, whoever caused it.
    pub(super) states: Throttle,
}

impl Local {
    /// `driver` is where the older system's agent is heard.
    pub(super) fn new(config: &Config, driver: &mpsc::Sender<Question>) -> Self {
        Self {
            reported: Reported::default(),
            bus: Bus::default(),
            migration: Migration::start(config, driver),
            events: EVENTS,
            states: Throttle::new(STATES_EVERY),
        }
    }

    /// When [`Driver::look_after_local`] wants to be called.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let mirror = self.migration.as_ref().and_then(Migration::poll_timeout);
        let said = self.reported.poll_timeout();
        [self.states.poll_timeout(now), said, mirror]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Driver {
    /// A local program asks, or reports.
    pub(super) fn answer(&mut self, question: Question) {
        let Question { request, answer } = question;
        let now = clock::now();
        // A caller that is gone does not take back what it said.
        let _ = answer.send(self.respond(now, request));
    }

    fn respond(&mut self, now: Instant, request: Request) -> Result<String, String> {
        match request {
            Request::Query(Query::Status) => return Ok(self.status().to_line()),
            Request::Reload(_) => return self.reload(),
            Request::Renew(_) => self.renew_now(),
            Request::Event(report) => return self.reported_event(now, report),
            Request::Subscribe(topics) => {
                if topics.contains(&Topic::State) {
                    self.local.states.want();
                }
                return Ok(json!({ "subscribed": topics }).to_string());
            }
            Request::Battery(battery) => self.battery(now, battery),
            Request::Metric(metric) => {
                let name = metric.check()?;
                let member = name.as_str().strip_prefix(CUSTOM).unwrap_or_default();
                if !self
                    .debouncer
                    .observe(now, metric::CUSTOM, member, metric.value)
                {
                    return Err(format!(
                        "expected at most {MAX_CUSTOM_METRICS} metrics of local programs, and {name} would be one more"
                    ));
                }
            }
            Request::Mode(mode) => {
                if self.local.reported.mode.replace(mode) != Some(mode) {
                    self.local.states.want();
                }
            }
            // Taken by the socket's end itself, ahead of the driver's queue.
            Request::Stopped(_) => {}
            Request::Legacy(robot) => self.legacy(now, robot)?,
            Request::Operator(operator) => self.operator(now, operator),
        }
        Ok(ipc::OK.to_owned())
    }

    fn reported_event(&mut self, now: Instant, report: Report) -> Result<String, String> {
        let Report { kind, data } = report;
        let is_setup = !kind.starts_with(CUSTOM);
        if !is_setup && self.local.events.take(now).is_err() {
            return Err(format!(
                "expected at most one event in {} s on average, got more: try again later",
                EVENTS_EVERY.as_secs()
            ));
        }
        log::info!("{kind}: {data}");
        let seq = self.event(&kind, data);
        if is_setup {
            self.setup_reported();
        }
        Ok(ipc::taken(seq))
    }

    fn battery(&mut self, now: Instant, battery: Battery) {
        let Battery {
            percent,
            volts,
            charging,
        } = battery;
        for (name, value) in [
            (metric::BATTERY_PERCENT, Some(percent)),
            (metric::BATTERY_V, volts),
            (metric::BATTERY_CHARGING, charging.map(f64::from)),
        ] {
            if let Some(value) = value {
                self.debouncer.observe(now, name, "", value);
            }
        }
    }

    /// Publishes the state when it is wanted and may be told again.
    pub(super) fn look_after_local(&mut self, now: Instant) {
        self.look_after_migration(now);
        if self.local.states.poll(now) {
            self.publish_state();
        }
    }

    /// Tells subscribers on the socket.
    pub(super) fn tell_local(&self, state: &State) {
        if self.local.bus.is_heard(Topic::State)
            && let Some(line) = self.state_line(state)
        {
            self.local.bus.publish(Topic::State, line);
        }
    }

    fn state_line(&self, state: &State) -> Option<Line> {
        let mut state = serde_json::to_value(state).ok()?;
        state["phase"] = self.lifecycle.phase().into();
        state["link"] = self.lifecycle.link().as_str().into();
        Some(json!({ "state": state }).to_string().into())
    }
}
