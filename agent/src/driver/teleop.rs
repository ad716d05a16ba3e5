//! The driver's part in teleoperation: which profile's signatures are looked for, and what is said about it.

use std::time::Instant;

use lekiwi_agent_core::lifecycle::Input;
use lekiwi_agent_core::teleop::{Event, Report};
use lekiwi_protocol::message::{
    Activity, OperatingMode, Operator, OperatorKind, SourceKind, Teleoperation, kind,
};
use lekiwi_protocol::{ProfileName, Timestamp};
use serde_json::Value;

use super::{Driver, chain};
use crate::clock;
use crate::ipc;
use crate::profiles;
use crate::setup;
use crate::teleop::Watcher;

/// What the factsheet calls it.
const CAPABILITY: &str = "teleoperation";

/// What is watched, and what was said.
#[derive(Debug, Default)]
pub(super) struct Teleop {
    watcher: Option<Box<Watcher>>,
    profile: Option<ProfileName>,
    state: Teleoperation,
    by_policy: bool,
}

impl Teleop {
    /// When the next look is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        Some(self.watcher.as_ref()?.poll_timeout())
    }

    /// As the state says it.
    pub(super) fn state(&self) -> &Teleoperation {
        &self.state
    }

    /// Who is in charge, as far as is seen.
    fn operating_mode(&self) -> OperatingMode {
        if self.state.active && !self.by_policy {
            OperatingMode::Manual
        } else {
            OperatingMode::Automatic
        }
    }
}

/// A policy drives: the robot decides for itself.
fn is_policy(operator: &Operator) -> bool {
    operator.source_kind == SourceKind::Policy
}

impl Driver {
    /// Looks for the signatures of what the relay has registered the robot as, else of what its hardware is;
    /// called when that may have changed.
    pub(super) fn watch_teleoperation(&mut self) {
        let registered = setup::registered_profile(&self.config.state_dir);
        let Some(name) = registered.or_else(|| ProfileName::new(self.speech.profile()).ok()) else {
            return;
        };
        if self.teleop.profile.as_ref() == Some(&name) {
            return;
        }
        let profile = match profiles::load(&self.config.profiles_dir, &self.root, &name) {
            Ok(profile) => profile,
            Err(error) => {
                log::debug!("teleoperation is not looked for: {}", chain(&error));
                return;
            }
        };
        self.end_teleoperation();
        self.teleop.profile = Some(name);
        let ros = self.ros.open(&profile);
        self.teleop.watcher = Watcher::open(&profile, &self.root, ros, clock::now())
            .unwrap_or_else(|error| {
                log::warn!("teleoperation is not detected: {}", chain(&error));
                None
            })
            .map(Box::new);
        let has = self.teleop.watcher.is_some();
        if self.speech.capability(CAPABILITY, has)
            && self.is_online()
            && !self.speech.factsheet(self.link.as_ref())
        {
            // The state has it in front of it, when there is room.
            self.local.states.want();
        }
    }

    /// Looks, if that is due; forgets an operator whom programs stopped reporting.
    pub(super) fn look_at_teleoperation(&mut self, now: Instant) {
        if self.local.reported.handle_timeout(now) {
            log::info!("the operator was not reported for a while and does not count any more");
            self.tell_teleoperation(now, None);
        }
        let Some(watcher) = &mut self.teleop.watcher else {
            return;
        };
        if watcher.poll_timeout() > now {
            return;
        }
        let event = watcher.look(now);
        self.tell_teleoperation(now, event);
    }

    /// Nobody looks any more: a session that is under way ends for all who read of it.
    pub(super) fn end_teleoperation(&mut self) {
        let now = clock::now();
        let watcher = self.teleop.watcher.take();
        let event = watcher.and_then(|mut watcher| watcher.end(now));
        self.tell_teleoperation(now, event);
    }

    /// As [`Self::watch_teleoperation`], also when the profile has the same name: its file may be another one.
    pub(super) fn watch_teleoperation_anew(&mut self) {
        self.teleop.profile = None;
        self.watch_teleoperation();
    }

    /// A program says who drives. That counts for the state by itself; for events it is one more source of
    /// commands and names, which the watcher weighs.
    pub(super) fn operator(&mut self, now: Instant, operator: Option<ipc::Operator>) {
        let id = operator.as_ref().map(|operator| operator.id.clone());
        self.local.reported.set_operator(now, id);
        if let (Some(watcher), Some(operator)) = (&mut self.teleop.watcher, operator) {
            let report = Report {
                operator: Operator {
                    id: operator.id,
                    kind: OperatorKind::User,
                    source_kind: operator.source_kind,
                },
                address: operator.address,
                commands: operator.commands,
            };
            watcher.report(now, &report);
        }
        self.tell_teleoperation(now, None);
    }

    /// Who is in charge: what a program says of it comes before what is detected.
    pub(super) fn operating_mode(&self) -> OperatingMode {
        let said = self.local.reported.mode;
        said.unwrap_or_else(|| self.teleop.operating_mode())
    }

    fn tell_teleoperation(&mut self, now: Instant, event: Option<Event>) {
        let (state, by_policy) = self.teleoperation(now);
        let changed = state != self.teleop.state || by_policy != self.teleop.by_policy;
        self.teleop.state = state;
        self.teleop.by_policy = by_policy;
        if let Some(Event { kind, data }) = event {
            let who = &data.operator.id;
            match kind {
                kind::TELEOPERATION_STOPPED => log::info!("{who} drives no more"),
                kind::OBSERVING => log::info!("{who} looks on"),
                _ => log::info!("{who} drives, confidence {}", data.confidence),
            }
            // Names and numbers always become JSON.
            self.event(kind, serde_json::to_value(data).unwrap_or(Value::Null));
        }
        match (self.teleop.state.active, self.lifecycle.activity()) {
            // Another activity publishes the state by itself.
            (true, Activity::Idle) => self.input(Input::Activity(Activity::Teleoperated)),
            (false, Activity::Teleoperated) => self.input(Input::Activity(Activity::Idle)),
            _ if changed => self.local.states.want(),
            _ => {}
        }
    }

    /// The state as it is now, and whether a policy drives.
    fn teleoperation(&self, now: Instant) -> (Teleoperation, bool) {
        let watcher = self.teleop.watcher.as_ref();
        let video_streams = watcher.map(|w| w.streams()).unwrap_or_default();
        let before = &self.teleop.state;
        let Some(driving) = watcher.and_then(|watcher| watcher.driving()) else {
            let operator_id = self.local.reported.operator().map(str::to_owned);
            let started = || before.session_start.unwrap_or_else(clock::wall);
            let state = Teleoperation {
                active: operator_id.is_some(),
                session_start: operator_id.as_ref().map(|_| started()),
                video_streams,
                operator_id,
                contention: false,
            };
            return (state, false);
        };
        let state = Teleoperation {
            active: true,
            session_start: before.session_start.or_else(|| {
                let ago = now.saturating_duration_since(driving.since).as_millis();
                let ago = u64::try_from(ago).unwrap_or(u64::MAX);
                Some(Timestamp::from_ms(
                    clock::wall().as_ms().saturating_sub(ago),
                ))
            }),
            video_streams,
            contention: driving.contention,
            operator_id: Some(driving.operator.id.clone()),
        };
        (state, is_policy(&driving.operator))
    }
}
