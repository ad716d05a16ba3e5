//! The payloads of the contract, one type a message. Each has a JSON schema, checked in below
//! `protocol/schemas/` for consumers in other languages.

mod ack;
mod backlog;
pub mod command;
mod configuration;
mod connection;
mod event;
mod factsheet;
mod logs;
pub mod metric;
mod priority;
mod registration;
mod relay;
mod service;
mod settings;
mod state;
mod telemetry;
mod teleoperation;

pub use ack::{Ack, SeqRange, ranges};
pub use backlog::{Backlog, BacklogError, LateSample, Thinned};
pub use command::{Arguments, Command, CommandState, CommandStatus, Op};
pub use configuration::{ConfigurationError, ConfigurationState, Desired, Reported, Settings};
pub use connection::{Connection, ConnectionState, Heartbeat};
pub use event::{Dropped, Event, EventBatch, kind};
pub use factsheet::{Factsheet, Hardware, Identification, Identified, RunnerUp, UNKNOWN_PROFILE};
pub use logs::{LogSlice, LogSliceError, Moment};
pub use priority::Priority;
pub use registration::{Registration, RegistrationStatus};
pub use relay::RelayBirth;
pub use service::{
    Service, ServiceChanged, ServiceFlapping, ServiceKind, ServiceState, ServiceSteady,
};
pub use settings::{SettingError, check_settings};
pub use state::{
    Activity, BatteryStatus, Deployment, Failing, Flag, InstalledPackages, Interface, Network,
    OperatingMode, PackageList, RobotHealth, SetupStatus, State, Teleoperation, Throttling,
    TimeSync,
};
pub use telemetry::{Metrics, Telemetry, TelemetryError};
pub use teleoperation::{
    ControlEvidence, Ended, Evidence, LatencyEvidence, LocalInputEvidence, Operator, OperatorKind,
    SourceKind, StopReason, TeleoperationEvent, VideoEvidence,
};
