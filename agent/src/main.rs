//! `lekiwi-agent`: the command line around the library. Reads the environment, starts logging and the
//! runtime, prints errors with their chain and hint, and exits with one of [`ExitCode`].

mod explain;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use lekiwi_agent::clock::{self, Floor};
use lekiwi_agent::config::{self, Config, Environment};
use lekiwi_agent::driver::{self, StartError, chain};
use lekiwi_agent::exit::ExitCode;
use lekiwi_agent::hardware;
use lekiwi_agent::identity::{EnrolError, Enrolled, Enrolment, Store, enrol};
use lekiwi_agent::ipc::{self, Status};
use lekiwi_agent::journal;
use lekiwi_agent::machine::{Machine, hostname};
use lekiwi_agent::setup::{self, SetupError};

const EXAMPLES: &str = "Examples:
  lekiwi-agent check-config                     is /etc/lekiwi/agent.yml right?
  lekiwi-agent enrol                            get a certificate with the one-time token
  lekiwi-agent run                              be the robot; what the service runs
  lekiwi-agent setup --dry-run                  what would root's setup install?
  lekiwi-agent hardware                         what is plugged in, and which profile is that?
  lekiwi-agent status --json                    what is the running agent doing?
  LEKIWI_ROBOT_ID=kiwi-02 LEKIWI_LOG=debug lekiwi-agent --config ./agent.yml run

Variables: LEKIWI_CONFIG, LEKIWI_LOG (error, warn, info, debug, trace), NO_COLOR, and one for each key
of the file, such as LEKIWI_RELAY_HTTPS.
Exit codes: 0 done, 1 failed, 2 wrong command line, 69 not running or already running,
75 try again later, 77 refused by the relay, 78 wrong configuration.";

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
    Run,
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
    /// Check the configuration and show what it means
    CheckConfig,
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
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if let Some(complaint) = journal::start(environment.value("LEKIWI_LOG"), no_color) {
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
    if let Command::Scrub { boot } = &arguments.command {
        return scrub(&arguments.root, boot);
    }
    let path = arguments
        .config
        .clone()
        .or_else(|| environment.value("LEKIWI_CONFIG").map(PathBuf::from));
    let path = path.unwrap_or_else(|| PathBuf::from(config::DEFAULT_PATH));
    let loaded = config::load(&path, environment, &hostname()).map_err(|error| Failure {
        code: ExitCode::Config,
        hint: error.hint(),
        message: chain(&error),
    })?;
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    let config = loaded.config;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(1)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(|error| failed(ExitCode::Failure, &error))?;
    match &arguments.command {
        Command::Run => {
            let lock = driver::lock(&config).map_err(|error| start_failure(&error))?;
            runtime
                .block_on(driver::run(config, &arguments.root, &lock))
                .map_err(|error| start_failure(&error))
        }
        Command::Enrol { within } => {
            let _lock = driver::lock(&config).map_err(|error| start_failure(&error))?;
            runtime.block_on(enrol_once(&config, Duration::from_secs(*within)))
        }
        Command::Status { json } => {
            let status = runtime
                .block_on(ipc::ask_status(&config.socket))
                .map_err(|error| Failure {
                    hint: Some(
                        "start it with `systemctl start lekiwi-agent` or `lekiwi-agent run`"
                            .to_owned(),
                    ),
                    ..failed(ExitCode::Unavailable, &error)
                })?;
            show(&status, *json)
        }
        Command::CheckConfig => {
            describe(&config, &path);
            Ok(())
        }
        // Needs no configuration: done above.
        Command::Scrub { .. } => Ok(()),
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
        Command::Hardware { json, detect } => look(&config, *json, *detect),
    }
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

fn failed(code: ExitCode, error: &dyn std::error::Error) -> Failure {
    Failure {
        code,
        message: chain(error),
        hint: None,
    }
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
        _ => failed(ExitCode::Failure, error),
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
    let store = Store::new(&config.state_dir);
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
    let enrolled = attempts(&enrolment, &floor, within)
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
    floor: &Floor,
    within: Duration,
) -> Result<Enrolled, EnrolError> {
    let deadline = clock::now() + within;
    loop {
        match enrol(enrolment, floor.certificate_time()).await {
            Err(error) if error.is_temporary() && clock::now() < deadline => {
                log::warn!("{}", chain(&error));
                let left = deadline.saturating_duration_since(clock::now());
                tokio::time::sleep(left.min(Duration::from_secs(1))).await;
            }
            result => return result,
        }
    }
}

fn show(status: &Status, json: bool) -> Result<(), Failure> {
    if json {
        let text =
            serde_json::to_string(status).map_err(|error| failed(ExitCode::Failure, &error))?;
        print(&text);
        return Ok(());
    }
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let outbox = &status.outbox;
    let durable = if outbox.durable {
        "on disk"
    } else {
        "in memory only"
    };
    print(&format!(
        "robot        {} (agent {})\nphase        {} (link {})\nrelay        {}\nsession      {}\nonline since {}\n\
         telemetry    {}\ncertificate  until {}\nevents       {} waiting, newest {}, {durable}",
        status.robot_id,
        status.version,
        status.phase,
        status.link,
        status.relay,
        or_none(status.session.map(|session| session.to_string())),
        or_none(status.online_since.map(|at| at.to_string())),
        or_none(status.last_telemetry.map(|at| at.to_string())),
        or_none(status.certificate_not_after.map(|at| at.to_string())),
        outbox.pending,
        outbox.last_seq,
    ));
    for trouble in [&outbox.trouble, &status.last_error].into_iter().flatten() {
        print(&format!("trouble      {trouble}"));
    }
    Ok(())
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

fn describe(config: &Config, path: &Path) {
    let brokers = config.relay.endpoints.iter();
    let brokers: Vec<String> = brokers.map(|way| format!("mqtts://{}", way.mqtt)).collect();
    print(&format!(
        "{} is right\nrobot      {} ({}, organisation {})\nrelay      https://{} and {}\nauthority  {}\n\
         state      {}\nsocket     {}\ntoken      {}\nheartbeat  every {} s, sensors every {} s",
        path.display(),
        config.robot_id,
        config.profile,
        config.org,
        config.relay.https,
        brokers.join(", "),
        config.relay.ca_fingerprint,
        config.state_dir.display(),
        config.socket.display(),
        config.token_file.display(),
        config.heartbeat.as_secs(),
        config.sample.as_secs(),
    ));
}
