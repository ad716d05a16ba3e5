//! Telemetry of an outage with both programs: the relay is away for a minute, and history has that minute.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::TelemetryHistory;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Process, Relay, target, write_config};
use reqwest::StatusCode;

const ROBOT: &str = "kiwi-01";
/// The agent reads the uptime with the slow metrics.
const READ_EVERY_S: f64 = 10.0;
const PATIENCE: Duration = Duration::from_secs(60);

async fn admin(relay: &Relay) -> Result<Admin> {
    Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Each reading of the uptime within a time, by its own timestamp in seconds.
async fn uptimes(admin: &Admin, from: Timestamp, to: Timestamp) -> Result<Vec<(f64, f64)>> {
    let path = format!(
        "/api/v1/robots/{ROBOT}/telemetry?metric=uptime_s&limit=10000&from={}&to={}",
        from.as_ms(),
        to.as_ms()
    );
    let answer = admin.get(&path).send().await?;
    if answer.status() == StatusCode::NOT_FOUND {
        return Ok(Vec::new()); // not registered yet
    }
    let answer = answer.error_for_status()?;
    let history: TelemetryHistory = answer.json().await?;
    let points = history.series.into_iter().flat_map(|series| series.points);
    let seconds = |(ms, value): (u64, f64)| (ms as f64 / 1_000.0, value);
    Ok(points.map(seconds).collect())
}

/// Waits until history is as `wanted`.
async fn history(
    admin: &Admin,
    from: Timestamp,
    to: Timestamp,
    wanted: impl Fn(&[(f64, f64)]) -> bool,
) -> Result<Vec<(f64, f64)>> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let points = uptimes(admin, from, to).await?;
        if wanted(&points) {
            return Ok(points);
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "expected the outage in history, got {points:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn largest_gap(points: &[(f64, f64)]) -> f64 {
    let gaps = points.windows(2).map(|pair| pair[1].0 - pair[0].0);
    gaps.fold(0.0, f64::max)
}

#[tokio::test]
async fn a_minute_without_the_relay_is_in_history_with_its_own_times() -> Result<()> {
    let mut relay = Relay::start()?;
    let admin = admin(&relay).await?;
    let folder = tempfile::tempdir()?;
    let config = write_config(
        folder.path(),
        &relay,
        ROBOT,
        &relay.token(&["--robot", ROBOT])?,
    )?;
    // The uptime is sent each second: it says by itself when it was measured.
    let text = std::fs::read_to_string(&config)?;
    let (head, tail) = text
        .split_once("  sample_s: 1\n")
        .context("expected the harness to sample each second")?;
    let rule = "{deadband: 0, min_interval_s: 1, keep_alive_s: 1}";
    let text = format!("{head}  sample_s: 1\n  metrics: {{uptime_s: {rule}}}\n{tail}");
    std::fs::write(&config, text)?;
    let mut agent = Process::start(
        "agent",
        &target("lekiwi-agent", "lekiwi-agent")?,
        ["--config".into(), config.into_os_string(), "run".into()],
        &[("LEKIWI_LOG", "debug".into())],
        &folder.path().join("agent.log"),
    )?;
    let started = now();
    let far = started.plus(Duration::from_secs(3_600));
    history(&admin, started, far, |points| !points.is_empty()).await?;

    // The time that passes is what this is about; in the middle of it the agent starts anew.
    relay.kill()?;
    let from = now();
    tokio::time::sleep(Duration::from_secs(30)).await;
    ensure!(
        agent.stop()?.success(),
        "expected a clean end:\n{}",
        agent.log()
    );
    agent.restart(None)?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let to = now();
    relay.restart()?;

    let outage = history(&admin, from, to, |points| {
        points.len() >= 45 && largest_gap(points) <= 8.0
    })
    .await
    .with_context(|| format!("the agent said\n{}", agent.log()))?;
    let born = |(at, uptime): &(f64, f64)| at - uptime;
    let first = born(&outage[0]);
    ensure!(
        outage
            .iter()
            .all(|point| (born(point) - first).abs() <= READ_EVERY_S + 2.5),
        "expected each value at the time when it was measured, got {outage:?}"
    );
    // The picture is of now.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let is_current = |uptime: f64| (now().as_ms() as f64 / 1_000.0 - uptime - first).abs() <= 10.0;
    loop {
        let robots = admin.robots().await?.robots;
        let robot = robots.first().context("expected a robot")?;
        if robot
            .resources
            .get("uptime_s")
            .is_some_and(|uptime| is_current(*uptime))
        {
            return Ok(());
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "expected the uptime of now, got {:?}",
            robot.resources
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
