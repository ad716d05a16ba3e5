//! Hardware profiles: one YAML file a robot type, in `image/profiles/`, which says how the type is
//! recognised and what it brings along. Pure: read by the agent (detection, setup, health) and the
//! provisioner (images, seeds).
//!
//! Invariant: what [`Profile::parse`] returns has passed every rule of [`Profile::check`].

mod action;
mod check;
mod ros;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer};

pub use crate::id::ProfileName;
use crate::message::metric;
pub use action::{Action, ActionError, Argument, ArgumentKind, StopAction};
pub use ros::{Ros, is_node};

/// The one version of the file that there is.
pub const VERSION: u32 = 1;

/// Where the agent's package puts the profiles.
pub const FOLDER: &str = "/usr/share/lekiwi/profiles";
/// Where profiles of one's own are on a robot; they come before those of the same name in [`FOLDER`].
pub const OWN_FOLDER: &str = "/etc/lekiwi/profiles";

/// A robot type.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// [`VERSION`].
    pub version: u32,
    /// What robots of this type are called; the file's name without `.yml`.
    pub name: ProfileName,
    /// For people.
    pub title: String,
    /// How detection knows it; a type without it is only ever configured.
    pub recognise: Option<Recognise>,
    /// Labels of every robot of this type.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Unix groups that the robot's user and services need.
    #[serde(default)]
    pub groups: Vec<String>,
    /// udev rules, as the file that udev reads.
    #[serde(default)]
    pub device_rules: String,
    /// The robot's own software, installed after registration.
    #[serde(default)]
    pub software: Software,
    /// systemd units that are watched: all must be active in a healthy robot.
    #[serde(default)]
    pub services: Vec<String>,
    /// Processes that are watched: each must run in a healthy robot.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// What else must answer in a healthy robot.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// What of ROS 2 is watched.
    #[serde(default)]
    pub ros: Ros,
    /// What teleoperation of this type looks like from outside.
    #[serde(default)]
    pub teleop: Teleop,
    /// What a robot of this type can be told to do.
    #[serde(default)]
    pub actions: Vec<Action>,
    /// What an emergency stop begins.
    pub stop: Option<StopAction>,
    /// Defaults for what `agent.yml` does not say.
    #[serde(default)]
    pub agent: AgentDefaults,
}

/// What a robot of a type is made of. `servo_buses`, `boards` are required of a robot, the others
/// expected: a difference is said and decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recognise {
    /// The ids of each servo bus. A robot has exactly these buses, in any order.
    pub servo_buses: Vec<Vec<u8>>,
    /// Model number that every servo answers with.
    #[serde(default = "sts3215")]
    pub servo_model: u16,
    /// Board types that it may be: `pi4`, `cm5`, …; any, when empty.
    #[serde(default)]
    pub boards: Vec<String>,
    /// Memory in GiB, as sold.
    pub memory_gb: Option<u32>,
    /// The HAT's product text.
    pub hat: Option<String>,
    /// Cameras.
    #[serde(default)]
    pub cameras: Cameras,
    /// Other USB devices.
    #[serde(default)]
    pub usb: Vec<UsbDevices>,
}

/// A Feetech STS3215.
const fn sts3215() -> u16 {
    777
}

/// Expected cameras.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cameras {
    /// USB cameras that capture, those counted by [`Recognise::usb`] left out.
    pub uvc: Option<u32>,
}

/// Expected USB devices of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsbDevices {
    /// Vendor id, four hex digits.
    pub vendor: String,
    /// Product id, four hex digits; any product of the vendor when absent.
    pub product: Option<String>,
    /// How many.
    #[serde(default = "one")]
    pub count: u32,
    /// What it is, for people.
    pub what: String,
}

const fn one() -> u32 {
    1
}

/// The robot's own software, in the order in which it is installed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Software {
    /// Debian packages.
    #[serde(default)]
    pub apt: Vec<String>,
    /// A Python environment.
    pub python: Option<Python>,
    /// Files, written as they are.
    #[serde(default)]
    pub files: Vec<File>,
    /// systemd units, written to `/etc/systemd/system`, enabled and started.
    #[serde(default)]
    pub units: Vec<Unit>,
}

/// A Python environment with pinned packages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Python {
    /// Where it is made.
    pub venv: String,
    /// The least Python that will do, such as `3.11`.
    pub version: String,
    /// Requirements for pip, each pinned: `name==1.2.3`, with extras if need be.
    pub requirements: Vec<String>,
    /// Folders of repositories that belong into `site-packages`, for software that is not packaged.
    #[serde(default)]
    pub overlays: Vec<Overlay>,
}

/// A folder of a repository at one commit, copied into the environment's `site-packages` after the
/// requirements are installed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// The repository's address, https.
    pub repository: String,
    /// The commit, 40 hex digits.
    pub commit: String,
    /// The folder in the repository.
    pub folder: String,
    /// Where it goes, below `site-packages`.
    pub into: String,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where.
    pub path: String,
    /// Octal mode, such as `0644`.
    #[serde(default = "readable")]
    pub mode: String,
    /// What.
    pub content: String,
}

fn readable() -> String {
    "0644".to_owned()
}

impl File {
    /// The mode as a number.
    #[must_use]
    pub fn mode_bits(&self) -> u32 {
        u32::from_str_radix(&self.mode, 8).unwrap_or(0o644)
    }
}

/// A systemd unit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// Its file's name, such as `lekiwi-host.service`.
    pub name: String,
    /// The file.
    pub content: String,
}

/// A process that no unit stands for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// What it is, for people.
    pub name: String,
    /// Its command line, the arguments separated by single spaces; `*` stands for anything.
    pub pattern: String,
}

/// Something that must answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What it is, for people.
    pub name: String,
    /// `HOST:PORT` that must take a connection.
    pub tcp: Option<String>,
    /// `http://HOST:PORT/PATH` that must answer with 2xx.
    pub http: Option<String>,
    /// Path of a Unix socket that must take a connection.
    pub unix: Option<String>,
    /// Time between two looks, s.
    #[serde(default = "ten")]
    pub every_s: u64,
    /// How long an answer may take, s.
    #[serde(default = "three")]
    pub timeout_s: u64,
}

const fn ten() -> u64 {
    10
}

const fn three() -> u64 {
    3
}

/// How a [`Check`] is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe<'a> {
    /// Connect to `HOST:PORT`.
    Tcp(&'a str),
    /// Ask for a page.
    Http(&'a str),
    /// Connect to a Unix socket.
    Unix(&'a str),
}

impl Check {
    /// The one way that is given; `None` when there is none or more than one, which no checked profile
    /// has.
    #[must_use]
    pub fn probe(&self) -> Option<Probe<'_>> {
        match (&self.tcp, &self.http, &self.unix) {
            (Some(address), None, None) => Some(Probe::Tcp(address)),
            (None, Some(address), None) => Some(Probe::Http(address)),
            (None, None, Some(path)) => Some(Probe::Unix(path)),
            _ => None,
        }
    }
}

/// What teleoperation looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teleop {
    /// Listening TCP ports by role.
    #[serde(default)]
    pub ports: Vec<TeleopPort>,
    /// Whether gamepads and keyboards at the robot drive it.
    #[serde(default)]
    pub local_input: bool,
    /// ROS 2 topics with commands, of any type; seen by the agent's variant for ROS 2.
    #[serde(default)]
    pub ros_topics: Vec<String>,
    /// ROS 2 nodes that write there without a person, named as in [`Ros::nodes`]; those of Nav2 by default.
    #[serde(default = "ros::autonomous_nodes")]
    pub autonomous_nodes: Vec<String>,
    /// ROS 2 nodes that write there for their clients; rosbridge and Foxglove's by default.
    #[serde(default = "ros::bridge_nodes")]
    pub bridge_nodes: Vec<String>,
}

/// A TCP port that teleoperation uses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeleopPort {
    /// The port.
    pub port: u16,
    /// What flows there.
    pub role: PortRole,
    /// Whose it is, for people.
    pub what: String,
}

/// What flows through a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortRole {
    /// Commands in.
    Control,
    /// Observations out.
    Observation,
    /// Pictures out.
    Video,
    /// A page or a page's signalling: a visitor, no driver.
    Page,
}

/// Defaults for what `agent.yml` does not say.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentDefaults {
    /// Rules by metric.
    #[serde(default)]
    pub metrics: MetricRules,
}

/// Rules by metric, as written.
pub type MetricRules = BTreeMap<MetricKey, MetricRule>;

/// What a rule is for: a metric (`cpu_percent`), a family (`cpu_percent.*`), or one of a family
/// (`cpu_percent.0`), which comes before its family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricKey(String);

impl MetricKey {
    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one of [`metric::KEYS`] that it is, or is of.
    #[must_use]
    pub fn general(&self) -> &'static str {
        metric::key_of(&self.0).unwrap_or_default()
    }
}

impl std::borrow::Borrow<str> for MetricKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for MetricKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = MetricKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a metric")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MetricKey, E> {
                match metric::key_of(text) {
                    Some(_) => Ok(MetricKey(text.to_owned())),
                    None => Err(E::unknown_field(text, &metric::KEYS)),
                }
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// When a metric is worth a message. What is absent is the agent's own default.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricRule {
    /// Least change that is worth one.
    pub deadband: Option<f64>,
    /// Least time between two, s.
    pub min_interval_s: Option<u64>,
    /// Most time between two, s.
    pub keep_alive_s: Option<u64>,
    /// Above it, an alert is raised at once.
    pub alert_above: Option<f64>,
    /// Below it, an alert is raised at once; a metric has one of the two.
    pub alert_below: Option<f64>,
    /// Back here, the alert is over.
    pub alert_clear: Option<f64>,
}

/// Why there is no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Not of the shape of a profile.
    #[error(transparent)]
    Syntax(#[from] crate::yaml::YamlError),
    /// A value that cannot be.
    #[error("{key} in {origin}: {reason}")]
    Value {
        /// The key's path, such as `software.files[0].mode`.
        key: String,
        /// The file.
        origin: String,
        /// What was expected and what came.
        reason: String,
    },
}

impl ProfileError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax(error) => error.hint(),
            Self::Value { .. } => None,
        }
    }
}

impl Profile {
    /// Reads and checks `text`; `origin` is how errors call it.
    ///
    /// # Errors
    /// When something in the text is wrong.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ProfileError> {
        let profile: Self = crate::yaml::parse(text, origin)?;
        profile.check(origin)?;
        Ok(profile)
    }
}
