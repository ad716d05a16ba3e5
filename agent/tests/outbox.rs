//! The outbox against a real file system: kill -9, damage, a full disk, and many random operations
//! against a model.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lekiwi_agent::outbox::{Limit, MAX_DATA_BYTES, Outbox};
use lekiwi_agent_core::outbox::{Bounds, Cursor, Progress};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{Ack, Dropped, EventBatch, Priority, kind};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(1_795_000_000_000 + ms)
}

fn ack(stream: Uuid, from: u64, to: u64) -> Ack {
    Ack {
        acks: BTreeMap::from([(stream, vec![[from, to]])]),
    }
}

fn everything(outbox: &Outbox) -> Vec<EventBatch> {
    let mut progress = Progress::default();
    let mut batches = Vec::new();
    while let Some((priority, batch)) = outbox.pending_after(&progress, Limit::default()) {
        let last = Cursor {
            ordinal: batch.ordinal,
            seq: batch.events.last().unwrap().seq,
        };
        progress.advance(priority, last);
        batches.push(batch);
    }
    batches
}

fn numbers(outbox: &Outbox) -> Vec<(u32, u64)> {
    let batches = everything(outbox);
    let of = |b: &EventBatch| {
        b.events
            .iter()
            .map(|e| (b.ordinal, e.seq))
            .collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

#[test]
fn numbers_go_on_after_a_restart_and_acknowledged_events_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let mut outbox = Outbox::open(&path, at(0));
    assert_eq!((outbox.ordinal(), outbox.last_seq()), (1, 0));
    for n in 1..=5 {
        assert_eq!(outbox.append("test.count", at(n), json!({ "n": n })), n);
    }
    let stream = outbox.stream();
    assert_eq!(outbox.acknowledge(&ack(stream, 2, 3)), 2);
    assert_eq!(
        outbox.acknowledge(&ack(stream, 2, 3)),
        0,
        "a repeated acknowledgement"
    );
    assert_eq!(
        outbox.acknowledge(&ack(Uuid::nil(), 1, 9)),
        0,
        "another's stream"
    );
    drop(outbox);

    let mut outbox = Outbox::open(&path, at(10));
    assert_eq!(outbox.stream(), stream);
    assert_eq!(numbers(&outbox), [(1, 1), (1, 4), (1, 5)]);
    assert_eq!(outbox.append("test.count", at(11), json!({})), 6);
    assert_eq!(outbox.acknowledge(&ack(stream, 0, u64::MAX)), 4);
    assert!(outbox.is_empty() && outbox.pending(Limit::default()).is_none());
    drop(outbox);
    assert_eq!(
        Outbox::open(&path, at(20)).last_seq(),
        6,
        "numbers are never used twice"
    );
}

#[test]
fn batches_stay_below_both_limits_and_large_data_is_replaced_by_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::open(&folder.path().join("agent.db"), at(0));
    for _ in 0..6 {
        outbox.append("test.large", at(0), json!("x".repeat(15_000)));
    }
    outbox.append("test.huge", at(0), json!("x".repeat(MAX_DATA_BYTES)));
    let batch = outbox.pending(Limit::default()).unwrap();
    assert_eq!(batch.events.len(), 3);
    assert!(serde_json::to_vec(&batch).unwrap().len() < 64 * 1024);
    let tiny = Limit {
        events: 100,
        bytes: 1,
    };
    assert_eq!(outbox.pending(tiny).unwrap().events.len(), 1);
    let rest = everything(&outbox);
    let huge = rest.last().unwrap().events.last().unwrap();
    assert_eq!(huge.data, json!({ "left_out_bytes": MAX_DATA_BYTES + 2 }));
}

#[test]
fn a_full_bound_drops_the_oldest_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::with_bounds(&folder.path().join("agent.db"), at(0), small(8_000));
    let stream = outbox.stream();
    while outbox.last_seq() < 1_000 {
        outbox.append("test.count", at(0), json!({}));
    }
    let kept = everything(&outbox);
    let kept: Vec<_> = kept.iter().flat_map(|batch| &batch.events).collect();
    let tombstones: Vec<Dropped> = kept
        .iter()
        .filter(|event| event.kind == kind::DROPPED)
        .map(|event| Dropped::deserialize(&event.data).unwrap())
        .collect();
    assert!(kept.len() < 90, "{}", kept.len());
    for seq in 1..=outbox.last_seq() {
        let held = kept.iter().any(|event| event.seq == seq);
        let said = tombstones
            .iter()
            .any(|d| d.stream == stream && d.covers(seq));
        assert!(
            held != said,
            "event {seq}: held {held}, said to be dropped {said}"
        );
    }
}

fn small(max_bytes: u64) -> Bounds {
    Bounds {
        max_bytes,
        max_sample_bytes: max_bytes / 4,
    }
}

/// Kind and number of all that is kept, in the order in which it goes out.
fn order(outbox: &Outbox) -> Vec<(String, u64)> {
    let batches = everything(outbox);
    let events = batches.into_iter().flat_map(|batch| batch.events);
    events.map(|event| (event.kind, event.seq)).collect()
}

#[test]
fn urgent_events_overtake_and_the_rest_stays_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let kinds = [
        kind::SETUP_PROGRESS,
        "test.count",
        kind::UNHEALTHY,
        "estop.received",
        "test.count",
        kind::SETUP_PROGRESS,
        kind::HEALTHY,
    ];
    let expected = [
        ("estop.received", 4),
        (kind::UNHEALTHY, 3),
        (kind::HEALTHY, 7),
        ("test.count", 2),
        ("test.count", 5),
        (kind::SETUP_PROGRESS, 1),
        (kind::SETUP_PROGRESS, 6),
    ]
    .map(|(kind, seq)| (kind.to_owned(), seq));
    let mut outbox = Outbox::open(&path, at(0));
    let mut memory = Outbox::open(Path::new("/nonexistent/agent.db"), at(0));
    for kind in kinds {
        outbox.append(kind, at(1), json!({}));
        memory.append(kind, at(1), json!({}));
    }
    assert_eq!(order(&memory), expected);
    assert_eq!(order(&outbox), expected);
    drop(outbox);
    let mut outbox = Outbox::open(&path, at(2));
    assert_eq!(order(&outbox), expected);
    // One acknowledgement for what went out in several messages.
    let stream = outbox.stream();
    assert_eq!(outbox.acknowledge(&ack(stream, 2, 6)), 5);
    assert_eq!(
        order(&outbox),
        [
            (kind::HEALTHY.to_owned(), 7),
            (kind::SETUP_PROGRESS.to_owned(), 1)
        ]
    );
}

/// Priorities as they are kept, and what the tombstones say of the rest.
fn check_dropped_by_priority(outbox: &mut Outbox, events: usize) {
    let kinds = [
        kind::SETUP_PROGRESS,
        "test.count",
        kind::UNHEALTHY,
        "estop.received",
    ];
    let mut appended: Vec<(u64, Priority)> = Vec::new();
    let mut urgent = 0;
    while appended.len() < events {
        // The urgent ones are rare: there is room for all of them.
        let urgency = if appended.len() % 100 == 99 {
            3
        } else {
            appended.len() % 3
        };
        urgent += usize::from(urgency == 3);
        let seq = outbox.append(kinds[urgency], at(1), json!({}));
        appended.push((seq, Priority::of(kinds[urgency])));
    }
    let kept = order(outbox);
    let tombstones: Vec<Dropped> = everything(outbox)
        .iter()
        .flat_map(|batch| &batch.events)
        .filter(|event| event.kind == kind::DROPPED)
        .map(|event| Dropped::deserialize(&event.data).unwrap())
        .collect();
    let stream = outbox.stream();
    for (seq, _) in &appended {
        let held = kept.iter().any(|(_, number)| number == seq);
        let said = tombstones
            .iter()
            .any(|d| d.stream == stream && d.covers(*seq));
        assert!(
            held != said,
            "event {seq}: held {held}, said to be dropped {said}"
        );
    }
    let left = |kind: &str| kept.iter().filter(|(kept, _)| kept == kind).count();
    assert_eq!(left("estop.received"), urgent, "no urgent one was dropped");
    // The latest of each kind may wait for the next time that room is needed.
    assert!(left(kind::SETUP_PROGRESS) < left(kind::UNHEALTHY));
    assert!(left("test.count") <= left(kind::UNHEALTHY));
    assert!(tombstones.len() <= 8, "{} tombstones", tombstones.len());
}

#[test]
fn the_least_urgent_are_dropped_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let mut outbox = Outbox::with_bounds(&path, at(0), small(48 * 1024));
    check_dropped_by_priority(&mut outbox, 700);
    let mut memory = Outbox::open(Path::new("/nonexistent/agent.db"), at(0));
    check_dropped_by_priority(&mut memory, 4_000);
}

#[test]
fn events_grow_too_old_only_by_a_clock_that_was_set() {
    const DAY: u64 = 86_400_000;
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::open(&folder.path().join("agent.db"), at(0));
    // A robot that began without a clock, got one, and lost the relay for weeks.
    let unset = Timestamp::from_ms(1_000);
    for timestamp in [unset, at(0), at(10 * DAY), unset, at(20 * DAY)] {
        outbox.append("test.count", timestamp, json!({}));
    }
    let floor = at(0);
    outbox.expire(at(30 * DAY), floor);
    assert_eq!(outbox.len(), 5, "thirty days are not more than thirty days");
    outbox.expire(at(41 * DAY), floor);
    // What came before the old ones is as old; what came after them may be new.
    assert_eq!(
        order(&outbox),
        [
            (kind::DROPPED.to_owned(), 6),
            ("test.count".to_owned(), 4),
            ("test.count".to_owned(), 5),
        ]
    );
    let batch = outbox.pending(Limit::default()).unwrap();
    let stream = outbox.stream();
    assert_eq!(
        batch.events[0].data,
        json!({ "stream": stream, "from": 1, "to": 3 })
    );
    // By a clock that is years behind, nothing is old.
    outbox.expire(Timestamp::from_ms(DAY), floor);
    assert_eq!(outbox.len(), 3);
}

#[test]
fn a_database_of_the_first_version_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let stream = Uuid::from_u128(7);
    let earlier = rusqlite::Connection::open(&path).unwrap();
    earlier
        .execute_batch(
            "CREATE TABLE streams (ordinal INTEGER PRIMARY KEY, stream BLOB NOT NULL UNIQUE, last_seq INTEGER NOT NULL);
             CREATE TABLE events (
                 ordinal INTEGER NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, timestamp_ms INTEGER NOT NULL,
                 data TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (ordinal, seq)
             ) WITHOUT ROWID;
             INSERT INTO events VALUES (1, 4, 'test.count', 5, '{\"n\":4}', 110), (1, 5, 'health.unhealthy', 6, '{}', 110);
             PRAGMA user_version = 1;",
        )
        .unwrap();
    earlier
        .execute("INSERT INTO streams VALUES (1, ?1, 5)", [stream.as_bytes()])
        .unwrap();
    drop(earlier);
    let newest = json!({ "ordinal": 1, "stream": stream }).to_string();
    fs::write(folder.path().join("agent.db.ordinal"), newest).unwrap();
    let mut outbox = Outbox::open(&path, at(0));
    assert!(outbox.is_durable(), "{:?}", outbox.trouble());
    assert_eq!(outbox.stream(), stream);
    assert_eq!(
        order(&outbox),
        [
            ("health.unhealthy".to_owned(), 5),
            ("test.count".to_owned(), 4)
        ]
    );
    assert_eq!(outbox.append("test.count", at(1), json!({})), 6);
    assert_eq!(everything(&outbox)[1].events[0].data, json!({ "n": 4 }));
}

#[test]
fn a_damaged_database_is_set_aside_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let mut outbox = Outbox::open(&path, at(0));
    outbox.append("test.count", at(0), json!({}));
    let lost = outbox.stream();
    drop(outbox);
    for (round, content) in [(1, "no database at all".repeat(500)), (2, String::new())] {
        if content.is_empty() {
            // Same header, torn pages.
            let mut bytes = fs::read(&path).unwrap();
            let from = 4096.min(bytes.len());
            bytes[from..].fill(0xA5);
            fs::write(&path, bytes).unwrap();
        } else {
            fs::write(&path, content).unwrap();
        }
        let outbox = Outbox::open(&path, at(round));
        assert!(outbox.is_durable());
        assert_eq!(outbox.ordinal(), 1 + u32::try_from(round).unwrap());
        let batch = outbox.pending(Limit::default()).unwrap();
        let event = &batch.events[0];
        assert_eq!((event.seq, event.kind.as_str()), (1, kind::DROPPED));
        assert_eq!(event.data["reason"], "the database was damaged");
        if round == 1 {
            assert_eq!(event.data["stream"], json!(lost));
        }
        let aside = folder
            .path()
            .join(event.data["set_aside"].as_str().unwrap());
        assert!(aside.exists(), "{}", aside.display());
    }
}

#[test]
fn a_database_put_back_from_a_copy_does_not_reuse_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    drop(Outbox::open(&path, at(0)));
    fs::copy(&path, folder.path().join("copy")).unwrap();
    fs::remove_file(&path).unwrap();
    let second = Outbox::open(&path, at(1));
    assert_eq!(second.ordinal(), 2);
    drop(second);
    fs::copy(folder.path().join("copy"), &path).unwrap();
    assert_eq!(Outbox::open(&path, at(2)).ordinal(), 3);
}

/// A file system of its own, so small that it can be filled. Needs root, as the whole slow tier does.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=400k", "lekiwi-test"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(
            status.success(),
            "mounting a tmpfs needs root: run the tests as root or in `unshare -rm`"
        );
        Self(path)
    }

    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut size = 400 * 1024;
        let mut content = Vec::new();
        // Smaller and smaller pieces, until not one byte more fits.
        while size > 0 {
            let mut more = content.clone();
            more.resize(content.len() + size, 0_u8);
            if fs::write(&ballast, &more).is_ok() {
                content = more;
            } else {
                size /= 2;
            }
        }
        let _ = fs::write(&ballast, &content);
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_means_memory_and_a_new_stream_and_ends_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path().join("disk"));
    let path = disk.0.join("agent.db");
    let mut outbox = Outbox::open(&path, at(0));
    outbox.append("test.count", at(0), json!({}));
    let first = outbox.stream();
    let ballast = disk.fill();

    let mut seq = 1;
    while outbox.is_durable() && seq < 10_000 {
        seq = outbox.append("test.count", at(1), json!({ "fill": "x".repeat(300) }));
    }
    assert!(!outbox.is_durable(), "the disk never filled");
    assert_eq!(seq, 1, "memory numbers from 1 in its own stream");
    let second = outbox.stream();
    assert_ne!(second, first);
    assert!(
        outbox
            .trouble()
            .unwrap()
            .starts_with("expected a disk that takes events: ")
    );
    let durable = numbers(&outbox)
        .iter()
        .filter(|(ordinal, _)| *ordinal == 1)
        .count();
    assert_eq!(outbox.len(), durable as u64 + 1);
    let all = u64::MAX;
    assert_eq!(
        outbox.acknowledge(&ack(first, 1, all)),
        durable,
        "also while nothing can be deleted"
    );
    assert_eq!(numbers(&outbox), [(2, 1)]);

    fs::remove_file(ballast).unwrap();
    assert_eq!(
        outbox.append("test.count", at(29_000), json!({})),
        2,
        "not yet tried again"
    );
    assert_eq!(
        outbox.append("test.count", at(31_001), json!({})),
        1,
        "back on disk"
    );
    assert!(outbox.is_durable());
    assert_eq!(numbers(&outbox), [(2, 1), (2, 2), (3, 1)]);
    let third = outbox.stream();
    drop(outbox);
    // What was in memory only is gone, and that is said.
    let outbox = Outbox::open(&path, at(40_000));
    assert_eq!(outbox.stream(), third);
    assert_eq!(numbers(&outbox), [(3, 2), (3, 1)]);
    assert_eq!(
        everything(&outbox)[0].events[0].data["stream"],
        json!(second)
    );
}

#[test]
fn a_missing_folder_means_memory() {
    let mut outbox = Outbox::open(Path::new("/nonexistent/agent.db"), at(0));
    assert!(!outbox.is_durable());
    assert_eq!(outbox.append("test.count", at(0), json!({})), 1);
    assert_eq!(numbers(&outbox), [(1, 1)]);
}

/// The same test is parent and child: the child appends until it is killed, and prints each number
/// after the outbox returned it.
#[test]
fn kill_9_loses_nothing_that_was_numbered() {
    const CHILD: &str = "OUTBOX_KILL_TEST_DATABASE";
    if let Some(path) = std::env::var_os(CHILD) {
        let mut outbox = Outbox::open(Path::new(&path), at(0));
        loop {
            println!("seq {}", outbox.append("test.count", at(0), json!({})));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let mut printed = 0;
    for round in 1..=5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "kill_9_loses_nothing_that_was_numbered",
                "--nocapture",
            ])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let enough = printed + 20 * round;
        let number = |line: String| {
            line.rsplit("seq ")
                .next()
                .and_then(|n| n.parse::<u64>().ok())
        };
        while printed < enough {
            if let Some(seq) = number(lines.next().expect("the child goes on")) {
                assert_eq!(seq, printed + 1);
                printed = seq;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        printed = lines.filter_map(number).last().unwrap_or(printed);
        let outbox = Outbox::open(&path, at(0));
        let kept: Vec<u64> = numbers(&outbox).into_iter().map(|(_, seq)| seq).collect();
        assert!(
            outbox.last_seq() >= printed,
            "{} < {printed}",
            outbox.last_seq()
        );
        assert_eq!(kept, (1..=outbox.last_seq()).collect::<Vec<_>>());
        printed = outbox.last_seq();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append,
    Acknowledge(u64, u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Append),
        2 => (1_u64..40, 0_u64..10).prop_map(|(from, more)| Step::Acknowledge(from, from + more)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn it_holds_exactly_what_was_appended_and_not_acknowledged(steps in proptest::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.db");
        let mut outbox = Outbox::open(&path, at(0));
        let (mut model, mut last) = (std::collections::BTreeSet::new(), 0);
        for step in steps {
            match step {
                Step::Append => {
                    last += 1;
                    prop_assert_eq!(outbox.append("test.count", at(0), json!({})), last);
                    model.insert((1, last));
                }
                Step::Acknowledge(from, to) => {
                    let stream = outbox.stream();
                    let before = model.len();
                    model.retain(|(_, seq)| !(from..=to).contains(seq));
                    prop_assert_eq!(outbox.acknowledge(&ack(stream, from, to)), before - model.len());
                }
                Step::Restart => {
                    drop(outbox);
                    outbox = Outbox::open(&path, at(0));
                }
            }
            prop_assert_eq!(numbers(&outbox), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(outbox.len(), model.len() as u64);
        }
    }
}
