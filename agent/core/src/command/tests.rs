#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;

#[path = "tests/any_order.rs"]
mod any_order;

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
                    self.commands.kept();
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
    assert_eq!(robot.did()[3], "do run_action 3");
    robot.end(2, Ok(()));
    robot.end(3, Err("it broke"));
    robot.did();
    robot.get(5, Op::Reboot, 1005);
    assert_eq!(robot.did()[3], "do reboot 5");
    robot.get(8, Op::RunAction, 1005);
    assert_eq!(robot.did(), Vec::<String>::new(), "it is about to go");
}

#[test]
fn an_emergency_stop_ends_what_may_move_the_robot() {
    let mut robot = Robot::new();
    robot.get(1, Op::RunAction, 1000);
    robot.get(2, Op::CollectLogs, 1000);
    robot.did();
    robot.commands.stop();
    robot.drain();
    assert_eq!(
        robot.did(),
        [
            "abandon 1",
            "keep",
            "say 1: failed, ended by an emergency stop"
        ]
    );
}

#[test]
fn an_end_that_waits_for_the_disk_is_not_forgotten() {
    let mut robot = Robot::new();
    robot.get(1, Op::RunAction, 1000);
    robot.is_full = true;
    robot.end(1, Ok(()));
    for number in 0..2 * REMEMBERED as u128 {
        robot.get(100 + number, Op::RunAction, 1000);
    }
    robot.is_full = false;
    robot.did();
    robot.wait(30);
    robot.timeout();
    assert_eq!(robot.did(), ["keep", "say 1: successful"]);
}

#[test]
fn logs_on_their_way_hold_up_no_reboot() {
    let mut robot = Robot::new();
    robot.get(1, Op::CollectLogs, 1000);
    robot.did();
    robot.get(2, Op::CollectLogs, 1001);
    assert_eq!(robot.did(), Vec::<String>::new());
    robot.get(3, Op::Reboot, 1001);
    assert_eq!(robot.did()[3], "do reboot 3");
    robot.end(1, Ok(()));
    robot.did();
    robot.get(2, Op::CollectLogs, 1003);
    assert_eq!(robot.did(), Vec::<String>::new(), "it is about to go");
}

#[test]
fn a_renewal_beside_another_fails_and_holds_up_no_reboot() {
    let mut robot = Robot::new();
    robot.get(1, Op::RenewIdentity, 1000);
    assert_eq!(robot.did()[3], "do renew_identity 1");
    robot.get(2, Op::RenewIdentity, 1001);
    let first = Uuid::from_u128(1);
    let end = format!("say 2: failed, command {first} renews it already");
    assert_eq!(robot.did(), ["keep", end.as_str()]);
    robot.end(1, Ok(()));
    robot.did();
    // The answer was lost on its way.
    robot.get(2, Op::RenewIdentity, 1003);
    assert_eq!(robot.did(), [end.as_str()]);
    robot.get(3, Op::RenewIdentity, 1003);
    assert_eq!(robot.did()[3], "do renew_identity 3");
    robot.restart(Uuid::from_u128(2));
    assert_eq!(robot.did(), ["restart", "keep", "do renew_identity 3"]);
    robot.get(4, Op::Reboot, 1004);
    assert_eq!(robot.did()[3], "do reboot 4");
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
    assert_eq!(robot.did()[3], "do run_action 3");
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
    // Logs are collected again, in whichever boot, but not for ever.
    let mut robot = Robot::new();
    robot.get(1, Op::CollectLogs, 1000);
    robot.did();
    for boot in 2..12 {
        robot.restart(Uuid::from_u128(boot));
        assert_eq!(robot.did(), ["restart", "keep", "do collect_logs 1"]);
    }
    robot.restart(BOOT);
    let end = "say 1: failed, the agent restarted 11 times while it ran";
    assert_eq!(robot.did(), ["restart", "keep", end]);
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
    robot.restart(BOOT);
    assert_eq!(robot.did(), ["restart"], "nothing of it is on the disk");
}

#[test]
fn an_end_is_said_once_the_disk_has_it() {
    let mut robot = Robot::new();
    robot.get(1, Op::RestartService, 1000);
    robot.get(2, Op::RunAction, 1000);
    robot.is_full = true;
    robot.did();
    robot.end(2, Ok(()));
    robot.get(2, Op::RunAction, 1002);
    assert_eq!(robot.did(), ["full"], "a restart would say something else");
    robot.get(1, Op::RestartService, 1002);
    assert_eq!(robot.did(), ["say 1: running"], "which the disk has");
    robot.wait(29);
    robot.timeout();
    assert_eq!(robot.did(), Vec::<String>::new());
    robot.wait(1);
    robot.timeout();
    assert_eq!(robot.did(), ["full"], "it is tried again");
    robot.is_full = false;
    robot.wait(30);
    robot.timeout();
    assert_eq!(robot.did(), ["keep", "say 2: successful"]);
    robot.restart(BOOT);
    robot.did();
    robot.get(2, Op::RunAction, 1002);
    assert_eq!(robot.did(), ["say 2: successful"]);
}

#[test]
fn what_waits_for_the_disk_is_not_done_after_its_end() {
    let mut robot = Robot::new();
    robot.get(1, Op::CollectLogs, 1000);
    robot.is_full = true;
    robot.restart(BOOT);
    robot.did();
    robot.wait(1800);
    robot.timeout();
    assert_eq!(robot.did().last().unwrap(), "full");
    robot.is_full = false;
    // Another command does not wait for the next try.
    robot.get(2, Op::RunAction, 1000);
    assert_eq!(
        robot.did(),
        [
            "keep",
            "say 1: failed, expected collect_logs to end within 1800 s",
            "say 2: accepted",
            "say 2: running",
            "do run_action 2"
        ]
    );
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
