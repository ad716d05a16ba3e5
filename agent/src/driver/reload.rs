//! Reading the configuration again while the agent runs. What cannot change then is named, and counts from
//! the next start; a file that is wrong changes nothing.

use lekiwi_agent_core::twin::Layer;
use lekiwi_protocol::ProfileName;
use sd_notify::NotifyState;
use serde_json::json;

use super::service::notify;
use super::{Driver, chain};
use crate::config::{Config, ConfigError, Loaded};
use crate::{clock, journal, profiles};

/// Reads the configuration, with what operators desire over it; called again for each reload.
pub type Reader = Box<dyn Fn(Option<&Layer>) -> Result<Loaded, ConfigError>>;

impl Driver {
    /// Takes what of the file is new. Answers as the socket does.
    pub(super) fn reload(&mut self) -> Result<String, String> {
        notify(&[NotifyState::Reloading]);
        let desired = self.twin.in_force().cloned();
        let result = self.take_configuration(desired.as_ref());
        notify(&[NotifyState::Ready]);
        match &result {
            Ok(_) => {
                log::info!("the configuration was read again");
                self.twin.applied(Ok(()));
                self.carry_out_twin();
            }
            Err(reason) => {
                log::error!("the configuration stays as it was: {reason}");
                self.configuration.refused = Some(reason.clone());
            }
        }
        result
    }

    /// The configuration as it would be with what operators desire over it, the profile's defaults included.
    pub(super) fn candidate(&self, desired: Option<&Layer>) -> Result<Config, String> {
        let Loaded {
            config: mut new,
            warnings,
        } = (self.reader)(desired).map_err(|error| {
            let hint = error.hint();
            let hint = hint.map_or(String::new(), |hint| format!(" (hint: {hint})"));
            format!("{}{hint}", chain(&error))
        })?;
        for warning in &warnings {
            log::warn!("{warning}");
        }
        let profile = ProfileName::new(self.speech.profile()).ok();
        let profile =
            profile.filter(|name| profiles::exists(&new.profiles_dir, "/".as_ref(), name.as_str()));
        if let Some(name) = profile {
            // A profile that is wrong is refused with the file: it would be half taken otherwise.
            let profile = profiles::load(&new.profiles_dir, "/".as_ref(), &name);
            let profile = profile.map_err(|error| chain(&error))?;
            new.adopt(&profile).map_err(|error| chain(&error))?;
        }
        Ok(new)
    }

    pub(super) fn take_configuration(&mut self, desired: Option<&Layer>) -> Result<String, String> {
        let new = self.candidate(desired)?;
        let has_other_profiles = new.profiles_dir != self.config.profiles_dir;
        let waiting = self.config.take(new);
        for key in &waiting {
            log::warn!("{key} is another one in the file, which counts from the next start");
        }
        journal::set_level(self.config.log);
        self.speech.begin_traces(self.config.traces);
        self.debouncer.replace_rules(self.config.metrics.clone());
        let now = clock::now();
        self.next_heartbeat = self.next_heartbeat.min(now + self.config.heartbeat);
        self.next_sample = self.next_sample.min(now + self.config.sample);
        if has_other_profiles {
            let folder = self.config.profiles_dir.clone();
            self.commands.set_profiles_dir(folder);
            self.monitor = None;
            self.watch_profile();
            self.watch_teleoperation_anew();
        }
        // The profile's file may say another one, under the same name.
        self.learn_stop();
        let answer = json!({ "reloaded": true, "waiting": &waiting }).to_string();
        self.configuration.since = clock::wall();
        self.configuration.refused = None;
        self.configuration.waiting = waiting.into_iter().map(str::to_owned).collect();
        Ok(answer)
    }
}
