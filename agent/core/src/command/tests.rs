#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;

const BOOT: Uuid = Uuid::from_u128(0xb001);

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_ms(seconds * 1000)
}

fn arguments(op: Op) -> Arguments {
    let value = match op {
        Op::RestartService => json!({ "unit": "host.service" }),
        Op::RunAction => json!({ "action": "wave" }),
        _ => json!({}),
    };
    serde_json::from_value(value).unwrap()
}

/// Issued at 1000 s, good for a minute.
fn command(number: u128, op: Op) -> Command {
    Command {
        id: id(number),
        op,
        arguments: arguments(op),
        issued_at: at(1000),
        expires_at: at(1060),
        by: "admin".to_owned(),
    }
}

/// A robot with a disk, which carries out what it is asked for, and writes down a word for each.
struct Robot {
    commands: Commands,
    disk: Vec<Record>,
    is_full: bool,
    begun: Instant,
    now: Instant,
    done: Vec<String>,
}

impl Robot {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            commands: Commands::restore(now, BOOT, Vec::new()),
            disk: Vec::new(),
            is_full: false,
            begun: now,
            now,
            done: Vec::new(),
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// The relay sends it, by its clock at this second.
    fn get(&mut self, number: u128, op: Op, sent_at: u64) {
        self.commands
            .command(self.now, command(number, op), at(sent_at));
        self.drain();
    }

    fn end(&mut self, number: u128, outcome: Result<(), &str>) {
        let outcome = outcome
            .map(|()| Arguments::new())
            .map_err(ToOwned::to_owned);
        self.commands.ended(id(number), outcome);
        self.drain();
    }

    fn restart(&mut self, boot_id: Uuid) {
        self.done.push("restart".to_owned());
        let disk = serde_json::to_vec(&self.disk).unwrap();
        let disk = serde_json::from_slice(&disk).unwrap();
        self.commands = Commands::restore(self.now, boot_id, disk);
        self.drain();
    }

    fn timeout(&mut self) {
        while let Some(due) = self.commands.poll_timeout().filter(|due| *due <= self.now) {
            self.commands.handle_timeout(due.max(self.begun));
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.commands.poll_output() {
            let word = match output {
                Output::Keep if self.is_full => {
                    self.commands.not_kept(self.now, "no space left");
                    "full".to_owned()
                }
                Output::Keep => {
                    self.disk = self.commands.records().cloned().collect();
                    self.commands.kept(self.now);
                    "keep".to_owned()
                }
                Output::Execute { id, op, .. } => format!("do {op} {}", id.as_u128()),
                Output::Abandon(id) => format!("abandon {}", id.as_u128()),
                Output::Say { id, status } => match status {
                    CommandStatus::Failed { reason } => {
                        format!("say {}: failed, {reason}", id.as_u128())
                    }
                    status => format!("say {}: {}", id.as_u128(), status.state()),
                },
            };
            self.done.push(word);
        }
    }

    fn did(&mut self) -> Vec<String> {
        std::mem::take(&mut self.done)
    }
}

#[test]
fn each_step_is_on_the_disk_before_what_follows() {
    let mut robot = Robot::new();
    robot.get(1, Op::RunAction, 1000);
    assert_eq!(
        robot.did(),
        [
            "keep",
            "say 1: accepted",
            "keep",
            "say 1: running",
            "do run_action 1"
        ]
    );
    robot.get(1, Op::RunAction, 1002);
    assert_eq!(robot.did(), ["say 1: running"], "it came again");
    robot.end(1, Ok(()));
    assert_eq!(robot.did(), ["keep", "say 1: successful"]);
    robot.get(1, Op::RunAction, 1004);
    robot.end(1, Err("twice"));
    assert_eq!(robot.did(), ["say 1: successful"], "an end is an end");
}

#[test]
fn what_changes_nothing_is_done_each_time_and_not_kept() {
    let mut robot = Robot::new();
    robot.is_full = true;
    for _ in 0..2 {
        robot.get(1, Op::Ping, 1000);
        assert_eq!(robot.did(), ["say 1: accepted", "do ping 1"]);
        robot.end(1, Ok(()));
        assert_eq!(robot.did(), ["say 1: successful"]);
    }
}

#[test]
fn a_busy_robot_leaves_a_command_with_the_relay() {
    let mut robot = Robot::new();
    robot.get(1, Op::RunAction, 1000);
    robot.get(2, Op::RestartService, 1000);
    robot.did();
    for (number, op) in [
        (3, Op::RunAction),
        (4, Op::RestartService),
        (5, Op::Reboot),
        (6, Op::Shutdown),
    ] {
        robot.get(number, op, 1001);
        assert_eq!(robot.did(), Vec::<String>::new(), "{op}");
    }
    robot.get(7, Op::FullState, 1001);
    assert_eq!(robot.did(), ["say 7: accepted", "do full_state 7"]);
    robot.end(1, Ok(()));
    robot.did();
    robot.get(3, Op::RunAction, 1003);
    assert_eq!(robot.did()[4], "do run_action 3");
    robot.end(2, Ok(()));
    robot.end(3, Err("it broke"));
    robot.did();
    robot.get(5, Op::Reboot, 1005);
    assert_eq!(robot.did()[4], "do reboot 5");
    robot.get(8, Op::RunAction, 1005);
    assert_eq!(robot.did(), Vec::<String>::new(), "it is about to go");
}

#[test]
fn expiry_is_judged_by_the_relays_clock() {
    let late = |robot: &mut Robot, number, came: &str| {
        assert_eq!(
            robot.did(),
            [format!(
                "say {number}: failed, expired: it was good until 1970-01-01T00:17:40.000Z, \
                 and came at {came} or later"
            )]
        );
    };
    let mut robot = Robot::new();
    robot.get(1, Op::RunAction, 1060);
    late(&mut robot, 1, "1970-01-01T00:17:40.000Z");
    // What the relay said before shows how long this one lay in the socket.
    robot.wait(3600);
    robot.get(2, Op::RunAction, 1030);
    late(&mut robot, 2, "1970-01-01T01:17:40.000Z");
    // Another session: the relay's clock may be another one.
    robot.commands.link_down();
    robot.get(3, Op::RunAction, 1030);
    assert_eq!(robot.did()[4], "do run_action 3");
    let mut command = command(4, Op::Ping);
    command.expires_at = at(1_000_000);
    robot.commands.command(robot.now, command, at(1030));
    robot.drain();
    assert_eq!(
        robot.did(),
        ["say 4: failed, expected a command that expires within 604800 s, got one of 999000 s"]
    );
}

#[test]
fn after_a_restart_every_command_goes_on_or_has_failed() {
    for (op, boot, expected) in [
        (Op::RestartService, 1, "do restart_service 1"),
        (
            Op::RestartService,
            2,
            "say 1: failed, the robot restarted while it ran; how far it came is not known",
        ),
        (Op::Reboot, 1, "do reboot 1"),
        (Op::Reboot, 2, "say 1: successful"),
        (Op::Shutdown, 1, "do shutdown 1"),
        (Op::Shutdown, 2, "say 1: successful"),
        (
            Op::RunAction,
            1,
            "say 1: failed, the agent restarted while it ran; how far it came is not known",
        ),
        (
            Op::RunAction,
            2,
            "say 1: failed, the robot restarted while it ran; how far it came is not known",
        ),
    ] {
        let mut robot = Robot::new();
        robot.get(1, op, 1000);
        robot.did();
        let boot = if boot == 1 { BOOT } else { Uuid::from_u128(2) };
        robot.restart(boot);
        let did = robot.did();
        assert_eq!(did.last().unwrap(), expected, "{did:?}");
    }
    // Accepted and not begun: it begins, by the same steps.
    let mut robot = Robot::new();
    robot.disk = vec![Record {
        id: id(1),
        op: Op::RunAction,
        arguments: arguments(Op::RunAction),
        step: Step::Accepted,
    }];
    robot.restart(BOOT);
    assert_eq!(
        robot.did(),
        ["restart", "keep", "say 1: running", "do run_action 1"]
    );
}

#[test]
fn what_takes_too_long_has_failed() {
    let mut robot = Robot::new();
    robot.get(1, Op::Reboot, 1000);
    robot.did();
    robot.wait(299);
    robot.timeout();
    assert_eq!(robot.did(), Vec::<String>::new());
    robot.wait(1);
    robot.timeout();
    assert_eq!(
        robot.did(),
        [
            "abandon 1",
            "keep",
            "say 1: failed, expected reboot to end within 300 s"
        ]
    );
    assert_eq!(robot.commands.poll_timeout(), None);
}

#[test]
fn a_disk_that_takes_nothing_lets_nothing_begin() {
    let full = "say 1: failed, expected the robot's disk to take the command: no space left";
    let mut robot = Robot::new();
    robot.is_full = true;
    robot.get(1, Op::RunAction, 1000);
    assert_eq!(robot.did(), ["full", full]);
    robot.get(1, Op::RunAction, 1002);
    assert_eq!(robot.did(), [full]);
    // An end stands, and is written once there is room.
    robot.is_full = false;
    robot.get(2, Op::RunAction, 1002);
    robot.is_full = true;
    robot.did();
    robot.end(2, Ok(()));
    assert_eq!(robot.did(), ["full", "say 2: successful"]);
    robot.is_full = false;
    robot.wait(30);
    robot.timeout();
    assert_eq!(robot.did(), ["keep"]);
    robot.restart(BOOT);
    robot.get(2, Op::RunAction, 1002);
    assert_eq!(robot.did(), ["restart", "say 2: successful"]);
}

#[test]
fn the_newest_commands_are_remembered() {
    let mut robot = Robot::new();
    let newest = 3 * REMEMBERED as u128;
    robot.get(1, Op::RestartService, 1000);
    for number in 2..=newest {
        robot.get(number, Op::RunAction, 1000);
        robot.end(number, Ok(()));
    }
    assert_eq!(robot.disk.len(), REMEMBERED);
    let kept: Vec<u128> = robot.disk.iter().map(|r| r.id.as_u128()).collect();
    assert_eq!((kept[0], kept[REMEMBERED - 1]), (1, newest));
    robot.did();
    robot.get(newest - 5, Op::RunAction, 1001);
    assert_eq!(robot.did(), [format!("say {}: successful", newest - 5)]);
}

#[derive(Debug, Clone)]
enum Happening {
    Get(u128, Op),
    End(u128, bool),
    Wait(u64),
    Restart(u128),
}

fn happening() -> impl Strategy<Value = Happening> {
    let op = prop_oneof![
        Just(Op::Ping),
        Just(Op::RestartService),
        Just(Op::Reboot),
        Just(Op::Shutdown),
        Just(Op::RunAction),
    ];
    prop_oneof![
        4 => (1_u128..9, op).prop_map(|(number, op)| Happening::Get(number, op)),
        3 => (1_u128..9, any::<bool>()).prop_map(|(number, ok)| Happening::End(number, ok)),
        1 => (0_u64..200).prop_map(Happening::Wait),
        1 => (1_u128..3).prop_map(Happening::Restart),
    ]
}

proptest! {
    /// Whatever comes in whichever order, and wherever between two writes the agent is killed: nothing runs
    /// that the disk does not have, an action runs once at most, an end is the last word, and all ends.
    #[test]
    fn at_most_once_and_to_an_end(happenings in proptest::collection::vec(happening(), 0..60), killed_at in 0_usize..40) {
        let mut now = Instant::now();
        let mut disk: Vec<Record> = Vec::new();
        let mut commands = Commands::restore(now, BOOT, Vec::new());
        let mut boot = BOOT;
        let mut runs: BTreeMap<Uuid, usize> = BTreeMap::new();
        let mut ends: BTreeMap<Uuid, CommandStatus> = BTreeMap::new();
        let mut remembered = BTreeSet::new();
        let mut writes = 0;
        // The last hours are for deadlines.
        let tail = [Happening::Restart(1)].into_iter().chain((0..3).map(|_| Happening::Wait(4000)));
        for happening in happenings.into_iter().chain(tail) {
            match happening {
                // An id has one operation.
                Happening::Get(number, op) => {
                    let number = number * 10 + op as u128;
                    commands.command(now, command(number, op), at(1000));
                }
                Happening::End(number, ok) => {
                    let executing = runs.keys().find(|id| id.as_u128() / 10 == number);
                    if let Some(id) = executing.copied() {
                        commands.ended(id, ok.then(Arguments::new).ok_or_else(|| "no".to_owned()));
                    }
                }
                Happening::Wait(seconds) => now += Duration::from_secs(seconds),
                Happening::Restart(number) => {
                    boot = Uuid::from_u128(number);
                    commands = Commands::restore(now, boot, disk.clone());
                }
            }
            commands.handle_timeout(now);
            while let Some(output) = commands.poll_output() {
                match output {
                    Output::Keep => {
                        writes += 1;
                        if writes == killed_at {
                            // Before the write: the disk has what it had.
                            commands = Commands::restore(now, boot, disk.clone());
                            continue;
                        }
                        disk = commands.records().cloned().collect();
                        prop_assert!(disk.len() <= REMEMBERED);
                        if writes == killed_at + 1 {
                            commands = Commands::restore(now, boot, disk.clone());
                            continue;
                        }
                        commands.kept(now);
                    }
                    Output::Execute { id, op, .. } if op != Op::Ping => {
                        let record = disk.iter().find(|record| record.id == id);
                        prop_assert!(
                            record.is_some_and(|record| matches!(record.step, Step::Begun { .. })),
                            "{op} runs, and the disk has {record:?}"
                        );
                        prop_assert!(!ends.contains_key(&id), "{op} runs after its end");
                        let runs = runs.entry(id).or_default();
                        *runs += 1;
                        prop_assert!(op != Op::RunAction || *runs == 1, "an action runs twice");
                        remembered.insert(id);
                    }
                    Output::Say { id, status } if remembered.contains(&id) => {
                        if let Some(end) = ends.get(&id) {
                            prop_assert_eq!(end, &status, "an end is the last word");
                        }
                        if status.state().is_end() {
                            ends.insert(id, status);
                        }
                    }
                    _ => {}
                }
            }
        }
        for record in commands.records() {
            prop_assert!(matches!(record.step, Step::Ended(_)), "stuck: {record:?}");
        }
        prop_assert_eq!(commands.poll_timeout(), None);
    }
}
