//! JSON schemas of every message, generated from the types. `protocol/schemas/` holds them as golden
//! files; `UPDATE_SCHEMAS=1 cargo test -p lekiwi-protocol --features schema` writes them anew.

use schemars::{Schema, generate::SchemaSettings};

use crate::envelope::Envelope;
use crate::message;

/// File name and schema of each message, as it stands on the wire.
#[must_use]
pub fn all() -> Vec<(&'static str, Schema)> {
    fn of<T: schemars::JsonSchema>() -> Schema {
        SchemaSettings::draft2020_12()
            .into_generator()
            .into_root_schema_for::<T>()
    }
    vec![
        ("connection", of::<Envelope<message::Connection>>()),
        ("factsheet", of::<Envelope<message::Factsheet>>()),
        ("state", of::<Envelope<message::State>>()),
        ("heartbeat", of::<Envelope<message::Heartbeat>>()),
        ("telemetry", of::<Envelope<message::Telemetry>>()),
        ("events", of::<Envelope<message::EventBatch>>()),
        ("backlog", of::<Envelope<message::Backlog>>()),
        ("ack", of::<Envelope<message::Ack>>()),
        ("registration", of::<Envelope<message::Registration>>()),
        ("command", of::<Envelope<message::Command>>()),
        ("response", of::<Envelope<message::CommandStatus>>()),
        ("desired", of::<Envelope<message::Desired>>()),
        ("reported", of::<Envelope<message::Reported>>()),
        ("relay", of::<message::RelayBirth>()),
        ("alert", of::<crate::alert::Alert>()),
        ("alert_notification", of::<crate::api::AlertNotification>()),
        ("dropped", of::<message::Dropped>()),
        ("service_changed", of::<message::ServiceChanged>()),
        ("service_flapping", of::<message::ServiceFlapping>()),
        ("service_steady", of::<message::ServiceSteady>()),
        ("teleoperation", of::<message::TeleoperationEvent>()),
        ("thinned", of::<message::Thinned>()),
    ]
}
