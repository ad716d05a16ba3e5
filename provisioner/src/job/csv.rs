//! A job as a table: a header, then a line for each card. Empty fields say nothing.

use csv::{Position, ReaderBuilder, StringRecord, Trim};

use super::{JobCard, JobError, Raw};
use crate::order::Addressing;

const COLUMNS: [&str; 14] = [
    "robot_id",
    "hostname",
    "serial",
    "profile",
    "network",
    "address",
    "gateway",
    "dns",
    "wifi_ssid",
    "wifi_password",
    "wifi_country",
    "token",
    "token_file",
    "note",
];

pub(super) fn parse(text: &str) -> Result<Vec<JobCard>, JobError> {
    let header = text
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .unwrap_or_default();
    // Table programs of half the world separate by semicolons.
    let separator = if header.contains(',') { b',' } else { b';' };
    let mut reader = ReaderBuilder::new()
        .delimiter(separator)
        .comment(Some(b'#'))
        .trim(Trim::All)
        .from_reader(text.as_bytes());
    let columns = reader
        .headers()
        .map_err(|error| syntax(text, &error))?
        .clone();
    let header_line = line(text, columns.position());
    let mut names: Vec<&'static str> = Vec::new();
    for name in &columns {
        let known = COLUMNS.iter().find(|known| **known == name);
        match known {
            Some(known) if names.contains(known) => {
                return Err(JobError::Syntax {
                    line: header_line,
                    reason: format!("expected each column once, got {known:?} again"),
                });
            }
            Some(known) => names.push(known),
            None => {
                return Err(JobError::Unknown {
                    line: header_line,
                    what: "column",
                    name: name.chars().take(80).collect(),
                    known: COLUMNS.to_vec(),
                });
            }
        }
    }
    let mut cards = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| syntax(text, &error))?;
        if record.iter().any(|field| !field.is_empty()) {
            cards.push(card(line(text, record.position()), &names, &record)?);
        }
    }
    Ok(cards)
}

/// The parser's positions are before the comments and empty lines that come first.
fn line(text: &str, position: Option<&Position>) -> u64 {
    let Some(position) = position else { return 1 };
    let from = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let rest = text.get(from..).unwrap_or_default();
    let skipped = rest
        .lines()
        .take_while(|line| line.trim().is_empty() || line.starts_with('#'))
        .count();
    position.line() + skipped as u64
}

fn card(line: u64, names: &[&'static str], record: &StringRecord) -> Result<JobCard, JobError> {
    let field = |name: &str| {
        names
            .iter()
            .zip(record)
            .find(|(column, text)| **column == name && !text.is_empty())
            .map(|(_, text)| text.to_owned())
    };
    let network = match (field("network").as_deref(), field("address")) {
        (None | Some("static"), Some(address)) => Some(Addressing::Static {
            address,
            gateway: field("gateway"),
            dns: field("dns")
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
        }),
        (Some("dhcp"), None) => Some(Addressing::Dhcp),
        (None, None) if field("gateway").is_none() && field("dns").is_none() => None,
        (Some(other), None) if other != "static" => {
            return Err(JobError::Value {
                line,
                expected: "network to be dhcp or static",
                actual: other.chars().take(80).collect(),
            });
        }
        (_, Some(address)) => {
            return Err(JobError::Value {
                line,
                expected: "no address with a network other than static",
                actual: address.chars().take(80).collect(),
            });
        }
        (_, None) => {
            return Err(JobError::Missing {
                line,
                expected: "an address of the static network",
            });
        }
    };
    Raw {
        line,
        robot_id: field("robot_id"),
        hostname: field("hostname"),
        serial: field("serial"),
        profile: field("profile"),
        network,
        wifi_ssid: field("wifi_ssid"),
        wifi_password: field("wifi_password"),
        wifi_country: field("wifi_country"),
        token: field("token"),
        token_file: field("token_file"),
    }
    .check()
}

fn syntax(text: &str, error: &csv::Error) -> JobError {
    let line = line(text, error.position());
    let reason = match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("expected {expected_len} fields as in the header, got {len}"),
        csv::ErrorKind::Utf8 { .. } => "expected UTF-8".to_owned(),
        _ => "expected comma-separated values".to_owned(),
    };
    JobError::Syntax { line, reason }
}
