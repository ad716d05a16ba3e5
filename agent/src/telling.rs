//! `lekiwi-agent report`, `follow`, `reload` and `renew`: what people and scripts say to the running agent.

use std::io::Write;
use std::path::Path;

use clap::Subcommand;
use lekiwi_agent::ipc::{
    self, Battery, IpcError, Metric, Operator, Reload, Renew, Report, Request, Topic,
};
use lekiwi_protocol::message::{OperatingMode, SourceKind};
use serde_json::Value;

use crate::{ExitCode, Failure, failed, print};

/// What can be reported.
#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// How the battery is
    Battery {
        /// Its charge, 0 to 100
        percent: f64,
        /// Its voltage
        #[arg(long)]
        volts: Option<f64>,
        /// Whether it is being charged: true or false
        #[arg(long)]
        charging: Option<bool>,
    },
    /// Who is in charge: startup, automatic, semiautomatic, intervened, manual, service or teach_in
    Mode {
        /// In the words of VDA5050
        mode: String,
    },
    /// Who drives the robot; nobody, when no id is given
    Operator {
        /// A name or a number
        id: Option<String>,
    },
    /// A number of the robot's own
    Metric {
        /// Such as custom.gripper_n
        name: String,
        /// Its value
        #[arg(allow_negative_numbers = true)]
        value: f64,
    },
    /// Something that happened; prints its number
    Event {
        /// Such as custom.bumped
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Details, as JSON
        data: Option<String>,
    },
}

impl What {
    fn request(&self) -> Result<Request, Failure> {
        Ok(match self {
            Self::Battery {
                percent,
                volts,
                charging,
            } => Request::Battery(Battery {
                percent: *percent,
                volts: *volts,
                charging: *charging,
            }),
            Self::Mode { mode } => Request::Mode(operating_mode(mode)?),
            Self::Operator { id } => Request::Operator(id.clone().map(|id| Operator {
                id,
                address: None,
                commands: 0,
                source_kind: SourceKind::default(),
            })),
            Self::Metric { name, value } => Request::Metric(Metric {
                name: name.clone(),
                value: *value,
            }),
            Self::Event { kind, data } => Request::Event(Report {
                kind: kind.clone(),
                data: data.as_deref().map_or(Ok(Value::Null), details)?,
            }),
        })
    }
}

fn operating_mode(mode: &str) -> Result<OperatingMode, Failure> {
    serde_json::from_value(mode.to_uppercase().into()).map_err(|_| {
        wrong(format!(
            "expected startup, automatic, semiautomatic, intervened, manual, service or teach_in, got {mode:?}"
        ))
    })
}

fn details(data: &str) -> Result<Value, Failure> {
    serde_json::from_str(data)
        .map_err(|error| wrong(format!("expected details as JSON, got {data:?}: {error}")))
}

fn wrong(message: String) -> Failure {
    Failure {
        code: ExitCode::Usage,
        message,
        hint: None,
    }
}

/// Reports one thing.
pub(crate) async fn report(socket: &Path, what: &What) -> Result<(), Failure> {
    let answer = ipc::say(socket, &what.request()?)
        .await
        .map_err(|error| unheard(&error))?;
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    if let Some(seq) = answer["seq"].as_u64() {
        print(&seq.to_string());
    }
    Ok(())
}

/// Prints what the agent tells, a line each, until it ends or nobody reads.
pub(crate) async fn follow(socket: &Path, topics: &[String]) -> Result<(), Failure> {
    let topics: Vec<Topic> = match topics {
        // Who listens to control is counted as somebody who is told of stops.
        [] => vec![Topic::State],
        topics => [Topic::State, Topic::Control]
            .into_iter()
            .filter(|topic| topics.iter().any(|chosen| chosen == topic.as_str()))
            .collect(),
    };
    let print = |line: &str| writeln!(std::io::stdout().lock(), "{line}").is_ok();
    ipc::follow(socket, &topics, print)
        .await
        .map_err(|error| unheard(&error))
}

/// Has the configuration read again.
pub(crate) async fn reload(socket: &Path) -> Result<(), Failure> {
    let answer = ipc::say(socket, &Request::Reload(Reload::Configuration))
        .await
        .map_err(|error| match error {
            IpcError::Refused(message) => Failure {
                code: ExitCode::Config,
                message,
                hint: Some("the configuration stays as it was".to_owned()),
            },
            error => unheard(&error),
        })?;
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    let waiting = answer["waiting"].as_array().cloned().unwrap_or_default();
    let waiting: Vec<&str> = waiting.iter().filter_map(Value::as_str).collect();
    match waiting[..] {
        [] => print("the configuration is in force"),
        _ => print(&format!(
            "the configuration is in force, but for {}: `systemctl restart lekiwi-agent`",
            waiting.join(", ")
        )),
    }
    Ok(())
}

/// Has the next certificate asked for.
pub(crate) async fn renew(socket: &Path) -> Result<(), Failure> {
    ipc::say(socket, &Request::Renew(Renew::Certificate))
        .await
        .map_err(|error| unheard(&error))?;
    print("the relay is asked for the next certificate; `lekiwi-agent status` says when it counts");
    Ok(())
}

/// The agent does not run, or does not want to hear it.
pub(crate) fn unheard(error: &IpcError) -> Failure {
    match error {
        IpcError::Refused(_) => failed(ExitCode::Failure, error),
        _ => {
            let start = "start it with `systemctl start lekiwi-agent` or `lekiwi-agent run`";
            let failure = failed(ExitCode::Unavailable, error);
            Failure {
                // It may run, and not be for this user.
                hint: failure.hint.or_else(|| Some(start.to_owned())),
                ..failure
            }
        }
    }
}
