//! Who takes part: stories as a table, then properties.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;

use expect_test::{Expect, expect};
use lekiwi_protocol::api::Claim;
use lekiwi_protocol::message::{
    Activity, Connection, ConnectionState, Deployment, Network, OperatingMode, RegistrationStatus,
    State, Teleoperation, kind,
};
use lekiwi_protocol::{MessageType, MetricName};
use lekiwi_relay_core::{Enrolment, Fact, Fleet, Input, Output, Picture, Policy, What};
use proptest::prelude::*;
use support::{at, envelope, robot, sheet, telemetry};
use uuid::Uuid;

fn online(n: u8) -> Input {
    let payload = Connection {
        session: Uuid::nil(),
        state: ConnectionState::Online,
    };
    Input::Connection(envelope(n, MessageType::Connection, payload))
}

fn metrics(value: f64) -> lekiwi_protocol::message::Metrics {
    [(MetricName::new("cpu_percent").unwrap(), value)].into()
}

fn state(n: u8, value: f64) -> Input {
    let payload = State {
        session: Uuid::nil(),
        aliases: Vec::new(),
        activity: Activity::Idle,
        operating_mode: OperatingMode::Automatic,
        teleoperation: Teleoperation::default(),
        network: Network {
            hostname: "kiwi".to_owned(),
            ..Network::default()
        },
        deployment: Deployment::default(),
        resources: metrics(value),
        uptime_s: 1,
        health: None,
        services: Vec::new(),
        battery: None,
        throttling: None,
        clock: None,
    };
    Input::State(Box::new(envelope(n, MessageType::State, payload)))
}

/// Something that comes into the log; the position is given when it is played.
#[derive(Debug, Clone)]
enum Logged {
    Enrolled(u8, &'static str, &'static str, &'static str, bool),
    Quarantined(u8, String),
    Approved(u8, Option<&'static str>, &'static str, &'static str),
    Rejected(u8),
}

fn said(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn logged(position: u64, what: Logged) -> Input {
    let (n, what) = match what {
        Logged::Enrolled(n, profile, token_profile, serial, bound) => (
            n,
            What::Registered(Enrolment {
                profile: said(profile),
                token_profile: said(token_profile),
                serial: said(serial),
                bound,
            }),
        ),
        Logged::Quarantined(n, reason) => (n, What::Quarantined { reason }),
        Logged::Approved(n, profile, seen_profile, seen_serial) => (
            n,
            What::Approved {
                by: "admin".to_owned(),
                profile: profile.map(str::to_owned),
                seen: Claim {
                    profile: seen_profile.to_owned(),
                    serial: seen_serial.to_owned(),
                },
            },
        ),
        Logged::Rejected(n) => (
            n,
            What::Rejected {
                by: "admin".to_owned(),
            },
        ),
    };
    Input::Logged(Fact {
        robot: robot(n),
        position,
        at: at(position),
        what,
    })
}

enum Step {
    Log(Logged),
    Say(Input),
    Restart,
}

use Logged::{Approved, Enrolled, Rejected};
use Step::{Log, Restart, Say};

/// Plays a story; what the relay wants written is written, as ingest does it.
fn play(policy: Policy, story: Vec<Step>) -> (Fleet, String) {
    let mut fleet = Fleet::new(policy);
    let (mut told, mut position) = (String::new(), 0);
    let mut pictures = BTreeMap::new();
    for step in story {
        let input = match step {
            Log(what) => {
                position += 1;
                logged(position, what)
            }
            Say(input) => input,
            Restart => {
                let mut next = Fleet::new(policy);
                for picture in fleet.take_changed() {
                    let json = serde_json::to_string(&picture).unwrap();
                    pictures.insert(picture.view.id, json);
                }
                for json in pictures.values() {
                    next.restore(Picture::from_json(json).unwrap(), fleet.position());
                }
                next.begin();
                fleet = next;
                writeln!(told, "restart").unwrap();
                follow(&mut fleet, &mut position, &mut told);
                continue;
            }
        };
        fleet.handle(at(position), input);
        follow(&mut fleet, &mut position, &mut told);
    }
    (fleet, told)
}

fn follow(fleet: &mut Fleet, position: &mut u64, told: &mut String) {
    while let Some(output) = fleet.poll_output() {
        match output {
            Output::Event {
                robot: id,
                kind: name,
                data,
            } => {
                writeln!(told, "{id} {name} {data}").unwrap();
                *position += 1;
                let (at, position) = (at(*position), *position);
                let what = if name == kind::QUARANTINED {
                    let reason = data["reason"].as_str().unwrap().to_owned();
                    What::Quarantined { reason }
                } else {
                    What::Other
                };
                let input = Input::Logged(Fact {
                    robot: id,
                    position,
                    at,
                    what,
                });
                fleet.handle(at, input);
            }
            Output::Standing {
                robot,
                admitted,
                tell,
                ..
            } => {
                let heard = if admitted { "heard" } else { "not heard" };
                let tell = tell.map_or(String::new(), |t| {
                    format!(", told {}", serde_json::to_string(&t).unwrap())
                });
                writeln!(told, "{robot} {heard}{tell}").unwrap();
            }
            Output::Live { .. } | Output::Announce(_) => {}
        }
    }
}

fn check(policy: Policy, story: Vec<Step>, expected: Expect) {
    expected.assert_eq(&play(policy, story).1);
}

#[test]
fn a_robot_that_says_what_its_token_says_takes_part() {
    check(
        Policy::Open,
        vec![
            Say(online(1)),
            Log(Enrolled(1, "lekiwi", "lekiwi", "1a", false)),
            Say(sheet(1, "lekiwi", "1a")),
            Say(sheet(1, "lekiwi", "1a")),
            Restart,
            Say(online(1)),
            Say(sheet(1, "lekiwi", "1a")),
        ],
        expect![[r#"
            kiwi-1 robot.connected {"session":"00000000-0000-0000-0000-000000000000"}
            kiwi-1 heard, told {"status":"registered","profile":"lekiwi"}
            kiwi-1 heard, told {"status":"registered","profile":"lekiwi"}
            kiwi-1 heard, told {"status":"registered","profile":"lekiwi"}
            restart
            kiwi-1 heard
            kiwi-1 robot.connected {"session":"00000000-0000-0000-0000-000000000000"}
            kiwi-1 heard, told {"status":"registered","profile":"lekiwi"}
        "#]],
    );
}

#[test]
fn an_unknown_robot_waits_for_a_person_and_is_not_asked_again() {
    check(
        Policy::Open,
        vec![
            Log(Enrolled(1, "unknown", "", "1a", false)),
            Say(online(1)),
            Say(sheet(1, "unknown", "1a")),
            Log(Approved(1, Some("lekiwi"), "unknown", "1a")),
            Say(sheet(1, "unknown", "1a")),
            Restart,
            Say(sheet(1, "unknown", "1a")),
            Say(sheet(1, "xle", "1a")),
        ],
        expect![[r#"
            kiwi-1 robot.quarantined {"reason":"its hardware matches no profile"}
            kiwi-1 not heard
            kiwi-1 not heard
            kiwi-1 robot.connected {"session":"00000000-0000-0000-0000-000000000000"}
            kiwi-1 not heard, told {"status":"quarantined","reason":"its hardware matches no profile"}
            kiwi-1 heard, told {"status":"registered","profile":"lekiwi"}
            kiwi-1 heard, told {"status":"registered","profile":"lekiwi"}
            restart
            kiwi-1 heard
            kiwi-1 heard
            kiwi-1 robot.quarantined {"reason":"it says profile xle, and its token or approval was for lekiwi"}
            kiwi-1 not heard
            kiwi-1 not heard
        "#]],
    );
}

#[test]
fn a_profile_that_is_not_the_tokens_is_quarantined() {
    check(
        Policy::Open,
        vec![
            Log(Enrolled(1, "", "lekiwi", "", false)),
            Say(sheet(1, "xle", "")),
            Say(sheet(1, "lekiwi", "")),
            Log(Approved(1, None, "lekiwi", "")),
            Say(sheet(1, "lekiwi", "")),
        ],
        expect![[r#"
            kiwi-1 heard
            kiwi-1 robot.quarantined {"reason":"it says profile xle, and its token or approval was for lekiwi"}
            kiwi-1 not heard
            kiwi-1 not heard
            kiwi-1 not heard
            kiwi-1 heard
            kiwi-1 heard
        "#]],
    );
}

#[test]
fn a_board_seen_twice_names_both_and_the_first_keeps_its_place() {
    check(
        Policy::Open,
        vec![
            Log(Enrolled(1, "lekiwi", "", "1a", false)),
            Say(sheet(1, "lekiwi", "1a")),
            Log(Enrolled(2, "lekiwi", "", "1a", false)),
            Say(sheet(1, "lekiwi", "1a")),
            // One that was rejected holds nothing.
            Log(Rejected(1)),
            Log(Enrolled(3, "", "", "", false)),
            Log(Rejected(2)),
            Say(sheet(3, "lekiwi", "1a")),
        ],
        expect![[r#"
            kiwi-1 heard
            kiwi-1 heard
            kiwi-2 robot.quarantined {"reason":"kiwi-2 says board serial 1a, which belongs to kiwi-1"}
            kiwi-2 not heard
            kiwi-2 not heard
            kiwi-1 heard
            kiwi-1 not heard
            kiwi-3 heard
            kiwi-2 not heard
            kiwi-3 heard
        "#]],
    );
}

#[test]
fn boards_without_a_serial_never_collide() {
    check(
        Policy::Open,
        vec![
            Log(Enrolled(1, "lekiwi", "", "", false)),
            Log(Enrolled(2, "lekiwi", "", "", false)),
            Log(Enrolled(3, "lekiwi", "", "0000", false)),
            Log(Enrolled(4, "lekiwi", "", "0000", false)),
            Say(sheet(1, "lekiwi", "")),
            Say(sheet(2, "lekiwi", "")),
            Say(sheet(3, "lekiwi", "0000")),
            Say(sheet(4, "lekiwi", "0000")),
        ],
        expect![[r#"
            kiwi-1 heard
            kiwi-2 heard
            kiwi-3 heard
            kiwi-4 heard
            kiwi-1 heard
            kiwi-2 heard
            kiwi-3 heard
            kiwi-4 heard
        "#]],
    );
}

#[test]
fn by_policy_every_newcomer_waits_and_old_ones_do_not() {
    check(
        Policy::Approve,
        vec![
            Log(Enrolled(1, "lekiwi", "", "1a", false)),
            Say(sheet(1, "lekiwi", "1a")),
            Log(Approved(1, None, "lekiwi", "1a")),
            // A new key.
            Log(Enrolled(1, "lekiwi", "", "1a", true)),
            Say(sheet(1, "lekiwi", "1a")),
        ],
        expect![[r#"
            kiwi-1 robot.quarantined {"reason":"this relay takes newcomers only with approval (registration: approve)"}
            kiwi-1 not heard
            kiwi-1 not heard
            kiwi-1 not heard
            kiwi-1 heard
            kiwi-1 heard
            kiwi-1 heard
        "#]],
    );
}

#[test]
fn a_rejected_robot_comes_back_only_by_a_token_of_its_own() {
    check(
        Policy::Open,
        vec![
            Log(Enrolled(1, "lekiwi", "", "1a", false)),
            Log(Rejected(1)),
            Log(Enrolled(1, "lekiwi", "", "1a", false)),
            Log(Rejected(1)),
            Log(Enrolled(1, "lekiwi", "", "1a", true)),
        ],
        expect![[r#"
            kiwi-1 heard
            kiwi-1 not heard
            kiwi-1 robot.quarantined {"reason":"it was rejected at 1970-01-01T00:00:02.000Z, and has enrolled again"}
            kiwi-1 not heard
            kiwi-1 not heard
            kiwi-1 not heard
            kiwi-1 heard
        "#]],
    );
}

#[test]
fn another_board_is_recorded() {
    check(
        Policy::Open,
        vec![
            Log(Enrolled(1, "lekiwi", "", "1a", false)),
            Say(sheet(1, "lekiwi", "1a")),
            Log(Enrolled(1, "lekiwi", "", "2b", true)),
            Say(sheet(1, "lekiwi", "2b")),
            Say(sheet(1, "lekiwi", "2b")),
        ],
        expect![[r#"
            kiwi-1 heard
            kiwi-1 heard
            kiwi-1 heard
            kiwi-1 robot.hardware_changed {"new_serial":"2b","old_serial":"1a"}
            kiwi-1 heard
            kiwi-1 heard
        "#]],
    );
}

#[test]
fn what_a_quarantined_robot_measures_is_not_kept() {
    let (mut fleet, _) = play(
        Policy::Approve,
        vec![
            Log(Enrolled(1, "lekiwi", "", "", false)),
            Say(state(1, 1.0)),
            Say(telemetry(1, 2.0)),
        ],
    );
    fleet.take_samples(|_, _, _, _| panic!("history of a quarantined robot"));
    let view = fleet.view(&robot(1)).unwrap();
    assert_eq!(
        (
            view.resources.len(),
            view.network.unwrap().hostname.as_str()
        ),
        (0, "kiwi"),
        "who it is, is known"
    );
    fleet.handle(at(9), logged(9, Approved(1, None, "", "")));
    fleet.handle(at(9), telemetry(1, 3.0));
    let mut kept = Vec::new();
    fleet.take_samples(|_, _, _, value| kept.push(value));
    assert_eq!(kept, [3.0]);
}

fn any_logged() -> impl Strategy<Value = Logged> {
    let profile = || prop::sample::select(vec!["", "lekiwi", "xle", "unknown"]);
    let serial = || prop::sample::select(vec!["", "1a", "2b"]);
    prop_oneof![
        (0..3_u8, profile(), profile(), serial(), any::<bool>())
            .prop_map(|(n, p, t, s, b)| Enrolled(n, p, t, s, b)),
        (0..3_u8).prop_map(|n| Logged::Quarantined(n, "because".to_owned())),
        (0..3_u8, profile(), serial()).prop_map(|(n, p, s)| Approved(n, None, p, s)),
        (0..3_u8).prop_map(Rejected),
    ]
}

proptest! {
    /// However often and late events come again, where robots stand is the same.
    #[test]
    fn standing_is_what_the_log_says(
        log in proptest::collection::vec(any_logged(), 1..20),
        again in proptest::collection::vec(0..20_usize, 20),
        approve in any::<bool>(),
    ) {
        let policy = if approve { Policy::Approve } else { Policy::Open };
        let (mut once, mut twice) = (Fleet::new(policy), Fleet::new(policy));
        for (index, what) in log.iter().enumerate() {
            let input = |index: usize| logged(index as u64 + 1, log[index].clone());
            once.handle(at(50), logged(index as u64 + 1, what.clone()));
            twice.handle(at(50), input(index));
            twice.handle(at(60), input(again[index].min(index)));
        }
        prop_assert_eq!(once.views().collect::<Vec<_>>(), twice.views().collect::<Vec<_>>());
        // And by its last word, where the relay itself has no objection.
        for n in 0..3 {
            let last = log.iter().rev().find(|what| match what {
                Enrolled(m, ..) | Logged::Quarantined(m, _) | Approved(m, ..) | Rejected(m) => *m == n,
            });
            let status = once.view(&robot(n)).map(|view| view.registration.status);
            match last {
                Some(Approved(..)) => prop_assert_eq!(status, Some(RegistrationStatus::Registered)),
                Some(Logged::Quarantined(..)) => prop_assert_eq!(status, Some(RegistrationStatus::Quarantined)),
                Some(Rejected(..)) => prop_assert_eq!(status, Some(RegistrationStatus::Rejected)),
                Some(Enrolled(..)) => prop_assert!(status.is_some()),
                None => prop_assert_eq!(status, None),
            }
        }
    }

    /// A picture survives a restart at any moment.
    #[test]
    fn a_restart_changes_nothing(log in proptest::collection::vec(any_logged(), 1..12)) {
        let story = |restart: bool| {
            log.iter().cloned().flat_map(|what| [Some(Log(what)), restart.then_some(Restart)]).flatten().collect()
        };
        let (plain, _) = play(Policy::Open, story(false));
        let (restarted, _) = play(Policy::Open, story(true));
        let standing = |fleet: &Fleet| fleet.views().map(|view| (view.id, view.registration)).collect::<Vec<_>>();
        prop_assert_eq!(standing(&plain), standing(&restarted));
    }
}
