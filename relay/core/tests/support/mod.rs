//! What robots say and when, for tests of the fleet.

use lekiwi_protocol::message::{Factsheet, Hardware, Telemetry};
use lekiwi_protocol::{Clock, Envelope, MessageType, MetricName, RobotId, Timestamp};
use lekiwi_relay_core::Input;
use uuid::Uuid;

pub(crate) fn robot(n: u8) -> RobotId {
    RobotId::new(&format!("kiwi-{n}")).unwrap()
}

/// The relay's clock when it writes this position.
pub(crate) fn at(position: u64) -> Timestamp {
    Timestamp::from_ms(position * 1_000)
}

pub(crate) fn envelope<P>(n: u8, message_type: MessageType, payload: P) -> Envelope<P> {
    Envelope {
        message_type,
        robot_id: robot(n),
        timestamp: at(0),
        sequence: 0,
        clock: Clock::Synced,
        payload,
    }
}

pub(crate) fn sheet(n: u8, profile: &str, serial: &str) -> Input {
    let payload = Factsheet {
        uuid: Uuid::nil(),
        profile: profile.to_owned(),
        hardware: Hardware {
            serial: serial.to_owned(),
            ..Hardware::default()
        },
        agent_version: String::new(),
        agent_target: String::new(),
        capabilities: Vec::new(),
        boot_id: Uuid::nil(),
        identification: None,
    };
    Input::Factsheet(Box::new(envelope(n, MessageType::Factsheet, payload)))
}

pub(crate) fn telemetry(n: u8, value: f64) -> Input {
    let metrics = [(MetricName::new("cpu_percent").unwrap(), value)].into();
    Input::Telemetry(envelope(n, MessageType::Telemetry, Telemetry { metrics }))
}
