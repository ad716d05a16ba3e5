//! A list of cards to make: CSV as a table program writes it, or YAML (JSON is YAML). Pure: text in, cards out; which
//! files hold tokens is said, not read. A card's own values go over those that all cards share ([`JobCard::over`]).
//!
//! ```yaml
//! version: 1
//! cards:
//!   - robot_id: kiwi-01
//!     serial: 10000000abcd0001
//!     token_file: tokens/kiwi-01
//!     network: {address: 192.168.1.21/24, gateway: 192.168.1.1, dns: [192.168.1.1]}
//! ```

use std::path::PathBuf;

use lekiwi_protocol::RobotId;

use crate::order::{Addressing, Name, Order, Wifi};

mod csv;
mod yaml;

/// One card.
#[derive(Clone, PartialEq, Eq)]
pub struct JobCard {
    /// Where it is in the file, from 1.
    pub line: u64,
    /// How the robot is called; without it, the serial number makes the name.
    pub robot_id: Option<RobotId>,
    /// The board's serial number, in lower case.
    pub serial: Option<String>,
    /// Hardware profile.
    pub profile: Option<String>,
    /// The address.
    pub network: Option<Addressing>,
    /// The wireless network.
    pub wifi: Option<Wifi>,
    /// The enrolment token.
    pub token: Option<Token>,
}

/// Where a token is.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// Here.
    Here(String),
    /// In a file, as seen from the job's.
    File(PathBuf),
}

/// What is wrong with a job.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A key or column that means nothing.
    #[error("line {line}: unknown {what} {name:?}")]
    Unknown {
        /// Where.
        line: u64,
        /// `key` or `column`.
        what: &'static str,
        /// What came.
        name: String,
        /// What may come.
        known: Vec<&'static str>,
    },
    /// Another kind of thing.
    #[error("line {line}: expected {expected}, got {actual:?}")]
    Value {
        /// Where.
        line: u64,
        /// What should be.
        expected: &'static str,
        /// What is.
        actual: String,
    },
    /// Nothing, where something is needed.
    #[error("line {line}: expected {expected}")]
    Missing {
        /// Where.
        line: u64,
        /// What should be.
        expected: &'static str,
    },
    /// Twice the same.
    #[error("line {second}: {what} {value:?} is on line {first} already")]
    Duplicate {
        /// The first.
        first: u64,
        /// The second.
        second: u64,
        /// Of which kind.
        what: &'static str,
        /// What it is; a token is not shown.
        value: String,
    },
    /// No YAML or no CSV.
    #[error("line {line}: {reason}")]
    Syntax {
        /// Where.
        line: u64,
        /// What the parser says.
        reason: String,
    },
    /// Nothing to do.
    #[error("expected at least one card in the job")]
    Empty,
}

impl JobError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { name, known, .. } => Some(match nearest(name, known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known are {}", known.join(", ")),
            }),
            Self::Duplicate { what: "token", .. } => Some(
                "each card gets its own; a token with several uses is given once, by --token-file"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// The cards of a job.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(text: &str) -> Result<Vec<JobCard>, JobError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let cards = if is_csv(text) {
        csv::parse(text)?
    } else {
        yaml::parse(text)?
    };
    if cards.is_empty() {
        return Err(JobError::Empty);
    }
    alone(&cards)?;
    Ok(cards)
}

/// By its first line: a header has commas or is one column's name, and neither is the beginning of YAML's mapping.
fn is_csv(text: &str) -> bool {
    let first = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .unwrap_or_default();
    let yaml = first.starts_with(['{', '[', '-']) || first.contains(':');
    !first.is_empty() && !yaml
}

/// No name, serial number or token twice.
fn alone(cards: &[JobCard]) -> Result<(), JobError> {
    type Part = fn(&JobCard) -> Option<&str>;
    let parts: [(&'static str, Part); 3] = [
        ("robot_id", |card| {
            card.robot_id.as_ref().map(RobotId::as_str)
        }),
        // The network boot and the name know the last 8 digits only.
        ("serial", |card| card.serial.as_deref().map(short)),
        ("token", |card| match &card.token {
            Some(Token::Here(token)) => Some(token.as_str()),
            _ => None,
        }),
    ];
    for (index, card) in cards.iter().enumerate() {
        for (what, part) in parts {
            let Some(value) = part(card) else { continue };
            let earlier = cards[..index]
                .iter()
                .find(|other| part(other) == Some(value));
            if let Some(earlier) = earlier {
                return Err(JobError::Duplicate {
                    first: earlier.line,
                    second: card.line,
                    what,
                    value: match what {
                        "token" => "lkt_…".to_owned(),
                        _ => value.to_owned(),
                    },
                });
            }
        }
    }
    Ok(())
}

/// The last 8 digits.
fn short(serial: &str) -> &str {
    &serial[serial.len().saturating_sub(8)..]
}

/// The most similar of `known`, if one is similar at all.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

impl JobCard {
    /// The order for this card: what all share, with the card's own values over it.
    #[must_use]
    pub fn over(&self, shared: &Order, token: Option<String>) -> Order {
        let mut order = shared.clone();
        if let Some(id) = &self.robot_id {
            order.name = Name::Given(id.clone());
        }
        if let Some(profile) = &self.profile {
            order.profile.clone_from(profile);
        }
        if let Some(network) = &self.network {
            order.addressing = network.clone();
        }
        if let Some(wifi) = &self.wifi {
            order.wifi = Some(wifi.clone());
        }
        if let Some(token) = token {
            order.token = token;
            order.token_expires = None;
        }
        order
    }

    /// How the robot will be called: its name, or the shared prefix with the serial number's last 8 digits.
    #[must_use]
    pub fn name(&self, shared: &Order) -> Option<String> {
        match (&self.robot_id, &self.serial, &shared.name) {
            (Some(id), _, _) => Some(id.to_string()),
            (None, Some(serial), Name::Serial { prefix }) => {
                Some(format!("{prefix}-{}", short(serial)))
            }
            _ => None,
        }
    }
}

/// What a card says, of whatever format.
#[derive(Default)]
struct Raw {
    line: u64,
    robot_id: Option<String>,
    hostname: Option<String>,
    serial: Option<String>,
    profile: Option<String>,
    network: Option<Addressing>,
    wifi_ssid: Option<String>,
    wifi_password: Option<String>,
    wifi_country: Option<String>,
    token: Option<String>,
    token_file: Option<String>,
}

impl Raw {
    fn check(self) -> Result<JobCard, JobError> {
        let line = self.line;
        let wrong = |expected, actual: &str| JobError::Value {
            line,
            expected,
            actual: actual.chars().take(80).collect(),
        };
        let robot_id = match (self.robot_id, self.hostname) {
            (Some(id), Some(name)) if id != name => {
                return Err(wrong(
                    "hostname to be the robot_id, as it is its certificate's name",
                    &name,
                ));
            }
            (Some(name), _) | (None, Some(name)) => Some(name),
            (None, None) => None,
        };
        let robot_id = robot_id
            .map(|text| {
                text.parse().map_err(|_| {
                    wrong(
                        "a robot_id of 1 to 63 of a-z, 0-9 and '-', not starting with '-'",
                        &text,
                    )
                })
            })
            .transpose()?;
        let serial = self
            .serial
            .map(|text| {
                let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                if digits && (8..=32).contains(&text.len()) {
                    Ok(text.to_ascii_lowercase())
                } else {
                    Err(wrong("a serial of 8 to 32 hex digits", &text))
                }
            })
            .transpose()?;
        if robot_id.is_none() && serial.is_none() {
            return Err(JobError::Missing {
                line,
                expected: "a robot_id or a serial",
            });
        }
        let token = match (self.token, self.token_file) {
            (Some(_), Some(file)) => return Err(wrong("either token or token_file", &file)),
            (Some(token), None) => Some(Token::Here(token)),
            (None, Some(file)) => Some(Token::File(file.into())),
            (None, None) => None,
        };
        let wifi = match (self.wifi_ssid, self.wifi_country) {
            (Some(ssid), Some(country)) => Some(Wifi {
                ssid,
                password: self.wifi_password,
                country,
            }),
            (None, None) if self.wifi_password.is_none() => None,
            _ => {
                return Err(JobError::Missing {
                    line,
                    expected: "a wireless network's name and its country together",
                });
            }
        };
        Ok(JobCard {
            line,
            robot_id,
            serial,
            profile: self.profile,
            network: self.network,
            wifi,
            token,
        })
    }
}

#[cfg(test)]
#[path = "job/tests.rs"]
mod tests;
