//! `lekiwi-relay`: reads the command line and the configuration, and hands over. Errors are printed here
//! and nowhere else.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::TokenRequest;
use lekiwi_relay::audit::{self, Action};
use lekiwi_relay::cli::{Admin, Ca, Cli, Command, OfAuthority, OfStore, Run, Token, TokenCreate};
use lekiwi_relay::config::{self, Config, ConfigError, Raw};
use lekiwi_relay::driver;
use lekiwi_relay::exit::Exit;
use lekiwi_relay::identity::tokens;
use lekiwi_relay::metrics::Metrics;
use lekiwi_relay::paths::DataFolder;
use lekiwi_relay::store::{Location, Store};
use lekiwi_relay::{ceremony, clock, logging, maintenance, ready, ui};
use tokio::runtime::Builder;

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::init(cli.log_format);
    match cli.command {
        Command::Run(options) => run(&options),
        Command::Ready(options) => ready::ready(&options),
        Command::Token(Token::Create(options)) => create_token(&options),
        Command::Admin(Admin::Reset(options)) => with_store(&options.of, |location| {
            maintenance::reset_admin(location, &options)
        }),
        Command::Ca(Ca::Show(options)) => ceremony::show(&options),
        Command::Ca(Ca::Broker(options)) => ceremony::certify_broker(&options),
        Command::Ca(Ca::New(options)) => {
            with_authority(&options, |config, _| ceremony::begin(&options, config))
        }
        Command::Ca(Ca::Issuing(options)) => with_authority(&options.of, |config, location| {
            ceremony::set_issuing(&options, config, location)
        }),
        Command::Ca(Ca::Next(options)) => with_authority(&options.of, |config, location| {
            ceremony::make_next(&options, config, location)
        }),
        Command::Ca(Ca::Switch(options)) => {
            with_authority(&options, |_, location| ceremony::switch(&options, location))
        }
        Command::Ca(Ca::Retire(options)) => with_authority(&options.of, |_, location| {
            ceremony::retire(&options, location)
        }),
        Command::Backup(options) => with_store(&options.of, |location| {
            maintenance::backup(location, &options)
        }),
        Command::Restore(options) => with_store(&options.of, |location| {
            maintenance::restore(location, &options)
        }),
        Command::Verify(options) => with_store(&options.of, |location| {
            maintenance::verify(location, &options)
        }),
        Command::Move(options) => with_file(&options.of, |location| {
            maintenance::move_store(location, &options)
        }),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lekiwi-relay", &mut script);
            ui::print(&String::from_utf8_lossy(&script));
            Exit::Success
        }
    }
    .into()
}

fn run(options: &Run) -> Exit {
    let folder = options.data.folder();
    let config = match configuration(&folder, options.config.as_deref(), options.raw()) {
        Ok(config) => config,
        Err(error) => {
            ui::error(&error, error.hint().as_deref());
            return Exit::Config;
        }
    };
    // What robots say is taken in on one, and people are answered on the other: the system gives those their turn who ask now
    // and then, however much there is to be taken in.
    let runtime = || Builder::new_multi_thread().enable_all().build();
    let (runtime, serving) = match runtime().and_then(|first| Ok((first, runtime()?))) {
        Ok(both) => both,
        Err(error) => {
            ui::error(&error, None);
            return Exit::Failure;
        }
    };
    let outcome = runtime.block_on(driver::run(options, config, serving.handle()));
    // Connections that are still open end here.
    serving.shutdown_background();
    runtime.shutdown_background();
    match outcome {
        Ok(()) => Exit::Success,
        Err(error) => {
            ui::error(&error, error.hint().as_deref());
            error.exit()
        }
    }
}

/// Does something with the authority as the configuration has it.
fn with_authority(of: &OfAuthority, work: impl FnOnce(&Config, &Location) -> Exit) -> Exit {
    with_location(&of.data.folder(), of.config.as_deref(), work)
}

/// Does something with the store that the configuration names.
fn with_store(of: &OfStore, work: impl FnOnce(&Location) -> Exit) -> Exit {
    let folder = of.data.folder();
    with_location(&folder, of.config.as_deref(), |_, location| work(location))
}

fn with_location(
    folder: &DataFolder,
    config: Option<&Path>,
    work: impl FnOnce(&Config, &Location) -> Exit,
) -> Exit {
    let config = match configuration(folder, config, Raw::default()) {
        Ok(config) => config,
        Err(error) => {
            ui::error(&error, error.hint().as_deref());
            return Exit::Config;
        }
    };
    match driver::location(&config, folder) {
        Ok(location) => work(&config, &location),
        Err(error) => {
            ui::error(&error, None);
            Exit::Config
        }
    }
}

/// Does something with the store in the data folder, whatever the configuration names.
fn with_file(of: &OfStore, work: impl FnOnce(&Location) -> Exit) -> Exit {
    work(&Location::Sqlite(of.data.folder().store()))
}

fn configuration(
    folder: &DataFolder,
    config: Option<&Path>,
    flags: Raw,
) -> Result<Config, ConfigError> {
    let usual = folder.config();
    let (path, required): (&Path, bool) = match config {
        Some(path) => (path, true),
        None => (&usual, false),
    };
    let file = match std::fs::read_to_string(path) {
        Ok(text) => config::parse(path, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Raw::default(),
        Err(source) => {
            return Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    let (environment, warnings) =
        config::environment(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    flags.over(environment).over(file).check()
}

fn create_token(options: &TokenCreate) -> Exit {
    with_store(&options.of, |location| create_token_in(location, options))
}

fn create_token_in(location: &Location, options: &TokenCreate) -> Exit {
    let folder = options.of.data.folder();
    if matches!(location, Location::Sqlite(_)) && !folder.has_store() {
        ui::note(&format!(
            "error: expected a relay's data in {}, found none\n  (hint: start the relay once, or name its folder with --data)\n",
            folder.path().display()
        ));
        return Exit::Failure;
    }
    let request = TokenRequest {
        profile: options.profile.clone(),
        serial: options.serial.clone(),
        robot_id: options.robot.clone(),
        lifetime_s: Some(options.lifetime.as_secs()),
        max_uses: Some(options.max_uses),
    };
    let (store, _commits) = match Store::open_at(location, Arc::new(Metrics::default())) {
        Ok(opened) => opened,
        Err(error) => {
            ui::error(&error, error.hint());
            return Exit::Failure;
        }
    };
    let made = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| {
            let now = Timestamp::from_ms(clock::now_ms());
            runtime.block_on(async {
                let created = tokens::create(&store, &request, now).await?;
                let token = [("token", created.info.id.to_string())];
                let who = audit::operator();
                let entry = audit::of_system(&who, Action::TokenCreate, "tokens", token);
                store.record(entry).await?;
                Ok::<_, tokens::TokenError>(created)
            })
        });
    store.close();
    let created = match made {
        Ok(Ok(created)) => created,
        Ok(Err(error)) => return failed(&error),
        Err(error) => return failed(&error),
    };
    if options.of.json {
        // Strings and numbers always become JSON.
        ui::print(&format!(
            "{}\n",
            serde_json::to_string(&created).unwrap_or_default()
        ));
    } else {
        ui::print(&format!("{}\n", created.token));
        let keys = match created.info.max_uses {
            1 => "one key".to_owned(),
            n => format!("{n} keys"),
        };
        ui::note(&format!(
            "good for {keys} until {}\n",
            created.info.expires_at
        ));
    }
    Exit::Success
}

fn failed(error: &dyn std::error::Error) -> Exit {
    ui::error(error, None);
    Exit::Failure
}
