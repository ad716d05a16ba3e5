//! Telemetry of an outage against a real file system: what is kept, what reaches the disk and when, what goes
//! first, and what happens when the disk does not play along. Needs root for its file systems.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lekiwi_agent::outbox::{Limit, Outbox, WRITE_EVERY};
use lekiwi_agent_core::outbox::{Bounds, Cursor, Progress};
use lekiwi_protocol::message::{Ack, Backlog, LateSample, Metrics, Thinned, kind};
use lekiwi_protocol::{MetricName, Timestamp};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

const START_MS: u64 = 1_795_000_000_000;
const DAY_MS: u64 = 86_400_000;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(START_MS + ms)
}

fn metrics(value: f64) -> Metrics {
    let name = MetricName::new("cpu_percent").unwrap();
    Metrics::from([(name, value)])
}

/// An outbox with a clock of its own.
struct Robot {
    outbox: Outbox,
    path: PathBuf,
    bounds: Bounds,
    start: Instant,
    ms: u64,
}

impl Robot {
    fn new(path: PathBuf) -> Self {
        Self::with_bounds(path, Bounds::DISK)
    }

    fn with_bounds(path: PathBuf, bounds: Bounds) -> Self {
        Self {
            outbox: Outbox::with_bounds(&path, at(0), bounds),
            path,
            bounds,
            start: Instant::now(),
            ms: 0,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    /// One sample a second.
    fn keep(&mut self, count: u64) {
        for _ in 0..count {
            self.ms += 1_000;
            let (now, ms) = (self.now(), self.ms);
            self.outbox.keep(now, at(ms), &metrics((ms / 1_000) as f64));
        }
    }

    fn pass(&mut self, duration: Duration) {
        self.ms += u64::try_from(duration.as_millis()).unwrap();
        let (now, ms) = (self.now(), self.ms);
        self.outbox.look_after_samples(now, at(ms));
    }

    fn restart(&mut self) {
        // The old one lets go of the file first.
        self.outbox = Outbox::open(Path::new("/nonexistent/agent.db"), at(self.ms));
        self.outbox = Outbox::with_bounds(&self.path, at(self.ms), self.bounds);
    }

    fn reconnect(&mut self) {
        let ms = self.ms;
        self.outbox.outage_over(at(ms));
    }

    /// All that is kept, in the order in which it goes out.
    fn late(&mut self) -> Vec<LateSample> {
        let (mut all, mut after) = (Vec::new(), 0);
        while let Some((backlog, bytes)) = self.outbox.late_after(after, 64, 4_096) {
            assert!(bytes <= 4_096 || backlog.samples.len() == 1);
            after = backlog.samples.last().unwrap().seq;
            all.extend(backlog.samples);
        }
        all
    }

    fn seqs(&mut self) -> Vec<u64> {
        self.late().iter().map(|sample| sample.seq).collect()
    }

    fn head(&mut self) -> Backlog {
        self.outbox.late_after(0, 1, 1).unwrap().0
    }

    fn acknowledge(&mut self, stream: Uuid, ranges: &[[u64; 2]]) -> usize {
        self.outbox.acknowledge_late(&Ack {
            acks: BTreeMap::from([(stream, ranges.to_vec())]),
        })
    }

    fn events(&self, of: &str) -> Vec<serde_json::Value> {
        let mut progress = Progress::default();
        let mut found = Vec::new();
        while let Some((priority, batch)) = self.outbox.pending_after(&progress, Limit::default()) {
            let (ordinal, seq) = (batch.ordinal, batch.events.last().unwrap().seq);
            progress.advance(priority, Cursor { ordinal, seq });
            let events = batch.events.into_iter().filter(|event| event.kind == of);
            found.extend(events.map(|event| event.data));
        }
        found
    }
}

/// How many samples are in the file, seen by another program.
fn written(path: &Path) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("agent.db{suffix}");
        let _ = fs::copy(path.with_file_name(&name), folder.path().join(&name));
    }
    let count: i64 = rusqlite::Connection::open(folder.path().join("agent.db"))
        .unwrap()
        .query_row("SELECT count(*) FROM samples", [], |row| row.get(0))
        .unwrap();
    u64::try_from(count).unwrap()
}

fn bounds(max_bytes: u64, max_sample_bytes: u64) -> Bounds {
    Bounds {
        max_bytes,
        max_sample_bytes,
    }
}

#[test]
fn a_short_outage_never_touches_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut robot = Robot::new(folder.path().join("agent.db"));
    robot.keep(5);
    assert_eq!(written(&robot.path), 0);
    let sample = &robot.late()[1];
    assert_eq!(
        (sample.seq, sample.timestamp, &sample.metrics),
        (2, at(2_000), &metrics(2.0))
    );
    let Backlog {
        stream, ordinal, ..
    } = robot.head();
    assert_eq!(ordinal, 1);
    assert_eq!(robot.acknowledge(Uuid::nil(), &[[1, 5]]), 0, "another's");
    assert_eq!(robot.acknowledge(stream, &[[2, 3], [5, 5]]), 3);
    assert_eq!(robot.acknowledge(stream, &[[2, 3]]), 0, "again");
    assert_eq!(robot.seqs(), [1, 4]);
    assert_eq!(robot.acknowledge(stream, &[[0, u64::MAX]]), 2);
    assert_eq!(robot.outbox.late(), 0);
    robot.pass(WRITE_EVERY);
    assert_eq!(written(&robot.path), 0);
}

#[test]
fn the_buffer_is_written_in_time_and_when_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let mut robot = Robot::new(folder.path().join("agent.db"));
    robot.keep(10);
    robot.pass(WRITE_EVERY - Duration::from_secs(10));
    assert_eq!(written(&robot.path), 0);
    robot.pass(Duration::from_secs(1));
    assert_eq!(written(&robot.path), 10);
    robot.keep(200);
    let on_disk = written(&robot.path);
    assert!((80..=210).contains(&on_disk), "{on_disk}");
    assert_eq!(robot.seqs(), (1..=210).collect::<Vec<_>>());
    assert_eq!(robot.outbox.late(), 210);

    // A power cut takes what was not written, and nothing else.
    let first = robot.head();
    robot.restart();
    assert_eq!(robot.seqs(), (1..=on_disk).collect::<Vec<_>>());
    let second = robot.head();
    assert_ne!(first.stream, second.stream, "numbers may come again");
    assert_eq!((first.ordinal, second.ordinal), (1, 2));
    // A clean end takes nothing.
    robot.keep(3);
    let ms = robot.ms;
    robot.outbox.close(at(ms));
    robot.restart();
    assert_eq!(robot.seqs(), (1..=on_disk + 3).collect::<Vec<_>>());
}

#[test]
fn acknowledged_samples_leave_the_disk_seldom_and_are_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut robot = Robot::new(folder.path().join("agent.db"));
    robot.keep(1_000);
    robot.pass(WRITE_EVERY);
    assert_eq!(written(&robot.path), 1_000);
    let stream = robot.head().stream;
    assert_eq!(robot.acknowledge(stream, &[[1, 100]]), 100);
    assert_eq!(robot.acknowledge(stream, &[[51, 150], [300, 300]]), 51);
    assert_eq!(written(&robot.path), 1_000, "not for so few");
    assert_eq!(robot.outbox.late(), 849);
    assert_eq!(robot.seqs()[..2], [151, 152]);
    assert!(!robot.seqs().contains(&300));
    assert_eq!(robot.acknowledge(stream, &[[151, 600]]), 449);
    assert_eq!(written(&robot.path), 400, "they are many");
    robot.keep(1);
    assert_eq!(robot.acknowledge(stream, &[[601, 1_001]]), 401);
    assert_eq!((written(&robot.path), robot.outbox.late()), (0, 0));
}

#[test]
fn a_full_bound_thins_out_the_oldest_and_says_so_once() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = bounds(1 << 20, 64 * 1024);
    let mut robot = Robot::with_bounds(folder.path().join("agent.db"), bounds);
    robot.keep(3_000);
    assert_eq!(
        robot.events(kind::THINNED).len(),
        0,
        "not before the hour is over"
    );
    robot.keep(6_000);
    assert_eq!(robot.events(kind::THINNED).len(), 2, "one an hour");
    robot.reconnect();
    let told: Vec<Thinned> = robot
        .events(kind::THINNED)
        .iter()
        .map(|data| Thinned::deserialize(data).unwrap())
        .collect();
    assert_eq!(told.len(), 3, "and one when it is over");
    let late = robot.late();
    assert!(late.len() < 1_000, "{}", late.len());
    assert_eq!(
        told.iter().map(|thinned| thinned.samples).sum::<u64>(),
        9_000 - late.len() as u64
    );
    assert!(
        told.iter()
            .all(|thinned| at(1_000) < thinned.from && thinned.from < thinned.to)
    );
    assert_eq!((late[0].seq, late[late.len() - 1].seq), (1, 9_000));
    let gaps: Vec<u64> = late
        .windows(2)
        .map(|pair| pair[1].seq - pair[0].seq)
        .collect();
    assert!(gaps.windows(2).all(|pair| pair[0] >= pair[1]), "{gaps:?}");
    assert!(gaps[0] >= 16 && gaps[gaps.len() - 1] == 1, "{gaps:?}");
}

#[test]
fn a_metric_that_spoke_once_is_not_thinned_away() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = bounds(1 << 20, 16 * 1024);
    let mut robot = Robot::with_bounds(folder.path().join("agent.db"), bounds);
    robot.keep(3);
    let rare = MetricName::new("disk_percent").unwrap();
    robot.ms += 1_000;
    let now = robot.now();
    let once = Metrics::from([(rare.clone(), 41.0)]);
    robot.outbox.keep(now, at(robot.ms), &once);
    robot.keep(2_000);
    let told = |sample: &LateSample| sample.metrics.get(&rare).copied();
    let values: Vec<f64> = robot.late().iter().filter_map(told).collect();
    assert_eq!(values, [41.0]);
}

#[test]
fn samples_make_room_for_events_and_events_never_for_samples() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = bounds(64 * 1024, 32 * 1024);
    let mut robot = Robot::with_bounds(folder.path().join("agent.db"), bounds);
    robot.keep(600);
    robot.pass(WRITE_EVERY);
    let (before, mut late) = (robot.outbox.late(), 0);
    for n in 0..1_000_u64 {
        robot
            .outbox
            .append("test.count", at(robot.ms), json!({ "n": n }));
        late = robot.outbox.late();
        assert!(
            late == 0 || robot.events(kind::DROPPED).is_empty(),
            "events were dropped beside {late} samples"
        );
        if late == 0 {
            break;
        }
    }
    assert!(before > 300 && late == 0, "{before} became {late}");
    // Full of events: what is measured now has to stay in memory, and is bounded there.
    while robot.events(kind::DROPPED).is_empty() {
        robot.outbox.append("test.count", at(robot.ms), json!({}));
    }
    let events = robot.outbox.len();
    robot.keep(5_000);
    let thinned = robot.events(kind::THINNED).len() as u64;
    assert_eq!(
        robot.outbox.len(),
        events + thinned,
        "no event went for them"
    );
}

#[test]
fn samples_grow_too_old_only_by_a_clock_that_was_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut robot = Robot::new(folder.path().join("agent.db"));
    let unset = Timestamp::from_ms(5_000);
    let now = robot.now();
    for timestamp in [unset, at(0), at(DAY_MS), unset, at(5 * DAY_MS)] {
        robot.outbox.keep(now, timestamp, &metrics(1.0));
    }
    robot.pass(WRITE_EVERY);
    robot.outbox.expire(at(7 * DAY_MS), at(0));
    assert_eq!(robot.seqs(), [1, 2, 3, 4, 5]);
    robot.outbox.expire(at(9 * DAY_MS), at(0));
    assert_eq!(robot.seqs(), [4, 5], "and what came before the old ones");
    robot.reconnect();
    let told: Vec<u64> = robot
        .events(kind::THINNED)
        .iter()
        .map(|data| data["samples"].as_u64().unwrap())
        .collect();
    assert_eq!(told, [3]);
}

#[test]
fn a_damaged_database_takes_its_samples_along_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut robot = Robot::new(folder.path().join("agent.db"));
    robot.keep(500);
    robot.pass(WRITE_EVERY);
    let ms = robot.ms;
    robot.outbox = Outbox::open(Path::new("/nonexistent/agent.db"), at(ms));
    let mut bytes = fs::read(&robot.path).unwrap();
    let from = 4096.min(bytes.len());
    bytes[from..].fill(0xA5);
    fs::write(&robot.path, bytes).unwrap();
    robot.restart();
    assert!(robot.outbox.is_durable());
    assert_eq!(
        robot.events(kind::DROPPED)[0]["reason"],
        "the database was damaged"
    );
    assert_eq!(robot.outbox.late(), 0);
    robot.keep(5);
    robot.pass(WRITE_EVERY);
    assert_eq!(
        (robot.seqs(), written(&robot.path)),
        (vec![1, 2, 3, 4, 5], 5)
    );
}

#[test]
fn without_a_disk_samples_are_kept_in_little_memory() {
    let mut robot = Robot::new(PathBuf::from("/nonexistent/agent.db"));
    robot.keep(3_000);
    let late = robot.late();
    assert_eq!((late[0].seq, late[late.len() - 1].seq), (1, 3_000));
    let bytes: usize = late
        .iter()
        .map(|sample| serde_json::to_vec(sample).unwrap().len())
        .sum();
    assert!(bytes < 40 * 1024, "{bytes}");
    let stream = robot.head().stream;
    assert_eq!(robot.acknowledge(stream, &[[1, 3_000]]), late.len());
    robot.reconnect();
    let told: u64 = robot
        .events(kind::THINNED)
        .iter()
        .map(|data| data["samples"].as_u64().unwrap())
        .sum();
    assert_eq!(told, 3_000 - late.len() as u64);
}

/// A file system of its own, unmounted with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, size: &str) -> Self {
        fs::create_dir(&path).unwrap();
        let disk = Self(path);
        disk.run(&["-t", "tmpfs", "-o", &format!("size={size}"), "lekiwi-test"]);
        disk
    }

    fn run(&self, options: &[&str]) {
        let status = Command::new("mount").args(options).arg(&self.0).status();
        assert!(
            status.unwrap().success(),
            "mounting needs root: run the tests as root or in `unshare -rm`"
        );
    }

    /// Takes all the space that is left.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        for size in [65_536, 4_096, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_disk_samples_go_before_an_event_is_in_danger() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path().join("disk"), "2m");
    let mut robot = Robot::new(disk.0.join("agent.db"));
    robot.keep(6_000);
    robot.pass(WRITE_EVERY);
    let before = robot.outbox.late();
    let ballast = disk.fill();

    // Far more than the log alone has room for.
    let mut durable = 0;
    for n in 0..1_500_u64 {
        let data = json!({ "n": n, "fill": "x".repeat(100) });
        robot.outbox.append("test.count", at(robot.ms), data);
        if !robot.outbox.is_durable() {
            break;
        }
        durable = n + 1;
    }
    let after = robot.outbox.late();
    assert!(after < before, "{before} samples, then {after}");
    assert!(
        durable >= 1_000,
        "only {durable} events were safe while {after} samples were kept"
    );

    // What is measured meanwhile waits in memory, and is written when there is room.
    robot.keep(400);
    robot.reconnect();
    assert!(!robot.events(kind::THINNED).is_empty());
    let newest = *robot.seqs().last().unwrap();
    assert_eq!(newest, 6_400);
    fs::remove_file(ballast).unwrap();
    robot.pass(Duration::from_secs(31));
    robot.pass(WRITE_EVERY);
    assert!(robot.outbox.is_durable(), "{:?}", robot.outbox.trouble());
    let late = robot.seqs();
    robot.restart();
    assert_eq!(robot.seqs(), late);
}

#[test]
fn a_read_only_disk_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path().join("disk"), "2m");
    let mut robot = Robot::new(disk.0.join("agent.db"));
    robot.keep(500);
    robot.outbox.append("test.count", at(0), json!({}));
    robot.pass(WRITE_EVERY);
    let ms = robot.ms;
    robot.outbox = Outbox::open(Path::new("/nonexistent/agent.db"), at(ms));
    disk.run(&["-o", "remount,ro"]);
    robot.restart();
    assert!(!robot.outbox.is_durable());
    robot.keep(100);
    robot.outbox.append("test.count", at(0), json!({}));
    robot.pass(WRITE_EVERY);
    let late = robot.seqs();
    assert_eq!(late[late.len() - 100..].len(), 100);
    assert!(robot.outbox.trouble().is_some());
    disk.run(&["-o", "remount,rw"]);
    robot.pass(WRITE_EVERY);
    robot.pass(WRITE_EVERY);
    assert!(robot.outbox.is_durable(), "{:?}", robot.outbox.trouble());
    assert!(robot.outbox.late() >= 600, "{}", robot.outbox.late());
    assert!(written(&robot.path) >= 600);
}
