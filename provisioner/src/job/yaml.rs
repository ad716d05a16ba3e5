//! A job as YAML, or JSON, which is YAML too.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{JobCard, JobError, Raw};
use crate::order::Addressing;

/// The version this reads.
const VERSION: u64 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Spanned<u64>,
    cards: Vec<Spanned<Card>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    robot_id: Option<String>,
    hostname: Option<String>,
    serial: Option<String>,
    profile: Option<String>,
    network: Option<Network>,
    wifi: Option<Wireless>,
    token: Option<String>,
    token_file: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

/// Without an address: from the network.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    dhcp: Option<bool>,
    address: Option<String>,
    gateway: Option<String>,
    #[serde(default)]
    dns: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wireless {
    ssid: String,
    password: Option<String>,
    country: String,
}

pub(super) fn parse(text: &str) -> Result<Vec<JobCard>, JobError> {
    let file: File =
        serde_saphyr::from_str(text).map_err(|error| syntax(error.without_snippet()))?;
    if file.version.value != VERSION {
        return Err(JobError::Value {
            line: file.version.referenced.line(),
            expected: "version 1",
            actual: file.version.value.to_string(),
        });
    }
    file.cards.into_iter().map(card).collect()
}

fn card(card: Spanned<Card>) -> Result<JobCard, JobError> {
    let line = card.referenced.line();
    let card = card.value;
    let network = card.network.map(|network| network.check(line));
    let (ssid, password, country) = match card.wifi {
        Some(wifi) => (Some(wifi.ssid), wifi.password, Some(wifi.country)),
        None => (None, None, None),
    };
    Raw {
        line,
        robot_id: card.robot_id,
        hostname: card.hostname,
        serial: card.serial,
        profile: card.profile,
        network: network.transpose()?,
        wifi_ssid: ssid,
        wifi_password: password,
        wifi_country: country,
        token: card.token,
        token_file: card.token_file,
    }
    .check()
}

impl Network {
    fn check(self, line: u64) -> Result<Addressing, JobError> {
        match (self.dhcp, self.address) {
            (None | Some(false), Some(address)) => Ok(Addressing::Static {
                address,
                gateway: self.gateway,
                dns: self.dns,
            }),
            (Some(true), None) if self.gateway.is_none() && self.dns.is_empty() => {
                Ok(Addressing::Dhcp)
            }
            _ => Err(JobError::Missing {
                line,
                expected: "either dhcp: true or an address in network",
            }),
        }
    }
}

fn syntax(error: &serde_saphyr::Error) -> JobError {
    let line = error.location().map_or(1, |location| location.line());
    match error {
        serde_saphyr::Error::SerdeUnknownField {
            field, expected, ..
        } => JobError::Unknown {
            line,
            what: "key",
            name: field.chars().take(80).collect(),
            known: expected.clone(),
        },
        serde_saphyr::Error::SerdeMissingField { field, .. } => JobError::Syntax {
            line,
            reason: format!("expected a key {field:?}"),
        },
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => JobError::Syntax {
            line,
            reason: format!(
                "expected each key once, got {:?} again",
                key.as_deref().unwrap_or("one")
            ),
        },
        other => {
            let text = other.to_string();
            // The parser says the place as well; it is already in front.
            let reason = text.split(" at line ").next().unwrap_or_default();
            JobError::Syntax {
                line,
                reason: reason.lines().next().unwrap_or_default().to_owned(),
            }
        }
    }
}
