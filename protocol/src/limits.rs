//! The contract's numbers, with the reason for each.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Largest MQTT payload, in bytes, that a relay takes or a robot sends. Larger things go over HTTPS.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;
/// Time between two heartbeats of a robot.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// Silence after which a robot that never said goodbye is shown as stale: 2.5 heartbeats.
pub const STALE_AFTER: Duration = Duration::from_millis(75_000);
/// MQTT keep-alive. A broker notices a dead link after 1.5 times this.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Cap of the reconnect backoff (full jitter below it).
pub const MAX_BACKOFF: Duration = Duration::from_secs(15);
/// Most metrics in one telemetry message.
pub const MAX_METRICS: usize = 256;
/// Most members of one family of metrics (cores, interfaces, zones, services) that a robot measures; what
/// local programs report has a limit of its own.
pub const MAX_FAMILY: usize = 16;
/// Most different metrics of one robot that a relay keeps history of, names that are gone included.
pub const MAX_HISTORY_METRICS: usize = 512;
/// Most interfaces that a robot names.
pub const MAX_INTERFACES: usize = 16;
/// Most events in one message.
pub const MAX_EVENTS_PER_MESSAGE: usize = 100;
/// Most late samples in one message.
pub const MAX_SAMPLES_PER_MESSAGE: usize = 100;
/// Most ranges in one acknowledgement; the rest follows in the next one.
pub const MAX_ACK_RANGES: usize = 500;
/// Longest robot id: an RFC 1123 host label.
pub const MAX_ROBOT_ID_BYTES: usize = 63;
/// Longest metric name.
pub const MAX_METRIC_NAME_BYTES: usize = 64;
/// Most metrics of their own that a robot's local programs may report.
pub const MAX_CUSTOM_METRICS: usize = 32;
/// Life of an enrolment token when its maker names none.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Most keys that one enrolment token lets in: a large batch of a factory line.
pub const MAX_TOKEN_USES: u32 = 10_000;
/// Life of a command when nobody says one.
pub const COMMAND_LIFETIME: Duration = Duration::from_secs(60);
/// Longest life of a command: a robot that is away for a week is told anew.
pub const MAX_COMMAND_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most commands of one robot that have not ended.
pub const MAX_OPEN_COMMANDS: usize = 32;
/// Most arguments of one command.
pub const MAX_ARGUMENTS: usize = 32;
/// Most bytes of a command's arguments, as JSON.
pub const MAX_ARGUMENT_BYTES: usize = 4096;
/// Most bytes of what a successful command brought, as JSON.
pub const MAX_RESULT_BYTES: usize = 2048;
/// Most bytes of the reason of a failed command.
pub const MAX_REASON_BYTES: usize = 1024;
/// Most rules of alerts: each costs memory on every robot that it is about.
pub const MAX_ALERT_RULES: usize = 64;
/// Most silences that have not ended.
pub const MAX_SILENCES: usize = 200;
/// Longest time that a rule may look at, or a silence last.
pub const MAX_ALERT_TIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most events that a rule may count: their times are kept of each robot.
pub const MAX_ALERT_EVENTS: u16 = 100;
/// Most bytes of what people say about alerts.
pub const MAX_SUMMARY_BYTES: usize = 200;
/// Longest pattern of names.
pub const MAX_PATTERN_BYTES: usize = 64;
/// Most patterns of one kind, of one rule or silence.
pub const MAX_PATTERNS: usize = 32;
/// Levels of lists and objects in the data of an event.
pub const MAX_DATA_DEPTH: usize = 32;
/// Size of collected logs, compressed, when nobody says one.
pub const LOG_BYTES: u64 = 4 * 1024 * 1024;
/// Smallest such size: below it there is hardly anything to read.
pub const MIN_LOG_BYTES: u64 = 16 * 1024;
/// Largest such size: minutes on a mobile network, and a tolerable part of a small card.
pub const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;
/// Most units whose logs are collected at a time.
pub const MAX_LOG_UNITS: usize = 8;
/// Most bytes of a robot's list of installed packages: some ten times what a desktop with ROS has.
pub const MAX_PACKAGES_BYTES: u64 = 1024 * 1024;
/// Longest time that an action of a profile may take.
pub const MAX_ACTION_TIME: Duration = Duration::from_secs(3600);
/// Most bytes of the settings that operators want a robot to have, as JSON.
pub const MAX_SETTINGS_BYTES: usize = 16 * 1024;
/// Seconds between two heartbeats, as a configuration may have them.
pub const HEARTBEAT_S: RangeInclusive<u64> = 1..=3600;
/// Seconds between two looks at the sensors, as a configuration may have them.
pub const SAMPLE_S: RangeInclusive<u64> = 1..=600;
/// Seconds in a rule of a metric, as a configuration may have them.
pub const METRIC_S: RangeInclusive<u64> = 1..=86_400;
/// Time for which a robot tries new settings without the relay's confirmation, when nobody says one.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(60);
/// Longest such time.
pub const MAX_CONFIRM_WITHIN: Duration = Duration::from_secs(3600);
/// Life of a robot's certificate (H9).
pub const ROBOT_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Most ports that a profile's teleoperation may have: the kernel's filter for them stays small.
pub const MAX_TELEOP_PORTS: usize = 16;
/// Most ROS 2 topics that a profile's teleoperation may have.
pub const MAX_ROS_TOPICS: usize = 8;
/// The share of traces that is kept when a configuration does not say another one.
pub const TRACES_SHARE: f64 = 0.01;
/// Longest document that the owner of a fleet signs.
pub const MAX_DOCUMENT_BYTES: usize = 32 * 1024;
/// Most signatures of one document: those of two roots.
pub const MAX_SIGNATURES: usize = 2 * MAX_KEYS;
/// Longest signature, comments included.
pub const MAX_SIGNATURE_BYTES: usize = 2048;
/// Most keys of one role.
pub const MAX_KEYS: usize = 8;
/// Most roots that come with a statement: a robot that missed more needs another image.
pub const MAX_ROOTS: usize = 16;
/// Most bytes of a proof that comes with a configuration, as JSON; the settings and the rest of the message fit beside it.
pub const MAX_PROOF_BYTES: usize = 40 * 1024;
/// Most artefacts of one version.
pub const MAX_ARTEFACTS: usize = 128;
/// Longest name of an artefact.
pub const MAX_ARTEFACT_NAME_BYTES: usize = 128;
