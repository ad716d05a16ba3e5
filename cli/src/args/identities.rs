//! `lekiwi identity …`.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use lekiwi_protocol::{GroupName, RobotId};

use super::{Json, parse};

#[derive(Debug, Subcommand)]
pub(crate) enum Identity {
    /// List the certificates of robots and programs that count
    #[command(after_help = "Examples:
  lekiwi identity list
  lekiwi identity list kiwi-01 --all
  lekiwi identity list --ending-within 14d")]
    List(List),
    /// Have robots get another certificate now, one after the other
    #[command(after_help = "Examples:
  lekiwi identity rotate kiwi-01 --wait
  lekiwi identity rotate --all --over 2h --wait
  lekiwi identity rotate --group hall --yes --json
  lekiwi identity rotate --ending-within 14d --yes

Each robot makes a new key, and the certificate of before counts until it has connected with the new one. Robots renew
by themselves with a third of a certificate's life left: this is for not waiting until then. A robot that is away is
asked when it comes back, within --expires. Ctrl-C stops the asking: who was asked goes on.")]
    Rotate(Rotate),
    /// Take a certificate back, at once: whoever is connected with it is disconnected
    #[command(
        after_help = "Example:\n  lekiwi identity revoke 5c1f0e9a7b3d42e8a6f1907b2c4d8e35

A robot comes back only by a token of its own: lekiwi token create --robot kiwi-01"
    )]
    Revoke {
        /// Its serial number, as the list has it
        #[arg(value_parser = serial)]
        serial: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those of a robot, or of `consumer:NAME`
    #[arg(value_parser = name)]
    pub(crate) name: Option<String>,
    /// Also those that count no more
    #[arg(long)]
    pub(crate) all: bool,
    /// Only those that end within this time, such as 14d, or have ended
    #[arg(long, value_name = "TIME", value_parser = parse::lasting)]
    pub(crate) ending_within: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["ids", "all", "group", "ending_within"]).required(true).multiple(true))]
pub(crate) struct Rotate {
    /// These robots
    #[arg(value_name = "ROBOT", conflicts_with_all = ["all", "group"])]
    pub(crate) ids: Vec<RobotId>,
    /// Every robot that takes part
    #[arg(long, conflicts_with = "group")]
    pub(crate) all: bool,
    /// Those of a group
    #[arg(long)]
    pub(crate) group: Option<GroupName>,
    /// Of these, or of all, only those whose certificate ends within this time, such as 14d, or has ended
    #[arg(long, value_name = "TIME", value_parser = parse::lasting)]
    pub(crate) ending_within: Option<Duration>,
    /// Over this time, at random, such as 10m or 2h; a second for each robot when absent
    #[arg(long, value_name = "TIME", value_parser = parse::over)]
    pub(crate) over: Option<Duration>,
    /// Within which time a robot must have accepted it, such as 1h
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse::expiry)]
    pub(crate) expires: Duration,
    /// Wait for the robots that are there, and say how far it is
    #[arg(long)]
    pub(crate) wait: bool,
    /// Do not ask before robots that were not named are asked
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

/// What is no part of a name would mean another question.
fn name(text: &str) -> Result<String, String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-:".contains(c);
    if !text.is_empty() && text.chars().all(is_fine) {
        Ok(text.to_owned())
    } else {
        Err("expected a robot's id, or consumer:NAME".to_owned())
    }
}

fn serial(text: &str) -> Result<String, String> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    if !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        Ok(digits.trim_start_matches('0').to_owned())
    } else {
        Err("expected a serial number in hex".to_owned())
    }
}
