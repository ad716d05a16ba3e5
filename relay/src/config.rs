//! The relay's configuration: a YAML file, `LEKIWI_RELAY_*` over it, the command line over both. Pure:
//! file and environment are arguments.
//!
//! [`Raw`] is what a person wrote; [`Config`] is checked. An unknown key in the file is an error with its
//! line; an unknown variable only warns, for it may be meant for something else.

pub mod alerts;
mod identity;
mod limits;
pub mod oidc;
mod origins;
mod people;
mod retention;
mod store;
pub mod traces;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::http::HeaderValue;
use lekiwi_protocol::id::NameError;
use lekiwi_protocol::{Org, RelayId};
use lekiwi_relay_core::Policy;
use lekiwi_relay_core::history::Retention;
use lekiwi_relay_core::protect::Limits;
use serde::Deserialize;

use self::alerts::{AlertsConfig, AlertsError, RawAlerts};
pub use self::identity::{IdentityConfig, RawIdentity};
pub use self::limits::{LimitsError, RawLimits};
use self::oidc::{OidcError, ProviderConfig};
use self::people::RawPeople;
pub use self::store::{PostgresStore, RawStore, Secret};
use self::traces::{RawTraces, TracesConfig};
use crate::broker::{Address, AddressError};
use crate::identity::server::{ServerName, ServerNameError};
use crate::people::factor::Demand;
use crate::store::PostgresError;

/// Name of the file in the data folder.
pub const FILE: &str = "relay.yml";
/// Start of every variable.
pub const PREFIX: &str = "LEKIWI_RELAY_";
/// The file's version that this program reads.
const VERSION: u32 = 1;
const HTTPS: &str = "0.0.0.0:8443";
const MQTT: &str = "0.0.0.0:8883";
/// Variables that something else than this module reads.
const OTHER_VARIABLES: [&str; 4] = ["DATA", "SHARED", "CONFIG", "LOG"];

/// What a person wrote, in the file, the environment or on the command line.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The file's version.
    pub version: Option<u32>,
    /// Where HTTPS listens.
    pub https: Option<String>,
    /// Where MQTT listens.
    pub mqtt: Option<String>,
    /// The external broker instead of that.
    pub broker: Option<String>,
    /// Names and addresses that clients call the relay by, the first one foremost.
    pub server_names: Option<Vec<String>>,
    /// The relay's own id.
    pub relay_id: Option<String>,
    /// The organisation.
    pub org: Option<String>,
    /// Origins of pages elsewhere that may ask the relay, with a session or key that they have.
    pub cors: Option<Vec<String>>,
    /// Lowest TLS version of HTTPS: `1.3` or `1.2`.
    pub https_tls: Option<String>,
    /// How many days samples of telemetry are kept.
    pub telemetry_days: Option<String>,
    /// How many days roll-ups of a minute are.
    pub telemetry_1m_days: Option<String>,
    /// How many days those of a quarter of an hour are.
    pub telemetry_15m_days: Option<String>,
    /// How many days those of an hour are.
    pub telemetry_1h_days: Option<String>,
    /// How newcomers are taken: `open` or `approve`.
    pub registration: Option<String>,
    /// Whether the relay finds robots on its network, and is found: `true` or `false`.
    pub mdns: Option<String>,
    /// Whether it watches machines ask for addresses: `true` or `false`.
    pub watch_dhcp: Option<String>,
    /// Where the store is, when it is not a file in the data folder.
    pub store: Option<RawStore>,
    /// How many days events of a type are kept.
    pub event_days: Option<BTreeMap<String, u32>>,
    /// How many days it is kept who did what.
    pub audit_days: Option<String>,
    /// Rules of alerts, and who is told. In the file only.
    pub alerts: Option<RawAlerts>,
    /// How much is taken, and of whom. All but the tier in the file only.
    pub limits: Option<RawLimits>,
    /// Where traces go.
    pub traces: Option<RawTraces>,
    /// How identities are given.
    pub identity: Option<RawIdentity>,
    /// Who logs in how.
    pub people: Option<RawPeople>,
}

const KEYS: [&str; 24] = [
    "version",
    "https",
    "mqtt",
    "broker",
    "server_names",
    "relay_id",
    "org",
    "cors",
    "https_tls",
    "telemetry_days",
    "telemetry_1m_days",
    "telemetry_15m_days",
    "telemetry_1h_days",
    "registration",
    "mdns",
    "watch_dhcp",
    "store",
    "event_days",
    "audit_days",
    "alerts",
    "limits",
    "traces",
    "identity",
    "people",
];

/// The checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where HTTPS listens.
    pub https: SocketAddr,
    /// Where MQTT listens.
    pub mqtt: SocketAddr,
    /// The external broker, instead of listening for MQTT.
    pub broker: Option<Address>,
    /// Names and addresses that clients call the relay by.
    pub server_names: Vec<ServerName>,
    /// The relay's own id; the host's name when absent.
    pub relay_id: Option<RelayId>,
    /// The organisation.
    pub org: Org,
    /// Origins of pages elsewhere that may ask the relay.
    pub cors: Vec<HeaderValue>,
    /// Whether HTTPS takes TLS 1.2.
    pub allow_tls12: bool,
    /// How long telemetry is kept.
    pub retention: Retention,
    /// How newcomers are taken.
    pub registration: Policy,
    /// Whether the relay finds robots on its network, and is found.
    pub mdns: bool,
    /// Whether it watches machines ask for addresses.
    pub watch_dhcp: bool,
    /// How many days events of a type, or of all types that begin so (`session.*`), are kept; the others for ever.
    pub event_days: Vec<(String, u32)>,
    /// How many days it is kept who did what.
    pub audit_days: u32,
    /// The database of PostgreSQL that has the store; a file in the data folder when absent.
    pub store: Option<PostgresStore>,
    /// Rules of alerts, and who is told.
    pub alerts: AlertsConfig,
    /// How much is taken, and of whom.
    pub limits: Limits,
    /// Where traces go, if anywhere.
    pub traces: Option<TracesConfig>,
    /// How identities are given.
    pub identity: IdentityConfig,
    /// Of whom a second factor is demanded.
    pub second_factor: Demand,
    /// Who else may say who somebody is.
    pub oidc: Vec<ProviderConfig>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no YAML of the right shape.
    #[error("cannot understand {path}{}: {message}", at(*line))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, when it is known.
        line: Option<u64>,
        /// What.
        message: String,
    },
    /// The file has a key that means nothing.
    #[error("expected a key of the configuration in {path}{}, got {key:?}", at(*line))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Where.
        line: Option<u64>,
        /// The key.
        key: String,
        /// Those that there are in its place.
        known: Vec<&'static str>,
    },
    /// The file is of another version.
    #[error("expected version {VERSION} in {path}, got {actual}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        actual: u32,
    },
    /// A value is wrong.
    #[error("expected {key} to be {expected}, got {actual:?}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        actual: String,
    },
    /// A name is wrong.
    #[error("cannot use {key}")]
    Name {
        /// The key.
        key: &'static str,
        /// Why.
        #[source]
        source: NameError,
    },
    /// Something about alerts is wrong.
    #[error("cannot use alerts")]
    Alerts(#[source] AlertsError),
    /// Something about limits is wrong.
    #[error("cannot use limits")]
    Limits(#[source] LimitsError),
    /// Something about people is wrong.
    #[error("cannot use people")]
    Oidc(#[source] OidcError),
    /// A server name is wrong.
    #[error("cannot use server_names")]
    ServerName(#[source] ServerNameError),
    /// The external broker is wrong.
    #[error("cannot use broker")]
    Broker(#[from] AddressError),
    /// A type of events is wrong.
    #[error("expected types such as service.changed or service.* in event_days, got {0:?}")]
    EventKind(String),
    /// Events of a type are never forgotten.
    #[error(
        "expected types in event_days that may be forgotten, got {kind:?}: {never} stays for ever"
    )]
    NeverForgotten {
        /// What was said.
        kind: String,
        /// What it would take.
        never: &'static str,
    },
    /// A number of days is wrong.
    #[error("expected a number of days of 1 to 36500 for {kind} in event_days, got {days}")]
    EventDays {
        /// The type.
        kind: String,
        /// The number.
        days: u32,
    },
    /// The store cannot be used as it was said.
    #[error(transparent)]
    Store(#[from] PostgresError),
    /// What belongs to a database was said without one.
    #[error("expected store.postgres beside store.{0}, got none")]
    NoDatabase(&'static str),
}

fn at(line: Option<u64>) -> String {
    line.map_or_else(String::new, |line| format!(" line {line}"))
}

impl ConfigError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { key, known, .. } => Some(match near(key, known) {
                Some(key) => format!("did you mean {key:?}?"),
                None => format!("the keys are {}", known.join(", ")),
            }),
            Self::Version { .. } => Some(format!(
                "this relay reads version {VERSION}; see the changelog"
            )),
            _ => None,
        }
    }
}

/// The closest of `known`, if any is close enough to be a slip.
fn near<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Reads the file's text.
///
/// # Errors
/// When it is no YAML, or has keys or types that mean nothing.
pub fn parse(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    {
        return Ok(Raw::default());
    }
    let raw: Raw = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let path = path.to_owned();
        match error.without_snippet() {
            serde_saphyr::Error::SerdeUnknownField {
                field, expected, ..
            } => ConfigError::UnknownKey {
                path,
                line,
                key: field.clone(),
                known: expected.clone(),
            },
            other => ConfigError::Syntax {
                path,
                line,
                message: other.to_string(),
            },
        }
    })?;
    match raw.version {
        Some(actual) if actual != VERSION => Err(ConfigError::Version {
            path: path.to_owned(),
            actual,
        }),
        _ => Ok(raw),
    }
}

/// Reads the environment; the second part are warnings about variables that mean nothing.
#[must_use]
pub fn environment(variables: impl IntoIterator<Item = (String, String)>) -> (Raw, Vec<String>) {
    let mut raw = Raw::default();
    let mut warnings = Vec::new();
    let mut collector = None;
    for (name, value) in variables {
        let Some(key) = name.strip_prefix(PREFIX) else {
            if name == traces::STANDARD {
                collector = Some(value);
            }
            continue;
        };
        match key {
            "HTTPS" => raw.https = Some(value),
            "MQTT" => raw.mqtt = Some(value),
            "BROKER" => raw.broker = Some(value),
            "SERVER_NAMES" => raw.server_names = Some(listed(&value)),
            "CORS" => raw.cors = Some(listed(&value)),
            "RELAY_ID" => raw.relay_id = Some(value),
            "ORG" => raw.org = Some(value),
            "HTTPS_TLS" => raw.https_tls = Some(value),
            "TELEMETRY_DAYS" => raw.telemetry_days = Some(value),
            "TELEMETRY_1M_DAYS" => raw.telemetry_1m_days = Some(value),
            "TELEMETRY_15M_DAYS" => raw.telemetry_15m_days = Some(value),
            "TELEMETRY_1H_DAYS" => raw.telemetry_1h_days = Some(value),
            "AUDIT_DAYS" => raw.audit_days = Some(value),
            "REGISTRATION" => raw.registration = Some(value),
            "MDNS" => raw.mdns = Some(value),
            "WATCH_DHCP" => raw.watch_dhcp = Some(value),
            "STORE_POSTGRES" => raw.store_mut().postgres = Some(Secret(value)),
            "STORE_PASSWORD_FILE" => raw.store_mut().password_file = Some(value.into()),
            "STORE_CA" => raw.store_mut().ca = Some(value.into()),
            "TRACES_ENDPOINT" => raw.traces.get_or_insert_default().endpoint = Some(value),
            "TRACES_SAMPLE" => raw.traces.get_or_insert_default().sample = Some(value),
            "IDENTITY_ROBOT_LIFETIME" => {
                raw.identity.get_or_insert_default().robot_lifetime = Some(value);
            }
            "PEOPLE_SECOND_FACTOR" => {
                raw.people.get_or_insert_default().second_factor = Some(value);
            }
            "IDENTITY_CRL_FILE" => {
                raw.identity.get_or_insert_default().crl_file = Some(value.into());
            }
            "LIMITS_TIER" => raw.limits.get_or_insert_default().tier = Some(value),
            other if OTHER_VARIABLES.contains(&other) => {}
            other => {
                // Neither is a text.
                let texts = KEYS.map(|key| match key {
                    "alerts" => "",
                    "limits" => "limits_tier",
                    "traces" => "traces_endpoint",
                    "identity" => "identity_robot_lifetime",
                    "people" => "people_second_factor",
                    key => key,
                });
                let hint = near(&other.to_ascii_lowercase(), &texts)
                    .map_or_else(String::new, |key| {
                        format!(", did you mean {PREFIX}{}?", key.to_ascii_uppercase())
                    });
                warnings.push(format!(
                    "the variable {name} means nothing to this relay{hint}"
                ));
            }
        }
    }
    if let Some(endpoint) = collector.filter(|endpoint| !endpoint.is_empty()) {
        let traces = raw.traces.get_or_insert_default();
        traces.endpoint.get_or_insert(endpoint);
    }
    (raw, warnings)
}

/// What stands between commas.
fn listed(value: &str) -> Vec<String> {
    let parts = value.split(',').map(str::trim);
    let parts = parts.filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

impl Raw {
    fn store_mut(&mut self) -> &mut RawStore {
        self.store.get_or_insert_default()
    }

    /// Takes from `below` what is not said here.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            version: self.version.or(below.version),
            https: self.https.or(below.https),
            mqtt: self.mqtt.or(below.mqtt),
            broker: self.broker.or(below.broker),
            server_names: self.server_names.or(below.server_names),
            relay_id: self.relay_id.or(below.relay_id),
            org: self.org.or(below.org),
            cors: self.cors.or(below.cors),
            https_tls: self.https_tls.or(below.https_tls),
            telemetry_days: self.telemetry_days.or(below.telemetry_days),
            telemetry_1m_days: self.telemetry_1m_days.or(below.telemetry_1m_days),
            telemetry_15m_days: self.telemetry_15m_days.or(below.telemetry_15m_days),
            telemetry_1h_days: self.telemetry_1h_days.or(below.telemetry_1h_days),
            registration: self.registration.or(below.registration),
            mdns: self.mdns.or(below.mdns),
            watch_dhcp: self.watch_dhcp.or(below.watch_dhcp),
            store: match (self.store, below.store) {
                (Some(store), Some(below)) => Some(store.over(below)),
                (store, below) => store.or(below),
            },
            event_days: self.event_days.or(below.event_days),
            audit_days: self.audit_days.or(below.audit_days),
            alerts: self.alerts.or(below.alerts),
            limits: match (self.limits, below.limits) {
                (Some(limits), Some(below)) => Some(limits.over(below)),
                (limits, below) => limits.or(below),
            },
            traces: match (self.traces, below.traces) {
                (Some(traces), Some(below)) => Some(traces.over(below)),
                (traces, below) => traces.or(below),
            },
            identity: match (self.identity, below.identity) {
                (Some(identity), Some(below)) => Some(identity.over(below)),
                (identity, below) => identity.or(below),
            },
            people: match (self.people, below.people) {
                (Some(people), Some(below)) => Some(people.over(below)),
                (people, below) => people.or(below),
            },
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// At the first one that is wrong.
    pub fn check(self) -> Result<Config, ConfigError> {
        let address = |key, value: Option<String>, usual: &str| {
            let text = value.unwrap_or_else(|| usual.to_owned());
            text.parse().map_err(|_| ConfigError::Value {
                key,
                expected: "an address and port such as 0.0.0.0:8443",
                actual: text,
            })
        };
        let flag = |key, value: Option<String>, usual| match value.as_deref() {
            None => Ok(usual),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(ConfigError::Value {
                key,
                expected: "true or false",
                actual: other.to_owned(),
            }),
        };
        let org = match self.org {
            None => Org::default(),
            Some(text) => {
                Org::new(&text).map_err(|source| ConfigError::Name { key: "org", source })?
            }
        };
        let relay_id = self
            .relay_id
            .map(|text| {
                RelayId::new(&text).map_err(|source| ConfigError::Name {
                    key: "relay_id",
                    source,
                })
            })
            .transpose()?;
        let server_names = self
            .server_names
            .unwrap_or_default()
            .iter()
            .map(|name| ServerName::parse(name).map_err(ConfigError::ServerName))
            .collect::<Result<_, _>>()?;
        let allow_tls12 = match self.https_tls.as_deref() {
            None | Some("1.3") => false,
            Some("1.2") => true,
            Some(other) => {
                return Err(ConfigError::Value {
                    key: "https_tls",
                    expected: "\"1.3\" or \"1.2\"",
                    actual: other.to_owned(),
                });
            }
        };
        let retention = retention::check([
            self.telemetry_days,
            self.telemetry_1m_days,
            self.telemetry_15m_days,
            self.telemetry_1h_days,
        ])?;
        let registration = match self.registration.as_deref() {
            None | Some("open") => Policy::Open,
            Some("approve") => Policy::Approve,
            Some(other) => {
                return Err(ConfigError::Value {
                    key: "registration",
                    expected: "open or approve",
                    actual: other.to_owned(),
                });
            }
        };
        let (second_factor, oidc) = self.people.unwrap_or_default().check()?;
        Ok(Config {
            https: address("https", self.https, HTTPS)?,
            mqtt: address("mqtt", self.mqtt, MQTT)?,
            broker: self.broker.map(|text| text.parse()).transpose()?,
            server_names,
            relay_id,
            org,
            cors: origins::check(self.cors.unwrap_or_default())?,
            allow_tls12,
            retention,
            registration,
            mdns: flag("mdns", self.mdns, true)?,
            watch_dhcp: flag("watch_dhcp", self.watch_dhcp, false)?,
            event_days: retention::event_days(self.event_days.unwrap_or_default())?,
            audit_days: retention::audit_days(self.audit_days)?,
            store: self.store.unwrap_or_default().check()?,
            alerts: self
                .alerts
                .unwrap_or_default()
                .check()
                .map_err(ConfigError::Alerts)?,
            limits: self
                .limits
                .unwrap_or_default()
                .check()
                .map_err(ConfigError::Limits)?,
            traces: self.traces.unwrap_or_default().check()?,
            identity: self.identity.unwrap_or_default().check()?,
            second_factor,
            oidc,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
