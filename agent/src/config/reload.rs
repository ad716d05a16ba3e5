//! Which keys of the configuration can change while the agent runs. Pure.

use std::fmt::Write;

use lekiwi_agent_core::debounce::{Rule, Threshold};
use sha2::{Digest, Sha256};

use super::Config;

impl Config {
    /// SHA-256 of what can change while the agent runs and whose values others may know.
    #[must_use]
    pub fn digest(&self) -> String {
        let (heartbeat, sample) = (self.heartbeat.as_secs(), self.sample.as_secs());
        let mut text = format!(
            "{heartbeat} {sample} {} {}\n",
            self.log,
            self.traces.share()
        );
        for (key, rule) in self.metrics.iter() {
            let Rule {
                deadband,
                min_interval,
                keep_alive,
                alert,
            } = rule;
            let alert = match alert {
                None => String::new(),
                Some(Threshold::Above { level, clear }) => format!(" above {level} {clear}"),
                Some(Threshold::Below { level, clear }) => format!(" below {level} {clear}"),
            };
            let (least, most) = (min_interval.as_secs(), keep_alive.as_secs());
            // A text takes everything.
            let _ = writeln!(text, "{key} {deadband} {least} {most}{alert}");
        }
        hex::encode(Sha256::digest(text))
    }

    /// Takes what of `new` can change while the agent runs: rules of telemetry, heartbeat, log level, the share of traces
    /// and the folder of profiles. Returns the other keys that `new` has otherwise; of those the old values stay.
    #[must_use]
    pub fn take(&mut self, new: Self) -> Vec<&'static str> {
        let old = &*self;
        let lasting = [
            ("robot_id", old.robot_id != new.robot_id),
            ("org", old.org != new.org),
            ("profile", old.profile != new.profile),
            ("hardware", old.hardware != new.hardware),
            ("relay.https", old.relay.https != new.relay.https),
            (
                "relay.endpoints",
                old.relay.endpoints != new.relay.endpoints,
            ),
            (
                "relay.fail_back_s",
                old.relay.fail_back != new.relay.fail_back,
            ),
            ("relay.proxy", old.relay.proxy != new.relay.proxy),
            (
                "relay.ca_fingerprint",
                old.relay.ca_fingerprint != new.relay.ca_fingerprint,
            ),
            ("enrolment.token_file", old.token_file != new.token_file),
            (
                "enrolment.remove_token",
                old.remove_token != new.remove_token,
            ),
            ("identity.signer", old.signer != new.signer),
            ("trust_file", old.trust_file != new.trust_file),
            ("state_dir", old.state_dir != new.state_dir),
            ("socket", old.socket != new.socket),
            ("discovery.mdns", old.mdns != new.mdns),
            ("migration", old.migration != new.migration),
        ];
        self.heartbeat = new.heartbeat;
        self.sample = new.sample;
        self.metrics = new.metrics;
        self.given = new.given;
        self.log = new.log;
        self.traces = new.traces;
        self.profiles_dir = new.profiles_dir;
        let changed = lasting.into_iter().filter(|(_, is_other)| *is_other);
        changed.map(|(key, _)| key).collect()
    }
}
