//! The driver and the service manager: what it is told, and how it ends the agent.

use lekiwi_agent_core::lifecycle::{Input, Link};
use lekiwi_protocol::message::kind;
use sd_notify::NotifyState;
use serde_json::json;

use super::Driver;
use crate::clock;

impl Driver {
    /// A signal asks to stop.
    pub(super) fn stop(&mut self, signal: &str) {
        if self.lifecycle.link() == Link::Leaving {
            // Asked twice: at once.
            self.done = true;
            return;
        }
        log::info!("{signal}: stopping");
        notify(&[NotifyState::Stopping]);
        self.local.reported.set_operator(clock::now(), None);
        self.end_teleoperation();
        // The goodbye overtakes what is not carried out yet.
        self.carry_out();
        if self.local.states.poll_timeout(clock::now()).is_some() {
            self.publish_state();
        }
        self.event(kind::AGENT_STOPPED, json!({ "signal": signal }));
        self.input(Input::Shutdown);
    }
}

/// Tells the service manager, if there is one.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager cannot be told: {error}");
    }
}
