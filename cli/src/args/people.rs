//! `lekiwi people …`, `lekiwi groups …`, `lekiwi lend …`, `lekiwi me …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lekiwi_protocol::api::Grant;
use lekiwi_protocol::{GroupName, RobotId, Scope, UserName};
use uuid::Uuid;

use super::Json;
use crate::trust::Fingerprint;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  lekiwi people
  lekiwi people add ada --role operator
  lekiwi people add bob@example.org --role engineer@group:warehouse --role operator
  lekiwi people roles ada --role operator@robot:kiwi-01
  lekiwi people disable bob@example.org"
)]
pub(crate) struct People {
    #[command(subcommand)]
    pub(crate) command: Option<PeopleCommand>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeopleCommand {
    /// Let somebody log in
    Add {
        /// As whom they log in
        name: UserName,
        /// operator, engineer or admin: of the fleet, or after an @ of group:NAME or robot:ID; may be said several times
        #[arg(long = "role", value_name = "ROLE[@WHERE]", value_parser = role)]
        roles: Vec<Grant>,
        /// Read their password from this file's first line; `-` is standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Give somebody these roles, in place of those they have; what they lent ends
    Roles {
        /// Who
        name: UserName,
        /// operator, engineer or admin: of the fleet, or after an @ of group:NAME or robot:ID; may be said several times
        #[arg(long = "role", value_name = "ROLE[@WHERE]", value_parser = role)]
        roles: Vec<Grant>,
    },
    /// Give somebody another password; their sessions end
    Password {
        /// Who
        name: UserName,
        /// Read it from this file's first line; `-` is standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Have somebody who lost their authenticator log in by their password alone; their sessions end
    ResetFactor {
        /// Who
        name: UserName,
    },
    /// Let somebody in no more; their sessions end
    Disable {
        /// Who
        name: UserName,
    },
    /// Let somebody in again
    Enable {
        /// Who
        name: UserName,
    },
    /// Remove somebody for good
    Remove {
        /// Who
        name: UserName,
    },
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  lekiwi groups
  lekiwi groups set warehouse kiwi-01 kiwi-02
  lekiwi groups remove warehouse"
)]
pub(crate) struct Groups {
    #[command(subcommand)]
    pub(crate) command: Option<GroupsCommand>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupsCommand {
    /// Make a group of these robots, or give it these in place of others
    Set {
        /// The group
        name: GroupName,
        /// Its robots, known or not yet
        robots: Vec<RobotId>,
    },
    /// Remove a group, with the roles on it
    Remove {
        /// The group
        name: GroupName,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lekiwi lend kiwi-01 ada --for 2h
  lekiwi lend kiwi-01 ada --end
  lekiwi lend kiwi-01")]
pub(crate) struct Lend {
    /// The robot
    pub(crate) robot: RobotId,
    /// To whom; without anybody, to whom it is lent is shown
    pub(crate) to: Option<UserName>,
    /// For how long, from 1min to 7d
    #[arg(
        long = "for",
        value_name = "TIME",
        default_value = "1h",
        value_parser = humantime::parse_duration,
        requires = "to"
    )]
    pub(crate) lifetime: Duration,
    /// Take it back
    #[arg(long, requires = "to")]
    pub(crate) end: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lekiwi invite ada --role operator
  lekiwi invite bob@example.org --role engineer@group:warehouse --for 7d
  lekiwi invite
  lekiwi invite --revoke 0f6c2b4e-8d5a-4c1e-9b7f-3a2d1c0e5f68

Whoever has the link can use it, once: hand it over by a way that you trust.")]
pub(crate) struct Invite {
    /// As whom they will log in; without anybody, the invitations are listed
    pub(crate) name: Option<UserName>,
    /// operator, engineer or admin: of the fleet, or after an @ of group:NAME or robot:ID; may be said several times
    #[arg(long = "role", value_name = "ROLE[@WHERE]", value_parser = role, requires = "name")]
    pub(crate) roles: Vec<Grant>,
    /// For how long the link is good, from 1min to 7d
    #[arg(
        long = "for",
        value_name = "TIME",
        default_value = "3d",
        value_parser = humantime::parse_duration,
        requires = "name"
    )]
    pub(crate) lifetime: Duration,
    /// Take this one back
    #[arg(long, value_name = "ID", conflicts_with = "name")]
    pub(crate) revoke: Option<Uuid>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  lekiwi join 'https://relay.example:8443/join?token=lki_…'")]
pub(crate) struct Join {
    /// The link
    pub(crate) link: String,
    /// Read the password from this file's first line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Fingerprint of the relay's authority, `sha256:…`; asked for when absent
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) ca_fingerprint: Option<Fingerprint>,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  lekiwi me
  lekiwi me password
  lekiwi me totp
  lekiwi me sessions
  lekiwi me sessions --end 4f1d2c3b4a596877"
)]
pub(crate) struct Me {
    #[command(subcommand)]
    pub(crate) command: Option<MeCommand>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MeCommand {
    /// Change your password; your other sessions end
    Password,
    /// Set up an authenticator whose codes your logins take
    Totp {
        /// What it shows now, for the one that was begun
        #[arg(long, value_name = "CODE", conflicts_with = "off")]
        confirm: Option<String>,
        /// Log in by your password alone from now on
        #[arg(long)]
        off: bool,
        /// Read your password from this file's first line; `-` is standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Show your sessions, or end one
    Sessions {
        /// End this one
        #[arg(long, value_name = "ID", value_parser = session)]
        end: Option<String>,
        #[command(flatten)]
        output: Json,
    },
}

fn role(text: &str) -> Result<Grant, String> {
    let (role, on) = match text.split_once('@') {
        None => (text, Scope::Fleet),
        Some((role, on)) => {
            let on = on.parse::<Scope>().map_err(|error| error.to_string())?;
            (role, on)
        }
    };
    Ok(Grant {
        role: role
            .parse()
            .map_err(|error: lekiwi_protocol::rights::RoleError| error.to_string())?,
        on,
        until: None,
    })
}

fn session(text: &str) -> Result<String, String> {
    if text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_owned())
    } else {
        Err("expected a session's id, as the list has it".to_owned())
    }
}
