//! Presence and picture: stories first, then properties.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write;

use expect_test::{Expect, expect};
use lekiwi_protocol::limits::STALE_AFTER;
use lekiwi_protocol::message::{Connection, ConnectionState, Heartbeat, Telemetry};
use lekiwi_protocol::{Clock, Envelope, MessageType, MetricName, RobotId, Timestamp};
use lekiwi_relay_core::{Enrolment, Fact, Fleet, Input, Link, LivePayload, Output, What};
use proptest::prelude::*;
use uuid::Uuid;

fn robot(n: u8) -> RobotId {
    RobotId::new(&format!("kiwi-{n}")).unwrap()
}

fn envelope<P>(n: u8, message_type: MessageType, payload: P) -> Envelope<P> {
    Envelope {
        message_type,
        robot_id: robot(n),
        timestamp: Timestamp::from_ms(0),
        sequence: 0,
        clock: Clock::Unsynced,
        payload,
    }
}

fn connection(n: u8, session: u8, state: ConnectionState) -> Input {
    let session = Uuid::from_u128(session.into());
    Input::Connection(envelope(
        n,
        MessageType::Connection,
        Connection { session, state },
    ))
}

fn enrolled(n: u8) -> Input {
    Input::Logged(Fact {
        robot: robot(n),
        position: u64::from(n) + 1,
        at: Timestamp::from_ms(0),
        what: What::Registered(Enrolment::default()),
    })
}

fn online(session: u8) -> Input {
    connection(1, session, ConnectionState::Online)
}

fn offline(session: u8) -> Input {
    connection(1, session, ConnectionState::Offline)
}

fn broken(session: u8) -> Input {
    connection(1, session, ConnectionState::ConnectionBroken)
}

fn heartbeat(n: u8) -> Input {
    Input::Heartbeat(envelope(
        n,
        MessageType::Heartbeat,
        Heartbeat {
            session: Uuid::nil(),
            uptime_s: 1,
        },
    ))
}

fn telemetry(n: u8, metrics: &[(&str, f64)]) -> Input {
    let metrics = metrics
        .iter()
        .map(|(name, value)| (MetricName::new(name).unwrap(), *value))
        .collect();
    Input::Telemetry(envelope(n, MessageType::Telemetry, Telemetry { metrics }))
}

/// A state as an agent of before it had more to say: `more` is put over it.
fn state(n: u8, more: serde_json::Value) -> Input {
    let mut state = serde_json::json!({
        "session": Uuid::from_u128(1), "activity": "idle", "operating_mode": "AUTOMATIC",
        "teleoperation": {"active": false}, "network": {"hostname": "kiwi-1"},
        "deployment": {"os_version": "", "agent_version": ""}, "resources": {}, "uptime_s": 1
    });
    let serde_json::Value::Object(more) = more else {
        panic!("expected fields of a state, got {more}");
    };
    state.as_object_mut().unwrap().extend(more);
    let state = serde_json::from_value(state).unwrap();
    Input::State(Box::new(envelope(n, MessageType::State, state)))
}

fn link(n: u64) -> Link {
    Link {
        since_ms: n,
        port: 1,
    }
}

fn describe(output: Output) -> String {
    let state = |c: &Connection| format!("{:?} of session {}", c.state, c.session.as_u128());
    match output {
        Output::Event { kind, .. } => format!("event {kind}"),
        Output::Standing { admitted, .. } => format!("admitted {admitted}"),
        Output::Announce(birth) => format!("announce {}", state(&birth.payload)),
        Output::Live {
            payload: LivePayload::Connection(c),
            ..
        } => format!("live {}", state(&c)),
        Output::Live { payload, .. } => format!(
            "live {}",
            format!("{payload:?}").split(['(', ' ']).next().unwrap()
        ),
    }
}

/// Plays a story of (second, input) and compares what follows, with the time at which it was seen.
fn check(story: Vec<(u64, Input)>, until_s: u64, expected: Expect) {
    let mut fleet = Fleet::default();
    let mut told = String::new();
    let tell = |fleet: &mut Fleet, ms: u64, told: &mut String| {
        while let Some(output) = fleet.poll_output() {
            if matches!(output, Output::Standing { .. }) {
                continue;
            }
            writeln!(told, "{}s {}", ms / 1_000, describe(output)).unwrap();
        }
    };
    let wait = |fleet: &mut Fleet, to_ms: u64, told: &mut String| {
        while let Some(due) = fleet.poll_timeout().filter(|due| due.as_ms() <= to_ms) {
            fleet.handle_timeout(due);
            tell(fleet, due.as_ms(), told);
        }
    };
    for (s, input) in story {
        wait(&mut fleet, s * 1_000, &mut told);
        fleet.handle(Timestamp::from_ms(s * 1_000), input);
        tell(&mut fleet, s * 1_000, &mut told);
    }
    wait(&mut fleet, until_s * 1_000, &mut told);
    expected.assert_eq(&told);
}

#[test]
fn a_goodbye_is_a_goodbye() {
    check(
        vec![(0, online(1)), (5, offline(1)), (6, broken(1))],
        1_000,
        expect![[r#"
               0s event robot.connected
               0s live Online of session 1
               5s event robot.disconnected
               5s live Offline of session 1
        "#]],
    );
}

#[test]
fn the_will_of_an_older_connection_is_discarded_and_the_birth_said_again() {
    check(
        vec![
            (0, online(1)),
            (1, online(2)),
            (2, broken(1)),
            (3, offline(7)),
            (4, broken(2)),
        ],
        1_000,
        expect![[r#"
               0s event robot.connected
               0s live Online of session 1
               1s event robot.connected
               1s live Online of session 2
               2s announce Online of session 2
               3s announce Online of session 2
               4s event robot.disconnected
               4s live ConnectionBroken of session 2
        "#]],
    );
}

#[test]
fn a_link_that_ends_without_a_word_is_a_death() {
    check(
        vec![
            (0, Input::LinkUp(robot(1), link(1))),
            (0, online(1)),
            (1, Input::LinkUp(robot(1), link(2))),
            (1, online(2)),
            (2, Input::LinkDown(robot(1), link(1))),
            (3, Input::LinkDown(robot(1), link(2))),
            (3, broken(2)),
        ],
        1_000,
        expect![[r#"
               0s event robot.connected
               0s live Online of session 1
               1s event robot.connected
               1s live Online of session 2
               3s announce ConnectionBroken of session 2
               3s event robot.disconnected
               3s live ConnectionBroken of session 2
        "#]],
    );
}

#[test]
fn silence_is_stale_once_and_any_word_ends_it() {
    check(
        vec![
            (0, enrolled(1)),
            (0, online(1)),
            (30, heartbeat(1)),
            (200, telemetry(1, &[("cpu_percent", 1.0)])),
        ],
        1_000,
        expect![[r#"
            0s event robot.connected
            0s live Online of session 1
            30s live Heartbeat
            105s event robot.stale
            200s live Telemetry
            275s event robot.stale
        "#]],
    );
}

#[test]
fn a_restored_robot_is_not_connected_until_it_says_so() {
    let mut fleet = Fleet::default();
    let now = Timestamp::from_ms(5);
    fleet.handle(now, enrolled(1));
    fleet.handle(now, online(1));
    fleet.handle(now, telemetry(1, &[("cpu_percent", 1.0)]));
    let view = fleet.view(&robot(1)).unwrap();
    assert!(view.status.online);
    let mut restored = Fleet::default();
    restored.restore(view.clone(), 7);
    let again = restored.view(&robot(1)).unwrap();
    assert!(!again.status.online);
    assert_eq!(
        (
            again.status.connection,
            again.resources,
            restored.position()
        ),
        (ConnectionState::ConnectionBroken, view.resources, 7)
    );
    assert_eq!(
        (restored.poll_timeout(), restored.poll_output()),
        (None, None)
    );
}

#[test]
fn health_and_services_are_what_the_last_state_says_also_after_a_restart() {
    let mut fleet = Fleet::default();
    let say = |fleet: &mut Fleet, ms: u64, input| {
        fleet.handle(Timestamp::from_ms(ms), input);
        fleet.view(&robot(1)).unwrap()
    };
    assert_eq!(say(&mut fleet, 1, online(1)).health, None);
    let said = serde_json::json!({
        "health": {
            "healthy": false, "setup": "done", "failing": [{"name": "host.service", "reason": "gone"}]
        },
        "services": [
            {"name": "host.service", "kind": "unit", "state": "inactive", "restarts": 3, "flapping": true},
            {"name": "port", "kind": "check", "state": "active", "restarts": 0}
        ],
        "battery": "discharging",
        "throttling": {"under_voltage": {"now": false, "since_boot": true}},
        "clock": {"synchronized": true, "synchronized_at": "2026-11-21T03:52:00.000Z"},
        "deployment": {
            "os_version": "", "agent_version": "", "installed_packages": {"count": 2, "digest": "sha256:00"}
        },
        "network": {
            "hostname": "", "ip_addresses": [],
            "interfaces": [{"name": "wlan0", "mac_address": "dc:a6:32:01:02:03"}]
        }
    });
    let shown = |view: &lekiwi_protocol::api::RobotView| {
        let mut shown = serde_json::to_value(view).unwrap();
        let fields = said.as_object().unwrap().keys();
        let shown: serde_json::Map<_, _> =
            fields.map(|key| (key.clone(), shown[key].take())).collect();
        serde_json::Value::Object(shown)
    };
    let view = say(&mut fleet, 2, state(1, said.clone()));
    assert_eq!(shown(&view), said);
    let mut restarted = Fleet::default();
    restarted.restore(view, 0);
    assert_eq!(shown(&restarted.view(&robot(1)).unwrap()), said);
    let after = say(&mut fleet, 3, state(1, serde_json::json!({})));
    assert!(after.health.is_none() && after.services.is_empty() && after.battery.is_none());
    assert!(after.throttling.is_none() && after.clock.is_none());
}

#[test]
fn a_flood_of_metric_names_is_bounded() {
    let mut fleet = Fleet::default();
    fleet.handle(Timestamp::from_ms(1), enrolled(1));
    for n in 0..1_000 {
        fleet.handle(
            Timestamp::from_ms(1),
            telemetry(1, &[(&format!("m{n}"), 1.0)]),
        );
        fleet.poll_output();
    }
    assert_eq!(fleet.view(&robot(1)).unwrap().resources.len(), 256);
}

#[test]
fn history_takes_a_bounded_number_of_names_of_a_robot_and_names_may_come_back() {
    let mut fleet = Fleet::default();
    fleet.handle(Timestamp::from_ms(1), enrolled(1));
    let mut kept = std::collections::BTreeSet::new();
    let mut say = |round: u64| {
        let names: Vec<String> = (0..200).map(|n| format!("m{}", 200 * round + n)).collect();
        let resources: std::collections::BTreeMap<_, _> = names.iter().map(|n| (n, 1.0)).collect();
        let state = state(1, serde_json::json!({ "resources": resources }));
        fleet.handle(Timestamp::from_ms(1), state);
        while fleet.poll_output().is_some() {}
        let mut samples = 0;
        fleet.take_samples(|_, name, _, _| {
            kept.insert(name.clone());
            samples += 1;
        });
        let shown = fleet.view(&robot(1)).unwrap().resources.len();
        (shown, samples, kept.len())
    };
    let story: Vec<(usize, usize, usize)> = [0, 1, 2, 3, 0, 3].into_iter().map(&mut say).collect();
    assert_eq!(
        story,
        [
            (200, 200, 200),
            (200, 200, 400),
            (200, 112, 512),
            (200, 0, 512),
            (200, 200, 512),
            (200, 0, 512),
        ],
        "shown, kept of this state, kept in all"
    );
}

#[test]
fn late_names_count_as_those_of_now_do() {
    let mut fleet = Fleet::default();
    fleet.handle(Timestamp::from_ms(1), enrolled(1));
    let mut late = |name: String| {
        let name = lekiwi_protocol::MetricName::new(&name).unwrap();
        fleet.takes_late(&robot(1), &name)
    };
    for n in 0..512 {
        assert!(late(format!("m{n}")));
    }
    assert!(!late("more".to_owned()));
    assert!(late("m7".to_owned()), "history has it");
    let state = state(
        1,
        serde_json::json!({ "resources": { "m7": 1.0, "more": 1.0 } }),
    );
    fleet.handle(Timestamp::from_ms(1), state);
    let mut kept = Vec::new();
    fleet.take_samples(|_, name, _, _| kept.push(name.to_string()));
    assert_eq!(kept, ["m7"]);
}

#[derive(Debug, Clone)]
enum Step {
    Birth(u8, u8),
    Death(u8, u8, bool),
    LinkUp(u8, u64),
    LinkDown(u8, u64),
    Heartbeat(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..2_u8, 0..4_u8).prop_map(|(r, s)| Step::Birth(r, s)),
        (0..2_u8, 0..4_u8, any::<bool>()).prop_map(|(r, s, clean)| Step::Death(r, s, clean)),
        (0..2_u8, 0..3_u64).prop_map(|(r, l)| Step::LinkUp(r, l)),
        (0..2_u8, 0..3_u64).prop_map(|(r, l)| Step::LinkDown(r, l)),
        (0..2_u8).prop_map(Step::Heartbeat),
        (0..100_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever comes in whatever order: an older session's death changes nothing but for the birth
    /// being said again; the count is right; and nobody is silent for too long without being stale.
    #[test]
    fn presence_holds_under_any_order(steps in proptest::collection::vec(step(), 0..60)) {
        let mut fleet = Fleet::default();
        let mut now = Timestamp::from_ms(1_000);
        let mut births: BTreeMap<u8, u8> = BTreeMap::new();
        for step in steps {
            let connected = |fleet: &Fleet, n| fleet.view(&robot(n)).is_some_and(|v| v.status.connection == ConnectionState::Online);
            match step {
                Step::Birth(r, s) => {
                    births.insert(r, s);
                    fleet.handle(now, connection(r, s, ConnectionState::Online));
                    prop_assert!(connected(&fleet, r));
                }
                Step::Death(r, s, clean) => {
                    let before = fleet.view(&robot(r));
                    let was = connected(&fleet, r);
                    while fleet.poll_output().is_some() {}
                    let state = if clean { ConnectionState::Offline } else { ConnectionState::ConnectionBroken };
                    fleet.handle(now, connection(r, s, state));
                    if births.get(&r) == Some(&s) {
                        prop_assert!(!connected(&fleet, r));
                    } else {
                        prop_assert_eq!(connected(&fleet, r), was);
                        if let Some(before) = before {
                            prop_assert_eq!(fleet.view(&robot(r)).unwrap(), before);
                        }
                        let announced = matches!(fleet.poll_output(), Some(Output::Announce(_)));
                        prop_assert_eq!(announced, was);
                        prop_assert_eq!(fleet.poll_output(), None);
                    }
                }
                Step::LinkUp(r, l) => fleet.handle(now, Input::LinkUp(robot(r), link(l))),
                Step::LinkDown(r, l) => fleet.handle(now, Input::LinkDown(robot(r), link(l))),
                Step::Heartbeat(r) => fleet.handle(now, heartbeat(r)),
                Step::Wait(ms) => now = Timestamp::from_ms(now.as_ms() + ms),
            }
            fleet.handle_timeout(now);
            let views: Vec<_> = fleet.views().collect();
            let counts = fleet.counts();
            prop_assert_eq!(counts.known, views.len());
            prop_assert_eq!(counts.connected, views.iter().filter(|v| v.status.connection == ConnectionState::Online).count());
            for view in views.iter().filter(|v| v.status.online) {
                let seen = view.status.last_seen.unwrap();
                prop_assert!(now.since(seen) < STALE_AFTER);
                prop_assert!(fleet.poll_timeout().unwrap() <= seen.plus(STALE_AFTER));
            }
        }
    }

    /// Events that come twice, or again after a restart, change nothing.
    #[test]
    fn folding_is_idempotent(kinds in proptest::collection::vec((0..3_u8, any::<bool>()), 1..20), again in 0..20_usize) {
        let input = |position: usize, (r, registered): (u8, bool)| {
            let (robot, at) = (robot(r), Timestamp::from_ms(position as u64));
            let position = position as u64 + 1;
            let what = if registered {
                let profile = Some(format!("p{position}"));
                What::Registered(Enrolment { profile, ..Enrolment::default() })
            } else {
                What::Other
            };
            Input::Logged(Fact { robot, position, at, what })
        };
        let (mut once, mut twice) = (Fleet::default(), Fleet::default());
        let now = Timestamp::from_ms(9);
        for (position, event) in kinds.iter().enumerate() {
            once.handle(now, input(position, *event));
            twice.handle(now, input(position, *event));
            let earlier = again.min(position);
            twice.handle(now, input(earlier, kinds[earlier]));
        }
        prop_assert_eq!(once.views().collect::<Vec<_>>(), twice.views().collect::<Vec<_>>());
        prop_assert_eq!(once.position(), twice.position());
    }

    /// History gets each metric's newest value, once.
    #[test]
    fn samples_are_the_newest_values_once(values in proptest::collection::vec((0..2_u8, 0..4_u8, -9.0..9.0_f64), 0..40)) {
        let mut fleet = Fleet::default();
        for n in 0..2 {
            fleet.handle(Timestamp::from_ms(0), enrolled(n));
        }
        let mut newest = BTreeMap::new();
        for (ms, (r, metric, value)) in values.into_iter().enumerate() {
            let name = format!("m{metric}");
            fleet.handle(Timestamp::from_ms(ms as u64), telemetry(r, &[(&name, value)]));
            newest.insert((robot(r), MetricName::new(&name).unwrap()), (ms as u64, value));
        }
        let mut taken = BTreeMap::new();
        fleet.take_samples(|robot, metric, at, value| {
            assert!(taken.insert((robot.clone(), metric.clone()), (at.as_ms(), value)).is_none());
        });
        prop_assert_eq!(taken, newest);
        fleet.take_samples(|_, _, _, _| panic!("given twice"));
    }
}
