//! What the relay tells the robot to do: each command is done at most once and comes to an end, whatever
//! is killed when. Pure; the driver keeps [`Commands::records`] on the disk, carries outputs out in their
//! order, and says how that went.
//!
//! Steps: a command is *accepted*, *begun* and *ended*. Each step is on the disk before anything is done
//! or said by it. After a restart an accepted command begins; one that had begun is asked for again where
//! asking twice is asking once (root's helper knows commands by their id), and has failed otherwise, since
//! nobody knows how far it came. `ping` and `full_state` change nothing and are done each time they come.
//!
//! Expiry: the robot's clock decides nothing, since it may be years off in both directions. A command says
//! when the relay sent this copy and until when it may be accepted, both by the relay's clock, and what
//! the relay said before in the same session shows how late it is at least ([`Commands::heard`]): a
//! command that lay in a socket for an hour while the process was stopped is late. A relay whose clock is
//! set back is believed again from the next connection on.
//!
//! Busy: one command of an operation at a time, and none beside `reboot` and `shutdown`. A command that
//! finds the robot busy is not answered: the relay sends it again, until it expires.
//!
//! Invariants: nothing is executed that the disk does not have; no id is executed twice while it is
//! remembered, and the newest [`REMEMBERED`] are; every command that was accepted ends, at the latest by
//! its deadline; after an end nothing else is said of it.

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

/// How long an operation may take until it has failed. Actions have a shorter limit of their own.
#[must_use]
pub fn limit(op: Op) -> Duration {
    Duration::from_secs(match op {
        Op::Ping | Op::FullState | Op::Estop => 10,
        Op::RestartService => 120,
        Op::Reboot => 300,
        Op::Shutdown => 60,
        Op::RunAction => lekiwi_protocol::limits::MAX_ACTION_TIME.as_secs() + 60,
    })
}

/// A step of a command. Each is on the disk before what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// It will be done.
    Accepted,
    /// It is being done.
    Begun {
        /// The boot that it began in.
        boot_id: Uuid,
    },
    /// It is over.
    Ended(CommandStatus),
}

impl Step {
    fn status(&self) -> CommandStatus {
        match self {
            Self::Accepted => CommandStatus::Accepted,
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

#[derive(Debug)]
struct Entry {
    record: Record,
    deadline: Option<Instant>,
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
    /// When the next write is tried, after one that failed.
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
        let begun: Vec<(Uuid, Op, Uuid)> = this
            .entries
            .iter()
            .filter_map(|entry| match entry.record.step {
                Step::Begun { boot_id } => Some((entry.record.id, entry.record.op, boot_id)),
                _ => None,
            })
            .collect();
        for (id, op, began_in) in begun {
            this.resume(now, id, op, began_in);
        }
        this.begin_accepted(now);
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
            // A step on its way to the disk is said once it is there.
            if !self.is_stale {
                let status = entry.record.step.status();
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
            _ if self.is_busy_for(op) => {}
            _ => {
                self.make_room();
                self.entries.push_back(Entry {
                    record: Record {
                        id,
                        op,
                        arguments: command.arguments,
                        step: Step::Accepted,
                    },
                    deadline: None,
                });
                self.is_stale = true;
                self.held.push_back(Output::Say {
                    id,
                    status: CommandStatus::Accepted,
                });
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
        entry.deadline = None;
        entry.record.arguments.clear();
        entry.record.step = Step::Ended(status.clone());
        self.is_stale = true;
        self.held.push_back(Output::Say { id, status });
    }

    /// The records are on the disk.
    pub fn kept(&mut self, now: Instant) {
        self.is_stale = false;
        self.retry_at = None;
        self.ready.append(&mut self.held);
        self.begin_accepted(now);
    }

    /// The records are not on the disk, for this reason. What depends on them is not done.
    pub fn not_kept(&mut self, now: Instant, reason: &str) {
        self.is_stale = false;
        self.retry_at = Some(now + RETRY_KEEPING);
        let failed = CommandStatus::end(Err(format!(
            "expected the robot's disk to take the command: {reason}"
        )));
        let mut failing = Vec::new();
        for output in std::mem::take(&mut self.held) {
            match output {
                Output::Execute { id, .. } => failing.push(id),
                Output::Say {
                    id,
                    status: CommandStatus::Accepted,
                } => failing.push(id),
                // An end stands, kept or not.
                Output::Say { ref status, .. } if status.state().is_end() => {
                    self.ready.push_back(output);
                }
                _ => {}
            }
        }
        for id in failing {
            if let Some(entry) = self.entries.iter_mut().find(|entry| entry.record.id == id) {
                entry.deadline = None;
                entry.record.arguments.clear();
                entry.record.step = Step::Ended(failed.clone());
            }
            self.say(id, failed.clone());
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.ready.pop_front();
        output.or_else(|| self.is_stale.then_some(Output::Keep))
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
            self.is_stale = true;
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

    fn say(&mut self, id: Uuid, status: CommandStatus) {
        self.ready.push_back(Output::Say { id, status });
    }

    fn refuse(&mut self, id: Uuid, reason: String) {
        self.say(id, CommandStatus::end(Err(reason)));
    }

    fn is_busy_for(&self, op: Op) -> bool {
        let is_power = |op: Op| matches!(op, Op::Reboot | Op::Shutdown);
        self.entries.iter().any(|Entry { record, .. }| {
            !matches!(record.step, Step::Ended(_))
                && (record.op == op || is_power(op) || is_power(record.op))
        })
    }

    /// Forgets the oldest end where there are too many. What has not ended is few: one an operation.
    fn make_room(&mut self) {
        while self.entries.len() >= REMEMBERED {
            let ended = |entry: &Entry| matches!(entry.record.step, Step::Ended(_));
            let oldest = self.entries.iter().position(ended).unwrap_or(0);
            self.entries.remove(oldest);
        }
    }

    /// What was accepted begins, once that is on the disk as well.
    fn begin_accepted(&mut self, now: Instant) {
        for Entry { record, deadline } in &mut self.entries {
            if record.step != Step::Accepted {
                continue;
            }
            record.step = Step::Begun {
                boot_id: self.boot_id,
            };
            *deadline = Some(now + limit(record.op));
            self.is_stale = true;
            self.held.push_back(Output::Say {
                id: record.id,
                status: CommandStatus::Running,
            });
            self.held.push_back(Output::Execute {
                id: record.id,
                op: record.op,
                arguments: record.arguments.clone(),
            });
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
