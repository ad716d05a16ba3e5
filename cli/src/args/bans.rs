//! `lekiwi bans …`.

use clap::{Args, Subcommand};

use super::Json;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  lekiwi bans
  lekiwi bans lift 192.0.2.7
  lekiwi bans lift kiwi-01"
)]
pub(crate) struct Bans {
    #[command(subcommand)]
    pub(crate) command: Option<BansCommand>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BansCommand {
    /// Let somebody in again
    Lift {
        /// A client's id or an address, as the list has it
        #[arg(value_name = "WHO", value_parser = who)]
        who: String,
    },
}

/// What is no part of a name would mean another route.
fn who(text: &str) -> Result<String, String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if text.contains(|c: char| c.is_ascii_alphanumeric() || c == ':') && text.chars().all(is_fine) {
        Ok(text.to_owned())
    } else {
        Err("expected a client's id or an address such as 192.0.2.7".to_owned())
    }
}
