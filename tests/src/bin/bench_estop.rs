//! `cargo xtask bench estop`: how long an emergency stop takes from the relay's interface to the robot's stop
//! action and to local programs, while every queue on the way is full.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lekiwi_agent::ipc::{Report, report_event};
use lekiwi_protocol::api::{CommandRequest, CommandView};
use lekiwi_protocol::message::Op;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Agent, Relay, target};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::Instant;

/// How long an emergency stop takes on a robot that is busy.
#[derive(Parser)]
#[command(after_help = "Example:\n  cargo xtask bench estop --stops 200")]
struct Arguments {
    /// How many stops to measure.
    #[arg(long, default_value_t = 100)]
    stops: usize,
    /// Local programs that report events without a pause; each event is on the disk before the next.
    #[arg(long, default_value_t = 4)]
    reporters: usize,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

const ROBOT: &str = "bench-01";
/// The most that the 99th percentile may be, ms.
const MOST_MS: f64 = 100.0;
/// Commands that wait on the relay, and are sent again and again.
const WAITING: usize = 31;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Times {
    p50_ms: f64,
    p99_ms: f64,
    most_ms: f64,
}

impl Times {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let index = (seconds.len() * percent).div_ceil(100).saturating_sub(1);
            seconds.get(index).copied().unwrap_or_default() * 1000.0
        };
        Self {
            p50_ms: at(50),
            p99_ms: at(99),
            most_ms: at(100),
        }
    }
}

#[derive(Serialize)]
struct Outcome {
    stops: usize,
    events_reported: u64,
    stop_action: Times,
    local_program: Times,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let outcome = measure(&arguments).await?;
    if arguments.json {
        say(&serde_json::to_string(&outcome)?);
    } else {
        let row = |name: &str, times: &Times| {
            format!(
                "{name:<24} {:>8.1} {:>8.1} {:>8.1}",
                times.p50_ms, times.p99_ms, times.most_ms
            )
        };
        say(&format!(
            "{} stops, {} events reported meanwhile\n{:<24} {:>8} {:>8} {:>8}\n{}\n{}",
            outcome.stops,
            outcome.events_reported,
            "from the request to, ms",
            "p50",
            "p99",
            "most",
            row("the stop action", &outcome.stop_action),
            row("a local program", &outcome.local_program)
        ));
    }
    let fits = outcome.stop_action.p99_ms <= MOST_MS && outcome.local_program.p99_ms <= MOST_MS;
    Ok(if fits {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[expect(clippy::print_stdout, reason = "the answer of a tool")]
fn say(text: &str) {
    println!("{text}");
}

async fn measure(arguments: &Arguments) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let (root, fifo) = (folder.path().join("root"), folder.path().join("stopped"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let mut stopped = pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(&fifo)?;
    write_profile(&root, &fifo)?;
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let program = target("lekiwi-agent", "lekiwi-agent")?;
    let token = relay.token(&["--robot", ROBOT])?;
    let first = ["--root".into(), root.into_os_string()];
    let agent = Agent::start_program(&relay, ROBOT, &token, &program, &first)?;
    let registered = agent.state_dir().join("registered.json");
    let deadline = Instant::now() + PATIENCE;
    while !registered.exists() {
        ensure!(Instant::now() < deadline, "expected the robot to register");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let socket = registered
        .parent()
        .and_then(Path::parent)
        .context("the state lies in a folder")?
        .join("agent.sock");

    // The relay's queue: one runs, the others are sent again every two seconds.
    let path = format!("/api/v1/robots/{ROBOT}/commands");
    for _ in 0..=WAITING {
        let request = CommandRequest {
            op: Op::RunAction,
            arguments: serde_json::from_value(json!({ "action": "wait" }))?,
            expires_in_s: Some(3600),
        };
        let _: CommandView = admin.post(&path, &request).await?;
    }
    // The robot's: the outbox is written and drained without a pause.
    let (stop, reported) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut reporters = Vec::new();
    for _ in 0..arguments.reporters {
        let (socket, stop, reported) = (socket.clone(), stop.clone(), reported.clone());
        reporters.push(tokio::spawn(async move {
            let report = Report {
                kind: "setup.progress".to_owned(),
                data: json!({ "step": "x".repeat(500) }),
            };
            while !stop.load(Ordering::Relaxed) {
                if report_event(&socket, &report).await.is_ok() {
                    reported.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    let (from, mut to) = UnixStream::connect(&socket).await?.into_split();
    to.write_all(b"{\"subscribe\":[\"control\"]}\n").await?;
    let mut lines = BufReader::new(from).lines();
    lines.next_line().await?.context("expected an answer")?;
    tokio::time::sleep(Duration::from_secs(3)).await;

    let (mut actions, mut programs) = (Vec::new(), Vec::new());
    let path = format!("/api/v1/robots/{ROBOT}/estop");
    for _ in 0..arguments.stops {
        let begun = Instant::now();
        let told = async {
            let line = lines.next_line().await?.context("expected a line")?;
            let told = begun.elapsed();
            let line: Value = serde_json::from_str(&line)?;
            let id = &line["control"]["estop"]["id"];
            ensure!(id.is_string(), "expected a stop, got {line}");
            // As a program does that has stopped something.
            let stopped = format!("{}\n", json!({ "stopped": id }));
            to.write_all(stopped.as_bytes()).await?;
            let answer = lines.next_line().await?.context("expected an answer")?;
            ensure!(
                answer == r#"{"ok":true}"#,
                "expected to be heard, got {answer}"
            );
            anyhow::Ok(told)
        };
        let acted = async {
            let mut byte = [0];
            stopped.read_exact(&mut byte).await?;
            anyhow::Ok(begun.elapsed())
        };
        let asked = admin.post::<_, CommandView>(&path, &());
        let all = async { tokio::try_join!(told, acted, asked) };
        let (told, acted, _) = tokio::time::timeout(PATIENCE, all).await??;
        programs.push(told.as_secs_f64());
        actions.push(acted.as_secs_f64());
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for reporter in reporters {
        reporter.await?;
    }
    Ok(Outcome {
        stops: arguments.stops,
        events_reported: reported.load(Ordering::Relaxed),
        stop_action: Times::of(actions),
        local_program: Times::of(programs),
    })
}

fn write_profile(root: &Path, fifo: &Path) -> Result<()> {
    let profiles = root.join("usr/share/lekiwi/profiles");
    std::fs::create_dir_all(&profiles)?;
    let profile = format!(
        "version: 1\nname: generic\ntitle: A robot\nactions:\n  \
         - {{name: wait, what: waits, run: [/bin/sleep, \"600\"], timeout_s: 700}}\n\
         stop: {{run: [/bin/sh, -c, 'printf x > {}']}}\n",
        fifo.display()
    );
    Ok(std::fs::write(profiles.join("generic.yml"), profile)?)
}
