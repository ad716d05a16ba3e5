//! Commands that have not ended: what is sent to whom, when again, and what becomes of it. Pure; ingest
//! feeds it with what is in the log and what robots say, and carries its outputs out.
//!
//! Invariants: a command is sent only when the log has it, and to a robot that is connected; until it is
//! accepted every [`RESEND`], then every [`ASK`], and at once after each birth; what nobody accepted in time
//! has failed, and what never ended has failed after [`LOST_AFTER`]; a state is said once, and never goes
//! back; no action or restart of before an emergency stop begins after it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lekiwi_protocol::message::{Command, CommandState, CommandStatus, Op, kind};
use lekiwi_protocol::{RobotId, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

/// Time between two sendings of a command that was not accepted.
const RESEND: Duration = Duration::from_secs(2);
/// The same of an emergency stop.
const RESEND_STOP: Duration = Duration::from_millis(250);
/// Time between two sendings of a command that was: the robot answers with its state.
const ASK: Duration = Duration::from_secs(15);
/// How long after its expiry a command that was accepted may take to its end.
pub const LOST_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How a command ended, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The robot did it.
    Successful,
    /// The robot says why not.
    Failed,
    /// No robot accepted it in time.
    Expired,
    /// The robot accepted it, and never said how it ended.
    Lost,
}

impl End {
    /// The end as metrics spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send it to the robot.
    Send(RobotId, Command),
    /// Write an event of the relay's own into the log.
    Event {
        /// About whom.
        robot: RobotId,
        /// What happened.
        kind: &'static str,
        /// Details.
        data: Value,
        /// Where it is the command's end.
        end: Option<End>,
    },
}

#[derive(Debug)]
struct Open {
    command: Command,
    state: CommandState,
    next_send: Timestamp,
}

impl Open {
    /// When something is due, of a robot that is connected or not.
    fn due(&self, connected: bool) -> Timestamp {
        let over = self.over_at();
        if connected {
            over.min(self.next_send)
        } else {
            over
        }
    }

    fn over_at(&self) -> Timestamp {
        match self.state {
            CommandState::Pending => self.command.expires_at,
            _ => self.command.expires_at.plus(LOST_AFTER),
        }
    }

    fn pause(&self) -> Duration {
        match (self.state, self.command.op) {
            (CommandState::Pending, Op::Estop) => RESEND_STOP,
            (CommandState::Pending, _) => RESEND,
            _ => ASK,
        }
    }
}

#[derive(Debug, Default)]
struct Robot {
    connected: bool,
    /// In the order of the log.
    open: Vec<Open>,
}

/// All commands that have not ended.
#[derive(Debug, Default)]
pub struct Commands {
    robots: BTreeMap<RobotId, Robot>,
    outputs: VecDeque<Output>,
    /// When something is due, or before.
    due: Option<Timestamp>,
}

impl Commands {
    /// Puts a command back as the store has it. Called before any input.
    pub fn restore(&mut self, robot: RobotId, command: Command, state: CommandState) {
        self.insert(robot, command, state, Timestamp::default());
    }

    /// The log has a new command, at `now`. An emergency stop ends what would move the robot and was not accepted.
    pub fn requested(&mut self, now: Timestamp, robot: RobotId, command: Command) {
        if command.op == Op::Estop {
            self.give_up_moving(&robot);
        }
        // A stop is on its way before it is in the log.
        let next_send = match command.op {
            Op::Estop => now.plus(RESEND_STOP),
            _ => now,
        };
        self.insert(robot, command, CommandState::Pending, next_send);
    }

    fn give_up_moving(&mut self, robot: &RobotId) {
        let Some(known) = self.robots.get_mut(robot) else {
            return;
        };
        known.open.retain(|open| {
            let Command { id, op, .. } = open.command;
            let moves = matches!(op, Op::RunAction | Op::RestartService);
            if !moves || open.state != CommandState::Pending {
                return true;
            }
            let reason = "given up for an emergency stop";
            self.outputs.push_back(Output::Event {
                robot: robot.clone(),
                kind: kind::COMMAND_FAILED,
                data: json!({ "id": id, "op": op, "reason": reason }),
                end: Some(End::Failed),
            });
            false
        });
    }

    fn insert(
        &mut self,
        robot: RobotId,
        command: Command,
        state: CommandState,
        next_send: Timestamp,
    ) {
        let robot = self.robots.entry(robot).or_default();
        if robot.open.iter().any(|open| open.command.id == command.id) {
            return;
        }
        let open = Open {
            command,
            state,
            next_send,
        };
        let due = open.due(robot.connected);
        robot.open.push(open);
        self.wake(due);
    }

    /// The robot was born, or is gone.
    pub fn connection(&mut self, now: Timestamp, robot: &RobotId, connected: bool) {
        if !connected {
            match self.robots.get_mut(robot) {
                Some(known) if known.open.is_empty() => drop(self.robots.remove(robot)),
                Some(known) => known.connected = false,
                None => {}
            }
            return;
        }
        let known = self.robots.entry(robot.clone()).or_default();
        known.connected = true;
        for open in &mut known.open {
            open.next_send = now;
        }
        if !known.open.is_empty() {
            self.wake(now);
        }
    }

    /// The robot says how far a command is. What nobody waits for any more is nothing.
    pub fn answered(&mut self, now: Timestamp, robot: &RobotId, id: Uuid, status: CommandStatus) {
        let Some(known) = self.robots.get_mut(robot) else {
            return;
        };
        let Some(index) = known.open.iter().position(|open| open.command.id == id) else {
            return;
        };
        let open = &mut known.open[index];
        // The robot is there, and knows it: no need to ask soon.
        open.next_send = now.plus(ASK);
        if status.state() <= open.state {
            return;
        }
        open.state = status.state();
        let op = open.command.op;
        let mut data = json!({ "id": id, "op": op });
        let (kind, end) = match status {
            CommandStatus::Accepted => (kind::COMMAND_ACCEPTED, None),
            CommandStatus::Running => (kind::COMMAND_RUNNING, None),
            CommandStatus::Successful { result } => {
                data["result"] = json!(result);
                (kind::COMMAND_SUCCESSFUL, Some(End::Successful))
            }
            CommandStatus::Failed { reason } => {
                data["reason"] = reason.into();
                (kind::COMMAND_FAILED, Some(End::Failed))
            }
        };
        if end.is_some() {
            known.open.remove(index);
            // What the robot was busy for may follow at once.
            for open in &mut known.open {
                if open.state == CommandState::Pending {
                    open.next_send = now;
                }
            }
            self.wake(now);
        }
        self.outputs.push_back(Output::Event {
            robot: robot.clone(),
            kind,
            data,
            end,
        });
    }

    /// Sends what is due, and ends what is over.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = None;
        let mut next: Option<Timestamp> = None;
        for (id, robot) in &mut self.robots {
            let connected = robot.connected;
            robot.open.retain_mut(|open| {
                if open.over_at() <= now {
                    let (reason, end) = match open.state {
                        CommandState::Pending if connected => (
                            "expired: the robot did not accept it in time; it may be busy",
                            End::Expired,
                        ),
                        CommandState::Pending => {
                            ("expired: the robot was not connected in time", End::Expired)
                        }
                        _ => ("the robot did not say how it ended", End::Lost),
                    };
                    let Command {
                        id: command, op, ..
                    } = open.command;
                    self.outputs.push_back(Output::Event {
                        robot: id.clone(),
                        kind: kind::COMMAND_FAILED,
                        data: json!({ "id": command, "op": op, "reason": reason }),
                        end: Some(end),
                    });
                    return false;
                }
                if connected && open.next_send <= now {
                    self.outputs
                        .push_back(Output::Send(id.clone(), open.command.clone()));
                    open.next_send = now.plus(open.pause());
                }
                let due = open.due(connected);
                next = Some(next.map_or(due, |next| next.min(due)));
                true
            });
        }
        self.due = next;
    }

    /// When [`Self::handle_timeout`] may have something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.due
    }

    /// The next thing that follows.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn wake(&mut self, at: Timestamp) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}
