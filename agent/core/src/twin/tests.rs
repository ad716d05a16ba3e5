//! Stories first, then what holds whatever is killed when.

use std::collections::{BTreeMap, BTreeSet};

use lekiwi_protocol::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A robot around the core: a disk, what is in force, and what was said.
struct Robot {
    twin: Twin,
    disk: Record,
    disk_is_full: bool,
    now: Instant,
    /// Versions that cannot be in force: refused by the check, or only when they are applied.
    impossible: BTreeSet<u64>,
    unusable: BTreeSet<u64>,
    in_force: u64,
    applied: Vec<u64>,
    said: Vec<String>,
}

impl Robot {
    fn new() -> Self {
        Self {
            twin: Twin::default(),
            disk: Record::default(),
            disk_is_full: false,
            now: Instant::now(),
            impossible: BTreeSet::new(),
            unusable: BTreeSet::new(),
            in_force: 0,
            applied: Vec::new(),
            said: Vec::new(),
        }
    }

    /// Carries `most` outputs out.
    fn carry_out(&mut self, most: usize) {
        for _ in 0..most {
            let Some(output) = self.twin.poll_output() else {
                return;
            };
            match output {
                Output::Check(layer) => {
                    let refused = self.impossible.contains(&layer.version);
                    self.twin
                        .checked(if refused { Err("no".into()) } else { Ok(()) });
                }
                Output::Keep if self.disk_is_full => {
                    self.twin.not_kept(self.now, "no space left");
                }
                Output::Keep => {
                    self.disk = self.twin.record().clone();
                    self.twin.kept(self.now);
                }
                Output::Apply => {
                    let version = self.twin.in_force().map_or(0, |layer| layer.version);
                    let refused = self.unusable.contains(&version);
                    self.in_force = if refused { 0 } else { version };
                    self.applied.push(self.in_force);
                    self.twin.applied(if refused {
                        Err("unusable".into())
                    } else {
                        Ok(())
                    });
                }
                Output::Say => {
                    let said = self.twin.reported(String::new());
                    assert_eq!(said.in_force, self.in_force);
                    let reason = said.reason.unwrap_or_default();
                    let word =
                        format!("{} {} {} {reason}", said.version, said.state, said.in_force);
                    self.said.push(word.trim_end().to_owned());
                }
            }
        }
    }

    fn settle(&mut self) {
        self.carry_out(usize::MAX);
    }

    fn want(&mut self, version: u64, confirmed: bool) {
        self.twin.desired(desired(version, confirmed));
        self.settle();
    }

    /// Dies, and lives again with what the disk has.
    fn restart(&mut self) {
        self.in_force = 0;
        self.twin = Twin::restore(self.disk.clone());
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.twin.handle_timeout(self.now);
        self.settle();
    }

    fn says(&mut self, expected: &[&str]) {
        assert_eq!(std::mem::take(&mut self.said), expected);
    }
}

fn desired(version: u64, confirmed: bool) -> Desired {
    Desired {
        version,
        settings: Settings::from([("heartbeat_s".to_owned(), json!(version))]),
        confirm_within_s: 60,
        confirmed,
        issued_at: Timestamp::from_ms(0),
        by: "admin".to_owned(),
        proof: None,
    }
}

#[test]
fn a_version_is_tried_and_confirmed() {
    let mut robot = Robot::new();
    robot.want(1, false);
    robot.says(&["1 trying 1"]);
    robot.want(1, false);
    robot.says(&["1 trying 1"]);
    robot.want(1, true);
    robot.says(&["1 applied 1"]);
    robot.wait(1000);
    robot.restart();
    robot.settle();
    robot.says(&["1 applied 1"]);
    assert_eq!(robot.twin.poll_timeout(), None);
    // What is older, or came before, changes nothing.
    robot.want(3, false);
    robot.want(3, true);
    robot.says(&["3 trying 3", "3 applied 3"]);
    robot.want(2, true);
    robot.want(1, false);
    robot.says(&[]);
    robot.want(3, true);
    robot.says(&["3 applied 3"]);
    assert_eq!(robot.applied, [1, 1, 3]);
}

#[test]
fn without_confirmation_the_version_before_is_back_for_good() {
    let mut robot = Robot::new();
    robot.want(1, false);
    robot.want(1, true);
    robot.want(2, false);
    robot.wait(59);
    robot.says(&["1 trying 1", "1 applied 1", "2 trying 2"]);
    robot.wait(1);
    let back = "2 rolled_back 1 the relay did not confirm it within 60 s";
    robot.says(&[back]);
    robot.want(2, true);
    robot.says(&[back]);
    robot.restart();
    robot.settle();
    robot.says(&[back]);
    assert_eq!(robot.applied, [1, 2, 1, 1]);
}

#[test]
fn what_cannot_be_is_rejected_and_ends_an_older_trial() {
    let mut robot = Robot::new();
    robot.impossible.insert(2);
    robot.want(1, false);
    robot.want(2, false);
    robot.says(&["1 trying 1", "2 rejected 0 no"]);
    robot.want(2, true);
    robot.want(1, true);
    robot.says(&["2 rejected 0 no"]);
    robot.unusable.insert(3);
    robot.want(3, false);
    robot.says(&["3 rolled_back 0 unusable"]);
    robot.want(4, false);
    robot.want(4, true);
    robot.says(&["4 trying 4", "4 applied 4"]);
}

#[test]
fn a_robot_that_keeps_starting_goes_back() {
    let mut robot = Robot::new();
    robot.want(1, false);
    for _ in 0..2 {
        robot.restart();
        robot.settle();
    }
    robot.says(&["1 trying 1", "1 trying 1", "1 trying 1"]);
    robot.restart();
    robot.settle();
    robot.says(&["1 rolled_back 0 the agent started 3 times while it was tried"]);
}

#[test]
fn the_file_may_have_become_another_one() {
    let mut robot = Robot::new();
    robot.want(1, false);
    robot.want(1, true);
    robot.unusable.insert(1);
    robot.restart();
    robot.settle();
    robot.says(&["1 trying 1", "1 applied 1", "1 rejected 0 unusable"]);
    // The file is right again.
    robot.unusable.clear();
    robot.in_force = 1;
    robot.twin.applied(Ok(()));
    robot.settle();
    robot.says(&["1 applied 1"]);
}

#[test]
fn a_full_disk_begins_nothing_and_is_asked_again_for_the_way_back() {
    let mut robot = Robot::new();
    robot.disk_is_full = true;
    robot.want(1, false);
    let full = "expected the robot's disk to take configuration 1: no space left";
    // Still of the version before, so that the relay goes on asking.
    robot.says(&[&format!("0 applied 0 {full}")]);
    robot.disk_is_full = false;
    robot.want(1, false);
    robot.says(&["1 trying 1"]);
    robot.disk_is_full = true;
    robot.want(1, true);
    robot.says(&[&format!("1 trying 1 {full}")]);
    robot.wait(60);
    robot.wait(5);
    robot.says(&[]);
    robot.disk_is_full = false;
    robot.wait(5);
    robot.says(&["1 rolled_back 0 the relay did not confirm it within 60 s"]);
    assert_eq!(robot.twin.poll_timeout(), None);
    // A start that cannot be counted tries nothing.
    robot.want(2, false);
    robot.disk_is_full = true;
    robot.restart();
    robot.settle();
    assert_eq!(robot.in_force, 0);
    robot.disk_is_full = false;
    robot.wait(5);
    robot.says(&[
        "2 trying 2",
        "2 rolled_back 0 the disk does not keep that it is tried",
    ]);
}

#[derive(Debug, Clone)]
enum Step {
    Want(u64, bool),
    Wait(u64),
    /// Dies after so many outputs of what comes next.
    Die(usize),
    Disk(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..8_u64, any::<bool>()).prop_map(|(version, confirmed)| Step::Want(version, confirmed)),
        2 => (0..70_u64).prop_map(Step::Wait),
        2 => (0..4_usize).prop_map(Step::Die),
        1 => any::<bool>().prop_map(Step::Disk),
    ]
}

proptest! {
    #[test]
    fn a_version_comes_to_one_end_wherever_the_agent_is_killed(
        steps in proptest::collection::vec(step(), 1..60),
        impossible in proptest::collection::btree_set(1..8_u64, 0..3),
        unusable in proptest::collection::btree_set(1..8_u64, 0..2),
    ) {
        let mut robot = Robot::new();
        robot.impossible = impossible.clone();
        robot.unusable = unusable.clone();
        let mut newest = 0;
        let mut ends: BTreeMap<u64, ConfigurationState> = BTreeMap::new();
        let mut confirmed = BTreeSet::new();
        let mut dies_after = None;
        for step in steps {
            match step {
                Step::Want(version, confirms) => {
                    if confirms {
                        confirmed.insert(version);
                    }
                    robot.twin.desired(desired(version, confirms));
                }
                Step::Wait(seconds) => {
                    robot.now += Duration::from_secs(seconds);
                    robot.twin.handle_timeout(robot.now);
                }
                Step::Die(outputs) => {
                    dies_after = Some(outputs);
                    continue;
                }
                Step::Disk(is_full) => robot.disk_is_full = is_full,
            }
            if let Some(outputs) = dies_after.take() {
                robot.carry_out(outputs);
                robot.restart();
            }
            robot.settle();

            let record = &robot.disk;
            prop_assert!(record.newest >= newest, "versions only go forward");
            newest = record.newest;
            if record.state != ConfigurationState::Trying {
                let end = *ends.entry(newest).or_insert(record.state);
                prop_assert_eq!(end, record.state, "an end is one");
            }
            prop_assert_eq!(record.trial.is_some(), record.state == ConfigurationState::Trying);
            if let Some(trial) = &record.trial {
                prop_assert_eq!(trial.layer.version, newest);
                prop_assert!(robot.twin.poll_timeout().is_some() || robot.disk_is_full, "a trial ends");
            }
            if let Some(layer) = &record.confirmed {
                prop_assert!(confirmed.contains(&layer.version), "only what was confirmed");
                prop_assert_eq!(ends[&layer.version], ConfigurationState::Applied);
            }
            prop_assert!(robot.applied.iter().all(|version| !impossible.contains(version)));
            let known = robot.in_force == 0
                || robot.twin.in_force().is_some_and(|layer| layer.version == robot.in_force);
            prop_assert!(known, "what is in force is what should be");
        }
        // Nobody says anything more: what is tried goes back.
        robot.disk_is_full = false;
        for _ in 0..3 {
            robot.wait(70);
        }
        prop_assert!(robot.disk.trial.is_none());
        prop_assert_eq!(robot.twin.poll_timeout(), None);
        let last = robot.disk.confirmed.as_ref().map_or(0, |layer| layer.version);
        prop_assert!(robot.in_force == last || unusable.contains(&last));
    }
}
