//! The fleet moves from one root to the next, and no robot is touched: real agents, also one that hears of the next root
//! late; clients that know one root only; and a fleet that renews all the while. With `LEKIWI_SLOW=1` it is a large one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::message::kind;
use lekiwi_tests::fleet::{self, Admin, Endpoint, Kept, Pace, Plan, Scenario, Simulation};
use lekiwi_tests::harness::{Agent, Relay, ticks};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

fn is_slow() -> bool {
    std::env::var_os("LEKIWI_SLOW").is_some_and(|value| value != "0")
}

async fn renew(agent: &Agent) -> Result<()> {
    let before = agent.serial().await?;
    agent.renew().await?;
    agent.serial_after(&before).await?;
    Ok(())
}

/// Whether curl believes the relay, with the roots in this file.
fn curl_believes(relay: &Relay, roots: &Path) -> Result<bool> {
    let url = format!("https://{}/health", relay.https());
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--output",
            "/dev/null",
            "--cacert",
        ])
        .arg(roots)
        .arg(url)
        .output()?;
    match output.status.code() {
        Some(0) => Ok(true),
        // The peer's certificate cannot be verified.
        Some(60) => Ok(false),
        _ => anyhow::bail!("curl: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn anchors(agent: &Agent) -> Result<usize> {
    let path = agent.state_dir().join("anchors.pem");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    Ok(text.matches("BEGIN CERTIFICATE").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn robots_follow_to_another_root_and_lose_nothing() -> Result<()> {
    for has_issuing in [false, true] {
        follow(has_issuing)
            .await
            .with_context(|| format!("with an issuing authority: {has_issuing}"))?;
    }
    Ok(())
}

async fn follow(has_issuing: bool) -> Result<()> {
    let mut relay = Relay::start()?;
    let folder = tempfile::tempdir()?;
    let safe = folder.path().join("root.key");
    let root_key = relay.data().join("ca/ca.key");
    if has_issuing {
        relay.command(&["ca", "issuing"])?;
        std::fs::rename(&root_key, &safe)?;
        relay.start_again()?;
    }
    let start = |relay: &Relay, id: &str| -> Result<Agent> {
        Agent::start(relay, id, &relay.token(&["--robot", id])?)
    };
    // One hears of the next root in time, one only when it signs already.
    let (early, late) = (start(&relay, "kiwi-01")?, start(&relay, "kiwi-02")?);
    let mut number = 0;
    let mut all_tick = async |agents: &[&Agent]| {
        number += 1;
        for agent in agents {
            agent.serial().await?;
            agent.tick(number).await?;
        }
        anyhow::Ok(number)
    };
    all_tick(&[&early, &late]).await?;
    let roots = |name: &str, pem: &str| -> Result<_> {
        let path = folder.path().join(name);
        std::fs::write(&path, pem)?;
        Ok(path)
    };
    let before = roots("before.pem", relay.ca_pem())?;

    let mut arguments = vec!["ca", "next"];
    let shown = safe.to_string_lossy().into_owned();
    if has_issuing {
        arguments.extend(["--root-key", &shown]);
    }
    let print = relay.command(&arguments)?;
    relay.start_again()?;
    renew(&early).await?;
    ensure!(anchors(&early)? == 1 && anchors(&late)? == 0);
    all_tick(&[&early, &late]).await?;

    ensure!(relay.command(&["ca", "switch"])? == print);
    let pem = relay.command(&["ca", "show"])?;
    let after = pem.split_once('\n').context("expected a certificate")?.1;
    let after = roots("after.pem", after)?;
    relay.start_again()?;
    for known in [&before, &after] {
        ensure!(curl_believes(&relay, known)?, "{}", known.display());
    }
    // One that is made for the root before, and comes only now.
    let stale = start(&relay, "kiwi-03")?;
    all_tick(&[&early, &late, &stale]).await?;
    let refused = relay
        .command(&["ca", "retire"])
        .map_err(|error| error.to_string());
    let refused = refused.err().context("expected a refusal")?;
    ensure!(refused.contains("found kiwi-01, kiwi-02\n"), "{refused}");

    for agent in [&early, &late] {
        renew(agent).await?;
    }
    relay.command(&["ca", "retire"])?;
    relay.start_again()?;
    ensure!(!curl_believes(&relay, &before)? && curl_believes(&relay, &after)?);
    for agent in [&early, &late, &stale] {
        ensure!(
            anchors(agent)? == 1,
            "expected {} to know the root",
            agent.id()
        );
        renew(agent).await?;
    }
    let mut agents = [early, late, stale];
    for agent in &mut agents {
        // What it keeps is enough to begin with.
        agent.stop()?;
        agent.restart()?;
    }
    let [early, late, stale] = &agents;
    let last = all_tick(&[early, late, stale]).await?;

    let admin_of = relay.admin_password_file();
    let pem = std::fs::read_to_string(&after)?;
    let admin = Admin::login(relay.https(), &pem, &admin_of).await?;
    for agent in &agents {
        let events = agent.events(&admin).await?;
        let ticks = ticks(&events);
        let first = if agent.id() == stale.id() { 3 } else { 1 };
        ensure!(ticks == (first..=last).collect::<Vec<_>>(), "got {ticks:?}");
        ensure!(events.iter().any(|it| it.kind == kind::RENEWED));
    }
    Ok(())
}

/// Five hundred with `LEKIWI_SLOW=1`.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the figures of the run")]
async fn a_fleet_moves_to_another_root_and_no_event_is_lost() -> Result<()> {
    let (robots, length) = match is_slow() {
        true => (520, Duration::from_secs(600)),
        false => (20, Duration::from_secs(40)),
    };
    let mut relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let folder = tempfile::tempdir()?;
    let identities = fleet::enrol_all(&admin, folder.path(), "kiwi", robots).await?;
    let plan = Plan {
        // Every robot renews twenty times in the middle half.
        scenario: Scenario::Renewal,
        pace: Pace {
            heartbeat: Duration::from_secs(10),
            telemetry: Some(Duration::from_secs(10)),
            events: Some(Duration::from_secs(5)),
            ramp: Duration::from_secs(5),
        },
        length,
        seed: 7,
    };
    let endpoint: Endpoint = relay.mqtt().parse()?;
    let began = Instant::now();
    let simulation =
        Simulation::start(
            plan,
            &identities,
            &endpoint,
            None,
            |_| Ok(Kept::in_memory()),
        )?;
    // At these percents of the time.
    for (at, step) in [(30, "next"), (42, "switch"), (65, "retire")] {
        tokio::time::sleep_until(began + length * at / 100).await;
        let deadline = began + length * 3 / 4;
        loop {
            match block_in_place(|| relay.command(&["ca", step])) {
                Ok(_) => break,
                // Some have yet to renew.
                Err(error) => ensure!(Instant::now() < deadline, "{error}"),
            }
            sleep(Duration::from_secs(1)).await;
        }
        block_in_place(|| relay.start_again())?;
        println!("{step} after {:.0?}", began.elapsed());
    }
    // Who asks knows the root of now.
    let pem = relay.command(&["ca", "show"])?;
    let pem = pem.split_once('\n').context("expected a certificate")?.1;
    let admin = Admin::login(relay.https(), pem, &relay.admin_password_file()).await?;
    let report = simulation.report(&admin, Duration::from_secs(60)).await?;
    println!("{report}");
    ensure!(report.is_good(), "{report}");
    ensure!(
        report.renewals >= robots as u64 * 10,
        "expected ten renewals of each robot, {report}"
    );
    Ok(())
}
