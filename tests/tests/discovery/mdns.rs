//! Robots that say that they are there.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lekiwi_protocol::api::Discovered;
use lekiwi_tests::harness::{Avahi, Lan, RelayOptions, target, wait_until};

use crate::support::{PATIENCE, Robot, discover, discover_with, discovered, has, ids, relay_on};

#[test]
#[expect(clippy::print_stderr, reason = "a measured figure")]
fn a_new_robot_is_known_before_and_after_it_is_registered() -> Result<()> {
    let mut lan = Lan::new()?;
    let (base, kiwi, laptop) = (lan.host(1)?, lan.host(2)?, lan.host(3)?);
    let relay = relay_on(&base, RelayOptions::default())?;
    let home = tempfile::tempdir()?;
    let login = laptop
        .command(&target("lekiwi", "lekiwi-cli")?)?
        .args(["login", &format!("https://{}", relay.https())])
        .args([
            "--ca-fingerprint",
            relay.ca_fingerprint(),
            "--password-file",
        ])
        .arg(relay.admin_password_file())
        .env("HOME", home.path())
        .env_remove("XDG_CONFIG_HOME")
        .output()?;
    ensure!(
        login.status.success(),
        "login: {}",
        String::from_utf8_lossy(&login.stderr)
    );

    let start = Instant::now();
    let robot = Robot::start(
        &kiwi,
        "kiwi-01",
        relay.https(),
        relay.mqtt(),
        relay.ca_fingerprint(),
    )?;
    let answer = discovered(&base, &relay, "kiwi-01", |answer| {
        has(answer, "kiwi-01", false)
    })?;
    eprintln!(
        "a new robot was known to the relay {:?} after its agent started",
        start.elapsed()
    );
    let found = answer.robots.first().context("expected a robot")?;
    assert_eq!(found.robot_type, "lekiwi");
    assert_eq!(found.addresses, ["10.77.0.2"]);
    assert_eq!(found.agent_version, env!("CARGO_PKG_VERSION"));
    assert!(!found.says_registered && !found.conflict && answer.mdns.on && !answer.dhcp.on);

    let (robots, _) = discover_with(&laptop, &["--seconds", "2"], &home)?;
    let found = robots.first().context("expected a robot")?;
    assert_eq!(
        (found.id.as_str(), found.registered),
        ("kiwi-01", Some(false))
    );
    assert_eq!(found.mac_address.as_deref(), Some("dc:a6:32:00:00:02"));

    // The agent gets its token, enrols, and says so.
    std::fs::write(
        robot.files.path().join("token"),
        relay.token(&["--robot", "kiwi-01"])?,
    )?;
    let answer = discovered(&base, &relay, "kiwi-01 registered", |answer| {
        has(answer, "kiwi-01", true) && answer.robots.iter().all(|robot| robot.says_registered)
    })?;
    assert_eq!(answer.robots.len(), 1);
    let (robots, _) = discover_with(&laptop, &["--seconds", "2"], &home)?;
    let found = robots.first().context("expected a robot")?;
    assert_eq!(
        (found.registered, found.says_registered),
        (Some(true), true)
    );

    // A person sees the relay as well, with the fingerprint to compare.
    let shown = laptop
        .command(&target("lekiwi", "lekiwi-cli")?)?
        .args(["discover", "--seconds", "2"])
        .env("HOME", home.path())
        .output()?;
    let (table, notes) = (
        String::from_utf8_lossy(&shown.stdout).into_owned(),
        String::from_utf8_lossy(&shown.stderr).into_owned(),
    );
    ensure!(
        table.contains("kiwi-01  lekiwi  10.77.0.2  dc:a6:32:00:00:02"),
        "{table}"
    );
    let place = format!("is at https://{} ", relay.https());
    ensure!(
        notes.contains(&place) && notes.contains(relay.ca_fingerprint()),
        "{notes}"
    );
    Ok(())
}

#[test]
fn avahi_finds_robots_and_robots_of_avahi_are_found() -> Result<()> {
    let mut lan = Lan::new()?;
    let (kiwi, desk, laptop) = (lan.host(2)?, lan.host(3)?, lan.host(4)?);
    let avahi = Avahi::start(&desk)?;
    // The system's own responder runs on the robot as well, as it does on Raspberry Pi OS.
    let beside = Avahi::start(&kiwi)?;
    let mut robot = Robot::stranger(&kiwi, "kiwi-01")?;
    robot.wait_present()?;
    let line = wait_until("kiwi-01 in avahi-browse", PATIENCE, || {
        let mut browse = avahi.tool("avahi-browse").ok()?;
        let output = browse.args(["-rpt", "_lekiwi._tcp"]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .find(|line| line.starts_with('='))
            .map(str::to_owned)
    })?;
    for part in [
        ";kiwi-01;_lekiwi._tcp;local;kiwi-01.lekiwi.local;10.77.0.2;0;",
        "\"id=kiwi-01\"",
        "\"type=lekiwi\"",
        "\"registered=no\"",
    ] {
        ensure!(line.contains(part), "expected {part} in {line}");
    }
    let output = avahi.tool("avahi-browse")?.args(["-apt"]).output()?;
    let all = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(all.contains(";_lekiwi._tcp;"), "expected the type in {all}");

    let arguments = [
        "-s",
        "xle-99",
        "_lekiwi._tcp",
        "9",
        "id=xle-99",
        "type=xle",
        "registered=yes",
    ];
    let mut published = avahi.publish(&arguments)?;
    let robots = discover(&laptop, &["--seconds", "3"])?;
    assert_eq!(ids(&robots), ["kiwi-01", "xle-99"]);
    let xle = robots.last().context("expected two")?;
    assert_eq!(
        (xle.robot_type.as_str(), xle.says_registered),
        ("xle", true)
    );
    assert_eq!(xle.addresses, ["10.77.0.3"]);

    // Avahi's service ends, the agent ends: both goodbyes are heard, and nobody quarrelled over names.
    published.stop()?;
    robot.process.stop()?;
    let robots = discover(&laptop, &["--seconds", "3"])?;
    assert_eq!(ids(&robots), Vec::<&str>::new());
    for avahi in [&avahi, &beside] {
        let log = avahi.log();
        ensure!(!log.to_lowercase().contains("conflict"), "{log}");
    }
    Ok(())
}

#[test]
fn cables_addresses_and_names_change() -> Result<()> {
    let mut lan = Lan::new()?;
    let (base, kiwi) = (lan.host(1)?, lan.host(2)?);
    let relay = relay_on(&base, RelayOptions::default())?;
    let mut robot = Robot::stranger(&kiwi, "kiwi-01")?;
    let at = |answer: &Discovered, id: &str, address: &str| {
        let robots = answer.robots.iter();
        robots.clone().count() == 1
            && robots
                .clone()
                .all(|r| r.id.as_str() == id && r.addresses == [address])
    };
    discovered(&base, &relay, "kiwi-01", |answer| {
        at(answer, "kiwi-01", "10.77.0.2")
    })?;

    // The cable is out while the address changes.
    lan.switch(&["link", "set", "port2", "down"])?;
    kiwi.ip(&["address", "delete", "10.77.0.2/24", "dev", "eth0"])?;
    kiwi.ip(&["address", "add", "10.77.0.22/24", "dev", "eth0"])?;
    lan.switch(&["link", "set", "port2", "up"])?;
    discovered(&base, &relay, "the new address", |answer| {
        at(answer, "kiwi-01", "10.77.0.22")
    })?;

    // The robot gets another name: the old one goes, the new one comes.
    robot.process.stop()?;
    let renamed = Robot::stranger(&kiwi, "kiwi-02")?;
    discovered(&base, &relay, "the new name", |answer| {
        at(answer, "kiwi-02", "10.77.0.22")
    })?;

    // An interface that goes for good, and the relay's cable.
    drop(renamed);
    lan.switch(&["link", "set", "port1", "down"])?;
    lan.switch(&["link", "set", "port1", "up"])?;
    let _third = Robot::stranger(&lan.host(3)?, "kiwi-03")?;
    discovered(&base, &relay, "kiwi-03", |answer| {
        has(answer, "kiwi-03", false)
    })?;
    Ok(())
}

#[test]
fn two_robots_with_one_id_are_told_apart() -> Result<()> {
    let mut lan = Lan::new()?;
    let (one, two, laptop) = (lan.host(2)?, lan.host(3)?, lan.host(4)?);
    let mut first = Robot::stranger(&one, "kiwi-01")?;
    let mut second = Robot::stranger(&two, "kiwi-01")?;
    first.wait_present()?;
    second.wait_present()?;
    let said = "has this one's name; this one is called \"kiwi-01 (2)\"";
    wait_until("the conflict in a log", PATIENCE, || {
        let logs = [&first, &second].map(|robot| robot.process.log());
        logs.iter().any(|log| log.contains(said)).then_some(())
    })?;
    let robots = wait_until("both robots", PATIENCE, || {
        let robots = discover(&laptop, &["--seconds", "2"]).ok()?;
        (robots.len() == 2).then_some(robots)
    })?;
    assert_eq!(ids(&robots), ["kiwi-01", "kiwi-01"]);
    assert!(robots.iter().all(|robot| robot.conflict));
    let addresses: Vec<_> = robots.iter().flat_map(|robot| &robot.addresses).collect();
    assert_eq!(addresses, ["10.77.0.2", "10.77.0.3"]);
    let output = laptop
        .command(&target("lekiwi", "lekiwi-cli")?)?
        .args(["discover", "--seconds", "2"])
        .env("HOME", first.files.path())
        .output()?;
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    let remark = "! 2 machines say that they are kiwi-01, at 10.77.0.2 and 10.77.0.3; only one of them can be registered";
    ensure!(notes.contains(remark), "{notes}");
    Ok(())
}
