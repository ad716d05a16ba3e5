//! The payloads of the contract, one type a message. Each has a JSON schema, checked in below
//! `protocol/schemas/` for consumers in other languages.

mod ack;
pub mod command;
mod connection;
mod event;
mod factsheet;
mod registration;
mod relay;
mod state;
mod telemetry;

pub use ack::{Ack, SeqRange, ranges};
pub use command::{Arguments, Command, CommandState, CommandStatus, Op};
pub use connection::{Connection, ConnectionState, Heartbeat};
pub use event::{Dropped, Event, EventBatch, kind};
pub use factsheet::{Factsheet, Hardware, Identification, Identified, RunnerUp, UNKNOWN_PROFILE};
pub use registration::{Registration, RegistrationStatus};
pub use relay::RelayBirth;
pub use state::{
    Activity, Deployment, Failing, Network, OperatingMode, RobotHealth, SetupStatus, State,
    Teleoperation,
};
pub use telemetry::{Metrics, Telemetry, TelemetryError, metric};
