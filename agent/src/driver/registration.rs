//! What the relay says about the robot's registration. Once it is registered, `registered.json` in the
//! state folder says so, under which profile: root's setup starts by it. Quarantine takes nothing away.

use lekiwi_protocol::message::{Registration, RegistrationStatus};

use super::{Driver, chain};
use crate::storage::write_atomically;

/// The file, in the state folder.
const FILE: &str = "registered.json";

impl Driver {
    pub(super) fn registration(&mut self, registration: &Registration) {
        let reason = registration.reason.as_deref();
        match registration.status {
            RegistrationStatus::Registered => {
                if self.is_quarantined {
                    self.is_quarantined = false;
                    self.last_error = None;
                }
                self.keep_registration(registration);
                self.watch_profile();
                self.watch_teleoperation();
            }
            RegistrationStatus::Quarantined | RegistrationStatus::Rejected => {
                self.is_quarantined = true;
                self.complain(&format!(
                    "the relay has {} this robot: {} (hint: look at it in the dashboard, then `lekiwi approve {} --profile NAME`)",
                    registration.status,
                    reason.unwrap_or("it says no reason"),
                    self.config.robot_id
                ));
            }
        }
    }

    /// Tells the local network whether there is a certificate.
    pub(super) fn say_registered(&mut self) {
        let registered = self.not_after.is_some();
        if let Some(discovery) = &mut self.discovery {
            discovery.say_registered(registered);
        }
    }

    /// Writes the file, unless it says the same already: a unit watches it.
    fn keep_registration(&self, registration: &Registration) {
        let path = self.config.state_dir.join(FILE);
        // Strings always become JSON.
        let mut json = serde_json::to_vec(registration).unwrap_or_default();
        json.push(b'\n');
        if std::fs::read(&path).is_ok_and(|kept| kept == json) {
            return;
        }
        match write_atomically(&path, &json, 0o644) {
            Ok(()) => log::info!(
                "the relay has registered this robot{}",
                registration
                    .profile
                    .as_ref()
                    .map_or(String::new(), |profile| format!(" as {profile}"))
            ),
            Err(error) => log::warn!("cannot write {}: {}", path.display(), chain(&error)),
        }
    }
}
