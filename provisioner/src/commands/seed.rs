//! `lekiwi-provisioner seed`: one robot's seed into a folder, such as a card's mounted boot partition.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::Args;
use lekiwi_protocol::{Org, RobotId};
use lekiwi_provisioner::apply;
use lekiwi_provisioner::order::Order;
use lekiwi_provisioner::plan;

use crate::failure::Failure;

/// What `seed` takes.
#[derive(Args)]
pub(crate) struct Options {
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

/// Writes the seed, or says what would be written.
pub(crate) fn run(arguments: Options) -> Result<(), Failure> {
    if let Some(name) = &arguments.agent_deb
        && (name.contains('/') || !name.ends_with(".deb"))
    {
        return Err(Failure::new(format!(
            "expected the file name of a package, without folders, got {name:?}"
        )));
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
    .check()
    .map_err(|error| {
        let hint = error.hint();
        Failure::new(error).hint(hint)
    })?;
    let files = plan::seed(&order);
    if !arguments.dry_run {
        apply::seed(&arguments.out, &files, arguments.force).map_err(|error| {
            let hint = error.hint();
            Failure::new(error).hint(hint)
        })?;
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

fn read(path: PathBuf) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(&path).map(|content| text = content)
    };
    read.map(|()| text.trim().to_owned())
        .map_err(|source| Failure::file("read", &path, source))
}
