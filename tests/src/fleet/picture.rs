//! What a simulated robot says of itself: made up, and of the shape of a real one's.

use std::time::Duration;

use lekiwi_protocol::message::{
    Activity, ControlEvidence, Deployment, Ended, Evidence, Factsheet, Hardware, Metrics, Network,
    OperatingMode, Operator, OperatorKind, SourceKind, State, StopReason, Teleoperation,
    TeleoperationEvent,
};
use lekiwi_protocol::{MetricName, RobotId, Timestamp};
use uuid::Uuid;

/// A robot's look.
#[derive(Debug)]
pub(super) struct Picture {
    id: RobotId,
    boot_id: Uuid,
    /// Who drives it, and since when.
    session: Option<(Uuid, Timestamp)>,
}

impl Picture {
    pub(super) fn new(id: RobotId) -> Self {
        Self {
            id,
            boot_id: Uuid::new_v4(),
            session: None,
        }
    }

    /// Somebody begins to drive: the data of the event.
    pub(super) fn drive(&mut self, now: Timestamp) -> serde_json::Value {
        let session = Uuid::new_v4();
        self.session = Some((session, now));
        serde_json::json!(teleoperation(session, None))
    }

    /// Nobody drives any more: the data of the event.
    pub(super) fn park(&mut self, now: Timestamp) -> serde_json::Value {
        let (session, since) = self.session.take().unwrap_or((Uuid::new_v4(), now));
        let ended = Ended {
            reason: StopReason::Closed,
            duration_ms: now.as_ms().saturating_sub(since.as_ms()),
            longest_gap_ms: 0,
        };
        serde_json::json!(teleoperation(session, Some(ended)))
    }

    pub(super) fn factsheet(&self) -> Factsheet {
        Factsheet {
            uuid: self.boot_id,
            profile: "generic".to_owned(),
            identification: None,
            hardware: Hardware {
                serial: self.id.to_string(),
                model: "simulated robot".to_owned(),
                architecture: std::env::consts::ARCH.to_owned(),
                cores: 4,
                memory_bytes: 4 << 30,
                ..Hardware::default()
            },
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_target: "simulated".to_owned(),
            capabilities: Vec::new(),
            boot_id: self.boot_id,
        }
    }

    pub(super) fn state(&self, session: Uuid, up: Duration) -> State {
        State {
            session,
            aliases: Vec::new(),
            activity: match self.session {
                Some(_) => Activity::Teleoperated,
                None => Activity::Idle,
            },
            operating_mode: OperatingMode::Automatic,
            teleoperation: match self.session {
                Some((_, since)) => Teleoperation {
                    active: true,
                    operator_id: Some(OPERATOR.to_owned()),
                    session_start: Some(since),
                    ..Teleoperation::default()
                },
                None => Teleoperation::default(),
            },
            network: Network {
                hostname: self.id.to_string(),
                ip_addresses: vec!["127.0.0.1".to_owned()],
                ..Network::default()
            },
            deployment: Deployment {
                os_version: "simulated".to_owned(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                installed_packages: None,
            },
            resources: self.metrics(up),
            uptime_s: up.as_secs(),
            health: None,
            services: Vec::new(),
            battery: None,
            throttling: None,
            clock: None,
        }
    }

    /// Made-up values that move: each metric swings with its own period, each robot with its own phase.
    pub(super) fn metrics(&self, up: Duration) -> Metrics {
        use lekiwi_protocol::message::metric::{
            CPU_PERCENT, DISK_PERCENT, MEMORY_PERCENT, TEMPERATURE_C,
        };
        let t = up.as_secs_f64() + f64::from(self.boot_id.as_fields().1);
        let swing = |period: f64, low: f64, high: f64| {
            let value = low + (high - low) * (0.5 + 0.5 * (t / period).sin());
            (value * 10.0).round() / 10.0
        };
        [
            (CPU_PERCENT, swing(7.0, 2.0, 80.0)),
            (MEMORY_PERCENT, swing(61.0, 30.0, 45.0)),
            (DISK_PERCENT, swing(997.0, 40.0, 41.0)),
            (TEMPERATURE_C, swing(31.0, 41.0, 63.0)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((MetricName::new(name).ok()?, value)))
        .collect()
    }
}

const OPERATOR: &str = "192.0.2.7";

fn teleoperation(session: Uuid, ended: Option<Ended>) -> TeleoperationEvent {
    TeleoperationEvent {
        session,
        operator: Operator {
            id: OPERATOR.to_owned(),
            kind: OperatorKind::Ip,
            source_kind: SourceKind::Unknown,
        },
        previous: None,
        profile: "generic".to_owned(),
        confidence: 0.9,
        contention: false,
        evidence: Evidence {
            control: Some(ControlEvidence {
                score: 1.0,
                commands_per_s: 30.0,
                silent_ms: 0,
                what: "simulated".to_owned(),
            }),
            ..Evidence::default()
        },
        ended,
    }
}
