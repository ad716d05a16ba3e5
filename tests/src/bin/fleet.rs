//! `cargo xtask fleet`: simulated robots with real certificates against a running relay.
//!
//! ```text
//! cargo xtask fleet --robots 100                          # against the relay of `cargo xtask up`
//! cargo xtask fleet --robots 50 --events-every-ms 200     # with numbered events
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lekiwi_tests::fleet::{self, Admin, Counters, Emission, Endpoint, Identity, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Simulated robots with real certificates over the real contract.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask fleet --robots 100\n  cargo xtask fleet --robots 50 --events-every-ms 200"
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
    /// The administrator's password, for enrolling robots that are not enrolled yet.
    #[arg(long, default_value = ".lekiwi/admin-password")]
    admin_password_file: PathBuf,
    /// Where keys, certificates and outboxes are kept.
    #[arg(long, default_value = ".lekiwi/fleet")]
    folder: PathBuf,
    /// Seconds between heartbeats.
    #[arg(long, default_value_t = 30.0)]
    heartbeat_s: f64,
    /// Milliseconds between telemetry messages of one robot; 0 for none.
    #[arg(long, default_value_t = 10_000)]
    telemetry_every_ms: u64,
    /// Milliseconds between numbered events of one robot; 0 for none.
    #[arg(long, default_value_t = 0)]
    events_every_ms: u64,
    /// Send the events that wait in the outboxes, emit nothing, and end when all are acknowledged.
    #[arg(long)]
    drain: bool,
    /// Stop after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

/// What the relay writes when it serves.
#[derive(serde::Deserialize)]
struct Ready {
    https: String,
    mqtt: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let read = |path: &PathBuf, what: &str| {
        std::fs::read_to_string(path).with_context(|| {
            format!(
                "expected {what} at {} (hint: start `cargo xtask up` first)",
                path.display()
            )
        })
    };
    let ready: Ready =
        serde_json::from_str(&read(&arguments.ready_file, "the relay's ready file")?)?;
    let ids: Vec<_> = (arguments.first..arguments.first + arguments.robots)
        .map(|number| format!("{}-{number:04}", arguments.prefix).parse())
        .collect::<Result<_, _>>()?;
    let loaded: Result<Vec<_>> = ids
        .into_iter()
        .map(|id| Identity::load(&arguments.folder, id).map(Arc::new))
        .collect();
    let identities = match loaded {
        Ok(identities) => identities,
        Err(_) => {
            ensure!(
                arguments.first == 0,
                "expected the robots of a slice to be enrolled already"
            );
            say(&format!("enrolling {} robots", arguments.robots));
            let ca_pem = read(&arguments.ca, "the relay's authority")?;
            let admin = Admin::login(&ready.https, &ca_pem, &arguments.admin_password_file).await?;
            fleet::enrol_all(
                &admin,
                &arguments.folder,
                &arguments.prefix,
                arguments.robots,
            )
            .await?
        }
    };
    let (host, port) = ready
        .mqtt
        .rsplit_once(':')
        .context("expected host:port for MQTT in the ready file")?;
    let endpoint = Endpoint {
        host: host.to_owned(),
        port: port.parse()?,
    };
    let counters = Arc::new(Counters::default());
    let (stop, stopped) = watch::channel(false);
    let robots: Vec<_> = identities
        .into_iter()
        .map(|identity| {
            let options = Options {
                heartbeat: Duration::from_secs_f64(arguments.heartbeat_s),
                telemetry: period(arguments.telemetry_every_ms),
                emission: (arguments.drain || arguments.events_every_ms > 0).then(|| Emission {
                    every: period(arguments.events_every_ms).filter(|_| !arguments.drain),
                    folder: arguments.folder.join(identity.id.as_str()),
                }),
            };
            tokio::spawn(fleet::run(
                identity,
                endpoint.clone(),
                options,
                Arc::clone(&counters),
                None,
                stopped.clone(),
            ))
        })
        .collect();
    let mut robots = futures_util::future::try_join_all(robots);
    tokio::select! {
        ended = &mut robots => {
            ended?.into_iter().collect::<Result<Vec<_>>>()?;
        }
        waited = wait(&arguments, &counters) => {
            waited?;
            stop.send_replace(true);
            robots.await?.into_iter().collect::<Result<Vec<_>>>()?;
        }
    }
    say("stopped");
    Ok(())
}

fn period(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// Prints a line every few seconds until a signal, or the time is over.
async fn wait(arguments: &Arguments, counters: &Counters) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let over = async {
        match arguments.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
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
            () = &mut over => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            signal = tokio::signal::ctrl_c() => return Ok(signal?),
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn say(line: &str) {
    eprintln!("fleet: {line}");
}
