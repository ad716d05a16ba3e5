//! Robots that nobody hears: behind a network that filters multicast, or without an agent.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lekiwi_tests::harness::{Avahi, Lan, RelayOptions, program, target, wait_until};

use crate::support::{PATIENCE, Robot, discover, discovered, ids, relay_on};

#[test]
fn a_scan_finds_robots_where_multicast_does_not_get_through() -> Result<()> {
    let mut lan = Lan::new()?;
    let (kiwi, twin, laptop) = (lan.host(2)?, lan.host(3)?, lan.host(200)?);
    for port in ["port2", "port3", "port200"] {
        let filtered = ["type", "bridge_slave", "mcast_flood", "off"];
        lan.switch(&[&["link", "set", "dev", port][..], &filtered].concat())?;
    }
    // The system's responder has the same port on the robot, and does not take what is the agent's.
    let _beside = Avahi::start(&kiwi)?;
    let mut robot = Robot::stranger(&kiwi, "kiwi-01")?;
    robot.wait_present()?;
    assert_eq!(
        ids(&discover(&laptop, &["--seconds", "2"])?),
        Vec::<&str>::new()
    );
    let mut second = Robot::stranger(&twin, "kiwi-01")?;
    second.wait_present()?;
    let start = Instant::now();
    let robots = wait_until("a scan that finds both", PATIENCE, || {
        let robots = discover(&laptop, &["--seconds", "1", "--scan", "10.77.0.0/24"]).ok()?;
        (robots.len() == 2).then_some(robots)
    })?;
    print_figure(start.elapsed());
    // The robots cannot hear each other, so that neither knows of the other.
    assert!(
        robots
            .iter()
            .all(|r| r.id.as_str() == "kiwi-01" && r.conflict)
    );
    let macs: Vec<_> = robots
        .iter()
        .filter_map(|r| r.mac_address.as_deref())
        .collect();
    assert_eq!(macs, ["dc:a6:32:00:00:02", "dc:a6:32:00:00:03"]);

    // Too large, and nowhere.
    for (network, code, message) in [
        (
            "10.0.0.0/8",
            1,
            "error: the network could not be scanned: expected a network of /20 or smaller, got 10.0.0.0/8\n  \
             (hint: name a smaller one, or add `--force` and some minutes)",
        ),
        (
            "192.168.1.0/24",
            1,
            "error: the network could not be scanned: cannot send to 192.168.1.0/24: Network is unreachable (os error 101)",
        ),
    ] {
        let output = laptop
            .command(&target("lekiwi", "lekiwi-cli")?)?
            .args(["discover", "--seconds", "1", "--scan", network])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains(message), "{said}");
        assert_eq!(output.status.code(), Some(code));
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a measured figure")]
fn print_figure(time: Duration) {
    eprintln!("a scan of 254 addresses took {time:?}");
}

#[test]
fn a_board_that_asks_for_an_address_is_listed() -> Result<()> {
    let mut lan = Lan::new()?;
    let (base, board) = (lan.host(1)?, lan.host(7)?);
    let environment = vec![("LEKIWI_RELAY_WATCH_DHCP", OsString::from("true"))];
    let relay = relay_on(
        &base,
        RelayOptions {
            environment: environment.clone(),
            ..RelayOptions::default()
        },
    )?;
    let mut asks = board.start(
        "udhcpc",
        &program("udhcpc", "udhcpc")?,
        [
            "-f",
            "-i",
            "eth0",
            "-t",
            "3",
            "-T",
            "1",
            "-s",
            "/bin/true",
            "-x",
            "hostname:Kiwi-07",
        ],
        &[],
        &relay.data().join("udhcpc.log"),
    )?;
    let answer = discovered(&base, &relay, "a board", |answer| {
        !answer.seen_by_dhcp.is_empty()
    })?;
    asks.kill()?;
    let seen = answer.seen_by_dhcp.first().context("expected a board")?;
    assert_eq!(seen.mac_address, "dc:a6:32:00:00:07");
    assert_eq!(
        (seen.host_name.as_str(), seen.raspberry_pi),
        ("kiwi-07", true)
    );
    assert!(answer.dhcp.on && answer.dhcp.reason.is_none());
    drop(relay);

    // Without the capability the relay runs, and says what is missing.
    let mut relay = relay_on(
        &base,
        RelayOptions {
            environment,
            wrapper: [
                program("capsh", "libcap2-bin")?.into_os_string(),
                "--drop=cap_net_raw".into(),
                "--shell=/usr/bin/env".into(),
                "--".into(),
            ]
            .to_vec(),
            ..RelayOptions::default()
        },
    )?;
    let answer = discovered(&base, &relay, "an answer", |_| true)?;
    assert!(!answer.dhcp.on && answer.mdns.on);
    assert_eq!(
        answer.dhcp.reason.as_deref(),
        Some("expected the capability to open packet sockets (CAP_NET_RAW)")
    );
    let log = relay.process().log();
    ensure!(log.contains("AmbientCapabilities=CAP_NET_RAW"), "{log}");
    Ok(())
}
