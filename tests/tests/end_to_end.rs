//! The main job on real input: this machine becomes a robot of a fleet, and a person sees it live.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::RobotView;
use lekiwi_protocol::message::kind;
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Agent, Browser, Relay};

async fn admin(relay: &Relay) -> Result<Admin> {
    Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await
}

/// The robot, once `wanted` likes it.
async fn robot(
    admin: &Admin,
    id: &str,
    what: &str,
    wanted: impl Fn(&RobotView) -> bool,
) -> Result<RobotView> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let robots = admin.robots().await?.robots;
        if let Some(robot) = robots
            .iter()
            .find(|robot| robot.id.as_str() == id && wanted(robot))
        {
            return Ok(robot.clone());
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "expected {id} {what} within 30 s, got {robots:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn this_machine_becomes_a_robot_and_a_person_sees_it_live() -> Result<()> {
    let relay = Relay::start()?;
    let admin = admin(&relay).await?;
    let mut agent = Agent::start(&relay, "kiwi-01", &relay.token(&["--robot", "kiwi-01"])?)?;
    let view = robot(&admin, "kiwi-01", "online with CPU", |r| {
        r.status.online && r.resources.contains_key("cpu_percent")
    })
    .await?;
    ensure!(
        view.factsheet
            .is_some_and(|f| f.hardware.cores > 0 && f.hardware.memory_bytes > 0),
        "expected the machine in the factsheet"
    );
    ensure!(
        view.network.is_some_and(|n| !n.hostname.is_empty()),
        "expected a host name"
    );

    // In a real browser: the login page, then the dashboard, with figures that move by themselves.
    let browser = Browser::start().await?;
    let base = format!("https://{}", relay.https());
    let password = std::fs::read_to_string(relay.admin_password_file())?;
    browser.log_in(&base, "admin", password.trim()).await?;
    browser
        .text("[data-robot='kiwi-01'][data-status='online']", |text| {
            text.to_lowercase().contains("online")
        })
        .await?;
    let cpu = "[data-robot='kiwi-01'] [data-metric='cpu_percent']";
    let shown = |text: &str| text.trim_end_matches('%').trim().parse::<f64>().ok();
    let burn = Burn::start()?;
    browser
        .text(cpu, |text| shown(text).is_some_and(|shown| shown >= 90.0))
        .await?;
    burn.stop();
    // Down again, as far as others leave the machine alone.
    let machine = Busy::watch();
    browser
        .text(cpu, |text| {
            shown(text)
                .zip(machine.percent())
                .is_some_and(|(shown, busy)| (shown - busy).abs() <= 20.0)
        })
        .await?;
    if let Some(path) = std::env::var_os("LEKIWI_SCREENSHOT") {
        std::fs::write(path, browser.screenshot().await?)?;
    }
    // By the relay's clock, which is this one.
    let then = Timestamp::from(std::time::SystemTime::now());

    // A clean stop says goodbye; a kill is noticed by the broken connection.
    ensure!(
        agent.process().stop()?.success(),
        "expected the agent to end with 0 on SIGTERM"
    );
    let view = robot(&admin, "kiwi-01", "offline", |r| !r.status.online).await?;
    ensure!(
        view.status.connection == lekiwi_protocol::message::ConnectionState::Offline,
        "expected a goodbye, got {:?}",
        view.status
    );
    agent.restart()?;
    robot(&admin, "kiwi-01", "online again", |r| r.status.online).await?;
    agent.kill()?;
    let view = robot(&admin, "kiwi-01", "offline", |r| !r.status.online).await?;
    ensure!(
        view.status.connection == lekiwi_protocol::message::ConnectionState::ConnectionBroken,
        "expected the will, got {:?}",
        view.status
    );

    // Now it is away; then it was there, and the page says that this is the past.
    let gone = "[data-robot='kiwi-01'][data-status='offline']";
    browser.text(gone, |_| true).await?;
    browser.open(&format!("{base}/#/?at={then}")).await?;
    browser
        .text("section.past", |text| text.contains("This is the past"))
        .await?;
    browser
        .text("[data-robot='kiwi-01'][data-status='online']", |_| true)
        .await?;
    browser.open(&format!("{base}/#/")).await?;
    browser.text(gone, |_| true).await?;
    browser.close().await?;

    let events = admin.events(&"kiwi-01".parse()?).await?;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    for wanted in [
        kind::REGISTERED,
        kind::CONNECTED,
        kind::AGENT_STARTED,
        kind::DISCONNECTED,
    ] {
        ensure!(kinds.contains(&wanted), "expected {wanted} among {kinds:?}");
    }
    ensure!(
        events
            .windows(2)
            .all(|pair| pair[0].position < pair[1].position),
        "expected ascending positions"
    );
    Ok(())
}

/// Keeps every core busy.
struct Burn(Arc<AtomicBool>, Vec<std::thread::JoinHandle<()>>);

impl Burn {
    fn start() -> Result<Self> {
        let on = Arc::new(AtomicBool::new(true));
        let burn = |_| {
            let flag = Arc::clone(&on);
            std::thread::spawn(move || {
                while flag.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..std::thread::available_parallelism()?.get())
            .map(burn)
            .collect();
        Ok(Self(on, threads))
    }

    fn stop(self) {
        self.0.store(false, Ordering::Relaxed);
        for thread in self.1 {
            let _ = thread.join();
        }
    }
}

/// How busy this machine is, by a look of our own: the mean of the last seconds.
struct Busy(Arc<Mutex<VecDeque<(u64, u64)>>>);

impl Busy {
    fn watch() -> Self {
        let looks = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::downgrade(&looks);
        std::thread::spawn(move || {
            while let Some(looks) = kept.upgrade() {
                if let (Some(look), Ok(mut looks)) = (Self::look(), looks.lock()) {
                    looks.push_back(look);
                    if looks.len() > 4 {
                        looks.pop_front();
                    }
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        Self(looks)
    }

    /// Idle ticks and all ticks, of the first line of `/proc/stat`.
    fn look() -> Option<(u64, u64)> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let ticks: Vec<u64> = text
            .lines()
            .next()?
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|tick| tick.parse().ok())
            .collect();
        Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().sum()))
    }

    #[expect(clippy::cast_precision_loss, reason = "ticks of a few seconds")]
    fn percent(&self) -> Option<f64> {
        let looks = self.0.lock().ok()?;
        let (first, last) = (looks.front()?, looks.back()?);
        let all = last.1.checked_sub(first.1).filter(|all| *all > 0)?;
        let idle = last.0.saturating_sub(first.0);
        Some(100.0 - 100.0 * idle as f64 / all as f64)
    }
}

/// `LEKIWI_AARCH64_AGENT` is the binary that `cargo xtask test` built for the robot's own architecture.
#[tokio::test]
async fn the_robots_own_binary_enrols_connects_and_shows_up() -> Result<()> {
    let Some(binary) = std::env::var_os("LEKIWI_AARCH64_AGENT") else {
        anyhow::bail!(
            "expected LEKIWI_AARCH64_AGENT (hint: cargo xtask test builds the binary and sets it)"
        );
    };
    let emulator = lekiwi_tests::harness::program("qemu-aarch64-static", "qemu-user-static")?;
    let relay = Relay::start()?;
    let admin = admin(&relay).await?;
    let token = relay.token(&["--profile", "generic"])?;
    let mut agent = Agent::start_program(&relay, "kiwi-arm", &token, &emulator, &[binary])?;
    let view = robot(&admin, "kiwi-arm", "online with a factsheet", |r| {
        r.status.online && r.factsheet.is_some()
    })
    .await?;
    let factsheet = view.factsheet.context("checked above")?;
    ensure!(
        factsheet.agent_target.starts_with("aarch64"),
        "expected an aarch64 agent, got {}",
        factsheet.agent_target
    );
    ensure!(
        agent.process().stop()?.success(),
        "expected the agent to end with 0 on SIGTERM"
    );
    Ok(())
}
