//! Robots' certificates are renewed while robots live: nothing is lost, and whatever is interrupted, the robot connects.
//! With `LEKIWI_SLOW=1` certificates of two minutes end again and again, and the fleet is a large one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_agent::ipc::{self, Renew, Report, Request, Status};
use lekiwi_protocol::api::{CommandList, CommandView, EventRecord, RobotView};
use lekiwi_protocol::message::{CommandState, kind};
use lekiwi_tests::fleet::{self, Admin, Endpoint, Kept, Pace, Plan, Scenario, Simulation};
use lekiwi_tests::harness::{Agent, Relay, RelayOptions, target};
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
        let site = Self {
            admin,
            agent,
            relay,
        };
        site.until("online", PATIENCE, |status| status.link == "online")
            .await?;
        Ok(site)
    }

    /// What the agent says, once `wanted` likes it.
    async fn until(
        &self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let deadline = Instant::now() + patience;
        loop {
            let status = ipc::ask_status(&self.agent.socket()).await;
            match status {
                Ok(status) if wanted(&status) => return Ok(status),
                status => ensure!(
                    Instant::now() < deadline,
                    "expected the agent to be {what} within {patience:?}, got {status:?}"
                ),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn serial(&self) -> Result<String> {
        let has_one = |status: &Status| status.link == "online" && status.renewal.serial.is_some();
        let status = self
            .until("online with a certificate", PATIENCE, has_one)
            .await?;
        status.renewal.serial.context("just looked at")
    }

    async fn renew(&self) -> Result<()> {
        let request = Request::Renew(Renew::Certificate);
        ipc::say(&self.agent.socket(), &request).await?;
        Ok(())
    }

    /// Until it is online with another certificate than `before`, whose serial it gives.
    async fn renewed(&self, before: &str, patience: Duration) -> Result<String> {
        let is_new = |status: &Status| {
            let serial = status.renewal.serial.as_deref();
            status.link == "online" && serial.is_some_and(|serial| serial != before)
        };
        let status = self
            .until("online with another certificate", patience, is_new)
            .await?;
        let serial = status.renewal.serial.context("just looked at")?;
        // The relay writes down that it is in use while the robot goes on.
        let deadline = Instant::now() + patience;
        let is_it = |event: &EventRecord| {
            event.kind == kind::RENEWED && event.data["certificate_serial"] == serial.as_str()
        };
        while !self.admin.events(self.agent.id()).await?.iter().any(is_it) {
            ensure!(Instant::now() < deadline, "expected {serial} in the log");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(serial)
    }

    /// The robot's events, once the log has all that its outbox has numbered, each once.
    async fn events(&self) -> Result<Vec<EventRecord>> {
        let is_empty = |status: &Status| status.link == "online" && status.outbox.pending == 0;
        let last = self
            .until("rid of its events", PATIENCE, is_empty)
            .await?
            .outbox
            .last_seq;
        let events = self.admin.events(self.agent.id()).await?;
        let own = events
            .iter()
            .filter(|event| event.source == self.agent.id().as_str());
        let mut seqs: Vec<u64> = own.map(|event| event.seq).collect();
        // Urgent ones overtake.
        seqs.sort_unstable();
        ensure!(
            seqs == (1..=last).collect::<Vec<_>>(),
            "expected events 1 to {last}, each once, got {seqs:?}"
        );
        Ok(events)
    }

    async fn report(&self, number: usize) -> Result<()> {
        let report = Report {
            kind: "custom.tick".to_owned(),
            data: json!({ "n": number }),
        };
        // An agent takes one a second on average, as from any program.
        while let Err(error) = ipc::report_event(&self.agent.socket(), &report).await {
            ensure!(error.to_string().contains("try again later"), "{error}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
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
}

#[tokio::test]
async fn a_robot_renews_its_certificate_and_no_event_is_lost() -> Result<()> {
    // The agent asks with a third of it left.
    let (lifetime, most, times) = match is_slow() {
        true => ("2m", Duration::from_secs(100), 4),
        false => ("1m", Duration::from_secs(60), 1),
    };
    let site = Site::start(lifetime).await?;
    let mut serials = vec![site.serial().await?];
    let (mut number, mut asked) = (0, 0);
    while serials.len() <= times + 2 {
        if asked < 2 {
            site.renew().await?;
            asked += 1;
        }
        let before = serials.last().context("begun with one")?.clone();
        let deadline = Instant::now() + most;
        // Events are on their way all the time.
        while site.serial().await? == before {
            ensure!(
                Instant::now() < deadline,
                "expected another certificate than {before}"
            );
            site.report(number).await?;
            number += 1;
        }
        serials.push(site.renewed(&before, PATIENCE).await?);
    }
    let events = site.events().await?;
    let ticks = events.iter().filter(|event| event.kind == "custom.tick");
    let ticks: Vec<u64> = ticks.filter_map(|tick| tick.data["n"].as_u64()).collect();
    ensure!(
        ticks == (0..number as u64).collect::<Vec<_>>(),
        "got {ticks:?}"
    );
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
        let before = site.serial().await?;
        ensure!(
            site.agent.process().stop()?.success(),
            "expected a clean end"
        );
        site.restart(Some(place))?;
        site.serial().await?;
        site.renew().await?;
        let deadline = Instant::now() + PATIENCE;
        while site.agent.process().exited()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "expected place {place} to be reached"
            );
            sleep(Duration::from_millis(20)).await;
        }
        site.restart(None)?;
        // It goes on where it was, or asks again: either way there is another one in the end.
        let serial = site
            .serial()
            .await
            .with_context(|| format!("at place {place}"))?;
        if serial == before {
            site.renew().await?;
            site.renewed(&before, PATIENCE)
                .await
                .with_context(|| format!("at place {place}"))?;
        }
        for left in ["next-key.pem", "next-cert.pem"] {
            let path = site.agent.state_dir().join(left);
            ensure!(!path.exists(), "expected no {left} after place {place}");
        }
    }
    site.events().await?;
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
    let first = site.serial().await?;
    site.report(0).await?;
    let rotate = ["identity", "rotate", "kiwi-01", "--json"];
    let wait = [&rotate[..], &["--wait"]].concat();
    let told: Value = serde_json::from_str(&site.lekiwi(home.path(), &wait)?)?;
    site.report(1).await?;
    let told = &told["robots"][0];
    ensure!(told["outcome"] == "renewed", "got {told}");
    let mut serial = site.renewed(&first, PATIENCE).await?;
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
        ensure!(
            site.agent.process().stop()?.success(),
            "expected a clean end"
        );
        // It is away, and asked when it is back.
        let told: Value = serde_json::from_str(&site.lekiwi(home.path(), &rotate)?)?;
        ensure!(told["robots"][0]["outcome"] == "sent", "got {told}");
        asked += 1;
        site.restart(Some(place))?;
        let deadline = Instant::now() + PATIENCE;
        while site.agent.process().exited()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "expected place {place} to be reached"
            );
            sleep(Duration::from_millis(20)).await;
        }
        site.restart(None)?;
        let commands = site.commands().await?;
        let newest = commands.first().context("just sent")?;
        ensure!(
            newest.state == CommandState::Successful && commands.len() == asked,
            "at place {place}: got {newest:?}"
        );
        serial = site.renewed(&serial, PATIENCE).await?;
        ensure!(
            newest.result.get("serial") == Some(&json!(serial)),
            "at place {place}: expected {serial}, got {newest:?}"
        );
    }
    let events = site.events().await?;
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
    let first = site.serial().await?;
    site.renew().await?;
    let mut serial = site.renewed(&first, PATIENCE).await?;
    // The first counts no more by now: it fits this robot, and no broker takes it. The other one does not even fit.
    for is_whole in [true, false] {
        ensure!(
            site.agent.process().stop()?.success(),
            "expected a clean end"
        );
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
            site.serial().await? == serial,
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
        site.renew().await?;
        serial = site.renewed(&serial, PATIENCE).await?;
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
