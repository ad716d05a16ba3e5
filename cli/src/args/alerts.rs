//! `lekiwi alerts …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lekiwi_protocol::alert::{AlertState, Pattern, Severity};
use lekiwi_protocol::limits::MAX_ALERT_TIME;
use lekiwi_protocol::{RobotId, RuleName};
use uuid::Uuid;

use super::Json;

#[derive(Debug, Subcommand)]
pub(crate) enum Alerts {
    /// List alerts: those that fire, the newest first
    #[command(after_help = "Examples:
  lekiwi alerts list
  lekiwi alerts list --severity critical --json | jq -r '.alerts[].robot_id'
  lekiwi alerts list --state resolved --robot kiwi-01")]
    List(AlertList),
    /// Show what became of alerts: who looked after them, what was silenced, who was told; the newest first
    #[command(after_help = "Examples:
  lekiwi alerts history --robot kiwi-01
  lekiwi alerts history --alert hot:kiwi-01:1795233120007
  lekiwi alerts history --json | jq '.entries[] | select(.type == \"alert.undelivered\")'")]
    History(History),
    /// Say that you look after an alert; nobody is reminded of it any more
    #[command(
        after_help = "Example:\n  lekiwi alerts ack hot:kiwi-01:1795233120007 --comment 'on my way'"
    )]
    Ack(Acknowledge),
    /// Keep some alerts quiet for some time; they fire all the same
    #[command(after_help = "Examples:
  lekiwi alerts silence --robot kiwi-01 --for 2h --comment 'new wheels'
  lekiwi alerts silence --rule offline --robot 'lab-*' --for 3d")]
    Silence(Silence),
    /// List the silences that have not ended
    Silences(Json),
    /// End a silence before its time
    Unsilence {
        /// The silence
        id: Uuid,
    },
    /// List the rules that alerts come from
    Rules(Json),
    /// Make a rule, or another one in the place of the one of its name
    #[command(after_help = "Example:
  lekiwi alerts set-rule hot.yml

where hot.yml says, for example:
  id: hot
  summary: The board is too hot
  severity: critical
  when: {threshold: {metric: temperature_c, above: 80, until: 75}}
  for_s: 60")]
    SetRule(SetRule),
    /// Take away a rule that was made with set-rule
    RemoveRule {
        /// The rule
        name: RuleName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AlertList {
    /// Where they are: firing, resolved, or pending
    #[arg(long, value_name = "STATE", default_value = "firing", value_parser = state)]
    pub(crate) state: AlertState,
    /// Only of this robot
    #[arg(long, value_name = "ID")]
    pub(crate) robot: Option<RobotId>,
    /// Only of this rule
    #[arg(long, value_name = "NAME")]
    pub(crate) rule: Option<RuleName>,
    /// Only of this severity and above: info, warning, or critical
    #[arg(long, value_name = "SEVERITY", value_parser = severity)]
    pub(crate) severity: Option<Severity>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// Only of this robot
    #[arg(long, value_name = "ID")]
    pub(crate) robot: Option<RobotId>,
    /// Only of this rule
    #[arg(long, value_name = "NAME")]
    pub(crate) rule: Option<RuleName>,
    /// Only of this alert, as `lekiwi alerts list` names it
    #[arg(long, value_name = "ALERT", value_parser = alert)]
    pub(crate) alert: Option<String>,
    /// Only what is before this position of the log
    #[arg(long, value_name = "POSITION")]
    pub(crate) before: Option<u64>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Acknowledge {
    /// The alert, as `lekiwi alerts list` names it
    pub(crate) id: String,
    /// What others should know
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) comment: String,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Silence {
    /// Of rules of this pattern, such as offline or 'battery-*'; may be said several times
    #[arg(long = "rule", value_name = "PATTERN")]
    pub(crate) rules: Vec<Pattern>,
    /// Of robots of this pattern, such as 'kiwi-0?'; may be said several times
    #[arg(long = "robot", value_name = "PATTERN")]
    pub(crate) robots: Vec<Pattern>,
    /// Of this severity and below
    #[arg(long, value_name = "SEVERITY", value_parser = severity)]
    pub(crate) severity: Option<Severity>,
    /// For how long, such as 30min, 2h or 7d
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) comment: String,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct SetRule {
    /// The rule, YAML
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) output: Json,
}

/// The rest of its name is for the relay to check.
fn alert(text: &str) -> Result<String, String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == ':';
    if !text.is_empty() && text.chars().all(is_fine) {
        Ok(text.into())
    } else {
        Err("expected an alert such as hot:kiwi-01:1795233120007".into())
    }
}

fn state(text: &str) -> Result<AlertState, String> {
    let all = [
        AlertState::Pending,
        AlertState::Firing,
        AlertState::Resolved,
    ];
    let found = all.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| "expected firing, resolved or pending".into())
}

fn severity(text: &str) -> Result<Severity, String> {
    let all = [Severity::Info, Severity::Warning, Severity::Critical];
    let found = all.into_iter().find(|severity| severity.as_str() == text);
    found.ok_or_else(|| "expected info, warning or critical".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.as_secs() > 0 && time <= MAX_ALERT_TIME => Ok(time),
        _ => Err("expected a time from 1s to 7d, such as 30min or 2h".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Arguments;

    #[test]
    fn wrong_usage_says_what_was_expected() {
        for (line, expected) in [
            (
                "lekiwi alerts list --state broken",
                "error: invalid value 'broken' for '--state <STATE>': expected firing, resolved or pending",
            ),
            (
                "lekiwi alerts history --alert a&b",
                "error: invalid value 'a&b' for '--alert <ALERT>': expected an alert such as hot:kiwi-01:1795233120007",
            ),
            (
                "lekiwi alerts silence --for 8d",
                "error: invalid value '8d' for '--for <TIME>': expected a time from 1s to 7d, such as 30min or 2h",
            ),
            (
                "lekiwi alerts silence --robot Kiwi --for 1h",
                "error: invalid value 'Kiwi' for '--robot <PATTERN>': expected a pattern of 1 to 64 of a-z, 0-9, '.', '_', '-', '*' and '?', got \"Kiwi\"",
            ),
        ] {
            let error = Arguments::try_parse_from(line.split(' ')).expect_err("wrong usage");
            let error = error.to_string();
            assert_eq!(error.lines().next(), Some(expected));
        }
    }
}
