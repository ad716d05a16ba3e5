//! What the kernel says about networks: an address that goes takes its connection with it at once, one that
//! comes is used at once, and one that flaps is no reason to hurry.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lekiwi_agent::ipc::{Status, ask_status};
use lekiwi_protocol::api::EventRecord;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Host, Lan, Process, Relay, RelayOptions, target, write_config};

use super::support::{each_once, place, print, report, seconds};
use super::tier;

struct Robot {
    home: Host,
    host: Host,
    process: Process,
    relay: Relay,
    files: tempfile::TempDir,
    _lan: Lan,
    _place: tokio::sync::SemaphorePermit<'static>,
}

impl Robot {
    async fn start() -> Result<Self> {
        let place = place().await?;
        let mut lan = Lan::new()?;
        let (home, host) = (lan.host(1)?, lan.host(2)?);
        let relay = Relay::start_with(RelayOptions {
            host: Some(home.clone()),
            ..RelayOptions::default()
        })?;
        let files = tempfile::tempdir()?;
        let token = relay.token(&["--robot", "kiwi-01"])?;
        let config = write_config(files.path(), &relay, "kiwi-01", &token)?;
        let process = host.start(
            "agent",
            &target("lekiwi-agent", "lekiwi-agent")?,
            ["--config".into(), config.into_os_string(), "run".into()],
            &[("LEKIWI_LOG", "debug".into())],
            &files.path().join("agent.log"),
        )?;
        let mut robot = Self {
            home,
            host,
            process,
            relay,
            files,
            _lan: lan,
            _place: place,
        };
        robot
            .until("online", 30.0, |status| status.session.is_some())
            .await?;
        Ok(robot)
    }

    async fn until(
        &mut self,
        what: &str,
        limit: f64,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<(Status, Duration)> {
        let began = Instant::now();
        loop {
            let status = ask_status(&self.files.path().join("agent.sock")).await.ok();
            if let Some(status) = status.clone().filter(&wanted) {
                return Ok((status, began.elapsed()));
            }
            ensure!(
                began.elapsed().as_secs_f64() < limit,
                "expected the agent {what} within {limit} s, got {status:?}; it said\n{}",
                self.process.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the relay has of its log; asked for where it is.
    fn events(&self) -> Result<Vec<EventRecord>> {
        let relay = &self.relay;
        self.home.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let password = relay.admin_password_file();
                let admin = Admin::login(relay.https(), relay.ca_pem(), &password).await?;
                admin.events(&"kiwi-01".parse()?).await
            })
        })?
    }

    /// The robot's kernel drops so many percent of the packets of each direction.
    fn loss(&self, percent: u32) -> Result<()> {
        let drop = format!("numgen random mod 100 < {percent} drop");
        let rules = format!(
            "flush ruleset
            table inet loss {{
                chain in {{ type filter hook input priority 0; iifname eth0 {drop}; }}
                chain out {{ type filter hook output priority 0; oifname eth0 {drop}; }}
            }}"
        );
        self.host.filter(&rules)
    }

    fn address(&self, verb: &str) -> Result<()> {
        let address = format!("{}/24", self.host.address());
        self.host.ip(&["address", verb, &address, "dev", "eth0"])
    }
}

#[tokio::test]
async fn a_vanished_address_is_noticed_and_a_new_one_used_at_once() -> Result<()> {
    let mut robot = Robot::start().await?;
    robot.address("delete")?;
    let (status, noticed) = robot
        .until("offline", 3.0, |status| status.session.is_none())
        .await?;
    ensure!(
        status.last_error.as_ref().is_some_and(|error| {
            error.ends_with("expected to keep the address 10.77.0.2, which is gone")
        }),
        "expected the reason, got {status:?}"
    );
    // The backoff is at its cap, so that only the kernel's word brings it back early.
    tokio::time::sleep(Duration::from_secs(20)).await;
    robot.address("add")?;
    let (_, back) = robot
        .until("online", 3.0, |status| status.session.is_some())
        .await?;

    // The cable: the address stays, and the connection is asked whether it lives.
    robot.host.ip(&["link", "set", "eth0", "down"])?;
    let (_, unplugged) = robot
        .until("offline", 8.0, |status| status.session.is_none())
        .await?;
    robot.host.ip(&["link", "set", "eth0", "up"])?;
    let (_, plugged) = robot
        .until("online", 5.0, |status| status.session.is_some())
        .await?;

    robot
        .until("with an empty outbox", 30.0, |status| {
            status.outbox.pending == 0
        })
        .await?;
    let rows = [
        ("address deleted, until noticed", noticed),
        ("address added, until back", back),
        ("interface down, until noticed", unplugged),
        ("interface up, until back", plugged),
    ];
    print("network", &rows.map(|(a, b)| (a.to_owned(), seconds(b))))
}

#[tokio::test]
async fn a_flapping_interface_breaks_nothing_that_holds() -> Result<()> {
    let mut robot = Robot::start().await?;
    let (before, _) = robot
        .until("online", 1.0, |status| status.session.is_some())
        .await?;
    // Another address on the same interface comes and goes, as fast as can be.
    for _ in 0..20 {
        for verb in ["add", "delete"] {
            robot
                .host
                .ip(&["address", verb, "10.78.0.9/24", "dev", "eth0"])?;
        }
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (after, _) = robot
        .until("online", 1.0, |status| status.session.is_some())
        .await?;
    ensure!(
        after.session == before.session,
        "expected the session to last, got\n{}",
        robot.process.log()
    );
    ensure!(
        robot.relay.process().exited()?.is_none(),
        "expected the relay to live"
    );
    Ok(())
}

#[tokio::test]
async fn a_network_that_drops_three_packets_of_ten_loses_nothing() -> Result<()> {
    let mut robot = Robot::start().await?;
    let reporter = tokio::spawn(report(robot.files.path().join("agent.sock")));
    robot.loss(30)?;
    tokio::time::sleep(tier(20, 600)).await;
    // The connection comes about anew, too.
    robot.address("delete")?;
    robot
        .until("offline", 10.0, |status| status.session.is_none())
        .await?;
    robot.address("add")?;
    let (_, back) = robot
        .until("online", 60.0, |status| status.session.is_some())
        .await?;
    tokio::time::sleep(tier(5, 60)).await;
    reporter.abort();
    // What it asked last may still be under way inside the agent.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (status, emptied) = robot
        .until("with an empty outbox", 120.0, |status| {
            status.outbox.pending == 0
        })
        .await?;
    let last = status.outbox.last_seq;
    each_once(&robot.events()?, last)?;
    let rows = [
        ("address added, until back".to_owned(), seconds(back)),
        ("until all was acknowledged".to_owned(), seconds(emptied)),
        (
            "events, none lost and none doubled".to_owned(),
            last.to_string(),
        ),
    ];
    print("30% of the packets lost in each direction", &rows)
}
