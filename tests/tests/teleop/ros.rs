//! Nodes of ROS 2, each process in a network namespace of its own, as the agent's variant for ROS 2 sees them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::message::{OperatorKind, StopReason};
use lekiwi_tests::harness::{Lan, target, wait_until};

use super::site::{self, NODE, Site};
use super::{
    Row, Traffic, at_once, exactly, nobody_for_long, one_session, started, stopped, within,
};

/// The agent's variant.
const PROGRAM: &str = "lekiwi-agent-ros2";
/// Velocities as Nav2's nodes and a person's write them, beside all that other robots have.
const PROFILE: &[&str] = &[
    site::PORTS,
    "  ros_topics: [/cmd_vel, /arm/jog]\nros: {domain_id: 7}\n",
];
const DOMAIN: [&str; 2] = ["--domain", "7"];

const fn traffic(name: &'static str, play: fn(&mut Site) -> Result<Row>) -> Traffic {
    Traffic {
        program: PROGRAM,
        profile: PROFILE,
        ..super::traffic(name, play)
    }
}

/// Nav2's nodes that write velocities.
const NAVIGATION: [&str; 2] = [
    "controller_server:/cmd_vel:20",
    "/nav/velocity_smoother:/cmd_vel:20",
];

pub(super) const ALL: &[Traffic] = &[
    traffic(
        "camera, viewer, scans, health checks, dashboard and Nav2's nodes, at once",
        everything_else,
    ),
    traffic("ROS 2 nodes at 20 and 30 Hz beside Nav2's controller", two),
    traffic("ROS 2 node at 1 Hz with `TwistStamped`, then ended", sparse),
    traffic("ROS 2 node at 20 Hz, then killed", killed),
    traffic("ROS 2 node at 20 Hz, then ended", ended),
    traffic(
        "Nav2's nodes on `/cmd_vel` at 20 Hz, and a node that is silent",
        navigation,
    ),
];

fn with<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&DOMAIN, arguments].concat()
}

fn ended(site: &mut Site) -> Result<Row> {
    let host = site.host()?;
    let teleop = site.nodes(&host, &with(&["--seconds", "10", "teleop:/cmd_vel:20"]))?;
    let (start, started_ms) = started(site, &teleop, 5_000)?;
    let operator = &start.data.operator;
    ensure!(
        operator.id == "/teleop" && operator.kind == OperatorKind::RosNode,
        "expected the node to drive, got {start:?}"
    );
    let control = start.data.evidence.control.context("expected commands")?;
    ensure!(
        (17.0..=23.0).contains(&control.commands_per_s) && control.what == "/cmd_vel",
        "expected 20 commands a second on /cmd_vel, got {control:?}"
    );
    let stop = stopped(site, StopReason::Closed)?;
    let stopped_ms = within("stopped", teleop.first("closed"), &stop, 4_000)?;
    one_session(site)?;
    let note = format!("`/teleop`, confidence {}", start.data.confidence);
    Ok(Row::session(started_ms, stopped_ms, note))
}

fn killed(site: &mut Site) -> Result<Row> {
    let host = site.host()?;
    let teleop = site.nodes(&host, &with(&["teleop:/cmd_vel:20"]))?;
    let (_, started_ms) = started(site, &teleop, 5_000)?;
    let since = lekiwi_agent::clock::wall().as_ms();
    site.process(&teleop).kill()?;
    let stop = stopped(site, StopReason::Silence)?;
    let stopped_ms = within("stopped", Some(since), &stop, 10_500)?;
    Ok(Row::session(
        started_ms,
        stopped_ms,
        "nobody says that it is gone",
    ))
}

fn sparse(site: &mut Site) -> Result<Row> {
    let host = site.host()?;
    let arguments = with(&["--stamped", "--seconds", "12", "/panel/teleop:/cmd_vel:1"]);
    let teleop = site.nodes(&host, &arguments)?;
    let (start, started_ms) = started(site, &teleop, 10_000)?;
    ensure!(
        start.data.operator.id == "/panel/teleop",
        "expected the panel to drive, got {start:?}"
    );
    let stop = stopped(site, StopReason::Closed)?;
    let stopped_ms = within("stopped", teleop.first("closed"), &stop, 4_000)?;
    let note = format!("sparse, confidence {}", start.data.confidence);
    Ok(Row::session(started_ms, stopped_ms, note))
}

/// The two are in one process, whose nodes are announced as before ROS 2 Iron; Nav2's is in another.
fn two(site: &mut Site) -> Result<Row> {
    let (operators, robot) = (site.host()?, site.host()?);
    site.nodes(&robot, &with(&["controller_server:/cmd_vel:20"]))?;
    let arguments = ["--gid", "24", "--seconds", "15"];
    let nodes = ["teleop:/cmd_vel:20", "pad:/cmd_vel:30"];
    let both = site.nodes(&operators, &with(&[&arguments[..], &nodes].concat()))?;
    let (_, started_ms) = started(site, &both, 5_000)?;
    // A look with both of them counted over two whole seconds.
    let rates = |line: &serde_json::Value| -> Option<Vec<(String, f64)>> {
        let candidates = line["candidates"].as_array()?.iter();
        let mut rates: Vec<(String, f64)> = candidates
            .filter_map(|candidate| {
                let id = candidate["operator"]["id"].as_str()?.to_owned();
                Some((
                    id,
                    candidate["evidence"]["control"]["commands_per_s"].as_f64()?,
                ))
            })
            .collect();
        rates.sort_by(|a, b| a.0.cmp(&b.0));
        Some(rates)
    };
    let stop = stopped(site, StopReason::Closed)?;
    let lines = site.lines();
    let seen: Vec<_> = lines.iter().filter_map(|line| rates(&line.data)).collect();
    let right = |rates: &&Vec<(String, f64)>| match &rates[..] {
        [(pad, a), (teleop, b)] => {
            (pad == "/pad" && teleop == "/teleop")
                && (27.0..=33.0).contains(a)
                && (18.0..=22.0).contains(b)
        }
        _ => false,
    };
    let count = seen.iter().filter(right).count();
    ensure!(
        count >= 10,
        "expected /pad at 30 and /teleop at 20 commands a second in 10 looks, got {count} of {seen:?}"
    );
    let others = seen.iter().flatten();
    let mut others = others.filter(|(id, _)| id != "/pad" && id != "/teleop");
    ensure!(
        others.next().is_none(),
        "expected nobody else, got {seen:?}"
    );
    ensure!(stop.data.contention, "expected contention, got {stop:?}");
    let stopped_ms = within("stopped", both.first("closed"), &stop, 4_000)?;
    Ok(Row::session(
        started_ms,
        stopped_ms,
        "contention; Nav2's is nobody",
    ))
}

fn navigation(site: &mut Site) -> Result<Row> {
    autonomous(site)?;
    site.nothing_starts(Duration::from_secs(20))?;
    exactly(site, &[])?;
    Ok(Row::nobody(""))
}

fn everything_else(site: &mut Site) -> Result<Row> {
    autonomous(site)?;
    at_once(site)?;
    let note = nobody_for_long(site)?;
    Ok(Row::nobody(format!("{note}, with velocities over DDS")))
}

/// Nav2's nodes, and one that is silent.
fn autonomous(site: &mut Site) -> Result<()> {
    let (robot, other) = (site.host()?, site.host()?);
    let nav = site.nodes(&robot, &with(&NAVIGATION))?;
    site.silent_node(&other, &with(&["watcher"]))?;
    let process = site.process(&nav);
    process.wait_for("velocities", || nav.first("first"))?;
    Ok(())
}

/// An agent that a relay has registered; it is in a network of its own, and the relay is away.
#[test]
fn a_node_that_comes_or_goes_is_told_at_once() -> Result<()> {
    if !super::is_slow() {
        return Ok(()); // there is no variant for ROS 2
    }
    let mut lan = Lan::new()?;
    let (robot, other) = (lan.host(1)?, lan.host(2)?);
    let files = tempfile::tempdir()?;
    let path = |name: &str| files.path().join(name);
    for folder in ["root/etc/lekiwi/profiles", "state"] {
        std::fs::create_dir_all(path(folder))?;
    }
    std::fs::write(
        path("root/etc/lekiwi/profiles/robot.yml"),
        "version: 1\nname: robot\ntitle: A robot\nros: {domain_id: 7, nodes: [slam, /arm/driver]}\n",
    )?;
    std::fs::write(
        path("state/registered.json"),
        r#"{"status": "registered", "profile": "robot"}"#,
    )?;
    let (state, socket) = (path("state"), path("agent.sock"));
    std::fs::write(
        path("agent.yml"),
        format!(
            "version: 1\nrobot_id: kiwi-01\nrelay: {{https: \"https://10.77.0.99:8443\", mqtt: \"mqtts://10.77.0.99:8883\", \
             ca_fingerprint: \"sha256:{}\"}}\nstate_dir: {}\nsocket: {}\ndiscovery: {{mdns: false}}\n",
            "0".repeat(64),
            state.display(),
            socket.display()
        ),
    )?;
    let start = |name: &str, program: &str, arguments: Vec<std::ffi::OsString>| {
        let host = if name == "agent" { &robot } else { &other };
        let program = target(program, "lekiwi-agent --features ros2")?;
        host.start(
            name,
            &program,
            arguments,
            &[],
            &path(&format!("{name}.log")),
        )
    };
    let below: [std::ffi::OsString; 5] = [
        "--root".into(),
        path("root").into(),
        "--config".into(),
        path("agent.yml").into(),
        "run".into(),
    ];
    let agent = start("agent", PROGRAM, below.into())?;
    let nodes = |name: &str, nodes: &[&str]| {
        let arguments = with(nodes).into_iter().map(Into::into).collect();
        start(name, NODE, arguments)
    };
    let mut slam = nodes("slam", &["/slam"])?;
    let mut driver = nodes("driver", &["/arm/driver", "/arm/other"])?;
    let told = |what: &str, count: usize, limit_s: u64| -> Result<()> {
        let seen = wait_until(what, Duration::from_secs(limit_s), || {
            (agent.log().matches(what).count() >= count).then_some(())
        });
        seen.with_context(|| agent.log())
    };
    told("all services and checks pass", 1, 30)?;

    // One that ends says so; it comes back as another process.
    ensure!(slam.stop()?.success(), "expected a clean end");
    let gone = r#"{"from":"active","name":"slam","restarts":0,"to":"inactive"}"#;
    told(gone, 1, 3)?;
    slam.restart(None)?;
    let back = r#"{"from":"inactive","name":"slam","restarts":0,"to":"active"}"#;
    told(back, 1, 5)?;

    // One that is killed says nothing: it is gone when its lease is over.
    driver.kill()?;
    let lost = r#"{"from":"active","name":"/arm/driver","restarts":0,"to":"inactive"}"#;
    told(lost, 1, 90)?;
    let why = "/arm/driver: expected the node /arm/driver in the domain 7, found none";
    told(why, 1, 15)?;
    Ok(())
}
