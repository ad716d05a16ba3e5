//! What is rebuilt is the same, whatever it is rebuilt from; and what an earlier position shows.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;

use expect_test::expect;
use lekiwi_protocol::api::{Claim, RobotView};
use lekiwi_protocol::message::{Connection, ConnectionState, Heartbeat};
use lekiwi_protocol::{MessageType, RobotId, Timestamp};
use lekiwi_relay_core::{Enrolment, Fact, Fleet, Input, Past, Picture, Policy, What};
use proptest::prelude::*;
use support::{at, envelope, robot, sheet, telemetry};
use uuid::Uuid;

fn session(n: u8) -> Uuid {
    Uuid::from_u128(n.into())
}

fn connection(n: u8, session: Uuid, state: ConnectionState) -> Input {
    let payload = Connection { session, state };
    Input::Connection(envelope(n, MessageType::Connection, payload))
}

fn heartbeat(n: u8) -> Input {
    let payload = Heartbeat {
        session: Uuid::nil(),
        uptime_s: 7,
    };
    Input::Heartbeat(envelope(n, MessageType::Heartbeat, payload))
}

fn registered() -> What {
    What::Registered(Enrolment::default())
}

fn approved(profile: Option<&str>) -> What {
    What::Approved {
        by: "admin".to_owned(),
        profile: profile.map(str::to_owned),
        seen: Claim::default(),
    }
}

fn connected(n: u8) -> What {
    What::Connected {
        session: session(n),
    }
}

fn disconnected(n: u8) -> What {
    What::Disconnected {
        session: session(n),
        state: ConnectionState::Offline,
    }
}

/// A picture as a store has it.
#[derive(Clone)]
struct Kept {
    json: String,
    position: u64,
}

/// A relay: what it hears and has in its log, and the pictures that it keeps.
struct Relay {
    fleet: Fleet,
    log: Vec<Fact>,
    kept: BTreeMap<RobotId, Kept>,
}

impl Relay {
    fn new(policy: Policy) -> Self {
        Self {
            fleet: Fleet::new(policy),
            log: Vec::new(),
            kept: BTreeMap::new(),
        }
    }

    fn log(&mut self, n: u8, what: What) {
        let position = self.log.len() as u64 + 1;
        let fact = Fact {
            robot: robot(n),
            position,
            at: at(position),
            what,
        };
        self.log.push(fact.clone());
        self.hear(Input::Logged(fact));
    }

    fn hear(&mut self, input: Input) {
        self.fleet.handle(at(self.log.len() as u64), input);
        while self.fleet.poll_output().is_some() {}
    }

    fn keep(&mut self) {
        let position = self.fleet.position();
        for picture in self.fleet.take_changed() {
            let json = serde_json::to_string(&picture).unwrap();
            self.kept.insert(picture.view.id, Kept { json, position });
        }
    }

    /// The fleet at `position`, from these pictures and the log.
    fn past(&self, kept: &BTreeMap<RobotId, Kept>, position: u64) -> Past {
        let mut past = Past::new(position);
        for picture in kept.values() {
            let read = Picture::from_json(&picture.json).unwrap();
            past.restore(read, picture.position, Some(at(picture.position)));
        }
        for fact in self.log.iter().filter(|fact| fact.position <= position) {
            past.fold(fact);
        }
        past
    }
}

fn json(views: impl Iterator<Item = RobotView>) -> String {
    serde_json::to_string_pretty(&views.collect::<Vec<_>>()).unwrap()
}

/// What of a robot the log says, and it alone.
fn by_the_log(past: &Past) -> String {
    let robots: Vec<_> = past
        .views()
        .map(|view| {
            (
                view.id,
                view.status.connection,
                view.status.registered_at,
                view.registration,
                view.configuration.map_or(0, |known| known.desired),
            )
        })
        .collect();
    serde_json::to_string_pretty(&robots).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Log(u8, What),
    Hear(Input),
    Keep,
}

fn any_what() -> impl Strategy<Value = What> {
    let profile = || prop::sample::select(vec![None, Some("lekiwi"), Some("xle"), Some("unknown")]);
    let serial = || prop::sample::select(vec![None, Some("1a"), Some("2b")]);
    let some = |text: Option<&str>| text.map(str::to_owned);
    prop_oneof![
        3 => (profile(), profile(), serial(), any::<bool>()).prop_map(move |(profile, token, serial, bound)| {
            What::Registered(Enrolment {
                profile: some(profile),
                token_profile: some(token),
                serial: some(serial),
                bound,
            })
        }),
        1 => Just(What::Quarantined { reason: "because".to_owned() }),
        1 => profile().prop_map(approved),
        1 => Just(What::Rejected { by: "admin".to_owned() }),
        1 => (1..9_u64).prop_map(|version| What::Desired { version }),
        2 => (0..3_u8).prop_map(connected),
        2 => (0..3_u8).prop_map(disconnected),
        1 => Just(What::Stale),
        1 => Just(What::HardwareChanged { serial: "2b".to_owned() }),
        1 => (0..3_u8).prop_map(|n| What::Rebooted { boot: session(n) }),
        1 => Just(What::Other),
    ]
}

fn any_heard() -> impl Strategy<Value = Input> {
    let profile = prop::sample::select(vec!["lekiwi", "xle", "unknown"]);
    let serial = prop::sample::select(vec!["", "1a", "2b"]);
    let state = prop::sample::select(vec![ConnectionState::Online, ConnectionState::Offline]);
    prop_oneof![
        (0..3_u8, profile, serial).prop_map(|(n, profile, serial)| sheet(n, profile, serial)),
        (0..3_u8, 0..3_u8, state).prop_map(|(n, of, state)| connection(n, session(of), state)),
        (0..3_u8, 0..9_u8).prop_map(|(n, value)| telemetry(n, value.into())),
        (0..3_u8).prop_map(heartbeat),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, any_what()).prop_map(|(n, what)| Step::Log(n, what)),
        3 => any_heard().prop_map(Step::Hear),
        1 => Just(Step::Keep),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(vec![Policy::Open, Policy::Approve])
}

proptest! {
    // Each case looks back from every position.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// From the whole log, or from pictures of any position and the rest of it: the same bytes.
    #[test]
    fn a_rebuilt_fleet_is_the_same_to_the_byte(
        log in proptest::collection::vec((0..3_u8, any_what()), 1..20),
        policy in any_policy(),
    ) {
        let mut whole = Relay::new(policy);
        let mut pictures = vec![BTreeMap::new()];
        for (n, what) in log {
            whole.log(n, what);
            whole.keep();
            pictures.push(whole.kept.clone());
        }
        let position = whole.log.len() as u64;
        let past = json(whole.past(&BTreeMap::new(), position).views());
        for (from, kept) in pictures.iter().enumerate() {
            let mut fleet = Fleet::new(policy);
            for picture in kept.values() {
                fleet.restore(Picture::from_json(&picture.json).unwrap(), picture.position);
            }
            for fact in &whole.log[from..] {
                fleet.handle(fact.at, Input::Logged(fact.clone()));
            }
            prop_assert_eq!(json(fleet.views()), json(whole.fleet.views()), "from {}", from);
            prop_assert_eq!(fleet.position(), position);
            // Looked back at, too, but for what says when the pictures were taken.
            let rebuilt = whole.past(kept, position);
            let views = rebuilt.views().map(|mut view| {
                view.as_of.as_mut().unwrap().picture_at = None;
                view
            });
            prop_assert_eq!(json(views), past.clone(), "from {}", from);
        }
    }

    /// Whatever robots say between, and whenever pictures are taken: what the log says stays the same.
    #[test]
    fn what_the_log_says_depends_on_nothing_else(
        steps in proptest::collection::vec(any_step(), 1..30),
        policy in any_policy(),
    ) {
        let mut relay = Relay::new(policy);
        let mut pictures = vec![(0, BTreeMap::new())];
        for step in steps {
            match step {
                Step::Log(n, what) => relay.log(n, what),
                Step::Hear(input) => relay.hear(input),
                Step::Keep => {
                    relay.keep();
                    pictures.push((relay.fleet.position(), relay.kept.clone()));
                }
            }
        }
        for position in 0..=relay.log.len() as u64 {
            let logged = relay.log.iter().any(|fact| fact.position <= position);
            let expected = by_the_log(&relay.past(&BTreeMap::new(), position));
            prop_assert_eq!(expected != "[]", logged);
            for (from, kept) in pictures.iter().filter(|(from, _)| *from <= position) {
                let past = relay.past(kept, position);
                let heard_only = |view: &RobotView| relay.log.iter().all(|fact| fact.robot != view.id || fact.position > position);
                // Who was only heard of is known to pictures; the log has nothing to say of it.
                if past.views().any(|view| heard_only(&view)) {
                    continue;
                }
                prop_assert_eq!(by_the_log(&past), expected.clone(), "at {} from {}", position, from);
            }
        }
    }
}

#[test]
fn pictures_of_relays_that_kept_the_view_only_are_read() {
    let mut relay = Relay::new(Policy::Open);
    relay.log(1, registered());
    relay.log(1, approved(Some("xle")));
    relay.log(1, What::Desired { version: 3 });
    relay.hear(telemetry(1, 1.0));
    let view = relay.fleet.view(&robot(1)).unwrap();
    let picture = Picture::from_json(&serde_json::to_string(&view).unwrap()).unwrap();
    let mut restored = Fleet::default();
    restored.restore(picture.clone(), 3);
    let away = |mut view: RobotView| {
        view.status.connection = ConnectionState::Offline;
        view
    };
    assert_eq!(restored.view(&robot(1)).map(away), Some(away(view.clone())));
    let mut past = Past::new(3);
    past.restore(picture, 3, Some(at(3)));
    let then = past.view(&robot(1)).unwrap();
    assert_eq!(
        (then.registration, then.robot_type, then.resources),
        (view.registration, view.robot_type, view.resources)
    );
    assert_eq!(then.configuration.unwrap().desired, 3);
    let refusal = Picture::from_json(r#"{"id":"kiwi-1"}"#).unwrap_err();
    assert!(
        refusal.to_string().starts_with("missing field"),
        "{refusal}"
    );
}

/// How robots look at a position: presence, standing, wanted version, what they had said and of when that is.
fn shown(past: &Past) -> String {
    let line = |view: RobotView| {
        let status = view.status;
        let word = match (status.online, status.stale) {
            (true, _) => "online",
            (_, true) => "stale",
            _ => "away",
        };
        let desired = view.configuration.map_or(0, |known| known.desired);
        let cpu: Vec<f64> = view.resources.into_values().collect();
        let as_of = view.as_of.unwrap();
        format!(
            "{} {:?} {word}, {} as {:?}, v{desired}, {cpu:?} of {:?}\n",
            as_of.position,
            view.id.as_str(),
            view.registration.status,
            view.robot_type,
            as_of.picture_at.map(Timestamp::as_ms),
        )
    };
    past.views().map(line).collect()
}

#[test]
fn an_earlier_position_is_as_the_log_had_it() {
    let mut relay = Relay::new(Policy::Open);
    let mut kept = Vec::new();
    relay.log(1, registered());
    relay.hear(connection(1, session(1), ConnectionState::Online));
    relay.log(1, connected(1));
    relay.hear(sheet(1, "lekiwi", "1a"));
    relay.hear(telemetry(1, 1.0));
    relay.keep();
    kept.push(relay.kept.clone());
    relay.hear(telemetry(1, 2.0));
    relay.log(1, What::Stale);
    relay.log(1, What::Other);
    relay.log(1, What::Desired { version: 3 });
    relay.log(1, connected(2));
    // The end of the older session is not that of the newer one.
    relay.log(1, disconnected(1));
    relay.log(2, registered());
    relay.log(1, disconnected(2));
    relay.log(1, approved(Some("xle")));
    let mut told = String::new();
    for position in 0..=relay.log.len() as u64 {
        // Pictures that are later than the position are not asked for.
        let usable = kept.first().filter(|_| position >= 2).cloned();
        told += &shown(&relay.past(&usable.unwrap_or_default(), position));
    }
    expect![[r#"
        1 "kiwi-1" away, registered as "", v0, [] of None
        2 "kiwi-1" online, registered as "lekiwi", v0, [1.0] of Some(2000)
        3 "kiwi-1" stale, registered as "lekiwi", v0, [1.0] of Some(2000)
        4 "kiwi-1" stale, registered as "lekiwi", v0, [1.0] of Some(2000)
        5 "kiwi-1" stale, registered as "lekiwi", v3, [1.0] of Some(2000)
        6 "kiwi-1" online, registered as "lekiwi", v3, [1.0] of Some(2000)
        7 "kiwi-1" online, registered as "lekiwi", v3, [1.0] of Some(2000)
        8 "kiwi-1" online, registered as "lekiwi", v3, [1.0] of Some(2000)
        8 "kiwi-2" away, registered as "", v0, [] of None
        9 "kiwi-1" away, registered as "lekiwi", v3, [1.0] of Some(2000)
        9 "kiwi-2" away, registered as "", v0, [] of None
        10 "kiwi-1" away, registered as "xle", v3, [1.0] of Some(2000)
        10 "kiwi-2" away, registered as "", v0, [] of None
    "#]]
    .assert_eq(&told);
}
