//! What the relay tells the robot to do: each command is done at most once and comes to an end, whatever
//! is killed when. Pure; the driver keeps [`Commands::records`] on the disk, carries outputs out in their
//! order, and says how that went.
//!
//! Steps: a command has *begun* and has *ended*. Each step is one write, and on the disk before anything is
//! done or said by it. After a restart one that had begun is asked for again where asking twice is asking once
//! (root's helper knows commands by their id; logs are collected again; a renewal goes on
//! where it was), and has failed otherwise, since nobody
//! knows how far it came. `ping` and `full_state` change nothing and are done each time they come.
//!
//! A disk that takes nothing: a command that it does not know yet has failed, and is not begun later; whatever
//! else waits for the disk is neither done nor said until it is there, also the end of a command, which a
//! restart would otherwise contradict. The relay asks on meanwhile, and gives up after a day.
//!
//! Expiry: the robot's clock decides nothing, since it may be years off in both directions. A command says
//! when the relay sent this copy and until when it may be accepted, both by the relay's clock, and what
//! the relay said before in the same session shows how late it is at least ([`Commands::heard`]): a
//! command that lay in a socket for an hour while the process was stopped is late. A relay whose clock is
//! set back is believed again from the next connection on.
//!
//! Busy: one command of an operation at a time, and none beside `reboot` and `shutdown`, which wait for all
//! but what goes on afterwards ([`Op::goes_on`]). A command that finds the robot busy is not answered: the relay
//! sends it again, until it expires. A `renew_identity` beside another one fails at once: it would renew what was
//! renewed just now.
//!
//! Invariants: nothing is executed that the disk does not have; no id is executed twice while it is
//! remembered, and the newest [`REMEMBERED`] are; every command that was accepted ends, at the latest by
//! its deadline, and that is said as soon as the disk has it; after an end nothing else is said of it, and
//! nothing is done by it, whichever writes fail.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{Arguments, Command, CommandStatus, Op};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How many commands are remembered, those that run included.
pub const REMEMBERED: usize = 64;
/// How long after a failed write the next is tried.
const RETRY_KEEPING: Duration = Duration::from_secs(30);
/// How often an operation goes on that an end of the agent interrupted: one that ends the agent itself must
/// not do so for ever.
const MOST_RESUMES: u32 = 10;

/// How long an operation may take until it has failed. Actions have a shorter limit of their own.
#[must_use]
pub fn limit(op: Op) -> Duration {
    Duration::from_secs(match op {
        Op::Ping | Op::FullState | Op::Estop => 10,
        Op::RestartService => 120,
        Op::Reboot => 300,
        Op::Shutdown => 60,
        Op::CollectLogs | Op::ListPackages | Op::RenewIdentity => 1800,
        Op::RunAction => lekiwi_protocol::limits::MAX_ACTION_TIME.as_secs() + 60,
    })
}

/// A step of a command. Each is on the disk before what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// It is being done, or will be at once.
    Begun {
        /// The boot that it began in.
        boot_id: Uuid,
        /// How often it went on since.
        #[serde(default, skip_serializing_if = "is_zero")]
        resumes: u32,
    },
    /// It is over.
    Ended(CommandStatus),
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Step {
    fn status(&self) -> CommandStatus {
        match self {
            Self::Begun { .. } => CommandStatus::Running,
            Self::Ended(status) => status.clone(),
        }
    }
}

/// What is remembered of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which.
    pub id: Uuid,
    /// What it is to do.
    pub op: Op,
    /// With what; forgotten at the end.
    #[serde(default, skip_serializing_if = "Arguments::is_empty")]
    pub arguments: Arguments,
    /// How far it is.
    pub step: Step,
}

/// What the driver is asked for, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Write [`Commands::records`], then call [`Commands::kept`] or [`Commands::not_kept`].
    Keep,
    /// Do it, and call [`Commands::ended`]. Comes again after a restart for operations of root's helper.
    Execute {
        /// Which command.
        id: Uuid,
        /// What to do.
        op: Op,
        /// With what.
        arguments: Arguments,
    },
    /// Give it up: its time is over.
    Abandon(Uuid),
    /// Tell the relay.
    Say {
        /// Of which command.
        id: Uuid,
        /// How far it is.
        status: CommandStatus,
    },
}

impl Output {
    /// Whether it does or says something of this command.
    fn is_of(&self, command: Uuid) -> bool {
        match self {
            Self::Keep => false,
            Self::Execute { id, .. } | Self::Abandon(id) | Self::Say { id, .. } => *id == command,
        }
    }
}

#[derive(Debug)]
struct Entry {
    record: Record,
    deadline: Option<Instant>,
}

impl Entry {
    fn end(&mut self, status: CommandStatus) {
        self.deadline = None;
        self.record.arguments.clear();
        self.record.step = Step::Ended(status);
    }
}

/// All commands of a robot.
#[derive(Debug)]
pub struct Commands {
    boot_id: Uuid,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// May be carried out.
    ready: VecDeque<Output>,
    /// May be carried out once the records are on the disk.
    held: VecDeque<Output>,
    /// The disk has older records than these.
    is_stale: bool,
    /// When the next write is tried, after one that failed; a new step does not wait for it.
    retry_at: Option<Instant>,
    /// What the relay's clock showed, and when.
    relay_clock: Option<(Instant, Timestamp)>,
}

impl Commands {
    /// Goes on with what the disk has, in the boot `boot_id`.
    #[must_use]
    pub fn restore(now: Instant, boot_id: Uuid, records: Vec<Record>) -> Self {
        let mut this = Self {
            boot_id,
            entries: VecDeque::new(),
            ready: VecDeque::new(),
            held: VecDeque::new(),
            is_stale: false,
            retry_at: None,
            relay_clock: None,
        };
        let surplus = records.len().saturating_sub(REMEMBERED);
        for record in records.into_iter().skip(surplus) {
            this.entries.push_back(Entry {
                record,
                deadline: None,
            });
        }
        let begun: Vec<(Uuid, Op, Uuid, u32)> = this
            .entries
            .iter()
            .filter_map(|Entry { record, .. }| match record.step {
                Step::Begun { boot_id, resumes } => Some((record.id, record.op, boot_id, resumes)),
                _ => None,
            })
            .collect();
        for (id, op, began_in, resumes) in begun {
            if op.goes_on() {
                this.go_on(now, id, resumes);
            } else {
                this.resume(now, id, op, began_in);
            }
        }
        this
    }

    /// What must be on the disk.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.entries.iter().map(|entry| &entry.record)
    }

    /// The relay sent something at `sent_at`, by its clock, in this session.
    pub fn heard(&mut self, now: Instant, sent_at: Timestamp) {
        if sent_at > self.relay_time(now) {
            self.relay_clock = Some((now, sent_at));
        }
    }

    /// The session is over: the next one may be with another relay, or another clock.
    pub fn link_down(&mut self) {
        self.relay_clock = None;
    }

    /// A command came, which the relay sent at `sent_at`.
    pub fn command(&mut self, now: Instant, command: Command, sent_at: Timestamp) {
        self.heard(now, sent_at);
        let Command { id, op, .. } = command;
        if let Some(entry) = self.entry(id) {
            let status = entry.record.step.status();
            // A step on its way to the disk is said once it is there.
            if !self.held.iter().any(|output| output.is_of(id)) {
                self.say(id, status);
            }
            return;
        }
        if let Err(error) = command.check() {
            return self.refuse(id, error.to_string());
        }
        let relay_time = self.relay_time(now);
        if command.expires_at <= relay_time {
            return self.refuse(
                id,
                format!(
                    "expired: it was good until {}, and came at {relay_time} or later",
                    command.expires_at
                ),
            );
        }
        match op {
            Op::Ping | Op::FullState => {
                self.say(id, CommandStatus::Accepted);
                self.ready.push_back(Output::Execute {
                    id,
                    op,
                    arguments: command.arguments,
                });
            }
            Op::Estop => self.refuse(id, "expected an emergency stop on its own topic".to_owned()),
            Op::RenewIdentity if let Some(first) = self.under_way(op) => {
                let status = CommandStatus::end(Err(format!("command {first} renews it already")));
                // Remembered: it may come again when the first one has ended.
                self.remember(id, op, Arguments::new(), Step::Ended(status.clone()), None);
                self.hold([Output::Say { id, status }]);
            }
            _ if self.is_busy_for(op) => {}
            _ => {
                let Command { arguments, .. } = command;
                let begun = Step::Begun {
                    boot_id: self.boot_id,
                    resumes: 0,
                };
                let deadline = Some(now + limit(op));
                self.remember(id, op, arguments.clone(), begun, deadline);
                let [accepted, running] = [CommandStatus::Accepted, CommandStatus::Running]
                    .map(|status| Output::Say { id, status });
                self.hold([accepted, running, Output::Execute { id, op, arguments }]);
            }
        }
    }

    /// What was executed has come to an end.
    pub fn ended(&mut self, id: Uuid, outcome: Result<Arguments, String>) {
        let status = CommandStatus::end(outcome);
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.record.id == id) else {
            // It changed nothing, and is not remembered.
            return self.say(id, status);
        };
        if matches!(entry.record.step, Step::Ended(_)) {
            return;
        }
        entry.end(status.clone());
        // What waits for the disk is not done any more.
        self.held.retain(|output| !output.is_of(id));
        self.hold([Output::Say { id, status }]);
    }

    /// An emergency stop: actions may move the robot, and are over.
    pub fn stop(&mut self) {
        let moving: Vec<Uuid> = self
            .entries
            .iter()
            .map(|entry| &entry.record)
            .filter(|record| record.op == Op::RunAction && !matches!(record.step, Step::Ended(_)))
            .map(|record| record.id)
            .collect();
        for id in moving {
            self.ready.push_back(Output::Abandon(id));
            self.ended(id, Err("ended by an emergency stop".to_owned()));
        }
    }

    /// The records are on the disk.
    pub fn kept(&mut self) {
        self.is_stale = false;
        self.retry_at = None;
        self.ready.append(&mut self.held);
    }

    /// The disk has what it had, for this reason. What depends on the records is not done; what the disk has
    /// not heard of has failed.
    pub fn not_kept(&mut self, now: Instant, reason: &str) {
        self.retry_at = Some(now + RETRY_KEEPING);
        let failed = CommandStatus::end(Err(format!(
            "expected the robot's disk to take the command: {reason}"
        )));
        let is_new = |output: &Output| match output {
            Output::Say {
                id,
                status: CommandStatus::Accepted,
            } => Some(*id),
            _ => None,
        };
        let unknown: Vec<Uuid> = self.held.iter().filter_map(is_new).collect();
        for id in unknown {
            self.held.retain(|output| !output.is_of(id));
            // Remembered: it may come again before anybody has heard of its failure.
            if let Some(entry) = self.entries.iter_mut().find(|entry| entry.record.id == id) {
                entry.end(failed.clone());
            }
            self.say(id, failed.clone());
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let may_keep = self.is_stale && self.retry_at.is_none();
        let output = self.ready.pop_front();
        output.or_else(|| may_keep.then_some(Output::Keep))
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.entries.iter().filter_map(|entry| entry.deadline);
        deadlines.chain(self.retry_at).min()
    }

    /// Ends what took too long, and tries to write again what could not be written.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        let late: Vec<(Uuid, Op)> = self
            .entries
            .iter()
            .filter(|entry| entry.deadline.is_some_and(|at| at <= now))
            .map(|entry| (entry.record.id, entry.record.op))
            .collect();
        for (id, op) in late {
            self.ready.push_back(Output::Abandon(id));
            let limit = limit(op).as_secs();
            self.ended(id, Err(format!("expected {op} to end within {limit} s")));
        }
    }

    fn entry(&self, id: Uuid) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.record.id == id)
    }

    /// The least that the relay's clock can show.
    fn relay_time(&self, now: Instant) -> Timestamp {
        self.relay_clock
            .map_or(Timestamp::default(), |(at, shown)| {
                shown.plus(now.saturating_duration_since(at))
            })
    }

    /// For when the records are on the disk, which is tried at once.
    fn hold(&mut self, outputs: impl IntoIterator<Item = Output>) {
        self.is_stale = true;
        self.retry_at = None;
        self.held.extend(outputs);
    }

    fn say(&mut self, id: Uuid, status: CommandStatus) {
        self.ready.push_back(Output::Say { id, status });
    }

    fn refuse(&mut self, id: Uuid, reason: String) {
        self.say(id, CommandStatus::end(Err(reason)));
    }

    fn under_way(&self, op: Op) -> Option<Uuid> {
        let mut records = self.entries.iter().map(|entry| &entry.record);
        let first = records.find(|it| it.op == op && !matches!(it.step, Step::Ended(_)));
        first.map(|record| record.id)
    }

    fn is_busy_for(&self, op: Op) -> bool {
        let is_power = |op: Op| matches!(op, Op::Reboot | Op::Shutdown);
        self.entries.iter().any(|Entry { record, .. }| {
            let holds_up = record.op == op || (is_power(op) && !record.op.goes_on());
            !matches!(record.step, Step::Ended(_)) && (holds_up || is_power(record.op))
        })
    }

    fn remember(
        &mut self,
        id: Uuid,
        op: Op,
        arguments: Arguments,
        step: Step,
        deadline: Option<Instant>,
    ) {
        self.make_room();
        self.entries.push_back(Entry {
            record: Record {
                id,
                op,
                arguments,
                step,
            },
            deadline,
        });
    }

    /// Forgets the oldest end where there are too many. What has not ended is few: one an operation.
    fn make_room(&mut self) {
        while self.entries.len() >= REMEMBERED {
            let ended = |Entry { record, .. }: &Entry| {
                // An end that the disk does not have yet would be done again, were it forgotten.
                let is_held = self.held.iter().any(|output| output.is_of(record.id));
                matches!(record.step, Step::Ended(_)) && !is_held
            };
            let oldest = self.entries.iter().position(ended).unwrap_or(0);
            self.entries.remove(oldest);
        }
    }

    /// To do it again is to do it once, in whichever boot, but the disk must know how often.
    fn go_on(&mut self, now: Instant, id: Uuid, resumes: u32) {
        if resumes == MOST_RESUMES {
            let reason = format!("the agent restarted {} times while it ran", resumes + 1);
            return self.ended(id, Err(reason));
        }
        if let Some(Entry { record, deadline }) =
            self.entries.iter_mut().find(|entry| entry.record.id == id)
        {
            record.step = Step::Begun {
                boot_id: self.boot_id,
                resumes: resumes + 1,
            };
            *deadline = Some(now + limit(record.op));
            let again = Output::Execute {
                id,
                op: record.op,
                arguments: record.arguments.clone(),
            };
            self.hold([again]);
        }
    }

    /// It had begun when the agent ended.
    fn resume(&mut self, now: Instant, id: Uuid, op: Op, began_in: Uuid) {
        let same_boot = began_in == self.boot_id;
        match op {
            // The machine restarted, or was switched off and on.
            Op::Reboot | Op::Shutdown if !same_boot => self.ended(id, Ok(Arguments::new())),
            Op::Reboot | Op::Shutdown | Op::RestartService if same_boot => {
                if let Some(entry) = self.entries.iter_mut().find(|entry| entry.record.id == id) {
                    entry.deadline = Some(now + limit(op));
                    self.ready.push_back(Output::Execute {
                        id,
                        op,
                        arguments: entry.record.arguments.clone(),
                    });
                }
            }
            _ => {
                let who = if same_boot { "agent" } else { "robot" };
                self.ended(
                    id,
                    Err(format!(
                        "the {who} restarted while it ran; how far it came is not known"
                    )),
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "command/tests.rs"]
mod tests;
