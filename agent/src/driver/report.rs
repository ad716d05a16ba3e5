//! What the driver tells local programs, and how it words alerts and errors.

use lekiwi_agent_core::debounce::Alert;
use lekiwi_protocol::message::{kind, metric};
use serde_json::{Value, json};

use super::Driver;
use crate::ipc::{ConfigurationStatus, OutboxStatus, Status};

impl Driver {
    pub(super) fn status(&self) -> Status {
        let online = self.is_online();
        Status {
            robot_id: self.config.robot_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: self.lifecycle.phase().to_owned(),
            link: self.lifecycle.link().to_string(),
            activity: self.lifecycle.activity(),
            relay: self.uplink.address().to_string(),
            session: online.then(|| self.speech.session()),
            online_since: self.online_since,
            last_error: self.last_error.clone(),
            last_telemetry: self.last_telemetry,
            certificate_not_after: self.not_after,
            renewal: self.renewing.status(),
            signer: self.config.signer.as_ref().map(ToString::to_string),
            outbox: OutboxStatus {
                pending: self.outbox.len(),
                late_samples: self.outbox.late(),
                stream: self.outbox.stream(),
                last_seq: self.outbox.last_seq(),
                durable: self.outbox.is_durable(),
                trouble: self.outbox.trouble().map(str::to_owned),
            },
            configuration: ConfigurationStatus {
                desired: self.twin.live(),
                ..self.configuration.clone()
            },
            stop: Some(self.estop.status()),
        }
    }
}

/// Type and data of the event that a crossing is.
pub(super) fn describe(alert: &Alert) -> (&'static str, Value) {
    let kind = match (alert.raised, alert.metric.as_str()) {
        (true, metric::TEMPERATURE_C) => kind::TEMPERATURE_WARNING,
        (true, _) => kind::RESOURCE_ALERT,
        (false, _) => kind::RESOURCE_RECOVERED,
    };
    let data = json!({ "metric": alert.metric, "value": alert.value, "threshold": alert.level });
    (kind, data)
}

/// An error and all its sources in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // Libraries repeat their source in their own message.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
