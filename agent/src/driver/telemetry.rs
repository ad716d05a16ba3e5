//! The driver's part in telemetry: what is measured goes through the debouncer to the relay, and what
//! telemetry cannot say goes into the state.

use std::time::Instant;

use lekiwi_protocol::message::State;

use super::Driver;
use super::report::describe;
use crate::clock;
use crate::health::Monitor;

impl Driver {
    /// Measures, and says what crossed its threshold.
    pub(super) fn sample(&mut self, now: Instant) {
        self.next_sample = now + self.config.sample;
        let debouncer = &mut self.debouncer;
        let mut observe = |name, member: &str, value| {
            debouncer.observe(now, name, member, value);
        };
        self.sampler.sample(now, &mut observe);
        let load = self.sampler.load_per_core();
        let is_used = self
            .monitor
            .as_mut()
            .is_some_and(|monitor| monitor.measure(now, load, &mut observe));
        let is_gone = self.debouncer.retire(now);
        let is_counted = self.packages.advance(now, load);
        let is_news = self.sampler.poll_news();
        while let Some(alert) = self.debouncer.poll_alert() {
            let (kind, data) = describe(&alert);
            log::warn!("{kind}: {data}");
            self.event(kind, data);
        }
        self.look_at_clocks();
        self.outbox.look_after_samples(now, clock::wall());
        if is_used || is_gone || is_counted || is_news {
            self.local.states.want();
        }
        self.look_for_network();
        if !self.is_online() {
            self.keep_telemetry(now);
        }
    }

    /// The full picture, for the relay when it can hear, and for local programs: after each connect, when
    /// something but telemetry changed, and whenever somebody asks for it. Telemetry goes on from there.
    /// Whether it was said; what the link had no room for is wanted again.
    pub(super) fn publish_state(&mut self) -> bool {
        let state = self.state();
        self.tell_local(&state);
        if !self.is_online() {
            return false; // the next connect has it
        }
        let is_said = self.speech.state(self.link.as_ref(), state);
        if is_said {
            self.debouncer.told(clock::now());
        } else {
            self.local.states.want();
        }
        is_said
    }

    pub(super) fn state(&self) -> State {
        let metrics = self.debouncer.newest();
        let resources = metrics.map(|(name, value)| (name.clone(), value)).collect();
        let mut deployment = self.machine.deployment();
        deployment.installed_packages = self.packages.known().cloned();
        let monitor = self.monitor.as_ref();
        State {
            session: self.speech.session(),
            aliases: self.aliases(),
            activity: self.lifecycle.activity(),
            operating_mode: self.operating_mode(),
            teleoperation: self.teleop.state().clone(),
            network: self.network.clone(),
            deployment,
            resources,
            uptime_s: self.sampler.uptime().unwrap_or(0),
            health: monitor.map(Monitor::report),
            services: monitor
                .map(|monitor| monitor.services().collect())
                .unwrap_or_default(),
            battery: self.sampler.battery(),
            throttling: self.sampler.throttling(),
            clock: Some(self.sampler.clock()),
        }
    }
}
