//! Bodies of the relay's HTTP interface, shared by the relay and its clients. Routes and their
//! permissions are the relay's (`relay/src/http/routes.rs`).

mod alerts;
mod audit;
mod bans;
mod commands;
mod configuration;
mod connections;
mod discovered;
mod factor;
mod gateway;
mod identities;
mod keys;
mod logs;
mod packages;
mod people;
mod telemetry;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{ConsumerName, RobotId};
use crate::message::{
    Activity, BatteryStatus, ConnectionState, Deployment, Factsheet, Metrics, Network,
    OperatingMode, RegistrationStatus, RobotHealth, Service, Teleoperation, Throttling, TimeSync,
};
use crate::timestamp::Timestamp;
pub use alerts::{
    AcknowledgeRequest, AlertEntry, AlertHistory, AlertList, AlertNotification, DELIVERY_HEADER,
    RuleList, RuleOrigin, RuleView, SIGNATURE_HEADER, SilenceList, SilenceRequest,
    TIMESTAMP_HEADER,
};
pub use audit::{AuditCheckpoint, AuditEntry, AuditPage};
pub use bans::{Ban, BanList};
pub use commands::{CommandList, CommandRequest, CommandView};
pub use configuration::{
    ConfigurationRequest, ConfigurationStatus, ConfigurationView, DesiredView, RollbackRequest,
};
pub use connections::{ConnectionKind, ConnectionList, ConnectionView};
pub use discovered::{Discovered, DiscoveredRobot, SeenByDhcp, Watch};
pub use factor::{
    Invitation, InvitationCreated, InvitationList, InvitationRequest, InvitationState, Join,
    Joined, RecoveryCodes, TotpCode, TotpEnd, TotpRequest, TotpSecret,
};
pub use gateway::{
    ClientMessage, Filter, RelayMessage, Subscribe, Summary, Throttle, ThrottleMode, Watchers,
};
pub use identities::{
    CertificateView, IdentityKind, IdentityList, IdentityRevoked, IdentityState, IdentityView,
};
pub use keys::{API_KEY, KeyCreated, KeyInfo, KeyList, KeyRequest, RotationRequest};
pub use logs::{LogList, LogView, PIECE_TYPE, REPR_DIGEST, UPLOAD_LENGTH, UPLOAD_OFFSET};
pub use packages::{PackageView, PackagesView};
pub use people::{
    Grant, Group, GroupList, GroupRequest, Loan, LoanList, LoanRequest, Me, NewPassword,
    PasswordChange, Person, PersonChange, PersonList, PersonRequest, RightView, SessionList,
    SessionView,
};
pub use telemetry::{Aggregate, AggregateError, Resolution, TelemetryHistory, TelemetrySeries};

/// `GET /api/v1/robots`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RobotList {
    /// All robots, by id.
    pub robots: Vec<RobotView>,
    /// The event log's position that this answer includes.
    pub position: u64,
    /// The relay's time.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub now: Timestamp,
}

/// `GET /api/v1/robots/{id}`: the state model H2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RobotView {
    /// The robot.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: RobotId,
    /// The hardware profile it was enrolled or reported under: `lekiwi`, `xle`, …
    #[serde(rename = "type")]
    pub robot_type: String,
    /// Whether and when it was heard.
    pub status: Status,
    /// Whether it takes part.
    #[serde(default)]
    pub registration: Registration,
    /// The certificate that it has in use; absent while none counts, and where this is of the past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
    /// What it is; absent until it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factsheet: Option<Factsheet>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What runs on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// Who is in charge of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operating_mode: Option<OperatingMode>,
    /// Who drives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teleoperation: Option<Teleoperation>,
    /// Whether its own software is there and works; absent until it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<RobotHealth>,
    /// What its services, processes and checks do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// What happens to its battery, where it has one; the charge is among the resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub battery: Option<BatteryStatus>,
    /// What its board complains of, where that says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttling: Option<Throttling>,
    /// Whether its clock is set from the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<TimeSync>,
    /// Which configuration it should have, and has; absent while nobody wanted one and it said nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,
    /// Newest value of each metric.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, f64>))]
    pub resources: Metrics,
    /// When the relay received the newest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub resources_at: Option<Timestamp>,
    /// How far each kind of knowledge may be relied on; absent where it is of the past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
    /// Of which moment this is; absent in an answer of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<AsOf>,
}

/// The cache policies of the state model (H3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Freshness {
    /// `factsheet`: until the log tells of a restart or another board.
    pub hardware: Fresh,
    /// `network`: for an hour, or until the robot has another session.
    pub network: Fresh,
    /// `resources`: for 30 s after the last of them.
    pub telemetry: Fresh,
    /// `deployment`: for five minutes.
    pub deployment: Fresh,
}

/// How far one kind of knowledge may be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fresh {
    /// When it was last known to be so, by the relay's receive time; absent when it never was. What a robot says at
    /// once when it changes is known to be so whenever the robot is heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub as_of: Option<Timestamp>,
    /// It may be otherwise by now.
    pub stale: bool,
}

/// A moment of the past. What the log says is as of its position: `registration`, `configuration.desired`, and
/// `status` but for `uptime_s`. Everything else is what the robot had said when the relay last took a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AsOf {
    /// The event log's position.
    pub position: u64,
    /// When that picture was taken; absent when there is none of that time, and only the log speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub picture_at: Option<Timestamp>,
}

/// Presence, by the relay's receive time, never by the robot's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Status {
    /// Connected, and heard of within 2.5 heartbeats.
    pub online: bool,
    /// Connected, but silent for longer.
    pub stale: bool,
    /// The last birth or death.
    pub connection: ConnectionState,
    /// When the relay last received anything from it; absent when it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_seen: Option<Timestamp>,
    /// When it got its first certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub registered_at: Option<Timestamp>,
    /// Seconds since the robot booted, as of `last_seen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
}

/// Whether a robot takes part in the fleet: only what registered robots say reaches anybody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Registration {
    /// Where it stands.
    pub status: RegistrationStatus,
    /// Why it is in quarantine or was rejected, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
    /// Who approved it; absent where nobody had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// The hardware profile that its token or an approval named; absent where neither did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The serial number of its board; absent until it said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What it said of itself when it was let in. It is judged again once it says something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Claim>,
}

/// What a robot says that it is. Empty where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Claim {
    /// Hardware profile.
    pub profile: String,
    /// Board serial number.
    pub serial: String,
}

impl From<&Factsheet> for Claim {
    fn from(factsheet: &Factsheet) -> Self {
        Self {
            profile: factsheet.profile.clone(),
            serial: factsheet.hardware.serial.clone(),
        }
    }
}

/// `POST /api/v1/robots/{id}/approve`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// The hardware profile to take it as; when absent, the one that it or its token named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// One entry of the event log (H3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventRecord {
    /// Place in the log; ascending, never reused.
    pub position: u64,
    /// `robot`, …
    pub aggregate_type: String,
    /// The robot's id.
    pub aggregate_id: String,
    /// Who numbered it: a robot's id, or `relay:` and a relay's id (no robot's id has a colon).
    pub source: String,
    /// The stream its number counts in.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub stream: Uuid,
    /// Number within the stream.
    pub seq: u64,
    /// What happened: see [`crate::message::kind`].
    #[serde(rename = "type")]
    pub kind: String,
    /// When, by the source's clock.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub timestamp: Timestamp,
    /// Details, by type.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: serde_json::Value,
    /// `received_at`, and later user, correlation and causation ids.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub metadata: serde_json::Value,
}

/// `GET /api/v1/robots/{id}/events?after=&limit=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventPage {
    /// Ascending by position.
    pub events: Vec<EventRecord>,
    /// Pass it as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
}

/// `POST /api/v1/session`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// What the authenticator of somebody who has one shows, or one of their recovery codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totp: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The answer to a [`Login`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// Goes into `Authorization: Bearer …`.
    pub token: String,
    /// When it stops being taken.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// `POST /api/v1/tokens`: an enrolment token, good for `max_uses` keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Only for this hardware profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Only for the machine with this serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Only for this robot id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub robot_id: Option<RobotId>,
    /// Seconds until it expires; the default is [`crate::limits::TOKEN_LIFETIME`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 31622400))]
    pub lifetime_s: Option<u64>,
    /// How many keys may use it, 1 to [`crate::limits::MAX_TOKEN_USES`]; one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10000))]
    pub max_uses: Option<u32>,
}

/// The answer to a [`TokenRequest`]: the only time the secret is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenCreated {
    /// The secret, `lkt_…`.
    pub token: String,
    /// What it is from now on.
    pub info: TokenInfo,
}

/// `GET /api/v1/tokens`: an enrolment token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenInfo {
    /// Its handle.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub id: Uuid,
    /// Only for this hardware profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Only for the machine with this serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Only for this robot id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub robot_id: Option<RobotId>,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it stops being taken.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
    /// How many keys may use it.
    #[serde(default = "one")]
    pub max_uses: u32,
    /// How many keys have used it.
    #[serde(default)]
    pub uses: u32,
    /// When the first key used it; absent while it is fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub used_at: Option<Timestamp>,
    /// Which robot used it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub used_by: Option<RobotId>,
}

/// What relays before `max_uses` meant.
fn one() -> u32 {
    1
}

/// `GET /api/v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenList {
    /// Newest first.
    pub tokens: Vec<TokenInfo>,
}

/// `POST /api/v1/consumers`: a read-only broker certificate. The key stays with who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ConsumerRequest {
    /// Its name; the certificate's CN is `consumer:<name>`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: ConsumerName,
    /// PKCS#10 as PEM.
    pub csr_pem: String,
    /// What consumers of this name may read from now on, as filters below `{prefix}/v1/{org}/` such as `robots/kiwi-01/from/#`,
    /// `robots/+/from/telemetry` or `alerts/+`; everything when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<String>,
    /// Days until the certificate expires; 90 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 825))]
    pub lifetime_days: Option<u16>,
}

/// The answer to a [`ConsumerRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConsumerCreated {
    /// The certificate as PEM.
    pub certificate_pem: String,
    /// The authority as PEM.
    pub ca_pem: String,
    /// The certificate's serial number, hex.
    pub serial: String,
    /// When it expires.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
    /// `host:port` of the broker.
    pub mqtt: String,
    /// A filter that this certificate may subscribe to.
    pub filter: String,
}

/// `GET /api/v1/refused`: messages that were refused, kept for inspection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RefusedList {
    /// Newest first.
    pub refused: Vec<Refused>,
}

/// One refused message or connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Refused {
    /// When the relay received it.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub received_at: Timestamp,
    /// The certificate's common name, where there was one.
    pub client: String,
    /// The topic or filter; empty for a connection.
    pub topic: String,
    /// What was expected and what came.
    pub reason: String,
    /// The start of the payload, as text where it is text.
    pub payload: String,
    /// The payload's whole length in bytes.
    pub payload_bytes: u64,
}

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// `ok`, or `degraded` with HTTP 503.
    pub status: HealthStatus,
    /// What is wrong, a sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The relay's version.
    pub version: String,
    /// Seconds since the relay started.
    pub uptime_s: u64,
}

/// Whether the relay does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// All of it.
    Ok,
    /// Some of it.
    Degraded,
}

/// `GET /ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Readiness {
    /// Whether the relay takes robots and answers for them; HTTP 503 otherwise.
    pub ready: bool,
    /// What is missing, a sentence each.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// An RFC 9457 problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// Stable name, `urn:lekiwi:problem:…`.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// The same for people.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This occurrence: what was expected and what came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A message of the live stream (`GET /api/v1/stream`, `GET /api/v1/ws`): the envelope of H4.
/// `type` is `heartbeat`, `telemetry`, `command`, `response`, `state`, `factsheet`, `connection`, `presence`, or an
/// event's type such as `robot.connected`; `payload` is the robot's own, or an [`EventRecord`] for events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Live {
    /// What it is.
    #[serde(rename = "type")]
    pub message_type: String,
    /// Whose it is.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub robot_id: RobotId,
    /// When the relay received it.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub timestamp: Timestamp,
    /// The sender's count, or the log position of an event.
    pub sequence: u64,
    /// The message.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub payload: serde_json::Value,
}

/// Told to a live client that was too slow: so many messages were left out for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lagged {
    /// How many.
    pub dropped: u64,
    /// The same by type; what is of too many types to count apart is under `other`.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub kinds: std::collections::BTreeMap<String, u64>,
    /// When events were among them: a subscription `from` this position tells them again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}
