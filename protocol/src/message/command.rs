//! What a robot is told to do, and what became of it. An emergency stop is a command with a topic of its
//! own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::logs::{LogSlice, LogSliceError};
use crate::limits::{
    MAX_ARGUMENT_BYTES, MAX_ARGUMENTS, MAX_COMMAND_LIFETIME, MAX_REASON_BYTES, MAX_RESULT_BYTES,
};
use crate::timestamp::Timestamp;

/// Named values: of a command its arguments, of a successful end its result.
pub type Arguments = BTreeMap<String, Value>;

/// The argument of [`Op::RestartService`].
pub const UNIT: &str = "unit";
/// The argument of [`Op::RunAction`] that names the action; the others are the action's own.
pub const ACTION: &str = "action";

/// What a robot can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Answer.
    Ping,
    /// Say the factsheet and the whole state again.
    FullState,
    /// Restart one of the services that the profile watches: `unit`.
    RestartService,
    /// Restart the machine. Successful once it runs again.
    Reboot,
    /// Switch the machine off. Successful once that has begun.
    Shutdown,
    /// Run one of the profile's actions: `action`, and the action's own arguments.
    RunAction,
    /// Upload a part of the journal: `unit`, `since`, `until`, `max_bytes`; see [`super::LogSlice`].
    CollectLogs,
    /// Upload the list of installed packages, whose digest the state has.
    ListPackages,
    /// Get another certificate now. Successful once a broker took it, and it has the place of the one before.
    RenewIdentity,
    /// Begin the profile's stop action, and tell local programs; on a topic of its own.
    Estop,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Ping,
        Self::FullState,
        Self::RestartService,
        Self::Reboot,
        Self::Shutdown,
        Self::RunAction,
        Self::CollectLogs,
        Self::ListPackages,
        Self::RenewIdentity,
        Self::Estop,
    ];

    /// The operation as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::FullState => "full_state",
            Self::RestartService => "restart_service",
            Self::Reboot => "reboot",
            Self::Shutdown => "shutdown",
            Self::RunAction => "run_action",
            Self::CollectLogs => "collect_logs",
            Self::ListPackages => "list_packages",
            Self::RenewIdentity => "renew_identity",
            Self::Estop => "estop",
        }
    }

    /// Whether it goes on after an end of the agent and after a reboot, and holds up neither: what is uploaded for as long
    /// as the network takes, and a renewal, which may wait until nobody drives the robot.
    #[must_use]
    pub fn goes_on(self) -> bool {
        matches!(
            self,
            Self::CollectLogs | Self::ListPackages | Self::RenewIdentity
        )
    }

    /// Checks arguments as far as that needs no profile.
    ///
    /// # Errors
    /// When there are too many, too few, or others.
    pub fn check(self, arguments: &Arguments) -> Result<(), CommandError> {
        let bytes = bytes(arguments);
        if arguments.len() > MAX_ARGUMENTS || bytes > MAX_ARGUMENT_BYTES {
            return Err(CommandError::Size {
                count: arguments.len(),
                bytes,
            });
        }
        let named = match self {
            Self::RestartService => UNIT,
            Self::RunAction => ACTION,
            Self::CollectLogs => return LogSlice::parse(arguments).map(drop),
            _ => {
                return match arguments.keys().next() {
                    None => Ok(()),
                    Some(unknown) => Err(self.unknown(unknown)),
                };
            }
        };
        if !arguments.get(named).is_some_and(Value::is_string) {
            return Err(CommandError::Missing { op: self, named });
        }
        match arguments.keys().find(|name| *name != named) {
            Some(unknown) if self == Self::RestartService => Err(self.unknown(unknown)),
            _ => Ok(()),
        }
    }

    /// The refusal of an argument that the operation does not have.
    pub(super) fn unknown(self, argument: &str) -> CommandError {
        CommandError::Unknown {
            op: self,
            unknown: argument.chars().take(80).collect(),
        }
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Op {
    type Err = CommandError;
    fn from_str(text: &str) -> Result<Self, CommandError> {
        Self::ALL
            .into_iter()
            .find(|op| op.as_str() == text)
            .ok_or_else(|| CommandError::Op(text.chars().take(80).collect()))
    }
}

/// How many bytes the arguments take as JSON.
fn bytes(arguments: &Arguments) -> usize {
    // String keys and JSON values always become JSON.
    serde_json::to_vec(arguments).map_or(usize::MAX, |json| json.len())
}

/// Why a command, or what a robot says of one, is refused although it parses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such operation.
    #[error("expected an operation such as ping or restart_service, got {0:?}")]
    Op(String),
    /// Too many arguments, or too large ones.
    #[error(
        "expected at most {MAX_ARGUMENTS} arguments in {MAX_ARGUMENT_BYTES} bytes, got {count} in {bytes}"
    )]
    Size {
        /// How many.
        count: usize,
        /// Of what size.
        bytes: usize,
    },
    /// An argument is missing, or no text.
    #[error("expected {op} with a text as {named}, got none")]
    Missing {
        /// The operation.
        op: Op,
        /// The argument.
        named: &'static str,
    },
    /// An argument that the operation does not have.
    #[error("expected no argument {unknown:?} of {op}")]
    Unknown {
        /// The operation.
        op: Op,
        /// The argument.
        unknown: String,
    },
    /// An argument of logs that is wrong.
    #[error(transparent)]
    Logs(#[from] LogSliceError),
    /// It would be good for longer than the contract allows.
    #[error("expected a command that expires within {} s, got one of {seconds} s", MAX_COMMAND_LIFETIME.as_secs())]
    Lifetime {
        /// For how long.
        seconds: u64,
    },
    /// A result or reason that is too long.
    #[error("expected {what} of at most {most} bytes, got {bytes}")]
    End {
        /// Which of them.
        what: &'static str,
        /// The limit.
        most: usize,
        /// Its length.
        bytes: usize,
    },
}

/// `to/cmd/{op}/{cmd_id}` and `to/estop`: sent again until the robot has accepted it, and after each
/// birth until it has ended. The robot does it at most once, whatever comes how often.
///
/// It is judged by the relay's clock alone: the envelope says when it was sent, `expires_at` until when
/// it may be accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Command {
    /// Which command; also the last level of its topic.
    pub id: Uuid,
    /// What to do.
    pub op: Op,
    /// With what; at most [`MAX_ARGUMENTS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: Arguments,
    /// When somebody asked for it.
    pub issued_at: Timestamp,
    /// A robot that has not accepted it by then never does.
    pub expires_at: Timestamp,
    /// Who asked for it.
    pub by: String,
}

impl Command {
    /// Checks what the type cannot say.
    ///
    /// # Errors
    /// When its arguments are not those of its operation, or it is good for too long.
    pub fn check(&self) -> Result<(), CommandError> {
        let lifetime = self.expires_at.since(self.issued_at);
        if lifetime > MAX_COMMAND_LIFETIME {
            return Err(CommandError::Lifetime {
                seconds: lifetime.as_secs(),
            });
        }
        self.op.check(&self.arguments)
    }
}

/// `from/cmd/{cmd_id}`, QoS 1: how far a command is. Said at each step, and again whenever the command
/// comes again. The last two are ends: nothing follows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum CommandStatus {
    /// It is on the robot's disk, and will be done or fail.
    Accepted,
    /// It has begun.
    Running,
    /// It is done.
    Successful {
        /// What it brought; at most [`MAX_RESULT_BYTES`] as JSON.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        result: Arguments,
    },
    /// It is not done, or it is not known whether it is.
    Failed {
        /// Why, for people; at most [`MAX_REASON_BYTES`].
        reason: String,
    },
}

impl CommandStatus {
    /// The end that an execution came to, cut to what the contract allows.
    #[must_use]
    pub fn end(outcome: Result<Arguments, String>) -> Self {
        match outcome {
            Ok(result) if bytes(&result) > MAX_RESULT_BYTES => Self::Successful {
                result: Arguments::from([("left_out_bytes".to_owned(), bytes(&result).into())]),
            },
            Ok(result) => Self::Successful { result },
            Err(mut reason) => {
                reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
                Self::Failed { reason }
            }
        }
    }

    /// The state without its details.
    #[must_use]
    pub fn state(&self) -> CommandState {
        match self {
            Self::Accepted => CommandState::Accepted,
            Self::Running => CommandState::Running,
            Self::Successful { .. } => CommandState::Successful,
            Self::Failed { .. } => CommandState::Failed,
        }
    }

    /// Checks what the type cannot say.
    ///
    /// # Errors
    /// When a result or reason is too long.
    pub fn check(&self) -> Result<(), CommandError> {
        let (what, most, bytes) = match self {
            Self::Successful { result } => ("a result", MAX_RESULT_BYTES, bytes(result)),
            Self::Failed { reason } => ("a reason", MAX_REASON_BYTES, reason.len()),
            Self::Accepted | Self::Running => return Ok(()),
        };
        if bytes > most {
            return Err(CommandError::End { what, most, bytes });
        }
        Ok(())
    }
}

/// Where a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum CommandState {
    /// The robot has not accepted it.
    Pending,
    /// The robot has it on its disk.
    Accepted,
    /// It has begun.
    Running,
    /// It is done.
    Successful,
    /// It is not done, or it is not known whether it is.
    Failed,
}

impl CommandState {
    /// Whether nothing follows.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Successful | Self::Failed)
    }

    /// The state as the wire spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Successful => "successful",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for CommandState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments(value: Value) -> Arguments {
        serde_json::from_value(value).unwrap()
    }

    fn refused(op: Op, value: Value) -> String {
        op.check(&arguments(value)).unwrap_err().to_string()
    }

    #[test]
    fn operations_are_spelled_as_serde_spells_them() {
        for op in Op::ALL {
            assert_eq!(serde_json::to_value(op).unwrap(), op.as_str());
            assert_eq!(op.as_str().parse(), Ok(op));
        }
        assert_eq!(
            "fly".parse::<Op>().unwrap_err().to_string(),
            "expected an operation such as ping or restart_service, got \"fly\""
        );
    }

    #[test]
    fn arguments_are_those_of_the_operation() {
        for (op, value) in [
            (Op::Ping, json!({})),
            (Op::RestartService, json!({ "unit": "a.service" })),
            (Op::RunAction, json!({ "action": "wave", "times": 3 })),
        ] {
            assert_eq!(op.check(&arguments(value)), Ok(()), "{op}");
        }
        assert_eq!(
            refused(Op::Reboot, json!({ "when": "now" })),
            "expected no argument \"when\" of reboot"
        );
        assert_eq!(
            refused(Op::RestartService, json!({})),
            "expected restart_service with a text as unit, got none"
        );
        assert_eq!(
            refused(Op::RestartService, json!({ "unit": 3 })),
            "expected restart_service with a text as unit, got none"
        );
        assert_eq!(
            refused(
                Op::RestartService,
                json!({ "unit": "a.service", "now": true })
            ),
            "expected no argument \"now\" of restart_service"
        );
        assert_eq!(
            refused(Op::RunAction, json!({ "times": 3 })),
            "expected run_action with a text as action, got none"
        );
        assert_eq!(
            refused(Op::RunAction, json!({ "action": "x".repeat(5000) })),
            "expected at most 32 arguments in 4096 bytes, got 1 in 5013"
        );
    }

    #[test]
    fn a_command_is_not_good_for_ever() {
        let mut command = Command {
            id: Uuid::nil(),
            op: Op::Ping,
            arguments: Arguments::new(),
            issued_at: Timestamp::from_ms(1000),
            expires_at: Timestamp::from_ms(1000).plus(MAX_COMMAND_LIFETIME),
            by: "admin".to_owned(),
        };
        assert_eq!(command.check(), Ok(()));
        command.issued_at = Timestamp::from_ms(0);
        assert_eq!(
            command.check().unwrap_err().to_string(),
            "expected a command that expires within 604800 s, got one of 604801 s"
        );
    }

    #[test]
    fn ends_keep_the_bounds() {
        let reason = format!("{}é", "x".repeat(MAX_REASON_BYTES - 1));
        let end = CommandStatus::end(Err(reason.clone()));
        assert_eq!(end.check(), Ok(()));
        assert_eq!(end.state(), CommandState::Failed);
        assert_eq!(
            CommandStatus::Failed { reason }
                .check()
                .unwrap_err()
                .to_string(),
            "expected a reason of at most 1024 bytes, got 1025"
        );
        let large = arguments(json!({ "output": "x".repeat(MAX_RESULT_BYTES) }));
        let end = CommandStatus::end(Ok(large.clone()));
        assert_eq!(
            serde_json::to_value(&end).unwrap(),
            json!({ "state": "successful", "result": { "left_out_bytes": 2061 } })
        );
        assert_eq!(
            CommandStatus::Successful { result: large }
                .check()
                .unwrap_err()
                .to_string(),
            "expected a result of at most 2048 bytes, got 2061"
        );
    }
}
