//! Robots' certificates are renewed while robots live: nothing is lost, and whatever is interrupted, the robot connects.
//! With `LEKIWI_SLOW=1` certificates of two minutes end again and again, and the fleet is a large one.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lekiwi_protocol::api::{CommandList, CommandView, EventRecord, RobotView};
use lekiwi_protocol::message::{CommandState, kind};
use lekiwi_tests::fleet::{self, Admin, Endpoint, Kept, Pace, Plan, Scenario, Simulation};
use lekiwi_tests::harness::{Agent, Relay, RelayOptions, target, ticks};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(30);
/// Places of a renewal where the power may go: before and after each write and rename.
const PLACES: u32 = 7;

fn is_slow() -> bool {
    std::env::var_os("LEKIWI_SLOW").is_some_and(|value| value != "0")
}

struct Site {
    admin: Admin,
    agent: Agent,
    relay: Relay,
}

impl Site {
    /// A relay whose certificates last so long, and a robot that is online with one.
    async fn start(lifetime: &str) -> Result<Self> {
        let relay = Relay::start_with(RelayOptions {
            environment: vec![("LEKIWI_RELAY_IDENTITY_ROBOT_LIFETIME", lifetime.into())],
            ..RelayOptions::default()
        })?;
        let admin =
            Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
        let agent = Agent::start(&relay, "kiwi-01", &relay.token(&["--robot", "kiwi-01"])?)?;
        agent.serial().await?;
        Ok(Self {
            admin,
            agent,
            relay,
        })
    }

    /// Until it is online with another certificate than `before`, whose serial it gives.
    async fn renewed(&self, before: &str) -> Result<String> {
        let serial = self.agent.serial_after(before).await?;
        // The relay writes down that it is in use while the robot goes on.
        let deadline = Instant::now() + PATIENCE;
        let is_it = |event: &EventRecord| {
            event.kind == kind::RENEWED && event.data["certificate_serial"] == serial.as_str()
        };
        while !self.admin.events(self.agent.id()).await?.iter().any(is_it) {
            ensure!(Instant::now() < deadline, "expected {serial} in the log");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(serial)
    }

    /// What `lekiwi` says, its settings being in `home`.
    fn lekiwi(&self, home: &Path, arguments: &[&str]) -> Result<String> {
        let output = Command::new(target("lekiwi", "lekiwi-cli")?)
            .args(arguments)
            .env("XDG_CONFIG_HOME", home)
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `lekiwi` says that is asked to stop after this time.
    fn interrupted(&self, home: &Path, arguments: &[&str], after: Duration) -> Result<String> {
        let mut lekiwi = Command::new(target("lekiwi", "lekiwi-cli")?)
            .args(arguments)
            .env("XDG_CONFIG_HOME", home)
            .stdout(Stdio::piped())
            .spawn()?;
        let deadline = Instant::now() + PATIENCE;
        std::thread::sleep(after);
        // More than once: until it listens, one that was started in the background ignores it.
        while lekiwi.try_wait()?.is_none() {
            if Instant::now() > deadline {
                lekiwi.kill()?;
                bail!("expected it to end after SIGINT");
            }
            let asked = Command::new("kill")
                .args(["-INT", &lekiwi.id().to_string()])
                .status()?;
            ensure!(asked.success(), "expected lekiwi to run");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(String::from_utf8(lekiwi.wait_with_output()?.stdout)?)
    }

    /// All commands of the robot, the newest first, once they have ended.
    async fn commands(&self) -> Result<Vec<CommandView>> {
        let path = format!("/api/v1/robots/{}/commands", self.agent.id());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let list: CommandList = self.admin.read(&path).await?;
            if list.commands.iter().all(|command| command.state.is_end()) {
                return Ok(list.commands);
            }
            ensure!(Instant::now() < deadline, "expected ends, got {list:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn restart(&mut self, kill_at: Option<u32>) -> Result<()> {
        let config = self.agent.state_dir().join("../agent.yml");
        let mut arguments = vec!["--config".into(), config.into_os_string(), "run".into()];
        if let Some(place) = kill_at {
            arguments.extend(["--kill-at".into(), place.to_string().into()]);
        }
        self.agent.process().restart(Some(arguments))
    }

    /// Waits for the end of an agent that is to be killed there.
    async fn dies_at(&mut self, place: u32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.agent.process().exited()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "expected place {place} to be reached"
            );
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_robot_renews_its_certificate_and_no_event_is_lost() -> Result<()> {
    // The agent asks with a third of it left.
    let (lifetime, most, times) = match is_slow() {
        true => ("2m", Duration::from_secs(100), 4),
        false => ("1m", Duration::from_secs(60), 1),
    };
    let site = Site::start(lifetime).await?;
    let mut serials = vec![site.agent.serial().await?];
    let (mut number, mut asked) = (0, 0);
    while serials.len() <= times + 2 {
        if asked < 2 {
            site.agent.renew().await?;
            asked += 1;
        }
        let before = serials.last().context("begun with one")?.clone();
        let deadline = Instant::now() + most;
        // Events are on their way all the time.
        while site.agent.serial().await? == before {
            ensure!(
                Instant::now() < deadline,
                "expected another certificate than {before}"
            );
            site.agent.tick(number).await?;
            number += 1;
        }
        serials.push(site.renewed(&before).await?);
    }
    let events = site.agent.events(&site.admin).await?;
    let ticks = ticks(&events);
    ensure!(ticks == (0..number).collect::<Vec<_>>(), "got {ticks:?}");
    // The relay saw the robot go with a goodbye and come back each time, and tells of each certificate.
    let renewed = events.iter().filter(|event| event.kind == kind::RENEWED);
    let renewed: Vec<&str> = renewed
        .filter_map(|event| event.data["certificate_serial"].as_str())
        .collect();
    ensure!(
        renewed == serials[1..],
        "expected {serials:?}, got {renewed:?}"
    );
    let mut gaps = Vec::new();
    let mut left_at = None;
    for event in &events {
        match event.kind.as_str() {
            kind::DISCONNECTED => left_at = Some(event.timestamp),
            kind::CONNECTED => gaps.extend(left_at.take().map(|at| event.timestamp.since(at))),
            _ => {}
        }
    }
    ensure!(
        gaps.len() == times + 2,
        "expected a reconnect for each certificate, got {gaps:?} among {number} events"
    );
    ensure!(
        gaps.iter().all(|gap| *gap < Duration::from_secs(5)),
        "expected to be back within 5 s, got {gaps:?}"
    );
    Ok(())
}

#[tokio::test]
async fn wherever_a_renewal_is_interrupted_the_robot_connects() -> Result<()> {
    let mut site = Site::start("90d").await?;
    for place in 1..=PLACES {
        let before = site.agent.serial().await?;
        site.agent.stop()?;
        site.restart(Some(place))?;
        site.agent.serial().await?;
        site.agent.renew().await?;
        site.dies_at(place).await?;
        site.restart(None)?;
        // It goes on where it was, or asks again: either way there is another one in the end.
        let serial = site
            .agent
            .serial()
            .await
            .with_context(|| format!("at place {place}"))?;
        if serial == before {
            site.agent.renew().await?;
            site.renewed(&before)
                .await
                .with_context(|| format!("at place {place}"))?;
        }
        for left in ["next-key.pem", "next-cert.pem"] {
            let path = site.agent.state_dir().join(left);
            ensure!(!path.exists(), "expected no {left} after place {place}");
        }
    }
    site.agent.events(&site.admin).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_robot_rotates_when_lekiwi_says_so_wherever_that_is_interrupted() -> Result<()> {
    let mut site = Site::start("90d").await?;
    let home = tempfile::tempdir()?;
    let password = site.relay.admin_password_file();
    site.lekiwi(
        home.path(),
        &[
            "login",
            site.admin.base(),
            "--password-file",
            password.to_str().context("a path of text")?,
            "--ca-fingerprint",
            site.relay.ca_fingerprint(),
        ],
    )?;
    let first = site.agent.serial().await?;
    site.agent.tick(0).await?;
    let rotate = ["identity", "rotate", "kiwi-01", "--json"];
    let wait = [&rotate[..], &["--wait"]].concat();
    let told: Value = serde_json::from_str(&site.lekiwi(home.path(), &wait)?)?;
    site.agent.tick(1).await?;
    let told = &told["robots"][0];
    ensure!(told["outcome"] == "renewed", "got {told}");
    let mut serial = site.renewed(&first).await?;
    ensure!(
        told["command"]["result"]["serial"] == serial,
        "expected {serial}, got {told}"
    );
    let robot = site.lekiwi(home.path(), &["robot", "kiwi-01", "--json"])?;
    let robot: RobotView = serde_json::from_str(&robot)?;
    let shown = robot.certificate.context("expected a certificate")?;
    ensure!(
        shown.serial == serial && json!(shown.not_after) == told["command"]["result"]["not_after"],
        "expected that of {told}, got {shown:?}"
    );
    let list = ["identity", "list", "kiwi-01", "--ending-within"];
    let within = |time| site.lekiwi(home.path(), &[&list[..], &[time]].concat());
    ensure!(within("91d")?.contains(&serial) && !within("89d")?.contains(&serial));

    let mut asked = 1;
    for place in 1..=PLACES {
        site.agent.stop()?;
        // It is away, and asked when it is back.
        let told: Value = serde_json::from_str(&site.lekiwi(home.path(), &rotate)?)?;
        ensure!(told["robots"][0]["outcome"] == "sent", "got {told}");
        asked += 1;
        site.restart(Some(place))?;
        site.dies_at(place).await?;
        site.restart(None)?;
        let commands = site.commands().await?;
        let newest = commands.first().context("just sent")?;
        ensure!(
            newest.state == CommandState::Successful && commands.len() == asked,
            "at place {place}: got {newest:?}"
        );
        serial = site.renewed(&serial).await?;
        ensure!(
            newest.result.get("serial") == Some(&json!(serial)),
            "at place {place}: expected {serial}, got {newest:?}"
        );
    }
    // Whoever stops the asking is told who was not asked; who stops it before it begins is told nothing.
    let late = [&rotate[..], &["--over", "7d"]].concat();
    let deadline = Instant::now() + PATIENCE;
    let mut after = Duration::from_millis(100);
    let told = loop {
        let told = site.interrupted(home.path(), &late, after)?;
        if !told.is_empty() {
            break serde_json::from_str::<Value>(&told)?;
        }
        ensure!(Instant::now() < deadline, "expected it to begin");
        after *= 2;
    };
    let unasked = json!({ "robots": [{ "robot_id": "kiwi-01", "outcome": "not_sent" }] });
    ensure!(told == unasked, "got {told}");
    ensure!(site.commands().await?.len() == asked);
    let events = site.agent.events(&site.admin).await?;
    let ends = events
        .iter()
        .filter(|event| event.kind == kind::COMMAND_SUCCESSFUL);
    ensure!(ends.count() == asked, "expected {asked} ends, each once");
    Ok(())
}

#[tokio::test]
async fn a_next_certificate_that_no_broker_takes_is_dropped() -> Result<()> {
    let mut site = Site::start("90d").await?;
    let (state, folder) = (site.agent.state_dir(), tempfile::tempdir()?);
    for file in ["key.pem", "cert.pem"] {
        std::fs::copy(state.join(file), folder.path().join(file))?;
    }
    let first = site.agent.serial().await?;
    site.agent.renew().await?;
    let mut serial = site.renewed(&first).await?;
    // The first counts no more by now: it fits this robot, and no broker takes it. The other one does not even fit.
    for is_whole in [true, false] {
        site.agent.stop()?;
        std::fs::copy(folder.path().join("key.pem"), state.join("next-key.pem"))?;
        match is_whole {
            true => drop(std::fs::copy(
                folder.path().join("cert.pem"),
                state.join("next-cert.pem"),
            )?),
            false => std::fs::write(state.join("next-cert.pem"), "half a c")?,
        }
        site.restart(None)?;
        ensure!(
            site.agent.serial().await? == serial,
            "expected the present certificate"
        );
        let is_there = || ["next-cert.pem", "next-key.pem"].map(|file| state.join(file).exists());
        let deadline = Instant::now() + PATIENCE;
        while is_there() != [false, false] {
            ensure!(
                Instant::now() < deadline,
                "expected the other one to be dropped"
            );
            sleep(Duration::from_millis(20)).await;
        }
        site.agent.renew().await?;
        serial = site.renewed(&serial).await?;
    }
    Ok(())
}

/// Ten thousand with `LEKIWI_SLOW=1`, of robots that stay and have something to say all the time.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures of the run")]
async fn a_fleet_renews_and_no_event_is_lost() -> Result<()> {
    // Twenty renewals of each; a few are asked for while one is under way, and count as that.
    let (robots, length, least) = match is_slow() {
        true => (520, Duration::from_secs(600), 10_000),
        false => (20, Duration::from_secs(30), 300),
    };
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let folder = tempfile::tempdir()?;
    let identities = fleet::enrol_all(&admin, folder.path(), "kiwi", robots).await?;
    let plan = Plan {
        scenario: Scenario::Renewal,
        pace: Pace {
            heartbeat: Duration::from_secs(10),
            telemetry: Some(Duration::from_secs(10)),
            events: Some(Duration::from_secs(5)),
            ramp: Duration::from_secs(5),
        },
        length,
        seed: 6,
    };
    let endpoint: Endpoint = relay.mqtt().parse()?;
    let simulation =
        Simulation::start(
            plan,
            &identities,
            &endpoint,
            None,
            |_| Ok(Kept::in_memory()),
        )?;
    let report = simulation.report(&admin, Duration::from_secs(60)).await?;
    println!("{report}");
    ensure!(report.is_good(), "{report}");
    ensure!(
        report.renewals >= least,
        "expected {least} renewals, {report}"
    );
    Ok(())
}
