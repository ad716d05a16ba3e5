//! Whether what is known of a robot may still be relied on: the cache policies of the state model. Pure.
//!
//! * Hardware holds until the log tells of another boot or board than the factsheet does.
//! * Network and deployment hold while the robot is heard in the session in which it said them, for it says at once what
//!   changes; and after its last word for an hour, and five minutes. A new session may have another network.
//! * Telemetry holds for 30 s after its last message.

use std::time::Duration;

use lekiwi_protocol::api::{Fresh, Freshness, RobotView};
use lekiwi_protocol::{RobotId, Timestamp};

use crate::Fleet;
use crate::robot::Robot;

const NETWORK: Duration = Duration::from_secs(3600);
const TELEMETRY: Duration = Duration::from_secs(30);
const DEPLOYMENT: Duration = Duration::from_secs(300);

/// What is known of each kind of knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// When it said what it is.
    pub(crate) hardware_at: Option<Timestamp>,
    /// Whether the log tells of another boot or board since.
    pub(crate) is_other_hardware: bool,
    /// When it last was as it had said.
    pub(crate) state_at: Option<Timestamp>,
    /// Whether it has another session since.
    pub(crate) is_other_session: bool,
    /// When it last measured something.
    pub(crate) telemetry_at: Option<Timestamp>,
}

/// Judges it at `now`.
pub(crate) fn judge(known: &Known, now: Timestamp) -> Freshness {
    let fresh = |as_of: Option<Timestamp>, is_other: bool, most: Duration| Fresh {
        as_of,
        stale: is_other || as_of.is_none_or(|as_of| now.since(as_of) > most),
    };
    Freshness {
        hardware: fresh(known.hardware_at, known.is_other_hardware, Duration::MAX),
        network: fresh(known.state_at, known.is_other_session, NETWORK),
        telemetry: fresh(known.telemetry_at, false, TELEMETRY),
        deployment: fresh(known.state_at, false, DEPLOYMENT),
    }
}

fn view(robot: &Robot, now: Timestamp) -> RobotView {
    RobotView {
        freshness: Some(judge(&robot.known(), now)),
        ..robot.view()
    }
}

impl Fleet {
    /// One robot, and how fresh that is at `now`.
    #[must_use]
    pub fn fresh_view(&self, id: &RobotId, now: Timestamp) -> Option<RobotView> {
        self.robots.get(id).map(|robot| view(robot, now))
    }

    /// All robots, by id, and how fresh that is at `now`.
    pub fn fresh_views(&self, now: Timestamp) -> impl Iterator<Item = RobotView> {
        self.robots.values().map(move |robot| view(robot, now))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lekiwi_protocol::message::{
        Activity, Connection, ConnectionState, Deployment, Factsheet, Hardware, Heartbeat, Metrics,
        Network, OperatingMode, State, Telemetry, Teleoperation,
    };
    use lekiwi_protocol::{Clock, Envelope, MessageType, MetricName};
    use uuid::Uuid;

    use super::*;
    use crate::{Enrolment, Fact, Input, Picture, What};

    fn robot() -> RobotId {
        RobotId::new("kiwi-01").unwrap()
    }

    fn envelope<P>(message_type: MessageType, payload: P) -> Envelope<P> {
        Envelope {
            message_type,
            robot_id: robot(),
            timestamp: Timestamp::default(),
            sequence: 0,
            clock: Clock::Synced,
            payload,
        }
    }

    fn online(session: u128) -> Input {
        let payload = Connection {
            session: Uuid::from_u128(session),
            state: ConnectionState::Online,
        };
        Input::Connection(envelope(MessageType::Connection, payload))
    }

    fn sheet(boot: u128, serial: &str) -> Input {
        let payload = Factsheet {
            uuid: Uuid::nil(),
            profile: "lekiwi".to_owned(),
            hardware: Hardware {
                serial: serial.to_owned(),
                ..Hardware::default()
            },
            agent_version: String::new(),
            agent_target: String::new(),
            capabilities: Vec::new(),
            boot_id: Uuid::from_u128(boot),
            identification: None,
        };
        Input::Factsheet(Box::new(envelope(MessageType::Factsheet, payload)))
    }

    fn cpu() -> Metrics {
        [(MetricName::new("cpu_percent").unwrap(), 1.0)].into()
    }

    fn state(session: u128) -> Input {
        let payload = State {
            session: Uuid::from_u128(session),
            aliases: Vec::new(),
            activity: Activity::Idle,
            operating_mode: OperatingMode::Automatic,
            teleoperation: Teleoperation::default(),
            network: Network::default(),
            deployment: Deployment::default(),
            resources: cpu(),
            uptime_s: 1,
            health: None,
            services: Vec::new(),
            battery: None,
            throttling: None,
            clock: None,
        };
        Input::State(Box::new(envelope(MessageType::State, payload)))
    }

    fn telemetry() -> Input {
        let payload = Telemetry { metrics: cpu() };
        Input::Telemetry(envelope(MessageType::Telemetry, payload))
    }

    fn heartbeat() -> Input {
        let payload = Heartbeat {
            session: Uuid::from_u128(1),
            uptime_s: 1,
        };
        Input::Heartbeat(envelope(MessageType::Heartbeat, payload))
    }

    fn logged(position: u64, what: What) -> Input {
        Input::Logged(Fact {
            robot: robot(),
            position,
            at: Timestamp::default(),
            what,
        })
    }

    /// A robot that said everything at second 0, and `then`, by seconds; what is stale of it at `now_s`.
    fn stale(then: Vec<(u64, Input)>, now_s: u64) -> Vec<&'static str> {
        let at = |second: u64| Timestamp::from_ms(1_000 * second);
        let mut fleet = Fleet::default();
        let said = [
            logged(1, What::Registered(Enrolment::default())),
            online(1),
            sheet(1, "1a"),
            state(1),
        ];
        let said = said.into_iter().map(|input| (0, input));
        for (second, input) in said.chain(then) {
            fleet.handle(at(second), input);
            while fleet.poll_output().is_some() {}
        }
        let view = fleet.fresh_view(&robot(), at(now_s)).unwrap();
        let freshness = view.freshness.unwrap();
        // The same after a restart of the relay, but for a session that nobody has confirmed since.
        let mut restarted = Fleet::default();
        for picture in fleet.take_changed() {
            let json = serde_json::to_string(&picture).unwrap();
            restarted.restore(Picture::from_json(&json).unwrap(), fleet.position());
        }
        let again = restarted.fresh_view(&robot(), at(now_s)).unwrap().freshness;
        assert_eq!(again.unwrap().hardware, freshness.hardware);
        assert_eq!(again.unwrap().telemetry, freshness.telemetry);
        assert_eq!(again.unwrap().deployment, freshness.deployment);
        let named = [
            ("hardware", freshness.hardware),
            ("network", freshness.network),
            ("telemetry", freshness.telemetry),
            ("deployment", freshness.deployment),
        ];
        let stale = named.into_iter().filter(|(_, fresh)| fresh.stale);
        stale.map(|(name, _)| name).collect()
    }

    #[test]
    fn each_kind_of_knowledge_ends_by_its_policy() {
        let rebooted = |boot| What::Rebooted {
            boot: Uuid::from_u128(boot),
        };
        let changed = |serial: &str| What::HardwareChanged {
            serial: serial.to_owned(),
        };
        let none: [&str; 0] = [];
        for (then, now_s, expected) in [
            (vec![], 0, none.as_slice()),
            // Telemetry: 30 s, from the last message on.
            (vec![], 30, &none),
            (vec![], 31, &["telemetry"]),
            (vec![(20, telemetry())], 50, &none),
            (vec![(20, telemetry())], 51, &["telemetry"]),
            // Deployment: five minutes after the last word.
            (vec![(0, telemetry())], 300, &["telemetry"]),
            (vec![], 301, &["telemetry", "deployment"]),
            (vec![(200, heartbeat())], 500, &["telemetry"]),
            // Network: an hour.
            (vec![], 3_600, &["telemetry", "deployment"]),
            (vec![], 3_601, &["network", "telemetry", "deployment"]),
            // … or a new session, until the robot has said where it is.
            (vec![(1, online(2))], 1, &["network"]),
            (vec![(1, online(2)), (1, state(2))], 1, &none),
            // Hardware: until a restart or another board, which the factsheet may have told before.
            (vec![(1, logged(2, rebooted(2)))], 1, &["hardware"]),
            (
                vec![(1, logged(2, rebooted(2))), (2, sheet(2, "1a"))],
                2,
                &none,
            ),
            (
                vec![(1, sheet(2, "1a")), (2, logged(2, rebooted(2)))],
                2,
                &none,
            ),
            (vec![(1, logged(2, changed("2b")))], 1, &["hardware"]),
            (
                vec![(1, sheet(1, "2b")), (1, logged(2, changed("2b")))],
                1,
                &none,
            ),
        ] {
            let case = format!("{then:?} at {now_s}");
            assert_eq!(stale(then, now_s), expected, "{case}");
        }
    }

    #[test]
    fn what_was_never_said_is_stale() {
        let freshness = judge(&Known::default(), Timestamp::from_ms(1));
        let all = [
            freshness.hardware,
            freshness.network,
            freshness.telemetry,
            freshness.deployment,
        ];
        for fresh in all {
            assert_eq!((fresh.as_of, fresh.stale), (None, true));
        }
    }
}
