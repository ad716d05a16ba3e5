//! A day without a relay, on a virtual clock: the agent's own debouncer, outbox, window and drain against a
//! real database; the link and the relay at its other end are made up. And what a day writes to the card.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests"
)]

mod site;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use lekiwi_agent_core::backlog::Drain;
use lekiwi_agent_core::outbox::Bounds;
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{Ack, SeqRange, kind};
use site::{HOUR_MS, Relay, Robot, SAMPLE_MS, START_MS, Wire};

const OUTAGE_MS: u64 = 24 * HOUR_MS;

/// Runs a test again in a process where nobody else takes memory.
fn in_own_process(test: &str, run: impl FnOnce()) {
    const CHILD: &str = "OUTAGE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return run();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Memory of this process that is in no file: its heap and stacks.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<u64>().unwrap() * 1_024
}

fn database_bytes(path: &Path) -> u64 {
    let folder = path.parent().unwrap();
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

/// What came of a day without a relay.
struct Day {
    robot: Robot,
    relay: Relay,
    wire: Wire,
    /// Samples when the link came back.
    late: u64,
    grown_bytes: u64,
    /// Of this, while nothing was sent.
    grown_offline_bytes: u64,
    database_bytes: u64,
    drain_s: u64,
    acknowledged: usize,
}

fn day_without_a_relay(bounds: Bounds) -> Day {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("agent.db");
    let mut robot = Robot::new(&path, bounds);
    let (mut wire, mut relay) = (Wire::default(), Relay::new());
    // Whatever is allocated once is there after an hour.
    while robot.ms < HOUR_MS {
        robot.offline(true);
    }
    let before = resident_bytes();
    let mut most = before;
    while robot.ms < OUTAGE_MS {
        robot.offline(true);
        match robot.ms / SAMPLE_MS {
            n if n % 900 == 0 => robot.event("teleoperation.started"),
            n if n % 400 == 0 => robot.event(kind::SETUP_PROGRESS),
            n if n % 300 == 0 => robot.event("service.changed"),
            _ => {}
        }
        if robot.ms.is_multiple_of(HOUR_MS) {
            most = most.max(resident_bytes());
        }
    }
    let grown_offline_bytes = most - before;
    robot.connect();
    let (late, database_bytes) = (robot.outbox.late(), database_bytes(&path));
    let mut acknowledged = 0;
    let connected_ms = robot.ms;
    while !(robot.outbox.is_empty() && robot.outbox.late() == 0) {
        robot.online(&mut wire);
        while let Some(message) = wire.arrived(robot.ms) {
            relay.hear(robot.ms, message);
        }
        while let Some((_, ack)) = relay.answers.pop_front_if(|(at, _)| *at <= robot.ms) {
            acknowledged += robot.acknowledged(&ack);
        }
        if robot.ms.is_multiple_of(60_000) {
            most = most.max(resident_bytes());
        }
        robot.ms += 100;
        assert!(
            robot.ms < connected_ms + 3 * HOUR_MS,
            "the drain never ends"
        );
    }
    Day {
        late,
        grown_bytes: most - before,
        grown_offline_bytes,
        database_bytes,
        drain_s: (robot.ms - connected_ms) / 1_000,
        acknowledged,
        robot,
        relay,
        wire,
    }
}

impl Day {
    fn print(&self, what: &str) {
        println!(
            "{what}: {} samples measured, {} kept in a database of {} KiB, {} events; drained in {} s; heartbeats at \
             most {} ms late; memory grew by {} KiB, {} of it before the reconnect",
            self.robot.kept,
            self.late,
            self.database_bytes / 1_024,
            self.robot.events,
            self.drain_s,
            self.relay.heartbeat_delays_ms.iter().max().unwrap(),
            self.grown_bytes / 1_024,
            self.grown_offline_bytes / 1_024,
        );
    }

    /// What holds whatever the bounds are.
    fn check(&self) {
        let Self {
            robot, relay, wire, ..
        } = self;
        // Everything once, in order, events before samples and the urgent ones first.
        assert_eq!(relay.twice, 0);
        assert_eq!(relay.samples.len() as u64, self.late);
        assert!(relay.samples.windows(2).all(|pair| pair[0] < pair[1]));
        let told = relay
            .events
            .values()
            .filter(|(_, kind)| kind == kind::THINNED)
            .count() as u64;
        assert_eq!(relay.events.len() as u64, robot.events + told);
        assert_eq!(self.acknowledged, relay.events.len() + relay.samples.len());
        assert_eq!(robot.kept, self.late + relay.thinned);
        // Those of the outage come in the order of priority and number; later ones are of the drain.
        let outage = relay.event_order.len() as u64 - relay.events_after_samples;
        let order = &relay.event_order[..usize::try_from(outage).unwrap()];
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "{order:?}");
        assert!(order.len() > 150, "{}", order.len());
        // Heartbeats in time, late samples within their rate.
        assert!(relay.heartbeat_delays_ms.len() as u64 >= self.drain_s / 30);
        let most = *relay.heartbeat_delays_ms.iter().max().unwrap();
        assert!(most <= 5_000, "a heartbeat was {most} ms late");
        let (first, last) = (wire.late[0].0, wire.late[wire.late.len() - 1].0);
        let bytes: u64 = wire.late.iter().map(|(_, bytes)| bytes).sum();
        let seconds = (last - first) / 1_000 + 1;
        let rate = u64::from(Drain::RATE_BYTES_PER_S);
        // Twice for the envelope around small messages.
        assert!(
            bytes <= 2 * rate * seconds + 4 * u64::from(Drain::BURST_BYTES),
            "{bytes} B in {seconds} s"
        );
        // The first and the last moment of the outage are there.
        let ms = |(_, timestamp): &(u64, Timestamp)| timestamp.as_ms() - START_MS;
        assert_eq!(ms(&relay.samples[0]), SAMPLE_MS);
        assert!(OUTAGE_MS - ms(&relay.samples[relay.samples.len() - 1]) <= 60_000);
        // A robot has 5 MiB in all.
        assert!(
            self.grown_bytes <= 512 * 1_024,
            "memory grew by {} B",
            self.grown_bytes
        );
    }
}

#[test]
fn a_day_without_a_relay_fits_and_is_told_in_order_afterwards() {
    in_own_process(
        "a_day_without_a_relay_fits_and_is_told_in_order_afterwards",
        || {
            let day = day_without_a_relay(Bounds::DISK);
            day.print("24 h, bounds as shipped");
            day.check();
            assert_eq!(day.late, day.robot.kept, "nothing had to be thinned out");
            assert!(day.database_bytes <= 5 << 20, "{}", day.database_bytes);
        },
    );
}

#[test]
fn with_little_room_all_hours_are_told_and_the_last_one_best() {
    let test = "with_little_room_all_hours_are_told_and_the_last_one_best";
    in_own_process(test, day_with_little_room);
}

fn day_with_little_room() {
    let bounds = Bounds {
        max_bytes: 1 << 20,
        max_sample_bytes: 128 * 1_024,
    };
    let day = day_without_a_relay(bounds);
    day.print("24 h, 128 KiB for samples");
    day.check();
    assert!(day.late < day.robot.kept / 4);
    assert!(day.database_bytes <= 2 << 20, "{}", day.database_bytes);
    let mut in_hour = [0_u64; 24];
    for (_, timestamp) in &day.relay.samples {
        let hour = (timestamp.as_ms() - START_MS - 1) / HOUR_MS;
        in_hour[usize::try_from(hour).unwrap()] += 1;
    }
    println!("samples in each hour: {in_hour:?}");
    // Nothing is cut off, and what is newer is told at least as well, up to what happened to be measured.
    assert!(in_hour.iter().all(|count| *count >= 8), "{in_hour:?}");
    assert!(
        in_hour
            .windows(2)
            .all(|pair| pair[0] <= pair[1] * 3 / 2 + 2),
        "{in_hour:?}"
    );
    assert!(in_hour[0] * 4 <= in_hour[23], "{in_hour:?}");
}

/// The kernel's count of what this process had written to block devices.
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.unwrap().parse().unwrap()
}

/// The same test is parent and child: the kernel counts by process. The folder must not be in memory.
#[test]
fn a_day_writes_few_bytes_to_the_card() {
    const CHILD: &str = "OUTAGE_WEAR_TEST";
    const MIB: f64 = 1_048_576.0;
    let Some(what) = std::env::var_os(CHILD) else {
        for (what, most) in [("online", 1.0), ("idle", 12.0), ("busy", 30.0)] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "a_day_writes_few_bytes_to_the_card",
                    "--nocapture",
                ])
                .env(CHILD, what)
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let written = text.lines().find_map(|line| line.split("written ").nth(1));
            let mib: f64 = written.expect("the child's figure").parse().unwrap();
            println!("{what}: {mib:.2} MiB a day");
            assert!(
                mib > 0.0,
                "expected a folder on a disk, got one in memory (hint: set TMPDIR)"
            );
            assert!(
                mib <= most,
                "{what}: expected at most {most} MiB a day, got {mib:.2}"
            );
        }
        return;
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut robot = Robot::new(&folder.path().join("agent.db"), Bounds::DISK);
    let before = written_bytes();
    while robot.ms < OUTAGE_MS {
        if what == "online" {
            // Telemetry goes out as it comes; an event every hour is kept and acknowledged.
            robot.ms += SAMPLE_MS;
            let (now, wall) = (robot.now(), robot.wall());
            robot.outbox.look_after_samples(now, wall);
            if robot.ms.is_multiple_of(HOUR_MS) {
                robot.event("service.changed");
                let all: SeqRange = [1, robot.events];
                let stream = robot.outbox.stream();
                robot.outbox.acknowledge(&Ack {
                    acks: BTreeMap::from([(stream, vec![all])]),
                });
            }
        } else {
            robot.offline(what == "busy");
        }
    }
    let wall = robot.wall();
    robot.outbox.close(wall);
    drop(robot.outbox);
    println!("written {}", (written_bytes() - before) as f64 / MIB);
}
