//! `lekiwi-provisioner serve`: runs a factory line until Ctrl-C.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use lekiwi_provisioner::clock;
use lekiwi_provisioner::line::desk::{Desk, Notice};
use lekiwi_provisioner::line::file::Line;
use lekiwi_provisioner::line::serve::Server;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// What `serve` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The file that describes the line (docs/line.md).
    #[arg(long)]
    line: PathBuf,
    /// Print one JSON object for each step of a unit.
    #[arg(long)]
    json: bool,
}

/// Serves until a signal.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let line = read(&options.line)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(line, options.json))
}

/// A line's file.
pub(super) fn read(path: &std::path::Path) -> Result<Line, Failure> {
    Line::read(path).map_err(|error| {
        let hint = error.hint();
        Failure::new(error).hint(hint)
    })
}

async fn serve(line: Line, json: bool) -> Result<(), Failure> {
    // Before anything is answered: a signal is never missed.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let boards = format!("http://{}:{}", line.network.address, line.network.http_port);
    let server = Server::open(line).await.map_err(|error| {
        let hint = error.hint();
        Failure::new(error).hint(hint)
    })?;
    let page = format!("http://{}/", server.operator()?);
    let desk = server.desk();
    let stopping = CancellationToken::new();
    let view = View::new(json)?;
    view.ready(&page, &boards)?;
    let notices = desk.notices();
    let serving = tokio::spawn(server.run(stopping.clone()));
    let told = tokio::select! {
        told = follow(&desk, notices, &view) => told,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    stopping.cancel();
    // The units are on disk already; this is about who is still being answered.
    let _ = serving.await;
    view.end();
    told
}

/// Shows what happens, as it happens.
async fn follow(desk: &Desk, mut notices: Receiver<Notice>, view: &View) -> Result<(), Failure> {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = second.tick() => view.counts(desk),
            notice = notices.recv() => match notice {
                Ok(notice) => view.show(desk, &notice)?,
                Err(RecvError::Lagged(lost)) => {
                    view.show(desk, &Notice::Trouble(format!("{lost} lines are not shown")))?;
                }
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// A line of counts under the lines of steps on a terminal; plain lines or JSON elsewhere.
struct View {
    bar: Option<ProgressBar>,
    json: bool,
}

impl View {
    fn new(json: bool) -> Result<Self, Failure> {
        let bar = if !json && io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            let style =
                ProgressStyle::with_template("{spinner} {wide_msg}").map_err(Failure::new)?;
            bar.set_style(style);
            Some(bar)
        } else {
            None
        };
        Ok(Self { bar, json })
    }

    fn ready(&self, page: &str, boards: &str) -> Result<(), Failure> {
        if self.json {
            return object(&json!({ "ready": true, "page": page, "boards": boards }));
        }
        self.line(&format!(
            "the line's page is {page}\na board that runs any Linux joins with: curl -fsS {boards}/bootstrap | sh"
        ))
    }

    fn show(&self, desk: &Desk, notice: &Notice) -> Result<(), Failure> {
        let now = clock::now();
        match notice {
            Notice::Trouble(text) if self.json => object(&json!({ "at": now, "trouble": text })),
            Notice::Trouble(text) => self.line(&format!("{now} {text}")),
            Notice::Step { key, step } if self.json => {
                let robot = desk.unit(&key.0).ok().and_then(|unit| unit.robot_id);
                object(&json!({ "unit": key, "robot_id": robot, "step": step }))
            }
            Notice::Step { key, step } => {
                let robot = desk.unit(&key.0).ok().and_then(|unit| unit.robot_id);
                let robot = robot.map(|id| format!(" ({id})")).unwrap_or_default();
                let text = format!("{} {key}{robot} {} {}", step.at, step.name, step.detail);
                self.line(text.trim_end())
            }
        }
    }

    fn counts(&self, desk: &Desk) {
        if let Some(bar) = &self.bar {
            let snapshot = desk.snapshot();
            let c = snapshot.counts;
            bar.set_message(format!(
                "{}: {} units: {} waiting, {} booting, {} installing, {} enrolled, {} healthy, {} failed",
                snapshot.name, c.total, c.waiting, c.booting, c.installing, c.enrolled, c.healthy, c.failed
            ));
            bar.tick();
        }
    }

    fn line(&self, text: &str) -> Result<(), Failure> {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => writeln!(io::stderr().lock(), "{text}")?,
        }
        Ok(())
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn object(value: &serde_json::Value) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}
