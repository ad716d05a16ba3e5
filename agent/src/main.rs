//! `lekiwi-agent`: the command line around the library. Reads the environment, starts logging and the
//! runtime, prints errors with their chain and hint, and exits with one of [`ExitCode`].

mod explain;
mod show;
mod telling;
mod watch;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use lekiwi_agent::clock::{self, Floor};
use lekiwi_agent::commands::{Place, privileged};
use lekiwi_agent::config::{self, Config, ConfigError, Environment};
use lekiwi_agent::doctor;
use lekiwi_agent::driver::{self, StartError, chain};
use lekiwi_agent::exit::ExitCode;
use lekiwi_agent::hardware;
use lekiwi_agent::identity::{EnrolError, Enrolment, Identity, Store, enrol};
use lekiwi_agent::ipc;
use lekiwi_agent::journal;
use lekiwi_agent::machine::{Machine, hostname};
use lekiwi_agent::setup::{self, SetupError};
use lekiwi_agent::telemetry::packages;
use lekiwi_agent_core::twin::Layer;

const EXAMPLES: &str = "Examples:
  lekiwi-agent check-config                     is /etc/lekiwi/agent.yml right?
  lekiwi-agent enrol                            get a certificate with the one-time token
  lekiwi-agent run                              be the robot; what the service runs
  lekiwi-agent setup --dry-run                  what would root's setup install?
  lekiwi-agent hardware                         what is plugged in, and which profile is that?
  lekiwi-agent status --json                    what is the running agent doing?
  lekiwi-agent packages                         what is installed here?
  lekiwi-agent teleop --watch                   does somebody drive this robot, and by what is that seen?
  lekiwi-agent doctor                           what is wrong with this robot, and what helps?
  lekiwi-agent report battery 80                tell the relay what only the robot's programs know
  lekiwi-agent report event custom.bumped       and what happened to it
  lekiwi-agent follow state                     a line of JSON whenever the robot's state changes
  LEKIWI_ROBOT_ID=kiwi-02 LEKIWI_LOG=debug lekiwi-agent --config ./agent.yml run

Variables: LEKIWI_CONFIG, LEKIWI_LOG (error, warn, info, debug, trace), NO_COLOR, and one for each key
of the file, such as LEKIWI_RELAY_HTTPS.
Exit codes: 0 done, 1 failed, 2 wrong command line, 69 not running or already running,
75 try again later, 77 refused by the relay, 78 wrong configuration.";

/// Longer than any robot runs.
const LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Connects a robot to its relay: presence, telemetry, events.
#[derive(Debug, Parser)]
#[command(name = "lekiwi-agent", version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration [default: $LEKIWI_CONFIG or /etc/lekiwi/agent.yml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For tests: the system that scrub, setup and services are about lies below this folder
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/",
        hide = true
    )]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrol if necessary, connect, and stay connected until a signal
    Run {
        /// For tests: end by SIGKILL at this place of the commands' journal
        #[arg(long, value_name = "N", hide = true)]
        kill_at: Option<u32>,
    },
    /// Get a certificate from the relay with the one-time token, and exit
    Enrol {
        /// Give up after so many seconds without an answer
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        within: u64,
    },
    /// Show what the running agent does
    Status {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the installed Debian packages, and the digest that the relay has of them
    Packages {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the configuration and show what it means
    CheckConfig,
    /// Check everything that can be wrong, with hints; fails when something is
    Doctor {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Report something to the running agent, which keeps it and tells the relay
    Report {
        #[command(subcommand)]
        what: telling::What,
    },
    /// Print what the running agent tells, a line of JSON each
    Follow {
        /// state, control or both; state, when none is given. Who follows control is told of emergency stops, and
        /// counts as a listener that does not confirm them
        #[arg(value_name = "TOPIC", value_parser = ["state", "control"])]
        topics: Vec<String>,
    },
    /// Have the running agent read its configuration again, without losing the connection
    Reload,
    /// Have the running agent ask the relay for its next certificate now
    Renew,
    /// Overwrite the token and Wi-Fi passphrases that the seed left on the card; what lekiwi-scrub.service runs as root
    Scrub {
        /// The mounted boot partition
        #[arg(long, default_value = "/boot/firmware", value_name = "FOLDER")]
        boot: PathBuf,
    },
    /// Install the robot's own software, as its profile says; what root's service runs
    Setup {
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Look whether somebody drives the robot, and by what that is seen; needs no rights and no running agent
    Teleop {
        /// Go on looking until a signal
        #[arg(long)]
        watch: bool,
        /// As lines of JSON, one a look and one an event
        #[arg(long)]
        json: bool,
        /// The profile to look by, or a file with one [default: what the robot is registered or configured as]
        #[arg(long, value_name = "NAME|FILE")]
        profile: Option<String>,
    },
    /// Do what the agent has no rights for, when it asks: restart a service of the profile, or the machine; what
    /// root's service runs
    Privileged,
    /// Switch the torque of all motors on servo buses off; fails unless every one of them says that it is. Whatever was
    /// held up comes down
    TorqueOff {
        /// The serial ports, such as /dev/ttyACM0
        #[arg(required = true, value_name = "PORT")]
        ports: Vec<PathBuf>,
    },
    /// Look at the hardware, and explain which profile fits
    Hardware {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
        /// Remember the result: the agent takes it at its next start
        #[arg(long)]
        detect: bool,
    },
}

/// What ends the program, with what to do about it.
struct Failure {
    code: ExitCode,
    message: String,
    hint: Option<String>,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    if let Some(complaint) = journal::start(environment.value("LEKIWI_LOG"), no_color()) {
        log::warn!("{complaint}");
    }
    match execute(&arguments, &environment) {
        Ok(()) => ExitCode::Success.into(),
        Err(failure) => {
            complain(&failure);
            failure.code.into()
        }
    }
}

fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn complain(failure: &Failure) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "error: {}", failure.message);
    if let Some(hint) = &failure.hint {
        let _ = writeln!(out, "  (hint: {hint})");
    }
}

/// For people; nobody reading any more is no failure.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn execute(arguments: &Arguments, environment: &Environment) -> Result<(), Failure> {
    match &arguments.command {
        Command::Scrub { boot } => return scrub(&arguments.root, boot),
        Command::TorqueOff { ports } => return torque_off(ports),
        Command::Packages { json } => return list_packages(&arguments.root, *json),
        _ => {}
    }
    if let Command::Teleop {
        watch,
        json,
        profile: Some(profile),
    } = &arguments.command
    {
        // Whatever is configured: the configuration may be for others to read.
        let profile = watch::named(profile, &arguments.root)?;
        return runtime()?.block_on(watch::run(&profile, &arguments.root, *watch, *json));
    }
    let path = arguments
        .config
        .clone()
        .or_else(|| environment.value("LEKIWI_CONFIG").map(PathBuf::from));
    let path = path.unwrap_or_else(|| PathBuf::from(config::DEFAULT_PATH));
    let runtime = runtime()?;
    let (file, variables) = (path.clone(), environment.clone());
    let read = move |desired: Option<&Layer>| config::load(&file, &variables, &hostname(), desired);
    let loaded = match (&arguments.command, read(None)) {
        (Command::Doctor { json }, loaded) => {
            let report = runtime.block_on(doctor::examine(&arguments.root, loaded));
            return show::report(&report, *json);
        }
        (Command::Privileged, Err(error)) => {
            // The request is answered and taken away all the same, where systemd looks for it.
            let state_dir = environment.value("LEKIWI_STATE_DIR");
            let place = privileged_place(
                state_dir.unwrap_or(config::DEFAULT_STATE_DIR).into(),
                lekiwi_protocol::profile::FOLDER.into(),
                &arguments.root,
            );
            let reason = format!("root's helper has no configuration: {}", chain(&error));
            if let Err(error) = runtime.block_on(privileged::run(&place, Some(reason))) {
                log::warn!("{}", chain(&error));
            }
            return Err(misconfigured(&error));
        }
        (command, Err(error)) => {
            // A running agent can be spoken to all the same: it knows why its configuration stays as it was.
            let socket = environment.value("LEKIWI_SOCKET");
            let socket = Path::new(socket.unwrap_or(config::DEFAULT_SOCKET));
            return match runtime.block_on(talk(command, socket)) {
                Some(Err(Failure {
                    code: ExitCode::Unavailable,
                    ..
                }))
                | None => Err(misconfigured(&error)),
                Some(said) => said,
            };
        }
        (_, Ok(loaded)) => loaded,
    };
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    let config = loaded.config;
    journal::set_level(config.log);
    match &arguments.command {
        Command::Run { kill_at } => {
            let lock = driver::lock(&config).map_err(|error| start_failure(&error))?;
            // The thread for what blocks, made while it can be: a machine that is out of processes makes none
            // later, and the runtime would not survive that.
            runtime.spawn_blocking(|| ());
            runtime
                .block_on(driver::run(
                    config,
                    &arguments.root,
                    &lock,
                    Box::new(read),
                    *kill_at,
                ))
                .map_err(|error| start_failure(&error))
        }
        Command::Enrol { within } => {
            let _lock = driver::lock(&config).map_err(|error| start_failure(&error))?;
            runtime.block_on(enrol_once(&config, Duration::from_secs(*within)))
        }
        Command::CheckConfig => {
            show::configuration(&config, &path);
            Ok(())
        }
        // Need no configuration: done above.
        Command::Scrub { .. }
        | Command::Packages { .. }
        | Command::TorqueOff { .. }
        | Command::Doctor { .. } => Ok(()),
        Command::Setup { dry_run } => {
            let options = setup::Options {
                root: arguments.root.clone(),
            };
            let result = if *dry_run {
                setup::describe(&config, &options).map(|lines| print(&lines.join("\n")))
            } else {
                runtime.block_on(setup::run(&config, &options))
            };
            result.map_err(|error| setup_failure(&error))
        }
        Command::Teleop { watch, json, .. } => {
            let profile = watch::configured(&config, &arguments.root)?;
            runtime.block_on(watch::run(&profile, &arguments.root, *watch, *json))
        }
        Command::Privileged => {
            let place = privileged_place(config.state_dir, config.profiles_dir, &arguments.root);
            runtime
                .block_on(privileged::run(&place, None))
                .map_err(|error| failed(ExitCode::Failure, &error))
        }
        Command::Hardware { json, detect } => look(&config, *json, *detect),
        Command::Status { .. }
        | Command::Report { .. }
        | Command::Follow { .. }
        | Command::Reload
        | Command::Renew => {
            let said = runtime.block_on(talk(&arguments.command, &config.socket));
            said.unwrap_or(Ok(()))
        }
    }
}

fn privileged_place(state_dir: PathBuf, profiles_dir: PathBuf, root: &Path) -> Place {
    Place {
        state_dir,
        profiles_dir,
        root: root.to_owned(),
        boot_id: Machine::default().boot_id().unwrap_or_default(),
    }
}

/// What is said to a running agent; `None` of another command.
async fn talk(command: &Command, socket: &Path) -> Option<Result<(), Failure>> {
    Some(match command {
        Command::Status { json } => match ipc::ask_status(socket).await {
            Ok(status) => show::status(&status, *json),
            Err(error) => Err(telling::unheard(&error)),
        },
        Command::Report { what } => telling::report(socket, what).await,
        Command::Follow { topics } => telling::follow(socket, topics).await,
        Command::Reload => telling::reload(socket).await,
        Command::Renew => telling::renew(socket).await,
        _ => return None,
    })
}

/// One thread, and one for what blocks: looking names up.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // Names are looked up there: those of several endpoints must not wait for each other.
        .max_blocking_threads(4)
        .thread_keep_alive(LIFETIME)
        .build()
        .map_err(|error| failed(ExitCode::Failure, &error))
}

/// Only of an enrolled robot: another one still needs its token.
fn scrub(root: &Path, boot: &Path) -> Result<(), Failure> {
    let certificate = root.join("opt/lekiwi-agent/state/cert.pem");
    if !certificate.exists() {
        return Err(Failure {
            code: ExitCode::TryAgain,
            message: format!(
                "expected an enrolled robot, found no {}",
                certificate.display()
            ),
            hint: Some("the token is needed until then".to_owned()),
        });
    }
    let report = lekiwi_agent::scrub::scrub(root, boot);
    let masked: Vec<String> = report
        .masked
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    match masked.as_slice() {
        [] => log::info!("no secret of the seed is left"),
        paths => log::info!(
            "the seed's secrets were overwritten in {}",
            paths.join(", ")
        ),
    }
    if report.failed.is_empty() {
        return Ok(());
    }
    Err(Failure {
        code: ExitCode::Failure,
        message: format!(
            "expected to overwrite the seed's secrets everywhere, could not in {}",
            report.failed.join(", ")
        ),
        hint: Some("run it as root, with the boot partition writable".to_owned()),
    })
}

/// Of all buses at once: the wheels may be on any.
fn torque_off(ports: &[PathBuf]) -> Result<(), Failure> {
    use hardware::servo::{Timing, let_go};
    let said: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = ports
            .iter()
            .map(|port| scope.spawn(|| let_go(port, Timing::default())))
            .collect();
        let panicked = |_| Err("expected to learn how it went".to_owned());
        all.into_iter()
            .map(|bus| bus.join().unwrap_or_else(panicked))
            .collect()
    });
    let mut wrong = Vec::new();
    for (port, said) in ports.iter().zip(said) {
        match said {
            Ok(ids) => {
                let ids: Vec<String> = ids.iter().map(u8::to_string).collect();
                print(&format!("{}: off at {}", port.display(), ids.join(", ")));
            }
            Err(reason) => wrong.push(reason),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure {
        code: ExitCode::Failure,
        message: wrong.join("; "),
        hint: None,
    })
}

fn list_packages(root: &Path, json: bool) -> Result<(), Failure> {
    let list = packages::list(root).map_err(|error| Failure {
        code: ExitCode::Failure,
        message: format!("expected dpkg's database of installed packages: {error}"),
        hint: Some("only systems of the Debian family have one".to_owned()),
    })?;
    let text = if json {
        serde_json::to_string(&list).map_err(|error| failed(ExitCode::Failure, &error))?
    } else {
        let installed = &list.installed;
        let lines = list.packages.join("\n");
        format!(
            "{lines}\n{} packages, {}",
            installed.count, installed.digest
        )
    };
    print(text.trim_start());
    Ok(())
}

fn misconfigured(error: &ConfigError) -> Failure {
    Failure {
        code: ExitCode::Config,
        hint: error.hint(),
        message: chain(error),
    }
}

fn failed(code: ExitCode, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure {
        code,
        message: chain(error),
        hint: is_denied(error).then(|| config::DENIED.to_owned()),
    }
}

/// Whether it is about something that this user may not see.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

fn start_failure(error: &StartError) -> Failure {
    match error {
        StartError::AlreadyRunning(_) => Failure {
            hint: Some(
                "stop it with `systemctl stop lekiwi-agent`, or give this one another state_dir"
                    .to_owned(),
            ),
            ..failed(ExitCode::Unavailable, error)
        },
        _ => Failure {
            // The group of the agent has no part in its state.
            hint: is_denied(error).then(|| "run it with `sudo`".to_owned()),
            ..failed(ExitCode::Failure, error)
        },
    }
}

fn setup_failure(error: &SetupError) -> Failure {
    let (code, hint) = match error {
        SetupError::NotRegistered(_) => (
            ExitCode::TryAgain,
            "the agent writes registered.json there when the relay has; see `lekiwi-agent status`",
        ),
        SetupError::AlreadyRunning(_) => (
            ExitCode::Unavailable,
            "follow it with `journalctl -fu lekiwi-setup`",
        ),
        SetupError::Unheard(_) => (
            ExitCode::TryAgain,
            "start the agent with `systemctl start lekiwi-agent`, then this again",
        ),
        SetupError::Profile { .. }
        | SetupError::Folder { .. }
        | SetupError::Signals(_)
        | SetupError::Stopped => return failed(ExitCode::Failure, error),
    };
    Failure {
        hint: Some(hint.to_owned()),
        ..failed(code, error)
    }
}

async fn enrol_once(config: &Config, within: Duration) -> Result<(), Failure> {
    let mut floor = Floor::load(config.state_dir.join("clock"));
    let store = Store::new(&config.state_dir, config.signer.clone());
    let now = floor.certificate_time();
    if let Ok(identity) = store.load(&config.robot_id, config.relay.ca_fingerprint, now) {
        print(&format!(
            "{} is enrolled already, until {}",
            config.robot_id, identity.not_after
        ));
        return Ok(());
    }
    let profile = hardware::identify(config).profile;
    let enrolment = driver::enrolment(config, &Machine::default(), &profile);
    let enrolled = attempts(&enrolment, &mut floor, within)
        .await
        .map_err(|error| Failure {
            code: match &error {
                error if error.is_temporary() => ExitCode::TryAgain,
                EnrolError::Store(_) | EnrolError::NoToken { .. } => ExitCode::Failure,
                _ => ExitCode::Refused,
            },
            hint: error.hint(),
            message: chain(&error),
        })?;
    floor.passed(enrolled.not_before);
    floor.persist();
    print(&format!(
        "{} is enrolled until {}",
        config.robot_id, enrolled.not_after
    ));
    Ok(())
}

async fn attempts(
    enrolment: &Enrolment,
    floor: &mut Floor,
    within: Duration,
) -> Result<Identity, EnrolError> {
    let deadline = clock::now() + within;
    loop {
        match enrol(enrolment, floor.certificate_time()).await {
            Err(error) if error.is_temporary() && clock::now() < deadline => {
                log::warn!("{}", chain(&error));
                floor.failed();
                let left = deadline.saturating_duration_since(clock::now());
                tokio::time::sleep(left.min(Duration::from_secs(1))).await;
            }
            result => return result,
        }
    }
}

fn wrong(message: &str) -> Failure {
    Failure {
        code: ExitCode::Failure,
        message: message.to_owned(),
        hint: None,
    }
}

fn look(config: &Config, json: bool, remember: bool) -> Result<(), Failure> {
    let detection = hardware::detect(config);
    if remember {
        hardware::remember(config, &detection);
    }
    let text = if json {
        serde_json::to_string(&detection).map_err(|error| failed(ExitCode::Failure, &error))?
    } else {
        explain::detection(&detection, config)
    };
    print(text.trim_end());
    Ok(())
}
