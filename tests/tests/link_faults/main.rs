//! The robot's link when the network is at its worst: real agents and relays with faulting proxies between
//! them, or in networks of their own. Whatever happens, no event is lost and none is doubled; how long the
//! way back took is printed as a table.

mod endpoints;
mod network;
mod support;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lekiwi_tests::harness::{Fault, FaultyProxy, Relay};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Site, print, seconds};

/// "Recovery < 30 s after a failure" (H10).
const RECOVERY: Duration = Duration::from_secs(30);
/// The same over a network that is hardly one.
const PATIENCE: Duration = Duration::from_secs(60);
/// A connection that lasts so long makes good for failures before it.
const STABLE: Duration = Duration::from_secs(31);

async fn robot() -> Result<(FaultyProxy, Site)> {
    let relay = Relay::start()?;
    let proxy = FaultyProxy::start(relay.mqtt()).await?;
    let site = Site::behind(relay, &[&proxy], "last_resort: false").await?;
    Ok((proxy, site))
}

#[tokio::test]
async fn every_fault_of_a_network_is_survived_and_nothing_is_lost() -> Result<()> {
    let (proxy, mut site) = robot().await?;
    let mut rows = Vec::new();
    let mut row = |what: &str, time: Duration| rows.push((what.to_owned(), seconds(time)));

    let before = site.session().await;
    proxy.cut();
    row("connection reset", site.connected(before, RECOVERY).await?);

    let before = site.session().await;
    proxy.set(Fault::Closed);
    proxy.cut();
    site.until("offline", RECOVERY, |status| status.session.is_none())
        .await?;
    // Long enough for the backoff to reach its cap.
    let outage = tier(20, 3600);
    tokio::time::sleep(outage).await;
    proxy.set(Fault::None);
    let time = site.connected(before, RECOVERY).await?;
    row(&format!("relay away for {outage:?}, from its return"), time);

    // One that had lasted, so that its end is no reason to hesitate.
    tokio::time::sleep(STABLE).await;
    let before = site.session().await;
    proxy.strand();
    let began = Instant::now();
    site.until("suspicious", RECOVERY, |status| status.session != before)
        .await?;
    row("half-open connection, until noticed", began.elapsed());
    site.connected(before, RECOVERY).await?;
    ensure!(
        began.elapsed() < RECOVERY,
        "expected to be back from a half-open connection within {RECOVERY:?}, got {:?}",
        began.elapsed()
    );
    row("half-open connection, until back", began.elapsed());

    let before = site.session().await;
    proxy.set(Fault::Delay(Duration::from_secs(2)));
    // It holds a connection that stands, ...
    tokio::time::sleep(Duration::from_secs(20)).await;
    ensure!(
        site.session().await == before,
        "expected two seconds of delay to break nothing"
    );
    // ... and lets a new one come about.
    proxy.cut();
    let time = site.connected(before, PATIENCE).await?;
    row("2 s of delay in each direction, reset", time);
    proxy.set(Fault::None);

    let before = site.session().await;
    proxy.set(Fault::Slow(20_000));
    proxy.cut();
    let time = site.connected(before, PATIENCE).await?;
    row("20,000 bytes/s in each direction, reset", time);
    proxy.set(Fault::None);

    let before = site.session().await;
    let asleep = tier(35, 600);
    stop_for(&mut site, asleep).await?;
    let time = site.connected(before, RECOVERY).await?;
    row(
        &format!("agent stopped (SIGSTOP) for {asleep:?}, from SIGCONT"),
        time,
    );

    let before = site.session().await;
    site.relay.kill()?;
    site.relay.restart()?;
    let time = site.connected(before, RECOVERY).await?;
    row("relay killed, from when it serves again", time);

    let events = site.nothing_lost().await?;
    rows.push((
        "events, none lost and none doubled".to_owned(),
        events.to_string(),
    ));
    print("fault, until the robot is back", &rows)
}

/// So many seconds, or in the slow tier so many.
pub(crate) fn tier(fast: u64, slow: u64) -> Duration {
    let is_slow = std::env::var_os("LEKIWI_SLOW").is_some_and(|value| value != "0");
    Duration::from_secs(if is_slow { slow } else { fast })
}

async fn stop_for(site: &mut Site, time: Duration) -> Result<()> {
    let id = site.agent.process().id().context("expected it to run")?;
    let id = Pid::from_raw(i32::try_from(id)?);
    kill(id, Signal::SIGSTOP)?;
    tokio::time::sleep(time).await;
    kill(id, Signal::SIGCONT)?;
    Ok(())
}
