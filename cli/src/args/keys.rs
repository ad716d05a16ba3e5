//! `lekiwi keys …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lekiwi_protocol::{Permission, Scope, UserName};
use serde::Deserialize as _;
use serde::de::IntoDeserializer;
use serde::de::value::Error;
use uuid::Uuid;

use super::{Json, parse};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  lekiwi keys
  lekiwi keys create nightly --may read,diagnose --on group:warehouse --for 30d > key
  LEKIWI_KEY=@key lekiwi robots
  lekiwi keys rotate --write key
  lekiwi keys rotate --write key --every 24h      (a service that goes on doing so)
  lekiwi keys revoke 5c0f1d9e-7d51-4a56-9e0b-3d1f6a2b8c47"
)]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(crate) command: Option<KeysCommand>,
    /// Those of somebody else, for who manages
    #[arg(long, value_name = "NAME")]
    pub(crate) of: Option<UserName>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key for a program; it never may more than you, and is shown once
    Create {
        /// What the program is called
        name: String,
        /// What it may, such as read,stop; `lekiwi me` says what there is
        #[arg(long = "may", value_name = "PERMISSIONS", value_delimiter = ',', required = true, value_parser = permission)]
        permissions: Vec<Permission>,
        /// Where: fleet, group:NAME or robot:ID
        #[arg(long, value_name = "WHERE", default_value = "fleet")]
        on: Scope,
        /// For how long, up to 365d; the relay's default is 90d
        #[arg(long = "for", value_name = "TIME", value_parser = parse::lifetime)]
        lifetime: Option<Duration>,
        /// What else there is to say of it
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        #[command(flatten)]
        output: Json,
    },
    /// Give a key another secret; the one until now goes on working for a while
    Rotate(Rotate),
    /// End a key at once
    Revoke {
        /// The key's id, as `lekiwi keys` shows it
        id: Uuid,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// The key's id, as `lekiwi keys` shows it
    #[arg(required_unless_present = "write", conflicts_with = "write")]
    pub(crate) id: Option<Uuid>,
    /// For how long the secret until now goes on working, up to 7d; the relay's default is 24h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) overlap: Option<Duration>,
    /// The key in this file, which is replaced once the relay has taken the new one
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Go on, and do so whenever the file is that old, give or take a tenth
    #[arg(long, value_name = "TIME", value_parser = parse::lifetime, requires = "write")]
    pub(crate) every: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: Json,
}

fn permission(text: &str) -> Result<Permission, String> {
    let deserializer = IntoDeserializer::<Error>::into_deserializer(text);
    Permission::deserialize(deserializer).map_err(|_| {
        let all = Permission::ALL.map(Permission::as_str);
        format!("expected some of {}", all.join(", "))
    })
}
