//! What each command does: ask the relay, show the answer.

mod alerts;
mod audit;
mod bans;
mod command;
mod config;
mod consumer;
mod discover;
mod identities;
mod keys;
mod logs;
mod packages;
mod people;
mod rotate;
mod session;
mod telemetry;
mod token;
mod trust;
mod watch;

use clap::CommandFactory;
use serde::Serialize;

use crate::args::{Approve, Arguments, Command, Consumer, Events, OneRobot, Robots, Token};
use crate::client::Relay;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::ui::Ui;
use crate::{clock, show};

/// Runs one command to its end.
pub(crate) async fn run(
    command: Command,
    environment: &Environment,
    ui: &mut Ui,
) -> Result<(), Failure> {
    match command {
        Command::Login(login) => session::login(login, environment, ui).await,
        Command::Logout => session::logout(environment, ui).await,
        Command::Robots(Robots { at, output }) => {
            let list = Relay::of(environment)?.robots(at).await?;
            if output.json {
                json(ui, &list)
            } else {
                let then = at.unwrap_or(list.now);
                ui.line(show::robots(&list, then, ui.colour))
            }
        }
        Command::Robot(OneRobot { id, output }) => {
            let robot = Relay::of(environment)?.robot(&id).await?;
            if output.json {
                json(ui, &robot)
            } else {
                ui.line(show::robot(&robot, clock::now()))
            }
        }
        Command::Approve(Approve {
            id,
            profile,
            output,
        }) => {
            let robot = Relay::of(environment)?.approve(&id, profile).await?;
            if output.json {
                json(ui, &robot)
            } else {
                ui.line(show::standing(&robot))
            }
        }
        Command::Reject(OneRobot { id, output }) => {
            let robot = Relay::of(environment)?.reject(&id).await?;
            if output.json {
                json(ui, &robot)
            } else {
                ui.line(show::standing(&robot))
            }
        }
        Command::Send(arguments) => command::send(&Relay::of(environment)?, arguments, ui).await,
        Command::Commands(arguments) => {
            command::list(&Relay::of(environment)?, &arguments, ui).await
        }
        Command::Logs(arguments) => logs::run(&Relay::of(environment)?, arguments, ui).await,
        Command::Packages(arguments) => {
            packages::run(&Relay::of(environment)?, arguments, ui).await
        }
        Command::Config(config) => config::run(&Relay::of(environment)?, config, ui).await,
        Command::Trust(trust) => trust::run(trust, ui),
        Command::Estop(arguments) => command::estop(Relay::of(environment)?, arguments, ui).await,
        Command::Events(Events { id, limit, output }) => {
            let page = Relay::of(environment)?.events(&id, limit).await?;
            if output.json {
                return json(ui, &page);
            }
            page.events
                .iter()
                .try_for_each(|event| ui.line(show::event(event)))
        }
        Command::Telemetry(arguments) => {
            telemetry::run(&Relay::of(environment)?, &arguments, ui).await
        }
        Command::Alerts(alerts) => alerts::run(&Relay::of(environment)?, alerts, ui).await,
        Command::Audit(arguments) => audit::run(environment, arguments, ui).await,
        Command::Identity(identity) => identities::run(Relay::of(environment)?, identity, ui).await,
        Command::Bans(arguments) => bans::run(&Relay::of(environment)?, arguments, ui).await,
        Command::People(arguments) => people::people(&Relay::of(environment)?, arguments, ui).await,
        Command::Groups(arguments) => people::groups(&Relay::of(environment)?, arguments, ui).await,
        Command::Lend(arguments) => people::lend(&Relay::of(environment)?, arguments, ui).await,
        Command::Keys(arguments) => keys::run(arguments, environment, ui).await,
        Command::Invite(arguments) => people::invite(&Relay::of(environment)?, arguments, ui).await,
        Command::Join(arguments) => session::join(arguments, environment, ui).await,
        Command::Me(arguments) => people::me(&Relay::of(environment)?, arguments, ui).await,
        Command::Watch(arguments) => watch::run(&Relay::of(environment)?, &arguments, ui).await,
        Command::Discover(arguments) => discover::run(&arguments, environment, ui).await,
        Command::Token(Token::Create(arguments)) => {
            token::create(&Relay::of(environment)?, arguments, ui).await
        }
        Command::Token(Token::List(output)) => {
            token::list(&Relay::of(environment)?, &output, ui).await
        }
        Command::Token(Token::Revoke { id }) => {
            token::revoke(&Relay::of(environment)?, id, ui).await
        }
        Command::Consumer(Consumer::Create { name, out, reads }) => {
            consumer::create(&Relay::of(environment)?, name, &out, reads, ui).await
        }
        Command::Completions { shell } => {
            // Into memory first: the generator panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "lekiwi", &mut script);
            ui.bytes(&script)
        }
    }
}

fn json(ui: &mut Ui, value: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(value).map_err(|source| Failure::Output(source.into()))?;
    ui.line(text)
}
