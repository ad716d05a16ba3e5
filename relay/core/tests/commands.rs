//! The queue of commands: stories first, then what holds in any order.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use lekiwi_protocol::message::{Arguments, Command, CommandState, CommandStatus, Op};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::commands::{Commands, End, LOST_AFTER, Output};
use proptest::prelude::*;
use uuid::Uuid;

fn robot() -> RobotId {
    RobotId::new("kiwi-01").unwrap()
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(ms)
}

/// Issued at the start, good for a minute.
fn command(number: u128, op: Op) -> Command {
    Command {
        id: Uuid::from_u128(number),
        op,
        arguments: Arguments::new(),
        issued_at: at(0),
        expires_at: at(60_000),
        by: "admin".to_owned(),
    }
}

/// What follows, a word each.
fn follows(commands: &mut Commands, now: u64) -> Vec<String> {
    commands.handle_timeout(at(now));
    let mut words = Vec::new();
    while let Some(output) = commands.poll_output() {
        words.push(match output {
            Output::Send(_, command) => format!("send {}", command.id.as_u128()),
            Output::Event {
                kind, data, end, ..
            } => {
                let id: Uuid = data["id"].as_str().unwrap().parse().unwrap();
                let reason = data["reason"].as_str().unwrap_or_default();
                let end = end.map_or("", End::as_str);
                let word = format!("{kind} {} {end} {reason}", id.as_u128());
                word.trim_end().to_owned()
            }
        });
    }
    words
}

fn said(commands: &mut Commands, now: u64, number: u128, status: CommandStatus) {
    commands.answered(at(now), &robot(), Uuid::from_u128(number), status);
}

fn done() -> CommandStatus {
    CommandStatus::Successful {
        result: Arguments::new(),
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_command_is_sent_until_it_is_accepted_and_asked_for_until_it_ends() {
    let mut commands = Commands::default();
    commands.connection(at(0), &robot(), true);
    commands.requested(at(10), robot(), command(1, Op::RunAction));
    assert_eq!(follows(&mut commands, 10), ["send 1"]);
    assert_eq!(follows(&mut commands, 2009), NOTHING);
    assert_eq!(follows(&mut commands, 2010), ["send 1"]);
    said(&mut commands, 2020, 1, CommandStatus::Accepted);
    said(&mut commands, 2021, 1, CommandStatus::Running);
    said(&mut commands, 2022, 1, CommandStatus::Accepted);
    assert_eq!(
        follows(&mut commands, 2030),
        ["command.accepted 1", "command.running 1"]
    );
    assert_eq!(follows(&mut commands, 17_021), NOTHING);
    assert_eq!(follows(&mut commands, 17_022), ["send 1"]);
    // Expiry is over once it is accepted.
    said(&mut commands, 70_000, 1, done());
    said(
        &mut commands,
        70_001,
        1,
        CommandStatus::Failed {
            reason: "late".to_owned(),
        },
    );
    assert_eq!(
        follows(&mut commands, 70_002),
        ["command.successful 1 successful"]
    );
    assert_eq!(commands.poll_timeout(), None);
}

#[test]
fn a_robot_that_is_away_gets_it_when_it_comes_back_in_time() {
    let mut commands = Commands::default();
    commands.requested(at(0), robot(), command(1, Op::Ping));
    commands.requested(at(1), robot(), command(2, Op::Reboot));
    assert_eq!(follows(&mut commands, 30_000), NOTHING);
    commands.connection(at(31_000), &robot(), true);
    assert_eq!(follows(&mut commands, 31_000), ["send 1", "send 2"]);
    said(&mut commands, 31_001, 1, done());
    said(&mut commands, 31_001, 2, CommandStatus::Running);
    // It reboots; after its birth it is asked what became of it.
    commands.connection(at(32_000), &robot(), false);
    commands.connection(at(33_000), &robot(), true);
    assert_eq!(
        follows(&mut commands, 33_000),
        [
            "command.successful 1 successful",
            "command.running 2",
            "send 2"
        ]
    );
}

#[test]
fn what_nobody_accepted_has_expired_and_what_never_ended_is_lost() {
    let expired = "command.failed 1 expired expired: the robot";
    let mut commands = Commands::default();
    commands.requested(at(0), robot(), command(1, Op::Ping));
    assert_eq!(follows(&mut commands, 59_999), NOTHING);
    assert_eq!(
        follows(&mut commands, 60_000),
        [format!("{expired} was not connected in time")]
    );
    commands.connection(at(60_000), &robot(), true);
    commands.requested(at(0), robot(), command(1, Op::Reboot));
    follows(&mut commands, 1);
    assert_eq!(
        follows(&mut commands, 60_000),
        [format!(
            "{expired} did not accept it in time; it may be busy"
        )]
    );
    commands.requested(at(0), robot(), command(2, Op::Reboot));
    said(&mut commands, 5, 2, CommandStatus::Running);
    commands.connection(at(6), &robot(), false);
    follows(&mut commands, 6);
    let end = 60_000 + u64::try_from(LOST_AFTER.as_millis()).unwrap();
    assert_eq!(follows(&mut commands, end - 1), NOTHING);
    assert_eq!(
        follows(&mut commands, end),
        ["command.failed 2 lost the robot did not say how it ended"]
    );
}

#[test]
fn what_waits_behind_another_follows_its_end_at_once() {
    let mut commands = Commands::default();
    commands.connection(at(0), &robot(), true);
    commands.requested(at(0), robot(), command(1, Op::RunAction));
    commands.requested(at(0), robot(), command(2, Op::RunAction));
    follows(&mut commands, 0);
    said(&mut commands, 1, 1, CommandStatus::Running);
    said(&mut commands, 500, 1, done());
    assert_eq!(
        follows(&mut commands, 500),
        [
            "command.running 1",
            "command.successful 1 successful",
            "send 2"
        ]
    );
}

#[test]
fn an_emergency_stop_is_said_again_soon() {
    let mut commands = Commands::default();
    commands.connection(at(0), &robot(), true);
    // Sent by whoever asked, before it was in the log.
    commands.requested(at(0), robot(), command(1, Op::Estop));
    assert_eq!(follows(&mut commands, 0), NOTHING);
    assert_eq!(follows(&mut commands, 250), ["send 1"]);
    assert_eq!(follows(&mut commands, 500), ["send 1"]);
}

#[test]
fn what_would_move_the_robot_after_an_emergency_stop_is_given_up() {
    let mut commands = Commands::default();
    commands.connection(at(0), &robot(), true);
    for (number, op) in [
        (1, Op::RunAction),
        (2, Op::RestartService),
        (3, Op::CollectLogs),
        (4, Op::RunAction),
    ] {
        commands.requested(at(0), robot(), command(number, op));
    }
    follows(&mut commands, 0);
    said(&mut commands, 5, 1, CommandStatus::Running);
    commands.requested(at(10), robot(), command(5, Op::Estop));
    assert_eq!(
        follows(&mut commands, 10),
        [
            "command.running 1",
            "command.failed 2 failed given up for an emergency stop",
            "command.failed 4 failed given up for an emergency stop",
        ],
        "what runs is the robot's to end"
    );
    assert_eq!(follows(&mut commands, 2000), ["send 3", "send 5"]);
}

#[test]
fn a_restart_forgets_nothing_and_sends_nothing_before_the_robot_is_back() {
    let mut commands = Commands::default();
    commands.restore(robot(), command(1, Op::Ping), CommandState::Pending);
    commands.restore(robot(), command(2, Op::Reboot), CommandState::Running);
    assert_eq!(follows(&mut commands, 100), NOTHING);
    commands.connection(at(200), &robot(), true);
    assert_eq!(follows(&mut commands, 200), ["send 1", "send 2"]);
    said(&mut commands, 201, 2, CommandStatus::Running);
    said(&mut commands, 201, 2, done());
    assert_eq!(
        follows(&mut commands, 201),
        ["command.successful 2 successful", "send 1"]
    );
}

#[derive(Debug, Clone)]
enum Happening {
    Request(u128),
    Connection(bool),
    Answer(u128, u8),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (1_u128..6).prop_map(Happening::Request),
        any::<bool>().prop_map(Happening::Connection),
        (1_u128..6, 0_u8..4).prop_map(|(number, state)| Happening::Answer(number, state)),
        (0_u64..30_000).prop_map(Happening::Wait),
    ]
}

proptest! {
    /// Nothing is sent to a robot that is away or after an end, states only go forward, and all ends.
    #[test]
    fn every_command_ends_once(happenings in proptest::collection::vec(happening(), 0..80)) {
        let mut commands = Commands::default();
        let (mut now, mut connected) = (0_u64, false);
        let mut requested = BTreeSet::new();
        let mut states: BTreeMap<u128, u8> = BTreeMap::new();
        let tail = [Happening::Connection(false), Happening::Wait(90_000_000)];
        for happening in happenings.into_iter().chain(tail) {
            match happening {
                Happening::Request(number) => {
                    // Each id is asked for once.
                    if requested.insert(number) {
                        let mut command = command(number, Op::RunAction);
                        command.expires_at = at(now + 60_000);
                        commands.requested(at(now), robot(), command);
                    }
                }
                Happening::Connection(online) => {
                    connected = online;
                    commands.connection(at(now), &robot(), online);
                }
                Happening::Answer(number, state) => {
                    let status = match state {
                        0 => CommandStatus::Accepted,
                        1 => CommandStatus::Running,
                        2 => done(),
                        _ => CommandStatus::Failed { reason: "no".to_owned() },
                    };
                    said(&mut commands, now, number, status);
                }
                Happening::Wait(ms) => now += ms,
            }
            for word in follows(&mut commands, now) {
                let mut words = word.split(' ');
                let (kind, number) = (words.next().unwrap(), words.next().unwrap());
                let number: u128 = number.parse().unwrap();
                let known = states.entry(number).or_default();
                let state = match kind {
                    "send" => {
                        prop_assert!(connected, "sent to a robot that is away");
                        prop_assert!(*known < 3, "sent after its end");
                        continue;
                    }
                    "command.accepted" => 1,
                    "command.running" => 2,
                    _ => 3,
                };
                prop_assert!(state > *known, "{kind} after {known}");
                *known = state;
            }
        }
        for number in requested {
            prop_assert_eq!(states.get(&number), Some(&3), "command {} is stuck", number);
        }
        prop_assert_eq!(commands.poll_timeout(), None);
    }
}
