//! What depends on how many robots there are, and how long the log is.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use futures_util::StreamExt;
use lekiwi_tests::fleet::{self, Admin, Pace, Pulses};

use crate::goal::{Table, Wish, quantile};
use crate::site::Site;

/// Longest time for what is to be over in seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// Time for which robots number events, with the relay's end and return within it.
const OUTAGE: Duration = Duration::from_secs(40);

/// A fleet that says as little as the contract has it.
pub(crate) fn quiet(site: &Site) -> Pace {
    Pace {
        heartbeat: Duration::from_secs(30),
        telemetry: None,
        events: None,
        ramp: Duration::from_millis(site.identities.len() as u64),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of robots")]
pub(crate) fn count(site: &Site) -> f64 {
    site.identities.len() as f64
}

/// Memory of the relay for each connected robot, its picture included.
pub(crate) async fn memory(site: &mut Site, rounds: usize, table: &mut Table) -> Result<()> {
    let mut sizes = Vec::new();
    for _ in 0..rounds {
        // A fresh process: nothing that enrolment left in its heap is reused.
        site.relay.kill()?;
        site.relay.restart()?;
        let before = site.resident_kb()?;
        let simulation = site.online(quiet(site), None).await?;
        // Births are in the store and everything else is written.
        tokio::time::sleep(Duration::from_secs(5)).await;
        sizes.push((site.resident_kb()? - before) / count(site));
        simulation.stop().await?;
    }
    let what = format!(
        "memory for each of {} TLS connections",
        site.identities.len()
    );
    table.add(what, "KB", Wish::AtMost(40.0), sizes);
    Ok(())
}

/// Heartbeat, robot → broker → relay → SSE client.
pub(crate) async fn latency(
    site: &Site,
    duration: Duration,
    rounds: usize,
    table: &mut Table,
) -> Result<()> {
    let pulses = Pulses::default();
    // About 100 heartbeats a second in all, so that each number of robots gives as many samples.
    let pace = Pace {
        heartbeat: Duration::from_millis(10 * site.identities.len().max(10) as u64),
        ..quiet(site)
    };
    let simulation = site.online(pace, Some(Pulses::clone(&pulses))).await?;
    // The births are through before the measurement begins.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let admin = site.admin().await?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let took = follow(&admin, &pulses, duration).await?;
        ensure!(
            !took.is_empty(),
            "expected heartbeats within {duration:?}, none came"
        );
        p50.push(quantile(&took, 0.5));
        p99.push(quantile(&took, 0.99));
    }
    simulation.stop().await?;
    let row = |what: &str| format!("heartbeat to SSE, {} robots: {what}", site.identities.len());
    table.add(row("p50"), "ms", Wish::None, p50);
    table.add(row("p99"), "ms", Wish::AtMost(10.0), p99);
    Ok(())
}

/// Reads the live stream as any client does, and looks up when each heartbeat was sent; ms.
async fn follow(admin: &Admin, pulses: &Pulses, duration: Duration) -> Result<Vec<f64>> {
    let request = admin.get("/api/v1/stream?type=heartbeat").send();
    let mut stream = request.await?.error_for_status()?.bytes_stream();
    let (mut text, mut took) = (Vec::new(), Vec::new());
    let end = tokio::time::Instant::now() + duration;
    while let Ok(Some(chunk)) = tokio::time::timeout_at(end, stream.next()).await {
        text.extend_from_slice(&chunk?);
        let received = tokio::time::Instant::now();
        while let Some(line_end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=line_end).collect();
            let Some(data) = line.strip_prefix(b"data:") else {
                continue;
            };
            let live: lekiwi_protocol::api::Live = serde_json::from_slice(data)?;
            let sent = pulses
                .lock()
                .ok()
                .and_then(|mut pulses| pulses.remove(&(live.robot_id, live.sequence)));
            took.extend(sent.map(|sent| (received - sent).as_secs_f64() * 1e3));
        }
    }
    Ok(took)
}

/// A robot's state by HTTPS on one connection, client and TLS included, while all robots report each second.
pub(crate) async fn query(
    site: &Site,
    duration: Duration,
    rounds: usize,
    table: &mut Table,
) -> Result<()> {
    let pace = Pace {
        telemetry: Some(Duration::from_secs(1)),
        ..quiet(site)
    };
    let simulation = site.online(pace, None).await?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let took = states(site, duration)?;
        p50.push(quantile(&took, 0.5));
        p99.push(quantile(&took, 0.99));
    }
    simulation.stop().await?;
    let row = |what: &str| {
        format!(
            "state query, {} robots at 1 Hz: {what}",
            site.identities.len()
        )
    };
    table.add(row("p50"), "ms", Wish::None, p50);
    table.add(row("p99"), "ms", Wish::AtMost(1.0), p99);
    Ok(())
}

/// How long it takes to ask for the state of one robot after the other, ms.
pub(crate) fn states(site: &Site, duration: Duration) -> Result<Vec<f64>> {
    let robots = site.identities.iter().cycle();
    let paths = robots.map(|identity| format!("/api/v1/robots/{}", identity.id));
    answers(site, duration, paths)
}

/// How long each answer takes, on one connection, ms. Whoever asks has a thread of its own, as another program has: among the
/// robots it would wait for their turns, which is no part of the answer.
pub(crate) fn answers(
    site: &Site,
    duration: Duration,
    paths: impl Iterator<Item = String> + Send,
) -> Result<Vec<f64>> {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let admin = site.admin().await?;
            let mut took = Vec::new();
            let end = Instant::now() + duration;
            for path in paths {
                let start = Instant::now();
                if start >= end {
                    break;
                }
                let answer = admin.get(&path).send().await?;
                answer.error_for_status()?.bytes().await?;
                took.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Ok(took)
        })
    };
    let asked = tokio::task::block_in_place(|| std::thread::scope(|all| all.spawn(ask).join()));
    asked.map_err(|_| anyhow!("expected answers, the asking panicked"))?
}

/// SIGKILL, until all are online again and the log is exact.
pub(crate) async fn back(site: &mut Site, rounds: usize, table: &mut Table) -> Result<()> {
    let (mut took, mut lost) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let pace = Pace {
            events: Some(Duration::from_secs(10)),
            ..quiet(site)
        };
        // Events go on while the relay is away, and end some time after its return.
        let simulation = site.simulation(pace, None, pace.ramp + OUTAGE)?;
        simulation.online(site.identities.len(), PATIENCE).await?;
        site.relay.kill()?;
        let start = Instant::now();
        simulation.offline(PATIENCE).await?;
        site.relay.restart()?;
        simulation.online(site.identities.len(), PATIENCE).await?;
        took.push(start.elapsed().as_secs_f64());
        simulation.settled(PATIENCE).await?;
        let told = simulation.stop().await?;
        let tally = fleet::compare(&site.admin().await?, &told).await?;
        crate::say(&format!("{tally:?}"));
        #[expect(clippy::cast_precision_loss, reason = "a count of events")]
        lost.push((tally.lost + tally.doubled + tally.invented) as f64);
    }
    let row = |what: &str| {
        format!(
            "SIGKILL of the relay, {} robots: {what}",
            site.identities.len()
        )
    };
    table.add(row("all back"), "s", Wish::AtMost(30.0), took);
    table.add(
        row("events lost, doubled, invented"),
        "",
        Wish::AtMost(0.0),
        lost,
    );
    Ok(())
}

/// From the start of the process to the first answer of the fleet's picture: at first with all events still to be folded, since
/// they came just before the kill, then from the pictures that were kept.
pub(crate) async fn restart(
    site: &mut Site,
    events: u64,
    rounds: usize,
    table: &mut Table,
) -> Result<()> {
    let mut took = Vec::new();
    let admin = site.admin().await?;
    for _ in 0..=rounds {
        site.relay.kill()?;
        let start = Instant::now();
        site.relay.restart()?;
        // A session outlives the relay, so that the first answer is not one to a login.
        admin.robots().await?;
        took.push(start.elapsed().as_secs_f64());
    }
    let kept = took.split_off(1);
    let row = |what: &str| format!("restart with {events} events, {what}, to the first answer");
    table.add(row("to be folded"), "s", Wish::AtMost(2.0), took);
    table.add(row("folded"), "s", Wish::AtMost(2.0), kept);
    Ok(())
}
