//! `lekiwi audit …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lekiwi_protocol::signed::minisign::PublicKey;
use lekiwi_protocol::{RobotId, Timestamp};

use super::Json;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  lekiwi audit --robot kiwi-01 --limit 20
  lekiwi audit --who person:ada --action robot-command --from 2026-11-21T00:00:00Z
  lekiwi audit export audit.ndjson
  lekiwi audit verify audit.ndjson --key RWQ…
  lekiwi audit verify --since audit.ndjson"
)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) command: Option<AuditCommand>,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) output: Json,
}

/// Which entries are shown.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Only what this one did, such as person:ada
    #[arg(long)]
    pub(crate) who: Option<String>,
    /// Only this, such as robot-command; docs/audit.md lists them
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only on this robot
    #[arg(long)]
    pub(crate) robot: Option<RobotId>,
    /// Only at this time or later, in UTC, such as 2026-11-21T03:52:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<Timestamp>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<Timestamp>,
    /// The newest so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Write all of it into a file, one entry a line, with a checkpoint at the end that the relay signed
    Export {
        /// The file; there must be none yet
        file: PathBuf,
    },
    /// Check that nothing in it was changed, taken out or put in
    Verify {
        /// An export; what the relay has, when absent
        file: Option<PathBuf>,
        /// The relay's public key, as an earlier export showed it
        #[arg(long, value_name = "KEY")]
        key: Option<PublicKey>,
        /// An earlier export, whose checkpoint must still hold
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
    },
}
