//! `lekiwi`: the operator's command line over the relay's HTTP interface. This file is plumbing: parse,
//! run, tell the failure once, exit.

mod args;
mod client;
mod clock;
mod commands;
mod credentials;
mod environment;
mod exit;
mod failure;
mod show;
mod sse;
mod trust;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Arguments;
use crate::environment::Environment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::ui::Ui;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = Environment::of_process();
    let mut ui = Ui::of_process(&environment);
    let outcome = run(arguments, &environment, &mut ui).and_then(|()| ui.flush());
    match outcome {
        Ok(()) => Exit::Success.into(),
        Err(failure) if failure.is_broken_pipe() => Exit::Success.into(),
        Err(failure) => {
            ui.failure(&failure);
            failure.exit().into()
        }
    }
}

fn run(arguments: Arguments, environment: &Environment, ui: &mut Ui) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            outcome = commands::run(arguments.command, environment, ui) => outcome,
            // Second: a command that waits says what goes on. Nothing needs cleaning up: files are written whole or not at all.
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}
