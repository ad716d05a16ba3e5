//! Which configuration robots should have: stories first, then what holds in any order.
#![expect(clippy::unwrap_used, reason = "tests")]

use lekiwi_protocol::message::{ConfigurationState, Desired, Reported, Settings};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::twins::{Output, Twins};
use proptest::prelude::*;

fn robot() -> RobotId {
    RobotId::new("kiwi-01").unwrap()
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(ms)
}

fn desired(version: u64) -> Desired {
    Desired {
        version,
        settings: Settings::new(),
        confirm_within_s: 60,
        confirmed: false,
        issued_at: at(0),
        by: "admin".to_owned(),
        proof: None,
    }
}

fn reported(version: u64, state: ConfigurationState) -> Reported {
    Reported {
        version,
        state,
        reason: (state == ConfigurationState::Rejected).then(|| "no".to_owned()),
        in_force: version,
        digest: "d".to_owned(),
    }
}

/// What follows, a word each.
fn follows(twins: &mut Twins, now: u64) -> Vec<String> {
    twins.handle_timeout(at(now));
    let mut words = Vec::new();
    while let Some(output) = twins.poll_output() {
        words.push(match output {
            Output::Send(_, desired) if desired.confirmed => format!("confirm {}", desired.version),
            Output::Send(_, desired) => format!("send {}", desired.version),
            Output::Event { kind, data, .. } => {
                let reason = data["reason"].as_str().unwrap_or_default();
                let word = format!("{kind} {} {reason}", data["version"]);
                word.trim_end().to_owned()
            }
        });
    }
    words
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_version_is_sent_until_the_robot_says_what_became_of_it() {
    let mut twins = Twins::default();
    twins.connection(at(0), &robot(), true);
    twins.reported(at(0), &robot(), reported(0, ConfigurationState::Applied));
    assert_eq!(follows(&mut twins, 0), NOTHING);
    assert_eq!(twins.reserve(&robot(), Some(0)), Ok(1));
    assert_eq!(twins.reserve(&robot(), Some(0)), Err(1));
    assert_eq!(twins.desired(at(10), robot(), desired(1)), Ok(()));
    assert_eq!(twins.desired(at(10), robot(), desired(1)), Ok(()));
    // Another relay gave the number too, and its version came into the log later.
    let other = Desired {
        by: "operator".to_owned(),
        ..desired(1)
    };
    assert_eq!(twins.desired(at(10), robot(), other), Err(1));
    assert_eq!(follows(&mut twins, 10), ["send 1"]);
    // Ever more rarely.
    for (now, expected) in [
        (2009, 0),
        (2010, 1),
        (6009, 0),
        (6010, 1),
        (14_009, 0),
        (14_010, 1),
    ] {
        assert_eq!(follows(&mut twins, now).len(), expected, "{now}");
    }
    twins.reported(
        at(14_020),
        &robot(),
        reported(1, ConfigurationState::Trying),
    );
    assert_eq!(follows(&mut twins, 14_020), ["confirm 1"]);
    // The same again is no reason to hurry.
    twins.reported(
        at(14_030),
        &robot(),
        reported(1, ConfigurationState::Trying),
    );
    assert_eq!(follows(&mut twins, 14_030), NOTHING);
    assert_eq!(follows(&mut twins, 16_020), ["confirm 1"]);
    twins.reported(
        at(16_030),
        &robot(),
        reported(1, ConfigurationState::Applied),
    );
    assert_eq!(follows(&mut twins, 16_030), ["configuration.applied 1"]);
    twins.reported(
        at(16_040),
        &robot(),
        reported(1, ConfigurationState::Applied),
    );
    assert_eq!(follows(&mut twins, 1_000_000), NOTHING);
}

#[test]
fn a_robot_that_comes_back_is_told_and_a_new_one_too() {
    let mut twins = Twins::default();
    twins.restore(robot(), desired(4), false);
    assert_eq!(follows(&mut twins, 0), NOTHING);
    twins.connection(at(10), &robot(), true);
    assert_eq!(follows(&mut twins, 10), ["send 4"]);
    twins.reported(at(20), &robot(), reported(4, ConfigurationState::Rejected));
    assert_eq!(follows(&mut twins, 20), ["configuration.rejected 4 no"]);
    twins.connection(at(30), &robot(), false);
    twins.connection(at(40), &robot(), true);
    assert_eq!(follows(&mut twins, 40), NOTHING, "it is not tried again");
    // Flashed anew.
    twins.reported(at(50), &robot(), reported(0, ConfigurationState::Applied));
    assert_eq!(follows(&mut twins, 50), ["send 4"]);
    twins.connection(at(60), &robot(), false);
    assert_eq!(follows(&mut twins, 100_000), NOTHING, "nobody hears it");
}

#[test]
fn versions_go_on_above_what_the_robot_knows_of_another_relay() {
    let mut twins = Twins::default();
    twins.connection(at(0), &robot(), true);
    twins.reported(at(0), &robot(), reported(7, ConfigurationState::Applied));
    assert_eq!(twins.reserve(&robot(), Some(0)), Ok(8));
    assert_eq!(twins.reserve(&robot(), None), Ok(9));
}

#[derive(Debug, Clone)]
enum Step {
    Want,
    Connection(bool),
    /// The robot says this of the newest version, less so many.
    Say(u64, ConfigurationState),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    use ConfigurationState::{Applied, Rejected, RolledBack, Trying};
    prop_oneof![
        Just(Step::Want),
        any::<bool>().prop_map(Step::Connection),
        (
            0..3_u64,
            prop_oneof![
                Just(Applied),
                Just(Rejected),
                Just(RolledBack),
                Just(Trying)
            ]
        )
            .prop_map(|(behind, state)| Step::Say(behind, state)),
        (0..100_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn every_version_has_one_end_and_only_the_newest_is_sent(steps in proptest::collection::vec(step(), 1..60)) {
        let mut twins = Twins::default();
        let (mut now, mut newest, mut connected) = (0, 0, false);
        let mut ends = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Want => {
                    let version = twins.reserve(&robot(), None).unwrap();
                    prop_assert!(version > newest, "versions only go forward");
                    newest = version;
                    prop_assert_eq!(twins.desired(at(now), robot(), desired(version)), Ok(()));
                }
                Step::Connection(is_up) => {
                    connected = is_up;
                    twins.connection(at(now), &robot(), is_up);
                }
                Step::Say(behind, state) => {
                    let version = newest.saturating_sub(behind);
                    twins.reported(at(now), &robot(), reported(version, state));
                }
                Step::Wait(ms) => now += ms,
            }
            twins.handle_timeout(at(now));
            while let Some(output) = twins.poll_output() {
                match output {
                    Output::Send(_, desired) => {
                        prop_assert!(connected && desired.version == newest);
                    }
                    Output::Event { data, .. } => {
                        prop_assert!(ends.insert(data["version"].as_u64().unwrap()), "one end");
                    }
                }
            }
        }
    }
}
