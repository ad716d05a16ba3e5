//! Teleoperation is told from everything else, by real programs: each in a network namespace of its own, with the
//! agent as a user without rights. With `UPDATE_TELEOPERATION=1` what was measured goes into
//! `docs/teleoperation.md`; with `LEKIWI_SLOW=1` ROS 2 is part of it, and the mix of everything else lasts thirty
//! minutes.

mod ros;
mod site;
mod video;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lekiwi_protocol::api::RobotView;
use lekiwi_protocol::message::{Activity, OperatingMode, StopReason, kind};
use lekiwi_tests::fleet::Admin;
use lekiwi_tests::harness::{Agent, Relay, target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use site::{Peer, Said, Site};

/// Sites at the same time: programs that wait, mostly, on a machine with few cores.
const AT_ONCE: usize = 6;
/// How long is waited for what should come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured, as a row of the documentation.
#[derive(Default)]
struct Row {
    traffic: &'static str,
    is_session: bool,
    started_ms: Option<u64>,
    stopped_ms: Option<u64>,
    note: String,
}

impl Row {
    /// Somebody drove.
    fn session(started_ms: Option<u64>, stopped_ms: Option<u64>, note: impl Into<String>) -> Self {
        Self {
            is_session: true,
            started_ms,
            stopped_ms,
            note: note.into(),
            ..Self::default()
        }
    }

    /// Nobody did.
    fn nobody(note: impl Into<String>) -> Self {
        Self {
            note: note.into(),
            ..Self::default()
        }
    }
}

/// A kind of traffic, and what it is to be taken for.
struct Traffic {
    name: &'static str,
    /// The agent, and the parts of the robot's profile.
    program: &'static str,
    profile: &'static [&'static str],
    play: fn(&mut Site) -> Result<Row>,
}

const fn traffic(name: &'static str, play: fn(&mut Site) -> Result<Row>) -> Traffic {
    Traffic {
        name,
        program: "lekiwi-agent",
        profile: &[site::PORTS],
        play,
    }
}

/// The longest first.
const ALL: &[&[Traffic]] = &[WITHOUT_ROS, video::ALL, ros::ALL];

/// Whether this is the slow tier, which alone has the variant for ROS 2.
fn is_slow() -> bool {
    std::env::var_os("LEKIWI_SLOW").is_some_and(|value| value != "0")
}

const WITHOUT_ROS: &[Traffic] = &[
    traffic(
        "camera, viewer, scans, health checks, dashboard and navigation, at once",
        everything_else,
    ),
    traffic("LeRobot client at 1 Hz, then silent", sparse),
    traffic("LeRobot clients of two operators", two_operators),
    traffic(
        "VR over WebSocket at 72 Hz, compressed, beside a dashboard",
        headset,
    ),
    traffic("LeRobot client at 30 Hz, then silent", silent),
    traffic("LeRobot client at 30 Hz, stopped by SIGSTOP", frozen),
    traffic("LeRobot client at 30 Hz, then closed", closed),
    traffic("LeRobot client that only reads", idle),
    traffic(
        "camera server that publishes on 5555, and its viewer",
        camera,
    ),
    traffic(
        "port scan, and HTTP health checks on a control port",
        checks,
    ),
];

/// Asserts a time, and keeps it.
fn within(what: &str, from_ms: Option<u64>, said: &Said, limit_ms: u64) -> Result<Option<u64>> {
    let from = from_ms.with_context(|| format!("expected to know when {what} began"))?;
    let took = said.at.as_ms().saturating_sub(from);
    ensure!(
        took <= limit_ms,
        "expected {what} within {limit_ms} ms, took {took} ms"
    );
    Ok(Some(took))
}

fn started(site: &mut Site, peer: &Peer, limit_ms: u64) -> Result<(Said, Option<u64>)> {
    let said = site.event(kind::TELEOPERATION_STARTED, PATIENCE)?;
    let took = within("started", peer.first("first"), &said, limit_ms)?;
    Ok((said, took))
}

fn stopped(site: &mut Site, reason: StopReason) -> Result<Said> {
    let said = site.event(kind::TELEOPERATION_STOPPED, PATIENCE)?;
    let ended = said.data.ended.as_ref().context("expected an end")?;
    ensure!(ended.reason == reason, "expected {reason:?}, got {ended:?}");
    Ok(said)
}

/// Nothing is said that was not expected.
fn exactly(site: &Site, kinds: &[&str]) -> Result<()> {
    let events = site.events();
    let said: Vec<&str> = events.iter().map(|said| said.kind.as_str()).collect();
    ensure!(said == kinds, "expected {kinds:?}, got {events:?}");
    Ok(())
}

/// One start and its end, and nothing else.
fn one_session(site: &Site) -> Result<()> {
    let [start, end] = [kind::TELEOPERATION_STARTED, kind::TELEOPERATION_STOPPED];
    exactly(site, &[start, end])
}

fn silence_after(peer: &Peer) -> Option<u64> {
    peer.last("sent").max(peer.last("first"))
}

fn closed(site: &mut Site) -> Result<Row> {
    site.on_robot("lerobot_host", &[])?;
    let host = site.host()?;
    let client = site.from(
        &host,
        "lerobot_client",
        &["--rate", "30", "--seconds", "12"],
    )?;
    let (start, started_ms) = started(site, &client, 5_000)?;
    ensure!(
        start.data.operator.id == host.address().to_string(),
        "expected {} to drive, got {start:?}",
        host.address()
    );
    let control = start.data.evidence.control.context("expected commands")?;
    ensure!(
        (25.0..=35.0).contains(&control.commands_per_s),
        "expected 30 commands a second, got {control:?}"
    );
    let stop = stopped(site, StopReason::Closed)?;
    let stopped_ms = within("stopped", client.first("closed"), &stop, 4_000)?;
    one_session(site)?;
    let note = format!("confidence {}", start.data.confidence);
    Ok(Row::session(started_ms, stopped_ms, note))
}

fn silent(site: &mut Site) -> Result<Row> {
    site.on_robot("lerobot_host", &[])?;
    let host = site.host()?;
    let arguments = ["--rate", "30", "--seconds", "10", "--stay"];
    let client = site.from(&host, "lerobot_client", &arguments)?;
    let (_, started_ms) = started(site, &client, 5_000)?;
    let stop = stopped(site, StopReason::Silence)?;
    let stopped_ms = within("stopped", silence_after(&client), &stop, 10_500)?;
    Ok(Row::session(
        started_ms,
        stopped_ms,
        "still reads the pictures",
    ))
}

fn frozen(site: &mut Site) -> Result<Row> {
    site.on_robot("lerobot_host", &[])?;
    let host = site.host()?;
    let client = site.from(&host, "lerobot_client", &["--rate", "30"])?;
    let (_, started_ms) = started(site, &client, 5_000)?;
    let id = site.process(&client).id().context("expected a process")?;
    kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGSTOP)?;
    let stop = stopped(site, StopReason::Silence)?;
    let stopped_ms = within("stopped", silence_after(&client), &stop, 10_500)?;
    Ok(Row::session(
        started_ms,
        stopped_ms,
        "the connection stays open",
    ))
}

fn sparse(site: &mut Site) -> Result<Row> {
    site.on_robot("lerobot_host", &[])?;
    let host = site.host()?;
    let arguments = ["--rate", "1", "--seconds", "15", "--stay", "--blind"];
    let client = site.from(&host, "lerobot_client", &arguments)?;
    let (start, started_ms) = started(site, &client, 10_000)?;
    let stop = stopped(site, StopReason::Silence)?;
    let stopped_ms = within("stopped", silence_after(&client), &stop, 31_000)?;
    one_session(site)?;
    let note = format!("sparse, confidence {}", start.data.confidence);
    Ok(Row::session(started_ms, stopped_ms, note))
}

fn two_operators(site: &mut Site) -> Result<Row> {
    site.on_robot("lerobot_host", &[])?;
    let (first, second) = (site.host()?, site.host()?);
    let arguments = ["--rate", "30", "--seconds", "20"];
    let client = site.from(&first, "lerobot_client", &arguments)?;
    let (_, started_ms) = started(site, &client, 5_000)?;
    let arguments = ["--rate", "30", "--seconds", "30"];
    let other = site.from(&second, "lerobot_client", &arguments)?;
    let change = site.event(kind::OPERATOR_CHANGED, PATIENCE)?;
    let previous = change
        .data
        .previous
        .as_ref()
        .context("expected who drove before")?;
    ensure!(
        change.data.operator.id == second.address().to_string()
            && previous.id == first.address().to_string(),
        "expected {} after {}, got {change:?}",
        second.address(),
        first.address(),
    );
    let contended = site
        .lines()
        .iter()
        .any(|line| line.data["contention"] == true);
    ensure!(contended, "expected contention while both command");
    let stop = stopped(site, StopReason::Closed)?;
    let stopped_ms = within("stopped", other.first("closed"), &stop, 4_000)?;
    ensure!(stop.data.contention, "expected contention, got {stop:?}");
    let [start, changed, end] = [
        kind::TELEOPERATION_STARTED,
        kind::OPERATOR_CHANGED,
        kind::TELEOPERATION_STOPPED,
    ];
    exactly(site, &[start, changed, end])?;
    let since = client
        .first("closed")
        .context("expected the first to leave")?;
    let took = change.at.as_ms().saturating_sub(since);
    let note = format!(
        "contention, then `operator_changed` {} after the first left",
        seconds(took)
    );
    Ok(Row::session(started_ms, stopped_ms, note))
}

fn headset(site: &mut Site) -> Result<Row> {
    site.on_robot("websocket_server", &[])?;
    let (visitor, driver) = (site.host()?, site.host()?);
    site.from(&visitor, "websocket_client", &[])?;
    let arguments = ["--rate", "72", "--seconds", "12", "--stay"];
    let client = site.from(&driver, "websocket_client", &arguments)?;
    let (start, started_ms) = started(site, &client, 5_000)?;
    ensure!(
        start.data.operator.id == driver.address().to_string(),
        "expected the headset to drive, got {start:?}"
    );
    // Both ends ping every 20 s: that is no command.
    let stop = stopped(site, StopReason::Silence)?;
    let stopped_ms = within("stopped", silence_after(&client), &stop, 10_500)?;
    one_session(site)?;
    Ok(Row::session(
        started_ms,
        stopped_ms,
        "the dashboard is nobody",
    ))
}

fn idle(site: &mut Site) -> Result<Row> {
    site.on_robot("lerobot_host", &[])?;
    let host = site.host()?;
    site.from(&host, "lerobot_client", &[])?;
    site.nothing_starts(Duration::from_secs(20))?;
    exactly(site, &[kind::OBSERVING])?;
    Ok(Row::nobody("`observing`"))
}

fn camera(site: &mut Site) -> Result<Row> {
    site.on_robot("camera", &[])?;
    let host = site.host()?;
    site.from(&host, "viewer", &[])?;
    site.nothing_starts(Duration::from_secs(20))?;
    exactly(site, &[])?;
    Ok(Row::nobody(""))
}

fn checks(site: &mut Site) -> Result<Row> {
    site.on_robot("http_server", &[])?;
    let (scanner, monitor) = (site.host()?, site.host()?);
    site.from(&scanner, "scan", &[])?;
    site.from(&monitor, "health_check", &[])?;
    site.nothing_starts(Duration::from_secs(20))?;
    exactly(site, &[])?;
    Ok(Row::nobody(""))
}

fn everything_else(site: &mut Site) -> Result<Row> {
    at_once(site)?;
    let note = nobody_for_long(site)?;
    Ok(Row::nobody(format!(
        "{note}, with velocities of a navigation over UDP"
    )))
}

/// All that is no operator and may be on one robot at the same time.
fn at_once(site: &mut Site) -> Result<()> {
    for kind in ["camera", "http_server", "websocket_server", "navigation"] {
        site.on_robot(kind, &[])?;
    }
    for kind in ["viewer", "health_check", "websocket_client", "scan"] {
        let host = site.host()?;
        site.from(&host, kind, &[])?;
    }
    Ok(())
}

/// Nobody drives, for a minute, or in the slow tier thirty of them.
fn nobody_for_long(site: &mut Site) -> Result<String> {
    let minutes = if is_slow() { 30 } else { 1 };
    site.nothing_starts(Duration::from_secs(60 * minutes))?;
    exactly(site, &[])?;
    Ok(format!("{minutes} min"))
}

#[test]
fn real_traffic_is_told_from_everything_else() -> Result<()> {
    let kinds = if is_slow() { ALL } else { &ALL[..2] };
    let all = || kinds.iter().copied().flatten();
    let waiting: Mutex<VecDeque<(usize, &Traffic)>> = Mutex::new(all().enumerate().collect());
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = waiting.lock().ok().and_then(|mut queue| queue.pop_front());
            let Some((index, traffic)) = next else {
                return;
            };
            let started = Site::start(traffic.program, &traffic.profile.concat());
            let played = started.and_then(|mut site| (traffic.play)(&mut site));
            let row = played
                .map(|row| Row {
                    traffic: traffic.name,
                    ..row
                })
                .with_context(|| traffic.name);
            if let Ok(mut done) = done.lock() {
                done.push((index, row));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let mut done = done
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a site panicked"))?;
    ensure!(done.len() == all().count(), "expected all to be played");
    done.sort_by_key(|(index, _)| *index);
    let (mut rows, mut failures) = (Vec::new(), String::new());
    for (_, row) in done {
        match row {
            Ok(row) => rows.push(row),
            Err(error) => writeln!(failures, "{error:?}")?,
        }
    }
    if !failures.is_empty() {
        bail!("{failures}");
    }
    if std::env::var_os("UPDATE_TELEOPERATION").is_some() {
        ensure!(
            is_slow(),
            "expected LEKIWI_SLOW=1, which has all of the traffic"
        );
        document(&rows)?;
    }
    Ok(())
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// Puts what was measured between the marks of `docs/teleoperation.md`. All that failed is no row: what is there
/// was told right.
fn document(rows: &[Row]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/teleoperation.md");
    let text = std::fs::read_to_string(&path)?;
    let (begin, end) = ("<!-- measured -->\n", "<!-- /measured -->");
    let (before, rest) = text.split_once(begin).context("expected the first mark")?;
    let (_, after) = rest.split_once(end).context("expected the last mark")?;
    let mut table =
        "\n| traffic | is | said | started after | stopped after | |\n|---|---|---|---|---|---|\n"
            .to_owned();
    let time = |ms: Option<u64>| ms.map_or_else(|| "–".to_owned(), seconds);
    for row in rows
        .iter()
        .filter(|row| row.is_session)
        .chain(rows.iter().filter(|row| !row.is_session))
    {
        let is = if row.is_session { "a session" } else { "none" };
        writeln!(
            table,
            "| {} | {is} | {is} | {} | {} | {} |",
            row.traffic,
            time(row.started_ms),
            time(row.stopped_ms),
            row.note
        )?;
    }
    let sessions = rows.iter().filter(|row| row.is_session).count();
    let others = rows.len() - sessions;
    writeln!(
        table,
        "\nTrue positives {sessions} of {sessions}, false positives 0 of {others}.\n"
    )?;
    std::fs::write(&path, format!("{before}{begin}{table}{end}{after}"))?;
    Ok(())
}

/// The robot, once `wanted` likes it.
async fn robot(
    admin: &Admin,
    what: &str,
    wanted: impl Fn(&RobotView) -> bool,
) -> Result<RobotView> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let robots = admin.robots().await?.robots;
        if let Some(robot) = robots.iter().find(|robot| wanted(robot)) {
            return Ok(robot.clone());
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "expected a robot {what} within 30 s, got {robots:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_driven_robot_is_teleoperated_for_the_relay() -> Result<()> {
    let relay = Relay::start()?;
    let admin = Admin::login(relay.https(), relay.ca_pem(), &relay.admin_password_file()).await?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    // A profile of one's own comes before the package's.
    let root = tempfile::tempdir()?;
    let profiles = root.path().join("etc/lekiwi/profiles");
    std::fs::create_dir_all(&profiles)?;
    let port = address.port();
    std::fs::write(
        profiles.join("generic.yml"),
        format!(
            "version: 1\nname: generic\ntitle: A robot\nteleop: {{ports: [{{port: {port}, role: control, what: \
             commands}}]}}\n"
        ),
    )?;
    let token = relay.token(&["--profile", "generic"])?;
    let program = target("lekiwi-agent", "lekiwi-agent")?;
    let below = ["--root".into(), root.path().into()];
    let mut agent = Agent::start_program(&relay, "kiwi-01", &token, &program, &below)?;
    let view = robot(&admin, "that is idle", |robot| {
        robot.status.online && robot.activity == Some(Activity::Idle) && robot.factsheet.is_some()
    })
    .await?;
    let capabilities = view.factsheet.map(|sheet| sheet.capabilities);
    let capabilities = capabilities.unwrap_or_default();
    ensure!(
        capabilities
            .iter()
            .any(|capability| capability == "teleoperation"),
        "expected the capability, got {capabilities:?}"
    );

    let mut commands = TcpStream::connect(address)?;
    let (mut taken, _) = listener.accept()?;
    commands.set_nodelay(true)?;
    let taker = std::thread::spawn(move || std::io::copy(&mut taken, &mut std::io::sink()));
    let (stop, stopping) = std::sync::mpsc::channel::<()>();
    let driver = std::thread::spawn(move || {
        while stopping.recv_timeout(Duration::from_millis(33)).is_err() {
            if commands.write_all(b"{\"x.vel\": 0.1}").is_err() {
                return;
            }
        }
    });
    let view = robot(&admin, "that is driven", |robot| {
        robot.activity == Some(Activity::Teleoperated)
    })
    .await?;
    ensure!(
        view.operating_mode == Some(OperatingMode::Manual),
        "expected MANUAL, got {:?}",
        view.operating_mode
    );
    let teleoperation = view.teleoperation.context("expected who drives")?;
    ensure!(
        teleoperation.active
            && teleoperation.operator_id.as_deref() == Some("local")
            && teleoperation.session_start.is_some(),
        "expected a session of the robot's own, got {teleoperation:?}"
    );
    stop.send(())?;
    driver
        .join()
        .map_err(|_| anyhow::anyhow!("the driver panicked"))?;
    taker
        .join()
        .map_err(|_| anyhow::anyhow!("the taker panicked"))??;
    robot(&admin, "that is idle again", |robot| {
        let active = robot.teleoperation.as_ref().is_some_and(|t| t.active);
        robot.activity == Some(Activity::Idle)
            && !active
            && robot.operating_mode == Some(OperatingMode::Automatic)
    })
    .await?;
    let events = admin.events(&"kiwi-01".parse()?).await?;
    let told = events
        .iter()
        .filter(|event| event.kind.starts_with("teleoperation."));
    let told: Vec<_> = told.collect();
    let [start, end] = told[..] else {
        bail!("expected a start and an end, got {told:?}");
    };
    ensure!(
        start.kind == kind::TELEOPERATION_STARTED && end.kind == kind::TELEOPERATION_STOPPED,
        "got {told:?}"
    );
    ensure!(
        start.data["session"] == end.data["session"] && end.data["ended"]["reason"] == "closed",
        "expected one session that was closed, got {told:?}"
    );
    ensure!(agent.process().stop()?.success(), "expected a clean end");
    Ok(())
}

/// What is measured here is what robots have.
#[test]
fn the_suites_ports_are_shipped() -> Result<()> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/profiles/xle.yml");
    let shipped = std::fs::read_to_string(shipped)?;
    let ports = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| line.starts_with("- {port: "));
        lines.map(str::to_owned).collect()
    };
    let (ours, theirs) = (ports(site::PORTS), ports(&shipped));
    ensure!(ours.len() == 7, "expected the suite's ports, got {ours:?}");
    for port in ours {
        ensure!(
            theirs.contains(&port),
            "expected {port} in xle.yml, got {theirs:?}"
        );
    }
    Ok(())
}
