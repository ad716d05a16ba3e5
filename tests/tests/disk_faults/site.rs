//! A robot whose state lies on a disk of its own, a local program that reports all the time, and the account
//! of what became of each report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lekiwi_agent::ipc::{Report, Status, ask_status, report_event};
use lekiwi_protocol::api::EventRecord;
use lekiwi_protocol::message::{Dropped, kind};
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Agent, Fault, FaultyProxy, Relay, target};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::disk::{Disk, Kind};

/// The robot.
pub(crate) const ROBOT: &str = "kiwi-01";
/// Makes an event as large as the larger ones of a robot.
const FILLER_BYTES: usize = 1_000;
/// Each second, so that a gap shows.
const UPTIME: &str = "  metrics: {uptime_s: {deadband: 0, min_interval_s: 1, keep_alive_s: 1}}\n";

/// Which report got which number.
type Told = Arc<Mutex<BTreeMap<u64, u64>>>;

pub(crate) struct Site {
    pub(crate) agent: Agent,
    pub(crate) admin: Admin,
    pub(crate) disk: Disk,
    proxy: FaultyProxy,
    told: Told,
    reporter: Option<JoinHandle<()>>,
    reports: u64,
    _relay: Relay,
}

/// What became of everything that was reported.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) reported: usize,
    pub(crate) missing: usize,
    /// Streams of which "whatever the relay does not have" is gone.
    pub(crate) lost: BTreeSet<Uuid>,
}

impl Site {
    /// A connected robot, with its state on such a disk.
    pub(crate) async fn start(kind: Kind) -> Result<Self> {
        let disk = Disk::mount(kind)?;
        let relay = Relay::start()?;
        let admin =
            Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
        let proxy = FaultyProxy::start(relay.mqtt()).await?;
        let (direct, way) = (
            format!("mqtt: mqtts://{}", relay.mqtt()),
            format!("mqtt: mqtts://{}\n  last_resort: false", proxy.address()),
        );
        let state = format!("state_dir: {}", disk.inside().join("state").display());
        let edit = |config: String| {
            let lines = config.lines().map(|line| {
                if line.starts_with("state_dir: ") {
                    format!("{state}\n")
                } else {
                    format!("{line}\n")
                }
            });
            let config: String = lines.collect();
            config
                .replace(&direct, &way)
                .replace("  sample_s: 1\n", &format!("  sample_s: 1\n{UPTIME}"))
        };
        let token = relay.token(&["--robot", ROBOT])?;
        let (program, first) = disk.wrapped(&target("lekiwi-agent", "lekiwi-agent")?)?;
        let agent = Agent::start_edited(&relay, ROBOT, &token, &program, &first, edit)?;
        let mut site = Self {
            agent,
            admin,
            disk,
            proxy,
            told: Told::default(),
            reporter: None,
            reports: 0,
            _relay: relay,
        };
        site.until("connected", |status| status.session.is_some())
            .await?;
        Ok(site)
    }

    /// Starts the local program that reports every `pace`.
    pub(crate) fn report(&mut self, pace: Duration) {
        let (socket, told) = (self.agent.socket(), self.told.clone());
        // Numbers of an earlier one that nobody answered are left out.
        self.reports += 1_000_000;
        let first = self.reports;
        self.reporter = Some(tokio::spawn(report(socket, told, first, pace)));
    }

    /// Ends it.
    pub(crate) async fn silence(&mut self) {
        if let Some(reporter) = self.reporter.take() {
            reporter.abort();
            let _ = reporter.await;
        }
    }

    /// Waits for so many more reports to be taken.
    pub(crate) async fn reports(&mut self, count: usize) -> Result<()> {
        let told = self.told.clone();
        let taken = || told.lock().map_or(0, |told| told.len());
        let before = taken();
        self.until("taking reports", |_| taken() >= before + count)
            .await
            .map(|_| ())
    }

    /// The relay goes, or comes back.
    pub(crate) async fn relay_away(&mut self, away: bool) -> Result<()> {
        if away {
            self.proxy.set(Fault::Closed);
            self.proxy.cut();
        } else {
            self.proxy.set(Fault::None);
        }
        self.until("as far as the relay is", |status| {
            status.session.is_some() != away
        })
        .await
        .map(|_| ())
    }

    /// A file of the robot's state.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.disk.outside().join("state").join(name)
    }

    /// Waits until the agent says what is `wanted`.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        const PATIENCE: Duration = Duration::from_secs(50);
        let began = Instant::now();
        loop {
            let status = ask_status(&self.agent.socket()).await.ok();
            if let Some(status) = status.clone().filter(&wanted) {
                return Ok(status);
            }
            ensure!(self.disk.is_there()?, "expected the disk to be held");
            ensure!(
                began.elapsed() < PATIENCE,
                "expected the agent {what} within {PATIENCE:?}, got {status:?}; it said\n{}",
                self.agent.process().log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn events(&self) -> Result<Vec<EventRecord>> {
        let mut events = self.admin.events(&ROBOT.parse()?).await?;
        events.retain(|event| event.source == ROBOT);
        Ok(events)
    }

    /// Waits until the relay's log has an `events.dropped` that is `wanted`.
    pub(crate) async fn dropped(&self, wanted: impl Fn(&EventRecord) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(50);
        loop {
            let events = self.events().await?;
            let mut dropped = events.iter().filter(|event| event.kind == kind::DROPPED);
            if dropped.any(&wanted) {
                return Ok(());
            }
            let said: Vec<_> = events
                .iter()
                .filter(|event| event.kind == kind::DROPPED)
                .map(|event| &event.data)
                .collect();
            ensure!(
                Instant::now() < deadline,
                "expected what was dropped in the log, got {said:?}"
            );
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Ends the reports, waits until nothing waits, and compares: every event that got a number is in the
    /// log once, or an event says that it was dropped.
    pub(crate) async fn settle(mut self) -> Result<Account> {
        self.silence().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.until("with an empty outbox", |status| status.outbox.pending == 0)
            .await?;
        let events = self.events().await?;
        let told = self
            .told
            .lock()
            .map_or_else(|_| BTreeMap::new(), |told| told.clone());
        account(&events, &told)
    }

    /// Asserts that history has telemetry of this time, from each few seconds.
    pub(crate) async fn has_telemetry(&self, from: u64, to: u64) -> Result<()> {
        let path = format!(
            "/api/v1/robots/{ROBOT}/telemetry?metric=uptime_s&limit=1000&from={from}&to={to}"
        );
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.admin.get(&path).send().await?.error_for_status()?;
            let history: lekiwi_protocol::api::TelemetryHistory = answer.json().await?;
            let points = history.series.iter().flat_map(|series| &series.points);
            let mut times: Vec<u64> = points.map(|(at, _)| *at).collect();
            times.insert(0, from);
            times.push(to);
            let gap = times
                .windows(2)
                .map(|pair| pair[1].saturating_sub(pair[0]))
                .max();
            if gap.is_some_and(|gap| gap <= 6_000) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "expected telemetry from every few seconds between {from} and {to}, got {times:?}"
            );
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(reporter) = &self.reporter {
            reporter.abort();
        }
    }
}

/// A local program that has something to say all the time.
async fn report(socket: PathBuf, told: Told, first: u64, pace: Duration) {
    for number in first.. {
        let report = Report {
            kind: "setup.progress".to_owned(),
            data: json!({ "number": number, "filler": "x".repeat(FILLER_BYTES) }),
        };
        // What an agent that is being killed did not answer may have been taken or not.
        if let Ok(seq) = report_event(&socket, &report).await
            && let Ok(mut told) = told.lock()
        {
            told.insert(number, seq);
        }
        tokio::time::sleep(pace).await;
    }
}

fn account(events: &[EventRecord], told: &BTreeMap<u64, u64>) -> Result<Account> {
    let mut streams: BTreeMap<Uuid, BTreeSet<u64>> = BTreeMap::new();
    let mut numbers = BTreeSet::new();
    let mut tombstones = Vec::new();
    for event in events {
        ensure!(
            streams.entry(event.stream).or_default().insert(event.seq),
            "expected event {} of {} once",
            event.seq,
            event.stream
        );
        if let Some(number) = event.data["number"].as_u64() {
            ensure!(numbers.insert(number), "expected report {number} once");
        }
        if event.kind == kind::DROPPED {
            tombstones.push(Dropped::deserialize(&event.data).context("expected a tombstone")?);
        }
    }
    let covered = |stream: Uuid, seq: u64| {
        let mut of_stream = tombstones.iter().filter(|dropped| dropped.stream == stream);
        of_stream.any(|dropped| dropped.covers(seq))
    };
    for (stream, seqs) in &streams {
        let last = seqs.last().copied().unwrap_or_default();
        for seq in 1..=last {
            ensure!(
                seqs.contains(&seq) || covered(*stream, seq),
                "expected event {seq} of {stream} in the log or among the dropped {tombstones:?}"
            );
        }
    }
    let missing: Vec<_> = told
        .iter()
        .filter(|(number, _)| !numbers.contains(number))
        .collect();
    for (number, seq) in &missing {
        let is_said = tombstones.iter().any(|dropped| {
            let held = streams.get(&dropped.stream);
            dropped.covers(**seq) && !held.is_some_and(|seqs| seqs.contains(seq))
        });
        ensure!(
            is_said,
            "expected report {number}, event {seq}, in the log or among the dropped {tombstones:?}"
        );
    }
    let is_unbounded = |dropped: &&Dropped| dropped.to > u64::from(u32::MAX);
    Ok(Account {
        reported: told.len(),
        missing: missing.len(),
        lost: tombstones
            .iter()
            .filter(is_unbounded)
            .map(|dropped| dropped.stream)
            .collect(),
    })
}

/// Overwrites part of a file in place, as a dying card does.
pub(crate) fn damage(path: &Path, from: u64, to: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path)?;
    let length = usize::try_from(to.saturating_sub(from))?;
    file.write_all_at(&vec![0xA5; length], from)?;
    Ok(file.sync_all()?)
}
