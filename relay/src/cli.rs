//! The command line of `lekiwi-relay`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lekiwi_protocol::{RobotId, UserName};

use crate::config::Raw;
use crate::identity::server::ServerName;
use crate::logging::Format;
use crate::paths::DataFolder;

/// The relay of a Lekiwi Heartbeat fleet: takes what robots say, and shows it to people and programs.
#[derive(Debug, Parser)]
#[command(
    name = "lekiwi-relay",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Form of the log on standard error; `LEKIWI_RELAY_LOG` chooses what is logged.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: Format,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the relay until SIGTERM or Ctrl-C.
    Run(Run),
    /// Ask the relay on this machine whether it is ready; fails when it is not.
    Ready(Ready),
    /// Enrolment tokens.
    #[command(subcommand)]
    Token(Token),
    /// Administrators who are locked out.
    #[command(subcommand)]
    Admin(Admin),
    /// The certificate authority.
    #[command(subcommand)]
    Ca(Ca),
    /// Write the whole store into one file, beside a running relay.
    Backup(Backup),
    /// Put a backup in the place of a store that is not there yet.
    Restore(Restore),
    /// Check a backup, or the store itself, beside a running relay.
    Verify(Verify),
    /// Copy the store from its file into a database of PostgreSQL, and compare both.
    Move(Move),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Where the relay keeps everything.
#[derive(Debug, Args)]
pub struct Data {
    /// The folder with the store, the authority's keys and `relay.yml`.
    #[arg(
        long = "data",
        value_name = "DIR",
        env = "LEKIWI_RELAY_DATA",
        default_value = "/var/lib/lekiwi-relay"
    )]
    pub folder: PathBuf,
    /// The folder that several relays of one fleet have in common: the authority's keys, and what robots upload [default:
    /// that of --data].
    #[arg(long, value_name = "DIR", env = "LEKIWI_RELAY_SHARED")]
    pub shared: Option<PathBuf>,
}

impl Data {
    /// What lies where.
    #[must_use]
    pub fn folder(&self) -> DataFolder {
        DataFolder::sharing(&self.folder, self.shared.as_ref().unwrap_or(&self.folder))
    }
}

/// The relay's store.
#[derive(Debug, Args)]
pub struct OfStore {
    /// Where everything is kept.
    #[command(flatten)]
    pub data: Data,
    /// The configuration file, which says where the store is; `relay.yml` in the data folder when absent.
    #[arg(long, value_name = "FILE", env = "LEKIWI_RELAY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// The file to write; there must be none yet.
    pub file: PathBuf,
    /// Of which relay.
    #[command(flatten)]
    pub of: OfStore,
}

/// `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup.
    pub file: PathBuf,
    /// Of which relay.
    #[command(flatten)]
    pub of: OfStore,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The backup; the store itself when absent.
    pub file: Option<PathBuf>,
    /// Of which relay.
    #[command(flatten)]
    pub of: OfStore,
}

/// `move`.
#[derive(Debug, Args)]
pub struct Move {
    /// The database, such as postgresql://relay@db.example.org/lekiwi; it must be empty.
    #[arg(
        long,
        value_name = "URL",
        env = "LEKIWI_RELAY_STORE_POSTGRES",
        hide_env_values = true
    )]
    pub to: String,
    /// A file with the database's password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// A file with the authorities that the database's certificate may be of [default: the system's].
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Of which relay.
    #[command(flatten)]
    pub of: OfStore,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Where everything is kept.
    #[command(flatten)]
    pub data: Data,
    /// The configuration file; `relay.yml` in the data folder when absent.
    #[arg(long, value_name = "FILE", env = "LEKIWI_RELAY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where HTTPS listens [default: 0.0.0.0:8443].
    #[arg(long, value_name = "ADDR")]
    pub https: Option<String>,
    /// Where MQTT over mutual TLS listens [default: 0.0.0.0:8883].
    #[arg(long, value_name = "ADDR")]
    pub mqtt: Option<String>,
    /// A broker such as mqtts://broker.example.org:8883, of which the relay is a client, instead of listening for MQTT.
    #[arg(long, value_name = "URL")]
    pub broker: Option<String>,
    /// A name or address that clients call the relay by; may be given several times, foremost first.
    #[arg(long = "server-name", value_name = "NAME")]
    pub server_names: Vec<String>,
    /// The relay's id among relays [default: the host's name].
    #[arg(long, value_name = "ID")]
    pub relay_id: Option<String>,
    /// The organisation, a level of every topic [default: default].
    #[arg(long, value_name = "ORG")]
    pub org: Option<String>,
    /// At the first start, write the administrator's password to this file instead of the terminal.
    #[arg(long, value_name = "FILE")]
    pub admin_password_file: Option<PathBuf>,
    /// Write addresses and process id to this file, as JSON, once both ports listen.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

impl Run {
    /// The part of the configuration that the command line says.
    #[must_use]
    pub fn raw(&self) -> Raw {
        Raw {
            https: self.https.clone(),
            mqtt: self.mqtt.clone(),
            broker: self.broker.clone(),
            server_names: (!self.server_names.is_empty()).then(|| self.server_names.clone()),
            relay_id: self.relay_id.clone(),
            org: self.org.clone(),
            ..Raw::default()
        }
    }
}

/// `ready`.
#[derive(Debug, Args)]
pub struct Ready {
    /// Where the authority is.
    #[command(flatten)]
    pub data: Data,
    /// Where to ask.
    #[arg(long, value_name = "URL", default_value = "https://localhost:8443")]
    pub url: String,
}

/// `token`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make an enrolment token. Works beside a running relay.
    Create(TokenCreate),
}

/// `token create`.
#[derive(Debug, Args)]
pub struct TokenCreate {
    /// Of which relay, and how to print.
    #[command(flatten)]
    pub of: OfStore,
    /// Only for this hardware profile.
    #[arg(long)]
    pub profile: Option<String>,
    /// Only for the machine with this serial number.
    #[arg(long)]
    pub serial: Option<String>,
    /// Only for this robot; needed to give a robot that exists another key.
    #[arg(long, value_name = "ID")]
    pub robot: Option<RobotId>,
    /// How long it is good for.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "24h")]
    pub lifetime: Duration,
    /// How many keys may use it; each card flashed with it is one.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub max_uses: u32,
}

/// `admin`.
#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Make somebody an administrator of the fleet again, with a new password that is shown once. Stop the relay first.
    Reset(AdminReset),
}

/// `admin reset`.
#[derive(Debug, Args)]
pub struct AdminReset {
    /// Of which relay, and how to print.
    #[command(flatten)]
    pub of: OfStore,
    /// As whom they log in; they are added when there is nobody of this name.
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub name: UserName,
}

/// `ca`.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Print the authority's certificate and the fingerprint that robots pin.
    Show(CaShow),
    /// Make the certificate of an external broker.
    Broker(CaBroker),
    /// Make another authority where the one before is gone: every robot has to be enrolled again.
    New(OfAuthority),
    /// Put an issuing authority below the root, or renew it, so that the root's key can be kept offline.
    ///
    /// The root's key is needed once: afterwards take ca.key out of the folder, to where no network leads. The relays see
    /// it when they start again.
    Issuing(CaIssuing),
    /// Move the fleet to another root, first step: make it, and announce it beside the present one.
    ///
    /// Relays announce and trust it as soon as they have started again; external brokers get it with `ca broker`. The
    /// present root signs it, so that robots which have heard of the present one only go on believing the relay.
    Next(CaNext),
    /// Second step: let the next root sign from now on, with the one before still trusted.
    ///
    /// Robots change over when they renew their certificates.
    Switch(OfAuthority),
    /// Last step: forget the root before. Refused while a certificate of it counts.
    Retire(CaRetire),
}

/// `ca issuing`.
#[derive(Debug, Args)]
pub struct CaIssuing {
    /// Of which relay.
    #[command(flatten)]
    pub of: OfAuthority,
    /// The root's key, PKCS#8 PEM, where it is not in the authority's folder.
    #[arg(long, value_name = "FILE")]
    pub root_key: Option<PathBuf>,
}

/// `ca next`.
#[derive(Debug, Args)]
pub struct CaNext {
    /// Of which relay.
    #[command(flatten)]
    pub of: OfAuthority,
    /// The present root's key, PKCS#8 PEM, where it is not in the authority's folder.
    #[arg(long, value_name = "FILE")]
    pub root_key: Option<PathBuf>,
}

/// `ca retire`.
#[derive(Debug, Args)]
pub struct CaRetire {
    /// Of which relay.
    #[command(flatten)]
    pub of: OfAuthority,
    /// Whatever certificates it signed: who has one must enrol again.
    #[arg(long)]
    pub force: bool,
}

/// An authority, and the configuration that names its organisation.
#[derive(Debug, Args)]
pub struct OfAuthority {
    /// Where everything is kept.
    #[command(flatten)]
    pub data: Data,
    /// The configuration file, which names the organisation; `relay.yml` in the data folder when absent.
    #[arg(long, value_name = "FILE", env = "LEKIWI_RELAY_CONFIG")]
    pub config: Option<PathBuf>,
}

/// `ca show`.
#[derive(Debug, Args)]
pub struct CaShow {
    /// Where everything is kept.
    #[command(flatten)]
    pub data: Data,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ca broker`.
#[derive(Debug, Args)]
pub struct CaBroker {
    /// Where everything is kept.
    #[command(flatten)]
    pub data: Data,
    /// A name or address that robots and the relay call the broker by; may be given several times.
    #[arg(long = "name", value_name = "NAME", required = true, value_parser = ServerName::parse)]
    pub names: Vec<ServerName>,
    /// The folder for ca.pem, server.pem and server.key, as in deploy/mosquitto.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How long to wait for the authority, which the first relay makes when it starts.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
    pub wait: Duration,
}
