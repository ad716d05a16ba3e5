//! What goes wrong at 3 a.m.: killed programs, full disks, taken ports, broken files, bad tokens.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_agent::outbox::Outbox;
use lekiwi_protocol::api::EventRecord;
use lekiwi_tests::fleet::{self, Admin};
use lekiwi_tests::harness::{Agent, Fleet, Relay, RelayOptions, free_port, target, write_config};

/// Runs a program to its end; its exit code and what it said.
fn run(program: &str, package: &str, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new("timeout")
        .arg("60")
        .arg(target(program, package)?)
        .args(arguments)
        .output()?;
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

fn path(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("expected a path in UTF-8")
}

#[test]
fn a_taken_port_is_said() -> Result<()> {
    let port = free_port()?;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let folder = tempfile::tempdir()?;
    let address = format!("127.0.0.1:{port}");
    for (https, mqtt, what) in [
        (address.as_str(), "127.0.0.1:0", "HTTPS"),
        ("127.0.0.1:0", address.as_str(), "MQTT"),
    ] {
        let data = folder.path().join(what);
        let (code, said) = run(
            "lekiwi-relay",
            "lekiwi-relay",
            &[
                "run",
                "--data",
                path(&data)?,
                "--https",
                https,
                "--mqtt",
                mqtt,
                "--admin-password-file",
                path(&folder.path().join(format!("{what}.password")))?,
            ],
        )?;
        ensure!(
            code.is_some_and(|code| code != 0),
            "expected a failure, got {code:?}: {said}"
        );
        let message = format!(
            "error: cannot listen on {address}: address already in use\n  (hint: stop the program that has it"
        );
        ensure!(said.contains(&message), "expected {message:?} in {said}");
    }
    Ok(())
}

#[test]
fn a_broken_configuration_is_refused_with_line_and_hint() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("agent.yml");
    std::fs::write(&config, "version: 1\nrobot_id: kiwi-01\nheartbeat: 30\n")?;
    let (code, said) = run(
        "lekiwi-agent",
        "lekiwi-agent",
        &["--config", path(&config)?, "check-config"],
    )?;
    ensure!(code == Some(78), "expected EX_CONFIG, got {code:?}: {said}");
    ensure!(
        said.contains("agent.yml:3") && said.contains("heartbeat_s"),
        "got {said}"
    );
    let relay_config = folder.path().join("relay.yml");
    std::fs::write(&relay_config, "versoin: 1\n")?;
    let (code, said) = run(
        "lekiwi-relay",
        "lekiwi-relay",
        &[
            "run",
            "--data",
            path(&folder.path().join("data"))?,
            "--config",
            path(&relay_config)?,
        ],
    )?;
    ensure!(code == Some(78), "expected EX_CONFIG, got {code:?}: {said}");
    ensure!(
        said.contains(&format!(
            "error: expected a key of the configuration in {} line 1, got \"versoin\"\n  (hint: did you mean \"version\"?)",
            relay_config.display()
        )),
        "got {said}"
    );
    Ok(())
}

#[test]
fn bad_tokens_are_refused_with_their_reason() -> Result<()> {
    let relay = Relay::start()?;
    let folder = tempfile::tempdir()?;
    let enrol = |name: &str, id: &str, token: &str| -> Result<(Option<i32>, String)> {
        let own = folder.path().join(name);
        std::fs::create_dir(&own)?;
        let config = write_config(&own, &relay, id, token)?;
        run(
            "lekiwi-agent",
            "lekiwi-agent",
            &["--config", path(&config)?, "enrol"],
        )
    };
    let refused = |(code, said): (Option<i32>, String), reason: &str| -> Result<()> {
        ensure!(
            code.is_some_and(|code| code != 0),
            "expected a refusal, got {code:?}: {said}"
        );
        ensure!(
            said.contains("error: the relay refused the enrolment: ") && said.contains(reason),
            "expected {reason:?} in {said}"
        );
        ensure!(said.contains("(hint: "), "expected a hint in {said}");
        ensure!(!said.contains("lkt_"), "expected no secret in {said}");
        Ok(())
    };
    let once = relay.token(&[])?;
    let (code, said) = enrol("good", "kiwi-01", &once)?;
    ensure!(code == Some(0), "expected success, got {code:?}: {said}");
    refused(enrol("reused", "kiwi-02", &once)?, "used")?;
    refused(
        enrol(
            "serial",
            "kiwi-04",
            &relay.token(&["--serial", "10000000deadbeef"])?,
        )?,
        "10000000deadbeef",
    )?;
    refused(
        enrol("robot", "kiwi-05", &relay.token(&["--robot", "kiwi-99"])?)?,
        "kiwi-99",
    )?;
    refused(
        enrol(
            "unknown",
            "kiwi-06",
            "lkt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        )?,
        "unknown",
    )?;
    let short = relay.token(&["--lifetime", "1s"])?;
    std::thread::sleep(Duration::from_millis(1_200));
    refused(enrol("expired", "kiwi-07", &short)?, "expired")?;
    Ok(())
}

/// It gets in as far as an operator can see it, and no further.
#[tokio::test]
async fn a_token_for_another_profile_ends_in_quarantine() -> Result<()> {
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let _agent = Agent::start(&relay, "kiwi-03", &relay.token(&["--profile", "xle"])?)?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let robots = admin.robots().await?.robots;
        let standing = robots.first().map(|robot| &robot.registration);
        // Before its enrolment is in the log there is another reason, for a moment.
        if let Some(reason) = standing
            .and_then(|standing| standing.reason.as_deref())
            .filter(|reason| reason.starts_with("it says"))
        {
            ensure!(
                reason == "it says profile generic, and its token or approval was for xle",
                "expected the profiles to be named, got {reason:?}"
            );
            return Ok(());
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "expected kiwi-03 in quarantine, got {standing:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Killed anywhere in its enrolment, an agent ends up enrolled: once, with one key.
#[tokio::test]
async fn an_agent_killed_while_enrolling_resumes() -> Result<()> {
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    for round in 0_u64..12 {
        let id = format!("kiwi-{round}");
        let mut agent = Agent::start(&relay, &id, &relay.token(&["--robot", &id])?)?;
        // Spread over the few tens of milliseconds that an enrolment takes.
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        agent.kill()?;
        agent.restart()?;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while !admin
            .robots()
            .await?
            .robots
            .iter()
            .any(|robot| robot.id.as_str() == id && robot.status.online)
        {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "expected {id} online, it said\n{}",
                agent.process().log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let events = admin.events(&id.parse()?).await?;
        let registered = events
            .iter()
            .filter(|event| event.kind == "robot.registered")
            .count();
        ensure!(
            registered == 1,
            "expected {id} registered once, got {registered}"
        );
    }
    Ok(())
}

/// The short form of `cargo xtask soak`.
#[tokio::test]
async fn events_survive_killed_relays_and_robots() -> Result<()> {
    let output = tokio::process::Command::new(target("soak", "lekiwi-tests")?)
        .args([
            "--minutes",
            "0.5",
            "--robots",
            "8",
            "--agents",
            "1",
            "--events-every-ms",
            "100",
        ])
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success() && said.contains("soak: exact:"),
        "{said}"
    );
    Ok(())
}

/// A tmpfs too small for the log: the relay says so, acknowledges nothing it did not write, and recovers by itself.
#[tokio::test]
async fn a_full_disk_under_the_relay_loses_nothing() -> Result<()> {
    let disk = SmallDisk::mount("16m")?;
    let mut relay = Relay::start_with(RelayOptions {
        data: Some(disk.path().join("data")),
        ..RelayOptions::default()
    })?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let folder = tempfile::tempdir()?;
    let robots = fleet::enrol_all(&admin, folder.path(), "sim", 4).await?;
    let ballast = disk.path().join("ballast");
    let mut simulation = Fleet::start(
        &relay,
        folder.path(),
        &[
            "--robots=4".into(),
            "--events-every-ms=50".into(),
            "--telemetry-every-ms=1000".into(),
        ],
    )?;
    wait_for_events(&admin, &robots, 20).await?;

    fill(&ballast)?;
    let http = admin.http();
    let health = format!("{}/health", admin.base());
    let degraded = async {
        loop {
            let answer = http.get(&health).send().await?;
            if answer.status() == 503 {
                return anyhow::Ok(answer.text().await?);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let said = tokio::time::timeout(Duration::from_secs(60), degraded)
        .await
        .context("expected /health to say 503 on a full disk")??;
    ensure!(said.contains("full"), "expected the reason, got {said}");
    ensure!(
        relay.process().exited()?.is_none(),
        "expected the relay to live"
    );
    // Reads go on.
    ensure!(
        admin.robots().await?.robots.len() == 4,
        "expected the fleet to be readable on a full disk"
    );

    std::fs::remove_file(&ballast)?;
    let healthy = async {
        while http.get(&health).send().await?.status() != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(60), healthy)
        .await
        .context("expected the relay to recover by itself")??;
    simulation.stop()?;
    simulation.drain()?;
    for identity in &robots {
        let outbox = folder.path().join(identity.id.as_str()).join("agent.db");
        let outbox = Outbox::open(&outbox, std::time::SystemTime::now().into());
        ensure!(
            outbox.is_durable() && outbox.is_empty(),
            "expected an empty outbox of {}",
            identity.id
        );
        let seqs: Vec<u64> = admin
            .events(&identity.id)
            .await?
            .iter()
            .filter(|e| e.source == identity.id.as_str())
            .map(|e| e.seq)
            .collect();
        ensure!(
            seqs == (1..=outbox.last_seq()).collect::<Vec<_>>(),
            "expected every event of {} once and in order",
            identity.id
        );
        ensure!(seqs.len() >= 20, "expected events of {}", identity.id);
    }
    Ok(())
}

async fn wait_for_events(
    admin: &Admin,
    robots: &[std::sync::Arc<fleet::Identity>],
    wanted: usize,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    for identity in robots {
        // Its own, not the relay's about it.
        let own = |event: &EventRecord| event.source == identity.id.as_str();
        while admin
            .events(&identity.id)
            .await?
            .iter()
            .filter(|event| own(event))
            .count()
            < wanted
        {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "expected {wanted} events of {}",
                identity.id
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Writes until nothing more fits.
fn fill(ballast: &std::path::Path) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(ballast)?;
    for size in [1 << 16, 4096, 1] {
        while file
            .write(&vec![0; size])
            .is_ok_and(|written| written == size)
        {}
    }
    Ok(())
}

/// A file system of a fixed size, unmounted when the test ends.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .status()?;
        ensure!(
            status.success(),
            "expected to mount a tmpfs (hint: this test needs root)"
        );
        Ok(Self(folder))
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}
