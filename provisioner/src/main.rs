//! `lekiwi-provisioner`: the command line over the library. Errors are printed here, once.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use lekiwi_protocol::{Org, RobotId};
use lekiwi_provisioner::apply::{self, ApplyError};
use lekiwi_provisioner::order::{Order, OrderError};
use lekiwi_provisioner::plan;

/// Turns blank cards into robots that register themselves.
#[derive(Parser)]
#[command(
    version,
    after_help = "Example:\n  lekiwi token create --robot kiwi-01 --json | jq -r .token > token\n  lekiwi-provisioner seed --robot-id kiwi-01 --relay-https https://relay.example:8443 \\\n    --relay-mqtt mqtts://relay.example:8883 --ca-fingerprint sha256:… --token-file token --out /media/bootfs"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a cloud-init seed for one robot.
    Seed(Box<Seed>),
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct Seed {
    /// The robot: its host name, certificate and topic.
    #[arg(long)]
    robot_id: RobotId,
    /// The relay's HTTPS address, `https://host:port`.
    #[arg(long)]
    relay_https: String,
    /// The relay's broker, `mqtts://host:port`.
    #[arg(long)]
    relay_mqtt: String,
    /// The relay's authority, `sha256:…`; `lekiwi-relay ca show` prints it.
    #[arg(long)]
    ca_fingerprint: String,
    /// File with the one-time enrolment token; `-` reads standard input, which keeps it out of the process list.
    #[arg(long)]
    token_file: PathBuf,
    /// Hardware profile.
    #[arg(long, default_value = "generic")]
    profile: String,
    /// Organisation.
    #[arg(long, default_value = "default")]
    org: Org,
    /// File with a public key that may log in over SSH; repeatable.
    #[arg(long = "ssh-key")]
    ssh_keys: Vec<PathBuf>,
    /// An agent package that lies on the boot partition, by its file name.
    #[arg(long)]
    agent_deb: Option<String>,
    /// Where to write: the card's mounted boot partition.
    #[arg(long)]
    out: PathBuf,
    /// Replace the files of an earlier seed.
    #[arg(long)]
    force: bool,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected the file name of a package, without folders, got {0:?}")]
    PackageName(String),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("cannot print")]
    Print(#[from] io::Error),
}

impl Failure {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Order(error) => error.hint(),
            Self::Apply(error) => error.hint(),
            Self::Read { .. } | Self::PackageName(_) | Self::Print(_) => None,
        }
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Seed(arguments) => seed(*arguments),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "lekiwi-provisioner",
                &mut io::stdout(),
            );
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// The whole chain, once, and what to do about it.
#[expect(clippy::print_stderr, reason = "the edge of a program for people")]
fn report(error: &Failure) {
    let mut line = format!("error: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        line.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    eprintln!("{line}");
    if let Some(hint) = error.hint() {
        eprintln!("  (hint: {hint})");
    }
}

fn read(path: PathBuf) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(&path).map(|content| text = content)
    };
    read.map(|()| text.trim().to_owned())
        .map_err(|source| Failure::Read { path, source })
}

fn seed(arguments: Seed) -> Result<(), Failure> {
    if let Some(name) = &arguments.agent_deb
        && (name.contains('/') || !name.ends_with(".deb"))
    {
        return Err(Failure::PackageName(name.clone()));
    }
    let order = Order {
        robot_id: arguments.robot_id,
        org: arguments.org,
        profile: arguments.profile,
        https: arguments.relay_https,
        mqtt: arguments.relay_mqtt,
        ca_fingerprint: arguments.ca_fingerprint,
        token: read(arguments.token_file)?,
        ssh_keys: arguments
            .ssh_keys
            .into_iter()
            .map(read)
            .collect::<Result<_, _>>()?,
        agent_deb: arguments.agent_deb,
    }
    .check()?;
    let files = plan::seed(&order);
    if !arguments.dry_run {
        apply::seed(&arguments.out, &files, arguments.force)?;
    }
    let mut out = io::stdout().lock();
    if arguments.json {
        let files: Vec<_> = files
            .iter()
            .map(|file| {
                let path = arguments.out.join(file.name);
                serde_json::json!({ "path": path, "bytes": file.content.len(), "secret": file.secret })
            })
            .collect();
        writeln!(
            out,
            "{}",
            serde_json::json!({ "written": !arguments.dry_run, "files": files })
        )?;
        return Ok(());
    }
    let verb = if arguments.dry_run {
        "would write"
    } else {
        "wrote"
    };
    for file in &files {
        let note = if file.secret {
            ", holds the enrolment token"
        } else {
            ""
        };
        writeln!(
            out,
            "{verb} {} ({} bytes{note})",
            arguments.out.join(file.name).display(),
            file.content.len()
        )?;
    }
    if io::stdout().is_terminal() && !arguments.dry_run {
        writeln!(
            out,
            "unmount the card, put it into the robot, and switch it on"
        )?;
    }
    Ok(())
}
