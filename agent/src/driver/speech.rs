//! What the robot says, wrapped and addressed: one function a message. Knows session and sequence.

use lekiwi_protocol::message::{
    Backlog, CommandStatus, Connection, ConnectionState, EventBatch, Factsheet, Heartbeat,
    Identification, Reported, State, Telemetry,
};
use lekiwi_protocol::topic::Name;
use lekiwi_protocol::trace::{Sample, TraceParent};
use lekiwi_protocol::{Envelope, FromRobot, MessageType, RobotId, Root, ToRobot};
use serde::Serialize;
use uuid::Uuid;

use crate::clock;
use crate::config::Config;
use crate::link::{Delivery, Link};
use crate::machine::{self, Machine};

pub(super) struct Speech {
    root: Root,
    robot_id: RobotId,
    factsheet: Factsheet,
    session: Uuid,
    sequence: u64,
    /// What the factsheet says was not said in this session.
    owes_factsheet: bool,
    /// Which share of the messages with events begins a trace.
    traces: Sample,
}

impl Speech {
    pub(super) fn new(
        config: &Config,
        machine: &Machine,
        identification: Identification,
        boot_id: Uuid,
    ) -> Self {
        Self {
            root: Root::of(config.org.clone()),
            robot_id: config.robot_id.clone(),
            factsheet: Factsheet {
                uuid: machine::lasting_uuid(&config.state_dir.join("uuid")),
                profile: identification.profile.clone(),
                identification: Some(identification),
                hardware: machine.hardware(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                agent_target: env!("AGENT_TARGET").to_owned(),
                capabilities: [
                    "backlog",
                    "collect_logs",
                    "commands",
                    "configuration",
                    "events",
                    "list_packages",
                    "renew_identity",
                    "services",
                    "telemetry",
                ]
                .map(str::to_owned)
                .to_vec(),
                boot_id,
            },
            session: Uuid::nil(),
            sequence: 0,
            owes_factsheet: false,
            traces: config.traces,
        }
    }

    /// From now on, this share of the messages with events begins a trace.
    pub(super) fn begin_traces(&mut self, share: Sample) {
        self.traces = share;
    }

    pub(super) fn session(&self) -> Uuid {
        self.session
    }

    pub(super) fn boot_id(&self) -> Uuid {
        self.factsheet.boot_id
    }

    /// The profile that the robot was found to have.
    pub(super) fn profile(&self) -> &str {
        &self.factsheet.profile
    }

    /// The agent has this optional part, or has it no more; says whether that is new.
    pub(super) fn capability(&mut self, name: &str, has: bool) -> bool {
        let capabilities = &mut self.factsheet.capabilities;
        match capabilities.binary_search_by(|known| known.as_str().cmp(name)) {
            Err(place) if has => capabilities.insert(place, name.to_owned()),
            Ok(place) if !has => drop(capabilities.remove(place)),
            _ => return false,
        }
        true
    }

    pub(super) fn inbox(&self) -> String {
        self.root.robot_inbox(&self.robot_id)
    }

    /// Where emergency stops come.
    pub(super) fn estop_topic(&self) -> String {
        self.root
            .to_robot(&self.robot_id, ToRobot::Estop)
            .to_string()
    }

    /// A new session: topic and payload of its will.
    pub(super) fn begin_session(&mut self) -> (String, Vec<u8>) {
        self.session = Uuid::new_v4();
        self.sequence = 0;
        self.owes_factsheet = true;
        self.wrap(
            FromRobot::Connection,
            MessageType::Connection,
            self.connection(ConnectionState::ConnectionBroken),
        )
    }

    /// Birth and factsheet.
    pub(super) fn birth(&mut self, link: &Link) -> bool {
        let birth = self.connection(ConnectionState::Online);
        let connection = FromRobot::Connection;
        self.say(Some(link), connection, MessageType::Connection, birth)
            && self.factsheet(Some(link))
    }

    pub(super) fn factsheet(&mut self, link: Option<&Link>) -> bool {
        let sheet = self.factsheet.clone();
        let is_said = self.say(link, FromRobot::Factsheet, MessageType::Factsheet, sheet);
        self.owes_factsheet = !is_said;
        is_said
    }

    /// How far the command `id` is.
    pub(super) fn command(&mut self, link: Option<&Link>, id: Name, status: CommandStatus) -> bool {
        let topic = FromRobot::Command(id);
        self.say(link, topic, MessageType::Response, status)
    }

    /// Which configuration is in force.
    pub(super) fn reported(&mut self, link: Option<&Link>, reported: Reported) -> bool {
        self.say(link, FromRobot::Reported, MessageType::Reported, reported)
    }

    /// OFFLINE, then the end of the connection.
    pub(super) fn goodbye(&mut self, link: Option<&Link>) -> bool {
        let offline = self.connection(ConnectionState::Offline);
        let said = self.say(
            link,
            FromRobot::Connection,
            MessageType::Connection,
            offline,
        );
        said && link.is_some_and(Link::leave)
    }

    /// The state, behind a factsheet that found no room.
    pub(super) fn state(&mut self, link: Option<&Link>, state: State) -> bool {
        (!self.owes_factsheet || self.factsheet(link))
            && self.say(link, FromRobot::State, MessageType::State, state)
    }

    pub(super) fn heartbeat(&mut self, link: Option<&Link>, uptime_s: u64) -> bool {
        let session = self.session;
        let heartbeat = Heartbeat { session, uptime_s };
        self.say(
            link,
            FromRobot::Heartbeat,
            MessageType::Heartbeat,
            heartbeat,
        )
    }

    pub(super) fn telemetry(&mut self, link: Option<&Link>, telemetry: &Telemetry) -> bool {
        self.say(
            link,
            FromRobot::Telemetry,
            MessageType::Telemetry,
            telemetry,
        )
    }

    pub(super) fn events(&mut self, link: Option<&Link>, batch: EventBatch) -> bool {
        self.say(link, FromRobot::Events, MessageType::Events, batch)
    }

    pub(super) fn backlog(&mut self, link: Option<&Link>, backlog: &Backlog) -> bool {
        self.say(link, FromRobot::Backlog, MessageType::Backlog, backlog)
    }

    fn connection(&self, state: ConnectionState) -> Connection {
        Connection {
            session: self.session,
            state,
        }
    }

    fn say(
        &mut self,
        link: Option<&Link>,
        from: FromRobot,
        message_type: MessageType,
        payload: impl Serialize,
    ) -> bool {
        let Some(link) = link else {
            return false;
        };
        let delivery = match from {
            FromRobot::Connection
            | FromRobot::Factsheet
            | FromRobot::State
            | FromRobot::Reported => Delivery::Retained,
            FromRobot::Events | FromRobot::Backlog | FromRobot::Command(_) => {
                Delivery::Acknowledged
            }
            _ => Delivery::Once,
        };
        let trace = match from {
            FromRobot::Events => trace(self.traces),
            _ => None,
        };
        let (topic, payload) = self.wrap(from, message_type, payload);
        link.publish(topic, payload, delivery, trace)
    }

    fn wrap(
        &mut self,
        from: FromRobot,
        message_type: MessageType,
        payload: impl Serialize,
    ) -> (String, Vec<u8>) {
        let envelope = Envelope {
            message_type,
            robot_id: self.robot_id.clone(),
            timestamp: clock::wall(),
            sequence: self.sequence,
            clock: clock::state(),
            payload,
        };
        self.sequence += 1;
        let topic = self.root.from_robot(&self.robot_id, from).to_string();
        (topic, envelope.to_json())
    }
}

/// A new trace, if it is one of the share; none without random numbers.
fn trace(share: Sample) -> Option<TraceParent> {
    if share == Sample::NONE {
        return None;
    }
    let mut random = [0; 24];
    getrandom::fill(&mut random).ok()?;
    TraceParent::begin(random, share)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const STATE: &str = include_str!("../../../protocol/examples/state.json");
    const FACTSHEET: &str = include_str!("../../../protocol/examples/factsheet.json");

    fn payload<T: serde::de::DeserializeOwned>(text: &str) -> T {
        let message: serde_json::Value = serde_json::from_str(text).unwrap();
        serde_json::from_value(message["payload"].clone()).unwrap()
    }

    #[tokio::test]
    async fn a_factsheet_that_found_no_room_goes_before_the_next_state() {
        let mut speech = Speech {
            root: Root::default(),
            robot_id: RobotId::new("kiwi-01").unwrap(),
            factsheet: payload(FACTSHEET),
            session: Uuid::nil(),
            sequence: 0,
            owes_factsheet: false,
            traces: Sample::NONE,
        };
        let (link, mut taken) = Link::stuck();
        let link = Some(&link);
        speech.begin_session();
        assert!(speech.factsheet(link) && speech.state(link, payload(STATE)));
        let kinds = |topics: Vec<String>| -> Vec<String> {
            let kinds = topics.iter().filter_map(|topic| topic.rsplit('/').next());
            kinds.map(str::to_owned).collect()
        };
        assert_eq!(kinds(taken()), ["factsheet", "state"]);
        while speech.heartbeat(link, 0) {}
        assert!(!speech.factsheet(link) && !speech.state(link, payload(STATE)));
        taken();
        for expected in [&["factsheet", "state"][..], &["state"]] {
            assert!(speech.state(link, payload(STATE)));
            assert_eq!(kinds(taken()), expected);
        }
    }
}
