//! `lekiwi-provisioner`: the command line over the library.

mod commands;
mod failure;
mod progress;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::{build, customise, flash, line, lint, seed, serve};

/// Turns blank cards into robots that register themselves.
#[derive(Parser)]
#[command(
    version,
    after_help = "Example:\n  lekiwi token create --robot kiwi-01 --json > token\n  lekiwi-provisioner seed --os raspios-trixie --robot-id kiwi-01 --relay-https https://relay.example:8443 \\\n    --relay-mqtt mqtts://relay.example:8883 --ca-fingerprint sha256:… --token-file token \\\n    --agent-deb lekiwi-agent_0.1.0_arm64.deb --out /media/bootfs"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build a base image for the Pi from Debian's packages and the agent; as root.
    Build(build::Options),
    /// Write a cloud-init seed for one robot.
    Seed(Box<seed::Options>),
    /// Make finished images for robots of one stock image, without root.
    Customise(Box<customise::Options>),
    /// Say what is wrong with a seed, whoever wrote it.
    Lint(lint::Options),
    /// Write an image to cards, read it back and compare; or list the cards there are.
    Flash(flash::Options),
    /// Run a factory line: boards boot from the network, are installed, and followed until they are healthy.
    Serve(serve::Options),
    /// Look at a line's units, and start them again.
    Line(line::Options),
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Build(options) => build::run(options),
        Command::Seed(options) => seed::run(*options),
        Command::Customise(options) => customise::run(*options),
        Command::Lint(options) => lint::run(options),
        Command::Flash(options) => flash::run(&options),
        Command::Serve(options) => serve::run(&options),
        Command::Line(options) => line::run(options),
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
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            #[expect(clippy::print_stderr, reason = "the edge of a program for people")]
            {
                eprintln!("{}", failure.explain());
            }
            ExitCode::FAILURE
        }
    }
}
