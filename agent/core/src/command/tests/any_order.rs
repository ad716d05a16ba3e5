//! Whatever comes in whichever order, and whatever is killed or full.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Happening {
    Get(u128, Op),
    End(u128, bool),
    Wait(u64),
    Restart(u128),
    Stop,
}

fn happening() -> impl Strategy<Value = Happening> {
    let op = prop_oneof![
        Just(Op::Ping),
        Just(Op::RestartService),
        Just(Op::Reboot),
        Just(Op::Shutdown),
        Just(Op::RunAction),
        Just(Op::CollectLogs),
        Just(Op::ListPackages),
        Just(Op::RenewIdentity),
    ];
    prop_oneof![
        4 => (1_u128..9, op).prop_map(|(number, op)| Happening::Get(number, op)),
        3 => (1_u128..9, any::<bool>()).prop_map(|(number, ok)| Happening::End(number, ok)),
        1 => (0_u64..200).prop_map(Happening::Wait),
        1 => (1_u128..3).prop_map(Happening::Restart),
        1 => Just(Happening::Stop),
    ]
}

/// A relay sends what it has heard no end of, a robot does it, and a disk has what was written last.
struct World {
    now: Instant,
    boot: Uuid,
    disk: Vec<Record>,
    commands: Commands,
    runs: BTreeMap<Uuid, usize>,
    /// What was said last of a command, where that was an end.
    ends: BTreeMap<Uuid, CommandStatus>,
    /// Ends that the relay has heard: what was said before a restart has come there, or is never heard again.
    heard: BTreeSet<Uuid>,
}

impl World {
    fn new() -> Self {
        let now = Robot::new().now;
        Self {
            now,
            boot: BOOT,
            disk: Vec::new(),
            commands: Commands::restore(now, BOOT, Vec::new()),
            runs: BTreeMap::new(),
            ends: BTreeMap::new(),
            heard: BTreeSet::new(),
        }
    }

    fn restart(&mut self) {
        self.heard.extend(self.ends.keys());
        self.commands = Commands::restore(self.now, self.boot, self.disk.clone());
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Get(number, op) => {
                // An id has one operation, and expires in no world that is this young.
                let mut command = command(number * 10 + op as u128, op);
                command.expires_at = at(600_000);
                if !self.heard.contains(&command.id) {
                    self.commands.command(self.now, command, at(1000));
                }
            }
            Happening::End(number, ok) => {
                let executing = self.runs.keys().find(|id| id.as_u128() / 10 == number);
                if let Some(id) = executing.copied() {
                    let outcome = ok.then(Arguments::new).ok_or_else(|| "no".to_owned());
                    self.commands.ended(id, outcome);
                }
            }
            Happening::Wait(seconds) => self.now += Duration::from_secs(seconds),
            Happening::Stop => self.commands.stop(),
            Happening::Restart(number) => {
                self.boot = Uuid::from_u128(number);
                self.restart();
            }
        }
        self.commands.handle_timeout(self.now);
    }

    fn step(&self, id: Uuid) -> Option<&Step> {
        let record = self.disk.iter().find(|record| record.id == id);
        record.map(|record| &record.step)
    }

    fn executes(&mut self, id: Uuid, op: Op) -> Result<(), TestCaseError> {
        let step = self.step(id);
        prop_assert!(
            matches!(step, Some(Step::Begun { .. })),
            "{op} runs, and the disk has {step:?}"
        );
        prop_assert!(!self.ends.contains_key(&id), "{op} runs after its end");
        let runs = self.runs.entry(id).or_default();
        *runs += 1;
        prop_assert!(op != Op::RunAction || *runs == 1, "an action runs twice");
        Ok(())
    }

    fn says(&mut self, id: Uuid, status: CommandStatus) -> Result<(), TestCaseError> {
        if let Some(end) = self.ends.get(&id) {
            prop_assert_eq!(end, &status, "an end is the last word");
        }
        let step = self.step(id);
        let is_true = match step {
            Some(Step::Ended(end)) => *end == status,
            Some(Step::Begun { .. }) => !status.state().is_end(),
            // It was never begun, and never will be.
            None => matches!(status, CommandStatus::Failed { .. }) && !self.runs.contains_key(&id),
        };
        prop_assert!(is_true, "says {status:?}, and the disk has {step:?}");
        if status.state().is_end() {
            self.ends.insert(id, status);
        }
        Ok(())
    }
}

proptest! {
    /// Whatever comes in whichever order, wherever between two writes the agent is killed, and whichever writes
    /// the disk does not take: nothing runs that the disk does not have, an action runs once at most, what is
    /// said is what the disk has, an end is the last word, after which nothing runs, and all ends.
    #[test]
    fn at_most_once_and_to_an_end(
        happenings in proptest::collection::vec(happening(), 0..60),
        killed_at in 0_usize..40,
        refused in proptest::collection::btree_set(0_usize..40, 0..12),
    ) {
        let mut world = World::new();
        let mut writes = 0;
        // The last hours are for deadlines, with a disk that has room again.
        let hours = (0..3).map(|_| Happening::Wait(4000));
        let tail = [Happening::Wait(30), Happening::Restart(1)].into_iter().chain(hours);
        let last = happenings.len();
        for (place, happening) in happenings.into_iter().chain(tail).enumerate() {
            world.happens(happening);
            while let Some(output) = world.commands.poll_output() {
                match output {
                    Output::Keep => {
                        writes += 1;
                        if writes == killed_at {
                            // Before the write: the disk has what it had.
                            world.restart();
                            continue;
                        }
                        if place < last && refused.contains(&writes) {
                            world.commands.not_kept(world.now, "no space left");
                            continue;
                        }
                        world.disk = world.commands.records().cloned().collect();
                        prop_assert!(world.disk.len() <= REMEMBERED);
                        if writes == killed_at + 1 {
                            world.restart();
                            continue;
                        }
                        world.commands.kept();
                    }
                    Output::Execute { id, op, .. } if op != Op::Ping => world.executes(id, op)?,
                    // What changes nothing is said each time it comes.
                    Output::Say { id, status } if id.as_u128() % 10 != Op::Ping as u128 => {
                        world.says(id, status)?;
                    }
                    _ => {}
                }
            }
        }
        for record in world.commands.records() {
            prop_assert!(matches!(record.step, Step::Ended(_)), "stuck: {record:?}");
            prop_assert_eq!(world.step(record.id), Some(&record.step), "not on the disk");
        }
        prop_assert_eq!(world.commands.poll_timeout(), None);
    }
}
