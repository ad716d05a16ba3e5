//! The relay's configuration: a YAML file, `LEKIWI_RELAY_*` over it, the command line over both. Pure:
//! file and environment are arguments.
//!
//! [`Raw`] is what a person wrote; [`Config`] is checked. An unknown key in the file is an error with its
//! line; an unknown variable only warns, for it may be meant for something else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lekiwi_protocol::id::NameError;
use lekiwi_protocol::{Org, RelayId};
use lekiwi_relay_core::Policy;
use serde::Deserialize;

use crate::identity::server::{ServerName, ServerNameError};

/// Name of the file in the data folder.
pub const FILE: &str = "relay.yml";
/// Start of every variable.
pub const PREFIX: &str = "LEKIWI_RELAY_";
/// The file's version that this program reads.
const VERSION: u32 = 1;
const HTTPS: &str = "0.0.0.0:8443";
const MQTT: &str = "0.0.0.0:8883";
const TELEMETRY_DAYS: u32 = 30;
/// Variables that something else than this module reads.
const OTHER_VARIABLES: [&str; 3] = ["DATA", "CONFIG", "LOG"];

/// What a person wrote, in the file, the environment or on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The file's version.
    pub version: Option<u32>,
    /// Where HTTPS listens.
    pub https: Option<String>,
    /// Where MQTT listens.
    pub mqtt: Option<String>,
    /// Names and addresses that clients call the relay by, the first one foremost.
    pub server_names: Option<Vec<String>>,
    /// The relay's own id.
    pub relay_id: Option<String>,
    /// The organisation.
    pub org: Option<String>,
    /// Lowest TLS version of HTTPS: `1.3` or `1.2`.
    pub https_tls: Option<String>,
    /// How many days telemetry is kept.
    pub telemetry_days: Option<String>,
    /// How newcomers are taken: `open` or `approve`.
    pub registration: Option<String>,
    /// Whether the relay finds robots on its network, and is found: `true` or `false`.
    pub mdns: Option<String>,
    /// Whether it watches machines ask for addresses: `true` or `false`.
    pub watch_dhcp: Option<String>,
}

const KEYS: [&str; 11] = [
    "version",
    "https",
    "mqtt",
    "server_names",
    "relay_id",
    "org",
    "https_tls",
    "telemetry_days",
    "registration",
    "mdns",
    "watch_dhcp",
];

/// The checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where HTTPS listens.
    pub https: SocketAddr,
    /// Where MQTT listens.
    pub mqtt: SocketAddr,
    /// Names and addresses that clients call the relay by.
    pub server_names: Vec<ServerName>,
    /// The relay's own id; the host's name when absent.
    pub relay_id: Option<RelayId>,
    /// The organisation.
    pub org: Org,
    /// Whether HTTPS takes TLS 1.2.
    pub allow_tls12: bool,
    /// How many days telemetry is kept.
    pub telemetry_days: u32,
    /// How newcomers are taken.
    pub registration: Policy,
    /// Whether the relay finds robots on its network, and is found.
    pub mdns: bool,
    /// Whether it watches machines ask for addresses.
    pub watch_dhcp: bool,
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
    /// A server name is wrong.
    #[error("cannot use server_names")]
    ServerName(#[source] ServerNameError),
}

fn at(line: Option<u64>) -> String {
    line.map_or_else(String::new, |line| format!(" line {line}"))
}

impl ConfigError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { key, .. } => Some(match near(key, &KEYS) {
                Some(key) => format!("did you mean {key:?}?"),
                None => format!("the keys are {}", KEYS.join(", ")),
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
            serde_saphyr::Error::SerdeUnknownField { field, .. } => ConfigError::UnknownKey {
                path,
                line,
                key: field.clone(),
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
    for (name, value) in variables {
        let Some(key) = name.strip_prefix(PREFIX) else {
            continue;
        };
        match key {
            "HTTPS" => raw.https = Some(value),
            "MQTT" => raw.mqtt = Some(value),
            "SERVER_NAMES" => {
                raw.server_names = Some(
                    value
                        .split(',')
                        .map(str::trim)
                        .filter(|n| !n.is_empty())
                        .map(str::to_owned)
                        .collect(),
                );
            }
            "RELAY_ID" => raw.relay_id = Some(value),
            "ORG" => raw.org = Some(value),
            "HTTPS_TLS" => raw.https_tls = Some(value),
            "TELEMETRY_DAYS" => raw.telemetry_days = Some(value),
            "REGISTRATION" => raw.registration = Some(value),
            "MDNS" => raw.mdns = Some(value),
            "WATCH_DHCP" => raw.watch_dhcp = Some(value),
            other if OTHER_VARIABLES.contains(&other) => {}
            other => {
                let hint = near(&other.to_ascii_lowercase(), &KEYS)
                    .map_or_else(String::new, |key| {
                        format!(", did you mean {PREFIX}{}?", key.to_ascii_uppercase())
                    });
                warnings.push(format!(
                    "the variable {name} means nothing to this relay{hint}"
                ));
            }
        }
    }
    (raw, warnings)
}

impl Raw {
    /// Takes from `below` what is not said here.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            version: self.version.or(below.version),
            https: self.https.or(below.https),
            mqtt: self.mqtt.or(below.mqtt),
            server_names: self.server_names.or(below.server_names),
            relay_id: self.relay_id.or(below.relay_id),
            org: self.org.or(below.org),
            https_tls: self.https_tls.or(below.https_tls),
            telemetry_days: self.telemetry_days.or(below.telemetry_days),
            registration: self.registration.or(below.registration),
            mdns: self.mdns.or(below.mdns),
            watch_dhcp: self.watch_dhcp.or(below.watch_dhcp),
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
        let telemetry_days = match self.telemetry_days {
            None => TELEMETRY_DAYS,
            Some(text) => match text.parse() {
                Ok(days @ 1..=36_500) => days,
                _ => {
                    return Err(ConfigError::Value {
                        key: "telemetry_days",
                        expected: "a number of days of 1 to 36500",
                        actual: text,
                    });
                }
            },
        };
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
        Ok(Config {
            https: address("https", self.https, HTTPS)?,
            mqtt: address("mqtt", self.mqtt, MQTT)?,
            server_names,
            relay_id,
            org,
            allow_tls12,
            telemetry_days,
            registration,
            mdns: flag("mdns", self.mdns, true)?,
            watch_dhcp: flag("watch_dhcp", self.watch_dhcp, false)?,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn refusal(text: &str) -> (String, Option<String>) {
        let error = parse(Path::new("relay.yml"), text)
            .and_then(Raw::check)
            .unwrap_err();
        let cause = std::error::Error::source(&error)
            .map_or_else(String::new, |cause| format!(": {cause}"));
        (format!("{error}{cause}"), error.hint())
    }

    #[test]
    fn file_environment_and_command_line_in_ascending_order() {
        let file = parse(
            Path::new("relay.yml"),
            "# ours\nversion: 1\nhttps: 127.0.0.1:1\nmqtt: 127.0.0.1:2\norg: acme\nserver_names: [relay.example, 10.0.0.7]\ntelemetry_days: 7\nregistration: approve\n",
        )
        .unwrap();
        let (environment, warnings) = environment(
            [
                ("LEKIWI_RELAY_MQTT", "127.0.0.1:3"),
                ("LEKIWI_RELAY_ORG", "beta"),
                ("PATH", "/bin"),
            ]
            .map(|(n, v)| (n.to_owned(), v.to_owned())),
        );
        assert_eq!(warnings, Vec::<String>::new());
        let flags = Raw {
            org: Some("gamma".into()),
            ..Raw::default()
        };
        let config = flags.over(environment).over(file).check().unwrap();
        assert_eq!(config.https.port(), 1);
        assert_eq!(config.mqtt.port(), 3);
        assert_eq!(config.org.as_str(), "gamma");
        assert_eq!(config.telemetry_days, 7);
        assert_eq!(config.registration, Policy::Approve);
        assert_eq!(
            config.server_names,
            [
                ServerName::Dns("relay.example".into()),
                ServerName::Address("10.0.0.7".parse().unwrap())
            ]
        );
        let usual = parse(Path::new("relay.yml"), "# nothing\n\n")
            .unwrap()
            .check()
            .unwrap();
        assert_eq!(
            (usual.https.port(), usual.mqtt.port(), usual.allow_tls12),
            (8443, 8883, false)
        );
    }

    #[test]
    fn a_slip_is_named_with_its_line() {
        assert_eq!(
            refusal("version: 1\nhtps: 127.0.0.1:1\n"),
            (
                "expected a key of the configuration in relay.yml line 2, got \"htps\"".into(),
                Some("did you mean \"https\"?".into())
            )
        );
        let (message, hint) = refusal("colour: blue\n");
        assert_eq!(
            message,
            "expected a key of the configuration in relay.yml line 1, got \"colour\""
        );
        assert!(
            hint.unwrap()
                .starts_with("the keys are version, https, mqtt, ")
        );
        assert_eq!(
            refusal("version: 2\n").0,
            "expected version 1 in relay.yml, got 2"
        );
        assert_eq!(
            refusal("https: 8443\n").0,
            "expected https to be an address and port such as 0.0.0.0:8443, got \"8443\""
        );
        assert_eq!(
            refusal("https_tls: \"1.1\"\n").0,
            "expected https_tls to be \"1.3\" or \"1.2\", got \"1.1\""
        );
        assert_eq!(
            refusal("telemetry_days: 0\n").0,
            "expected telemetry_days to be a number of days of 1 to 36500, got \"0\""
        );
        assert_eq!(
            refusal("registration: closed\n").0,
            "expected registration to be open or approve, got \"closed\""
        );
        assert_eq!(
            refusal("watch_dhcp: maybe\n").0,
            "expected watch_dhcp to be true or false, got \"maybe\""
        );
        assert_eq!(
            refusal("server_names: [\"a b\"]\n").0,
            "cannot use server_names: expected a host name or an IP address, got \"a b\""
        );
        assert_eq!(
            refusal("org: ACME\n").0,
            "cannot use org: expected an organisation: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"ACME\""
        );
        let (message, _) = refusal("version: 1\nserver_names: relay\n  x: [\n");
        assert!(
            message.starts_with("cannot understand relay.yml line "),
            "{message}"
        );
    }

    #[test]
    fn the_example_says_the_defaults() {
        let example = include_str!("../relay.example.yml");
        let parsed = parse(Path::new("relay.example.yml"), example).unwrap();
        assert_eq!(parsed.check().unwrap(), Raw::default().check().unwrap());
        for key in KEYS {
            assert!(
                example.contains(&format!("{key}: ")),
                "{key} is not in the example"
            );
        }
    }

    #[test]
    fn an_unknown_variable_warns() {
        let (_, warnings) = environment(
            [("LEKIWI_RELAY_HTPS", "x"), ("LEKIWI_RELAY_LOG", "debug")]
                .map(|(n, v)| (n.to_owned(), v.to_owned())),
        );
        assert_eq!(
            warnings,
            [
                "the variable LEKIWI_RELAY_HTPS means nothing to this relay, did you mean LEKIWI_RELAY_HTTPS?"
            ]
        );
    }
}
