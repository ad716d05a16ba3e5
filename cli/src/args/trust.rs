//! `lekiwi trust`: what the owner of a fleet does offline, with minisign's keys.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lekiwi_protocol::RobotId;
use serde_json::Value;

use super::{Json, parse};

#[derive(Debug, Subcommand)]
pub(crate) enum Trust {
    /// Write the first root, or the one after those in a trust file, to be signed
    #[command(after_help = "Examples:
  lekiwi trust root root-1.json --root anna.pub --root bert.pub --root-threshold 2 --configuration ops.pub --expires 730d
  lekiwi trust root root-2.json --after trust.json --configuration ops2.pub --expires 730d

Keys are public keys of minisign: `minisign -G -p anna.pub -s anna.key`. After another root, roles that are not named
keep their keys. A later root is signed by enough root keys of the one before and by enough of its own.")]
    Root(DraftRoot),
    /// Write a configuration, to be signed
    #[command(after_help = "Examples:
  lekiwi trust configuration kiwi-01.7.json --robot kiwi-01 --version 7 --expires 30d telemetry.sample_s=5
  lekiwi trust configuration fleet.8.json --all --version 8 --expires 30d --file settings.yml")]
    Configuration(DraftConfiguration),
    /// Write a list of files with their lengths and SHA-256, to be signed
    #[command(after_help = "Example:
  lekiwi trust artefacts artefacts.3.json --version 3 --expires 90d lekiwi-agent_1.2.0_arm64.deb policy.onnx")]
    Artefacts(DraftArtefacts),
    /// Sign a file as `minisign -S` does, with a key that has no password
    #[command(after_help = "Examples:
  lekiwi trust sign kiwi-01.7.json --key ops.key
  lekiwi trust sign root-1.json --key anna.key --output root-1.json.anna.minisig

A key with a password signs by `minisign -S -s anna.key -m root-1.json -x root-1.json.anna.minisig`.")]
    Sign(Sign),
    /// Add a signed root to a trust file, which is made for the first one
    #[command(after_help = "Example:
  lekiwi trust add-root trust.json root-1.json --signature root-1.json.anna.minisig --signature root-1.json.bert.minisig

Images pin the trust file: `lekiwi-provisioner … --trust trust.json`.")]
    AddRoot(AddRoot),
    /// Show who may sign what
    #[command(after_help = "Example:\n  lekiwi trust show trust.json")]
    Show(Show),
    /// Check a signed configuration, or signed artefacts and the files themselves, as a robot does
    #[command(after_help = "Examples:
  lekiwi trust verify kiwi-01.7.json --trust trust.json
  lekiwi trust verify artefacts.3.json --trust trust.json lekiwi-agent_1.2.0_arm64.deb policy.onnx")]
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(crate) struct DraftRoot {
    /// Where to; never overwritten
    #[arg(value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// The trust file whose last root it follows
    #[arg(long, value_name = "FILE")]
    pub(crate) after: Option<PathBuf>,
    /// How long it lasts, such as 730d
    #[arg(long, value_name = "TIME", value_parser = parse::lasting)]
    pub(crate) expires: Duration,
    /// Who signs roots: a file with a public key; may be said several times
    #[arg(long, value_name = "KEY")]
    pub(crate) root: Vec<PathBuf>,
    /// How many of them must
    #[arg(long, value_name = "N", requires = "root")]
    pub(crate) root_threshold: Option<u8>,
    /// Who signs artefacts
    #[arg(long, value_name = "KEY")]
    pub(crate) artefacts: Vec<PathBuf>,
    /// How many of them must
    #[arg(long, value_name = "N", requires = "artefacts")]
    pub(crate) artefacts_threshold: Option<u8>,
    /// Who signs configurations
    #[arg(long, value_name = "KEY")]
    pub(crate) configuration: Vec<PathBuf>,
    /// How many of them must
    #[arg(long, value_name = "N", requires = "configuration")]
    pub(crate) configuration_threshold: Option<u8>,
}

#[derive(Debug, Args)]
pub(crate) struct DraftConfiguration {
    /// Where to; never overwritten
    #[arg(value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// For this robot
    #[arg(long, value_name = "ID", required_unless_present = "all")]
    pub(crate) robot: Option<RobotId>,
    /// For all robots of the fleet
    #[arg(long, conflicts_with = "robot")]
    pub(crate) all: bool,
    /// Which one it is: a robot takes no older one than it has seen
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) version: u64,
    /// How long robots take it, such as 30d
    #[arg(long, value_name = "TIME", value_parser = parse::lasting)]
    pub(crate) expires: Duration,
    /// Which key, and its value
    #[arg(value_name = "KEY=VALUE", value_parser = parse::setting)]
    pub(crate) settings: Vec<(String, Value)>,
    /// All settings, as YAML
    #[arg(long, value_name = "FILE", conflicts_with = "settings")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DraftArtefacts {
    /// Where to; never overwritten
    #[arg(value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Which one it is: a robot takes no older one than it has seen
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) version: u64,
    /// How long robots take it, such as 90d
    #[arg(long, value_name = "TIME", value_parser = parse::lasting)]
    pub(crate) expires: Duration,
    /// What there is
    #[arg(value_name = "ARTEFACT", required = true)]
    pub(crate) artefacts: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// What is signed
    pub(crate) file: PathBuf,
    /// The secret key, as `minisign -G -W` makes it
    #[arg(long, value_name = "KEY")]
    pub(crate) key: PathBuf,
    /// Said in the signature, and signed too
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) comment: String,
    /// Where to; FILE.minisig when absent
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AddRoot {
    /// The trust file
    pub(crate) trust: PathBuf,
    /// The root
    pub(crate) root: PathBuf,
    #[command(flatten)]
    pub(crate) signatures: Signatures,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The trust file
    pub(crate) trust: PathBuf,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A configuration, or a list of artefacts
    pub(crate) file: PathBuf,
    /// The trust file
    #[arg(long, value_name = "FILE")]
    pub(crate) trust: PathBuf,
    #[command(flatten)]
    pub(crate) signatures: Signatures,
    /// Files that must be those that were signed
    pub(crate) artefacts: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Signatures {
    /// A signature of minisign; may be said several times. FILE.minisig when absent
    #[arg(long = "signature", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}
