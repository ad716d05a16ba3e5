//! `lekiwi identity …`.

use clap::{Args, Subcommand};

use super::Json;

#[derive(Debug, Subcommand)]
pub(crate) enum Identity {
    /// List the certificates of robots and programs that count
    #[command(
        after_help = "Examples:\n  lekiwi identity list\n  lekiwi identity list kiwi-01 --all"
    )]
    List(List),
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
