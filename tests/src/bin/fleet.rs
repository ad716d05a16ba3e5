//! `cargo xtask fleet`: simulated robots with real certificates against a running relay.
//!
//! ```text
//! cargo xtask fleet --robots 100                           # against the relay of `cargo xtask up`
//! cargo xtask fleet --robots 50 --events-every-ms 200      # with numbered events
//! cargo xtask fleet --robots 1000 --scenario storm         # ends with a report
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use lekiwi_tests::fleet::{
    self, Admin, Counters, Endpoint, Identity, Kept, Pace, Plan, Scenario, Simulation,
};
use tokio::signal::unix::{SignalKind, signal};

/// Longest time for robots to be back and events to be acknowledged after a scenario's end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Simulated robots with real certificates over the real contract.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask fleet --robots 100\n  cargo xtask fleet --robots 50 --events-every-ms 200\n  cargo xtask fleet --robots 1000 --scenario storm --seconds 60"
)]
struct Arguments {
    /// How many robots.
    #[arg(long, default_value_t = 10)]
    robots: usize,
    /// The first of them; with --robots, a slice of a fleet that another process enrolled.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// What their ids start with.
    #[arg(long, default_value = "sim")]
    prefix: String,
    /// The relay's ready file.
    #[arg(long, default_value = ".lekiwi/ready.json")]
    ready_file: PathBuf,
    /// The relay's authority as PEM.
    #[arg(long, default_value = ".lekiwi/relay/ca/ca.pem")]
    ca: PathBuf,
    /// The administrator's password, for enrolling robots that are not enrolled yet, and for the report.
    #[arg(long, default_value = ".lekiwi/admin-password")]
    admin_password_file: PathBuf,
    /// Where keys, certificates and outboxes are kept.
    #[arg(long, default_value = ".lekiwi/fleet")]
    folder: PathBuf,
    /// What they go through. It ends with a report, and fails when an event was lost or doubled, or a robot did
    /// not come back. Without it they stay until stopped, and keep their events on disk.
    #[arg(long)]
    scenario: Option<Scenario>,
    /// Chooses phases and times; the same gives the same schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds between heartbeats.
    #[arg(long, default_value_t = 30.0)]
    heartbeat_s: f64,
    /// Milliseconds between telemetry messages of one robot; 0 for none.
    #[arg(long, default_value_t = 10_000)]
    telemetry_every_ms: u64,
    /// Milliseconds between numbered events of one robot; 0 for none [default: 0, of a scenario 10000].
    #[arg(long)]
    events_every_ms: Option<u64>,
    /// Milliseconds over which the first connections are spread [default: 1 for each robot].
    #[arg(long)]
    ramp_ms: Option<u64>,
    /// Send the events that wait in the outboxes, emit nothing, and end when all are acknowledged.
    #[arg(long, conflicts_with = "scenario")]
    drain: bool,
    /// Stop after so many seconds [default of a scenario: 60].
    #[arg(long)]
    seconds: Option<u64>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn plan(&self) -> Plan {
        let events = match (self.scenario, self.events_every_ms) {
            (_, Some(every)) => every,
            (Some(_), None) => 10_000,
            (None, None) => 0,
        };
        let silent = self.drain;
        let length = match (self.scenario, self.seconds) {
            _ if silent => Duration::ZERO,
            (Some(_), seconds) => Duration::from_secs(seconds.unwrap_or(60)),
            (None, _) => FOR_EVER,
        };
        Plan {
            scenario: self.scenario.unwrap_or(Scenario::Steady),
            pace: Pace {
                heartbeat: Duration::from_secs_f64(self.heartbeat_s),
                telemetry: period(self.telemetry_every_ms),
                events: period(events),
                ramp: Duration::from_millis(self.ramp_ms.unwrap_or(self.robots as u64)),
            },
            length,
            seed: self.seed,
        }
    }
}

const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the relay writes when it serves.
#[derive(serde::Deserialize)]
struct Ready {
    https: String,
    mqtt: String,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let ready: Ready =
        serde_json::from_str(&read(&arguments.ready_file, "the relay's ready file")?)?;
    let identities = identities(&arguments, &ready).await?;
    let endpoint: Endpoint = ready.mqtt.parse()?;
    let plan = arguments.plan();
    let before = resident_kb()?;
    let simulation = Simulation::start(plan, &identities, &endpoint, None, |identity| {
        if arguments.scenario.is_some() {
            Ok(Kept::in_memory())
        } else {
            let folder = arguments.folder.join(identity.id.as_str());
            Kept::on_disk(&folder, std::time::SystemTime::now().into())
        }
    })?;
    if arguments.drain {
        simulation.settled(PATIENCE).await?;
        simulation.stop().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let is_over = wait(&arguments, plan.length, simulation.counters()).await?;
    if arguments.scenario.is_none() || !is_over {
        simulation.stop().await?;
        say("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let per_robot = resident_kb()?.saturating_sub(before) / identities.len().max(1) as u64;
    let admin = login(&arguments, &ready).await?;
    let report = simulation.report(&admin, PATIENCE).await?;
    if arguments.json {
        let mut object = serde_json::to_value(&report)?;
        if let Some(fields) = object.as_object_mut() {
            fields.insert("simulator_kb_per_robot".to_owned(), per_robot.into());
        }
        print(&object.to_string());
    } else {
        print(&format!(
            "{report}\n  the simulator took {per_robot} KB a robot"
        ));
    }
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read(path: &Path, what: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| {
        format!(
            "expected {what} at {} (hint: start `cargo xtask up` first)",
            path.display()
        )
    })
}

async fn login(arguments: &Arguments, ready: &Ready) -> Result<Admin> {
    let ca_pem = read(&arguments.ca, "the relay's authority")?;
    Admin::login(&ready.https, &ca_pem, &arguments.admin_password_file).await
}

/// The robots, enrolled where they are not yet.
async fn identities(arguments: &Arguments, ready: &Ready) -> Result<Vec<Arc<Identity>>> {
    let ids: Vec<_> = (arguments.first..arguments.first + arguments.robots)
        .map(|number| format!("{}-{number:04}", arguments.prefix).parse())
        .collect::<Result<_, _>>()?;
    let base = format!("https://{}", ready.https);
    let loaded: Result<Vec<_>> = ids
        .into_iter()
        .map(|id| Identity::load(&arguments.folder, &base, id).map(Arc::new))
        .collect();
    if let Ok(identities) = loaded {
        return Ok(identities);
    }
    ensure!(
        arguments.first == 0,
        "expected the robots of a slice to be enrolled already"
    );
    say(&format!("enrolling {} robots", arguments.robots));
    let admin = login(arguments, ready).await?;
    let (folder, prefix) = (&arguments.folder, &arguments.prefix);
    fleet::enrol_all(&admin, folder, prefix, arguments.robots).await
}

fn period(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// This process's resident memory.
fn resident_kb() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    for line in status.lines() {
        if let Some(size) = line.strip_prefix("VmRSS:") {
            return Ok(size.trim().trim_end_matches(" kB").parse()?);
        }
    }
    bail!("expected VmRSS in /proc/self/status");
}

/// Prints a line every few seconds until the time is over, or a signal: then it is not.
async fn wait(arguments: &Arguments, length: Duration, counters: &Counters) -> Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let over = tokio::time::sleep(arguments.seconds.map_or(length, Duration::from_secs));
    tokio::pin!(over);
    let mut report = tokio::time::interval(Duration::from_secs(5));
    let mut before = 0;
    loop {
        tokio::select! {
            _ = report.tick() => {
                let messages = counters.messages.load(Ordering::Relaxed);
                say(&format!(
                    "{} of {} online, {} connections made, {} messages/s, {} events emitted",
                    counters.online.load(Ordering::Relaxed),
                    arguments.robots,
                    counters.connections.load(Ordering::Relaxed),
                    (messages - before) / 5,
                    counters.emitted.load(Ordering::Relaxed),
                ));
                before = messages;
            }
            () = &mut over => return Ok(true),
            _ = terminate.recv() => return Ok(false),
            signal = tokio::signal::ctrl_c() => return Ok(signal.map(|()| false)?),
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn say(line: &str) {
    eprintln!("fleet: {line}");
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn print(text: &str) {
    println!("{text}");
}
