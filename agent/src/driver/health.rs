//! The driver's part in the robot's health: which profile is watched, what is said about it and its services.

use std::time::Instant;

use lekiwi_agent_core::health::Verdict;
use lekiwi_agent_core::services::Saying;
use lekiwi_protocol::message::kind;
use serde_json::{Value, json};

use super::Driver;
use crate::clock;
use crate::health::{Found, Monitor};
use crate::setup;

/// The next result of a check, if any is watched. Cancel-safe.
pub(super) async fn next_found(monitor: &mut Option<Monitor>) -> Found {
    match monitor {
        Some(monitor) => monitor.next().await,
        None => std::future::pending().await,
    }
}

impl Driver {
    /// Watches what the relay has registered the robot as; called when that may have changed.
    pub(super) fn watch_profile(&mut self) {
        let Some(name) = setup::registered_profile(&self.config.state_dir) else {
            return;
        };
        if self
            .monitor
            .as_ref()
            .is_some_and(|monitor| monitor.watches(&name))
        {
            return;
        }
        let (packaged, now) = (&self.config.profiles_dir, clock::now());
        self.monitor = Monitor::open(packaged, &self.root, &name, &mut self.ros, now);
        self.learn_stop();
        self.look_after_health(clock::now());
    }

    /// Begins the looks that are due, and says what they changed.
    pub(super) fn look_after_health(&mut self, now: Instant) {
        if let Some(monitor) = &mut self.monitor {
            monitor.look(now, self.sampler.load_per_core());
        }
        self.tell_health();
    }

    /// A check answered.
    pub(super) fn looked(&mut self, found: Found) {
        if let Some(monitor) = &mut self.monitor {
            monitor.found(clock::now(), found);
        }
        self.tell_health();
    }

    /// Reads how far root's setup is, while it is not done.
    pub(super) fn look_at_setup(&mut self, now: Instant) {
        if let Some(monitor) = &mut self.monitor
            && !monitor.is_set_up()
        {
            monitor.look_at_setup(now);
            self.look_after_health(now);
        }
    }

    /// Root's setup reported something, and has written down where it is.
    pub(super) fn setup_reported(&mut self) {
        let now = clock::now();
        // A profile that was missing or wrong may have been put right.
        if self.monitor.as_ref().is_none_or(Monitor::lacks_profile) {
            self.watch_profile();
        }
        if let Some(monitor) = &mut self.monitor {
            monitor.look_at_setup(now);
        }
        self.look_after_health(now);
    }

    fn tell_health(&mut self) {
        let Some(monitor) = &mut self.monitor else {
            return;
        };
        let verdict = monitor.poll_verdict();
        let changed = monitor.poll_change();
        let sayings: Vec<Saying> = std::iter::from_fn(|| monitor.poll_saying()).collect();
        for saying in sayings {
            let (kind, data) = told(&saying);
            log::info!("{kind}: {data}");
            self.event(kind, data);
        }
        match verdict {
            Some(Verdict::Healthy) => {
                log::info!("all services and checks pass");
                self.event(kind::HEALTHY, json!({}));
            }
            Some(Verdict::Unhealthy(failing)) => {
                for failing in &failing {
                    log::warn!("{}: {}", failing.name, failing.reason);
                }
                self.event(kind::UNHEALTHY, json!({ "failing": failing }));
            }
            None => {}
        }
        if changed {
            self.local.states.want();
        }
    }
}

/// Type and data of the event that a saying is.
fn told(saying: &Saying) -> (&'static str, Value) {
    // Plain numbers and texts always become JSON.
    let (kind, data) = match saying {
        Saying::Changed(data) => (kind::SERVICE_CHANGED, serde_json::to_value(data)),
        Saying::Flapping(data) => (kind::SERVICE_FLAPPING, serde_json::to_value(data)),
        Saying::Steady(data) => (kind::SERVICE_STEADY, serde_json::to_value(data)),
    };
    (kind, data.unwrap_or_default())
}
