//! What the outbox cannot read any more, or held in memory when the process ended: said in a new stream, and
//! nothing that is not lost.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lekiwi_agent::outbox::{Limit, Outbox};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::message::{Ack, Event, kind};
use serde_json::json;
use uuid::Uuid;

const GONE: &str = "the memory or the database that held them is gone";
const DAMAGED: &str = "the database was damaged";

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(1_795_000_000_000 + ms)
}

/// All that waits, in the order in which it goes out; acknowledges it.
fn drain(outbox: &mut Outbox) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(batch) = outbox.pending(Limit::default()) {
        let last = batch.events.last().unwrap().seq;
        outbox.acknowledge(&Ack {
            acks: BTreeMap::from([(batch.stream, vec![[0, last]])]),
        });
        events.extend(batch.events);
    }
    events
}

/// Stream and reason of every loss that is told.
fn lost(events: &[Event]) -> Vec<(Uuid, String)> {
    let dropped = events.iter().filter(|event| event.kind == kind::DROPPED);
    let text = |event: &Event, key: &str| event.data[key].as_str().unwrap().to_owned();
    dropped
        .map(|event| {
            (
                text(event, "stream").parse().unwrap(),
                text(event, "reason"),
            )
        })
        .collect()
}

fn fill(outbox: &mut Outbox, count: usize) {
    for number in 0..count {
        outbox.append(
            "test.count",
            at(1),
            json!({ "n": number, "x": "x".repeat(900) }),
        );
    }
}

/// The files as a power cut leaves them now.
fn power_cut(from: &Path, to: &Path) {
    for name in ["agent.db", "agent.db-wal", "agent.db.ordinal"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// Where the last transaction of a log begins and ends.
fn last_transaction(log: &[u8]) -> (usize, usize) {
    const FRAME_BYTES: usize = 24 + 4_096;
    // An older use of the same file has other salts; the last frame of a transaction says the size.
    let current = log[32..]
        .chunks_exact(FRAME_BYTES)
        .take_while(|frame| frame[8..16] == log[16..24]);
    let commits: Vec<bool> = current.map(|frame| frame[4..8] != [0; 4]).collect();
    let last = commits.iter().rposition(|commit| *commit).unwrap();
    let before = commits[..last].iter().rposition(|commit| *commit);
    let at = |frame: usize| 32 + frame * FRAME_BYTES;
    (at(before.map_or(0, |before| before + 1)), at(last + 1))
}

#[test]
fn a_power_cut_loses_nothing_and_says_so_by_silence() {
    let (folder, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("agent.db");
    drop(Outbox::open(&path, at(0)));
    // Nothing but its first transaction is in a new log, nor in one that begins again in the same file.
    let mut outbox = Outbox::open(&path, at(0));
    let mut firsts = 0;
    for number in 0..80 {
        fill(&mut outbox, 1);
        let whole = fs::read(folder.path().join("agent.db-wal")).unwrap();
        let (begin, end) = last_transaction(&whole);
        let torn: Vec<usize> = match (begin, whole.len() - end) {
            (32, 0) => (0..60).chain((60..end).step_by(997)).collect(),
            (32, _) => (begin..end).step_by(997).collect(),
            _ if number % 8 > 0 => continue,
            _ => [begin, begin + 30, end - 500, end].into(),
        };
        firsts += u32::from(begin == 32);
        for torn in torn {
            // Some of it never came to the disk, or as zeros.
            let mut zeros = whole.clone();
            zeros[torn..end].fill(0);
            for log in [&whole[..torn], &zeros] {
                power_cut(folder.path(), after.path());
                fs::write(after.path().join("agent.db-wal"), log).unwrap();
                let opened = Outbox::open(&after.path().join("agent.db"), at(2));
                let what = format!("{begin}..{end} of {}, torn at {torn}", log.len());
                assert_eq!(opened.stream(), outbox.stream(), "{what}");
                assert!(opened.is_durable(), "{what}");
                assert!(opened.len() + 1 >= outbox.len(), "{what}");
                assert_eq!(opened.trouble(), None, "{what}");
            }
        }
    }
    assert!(firsts > 2, "the log began again {firsts} times");
}

#[test]
fn a_log_that_is_damaged_in_its_middle_is_said_and_its_numbers_are_not_used_again() {
    let (folder, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut outbox = Outbox::open(&folder.path().join("agent.db"), at(0));
    fill(&mut outbox, 30);
    let stream = outbox.stream();
    for from in [0, 8_000, 40_000] {
        power_cut(folder.path(), after.path());
        let log = fs::File::options()
            .write(true)
            .open(after.path().join("agent.db-wal"))
            .unwrap();
        log.write_all_at(&[0xA5; 3_000], from).unwrap();
        let mut opened = Outbox::open(&after.path().join("agent.db"), at(2));
        assert!(opened.is_durable(), "{:?}", opened.trouble());
        assert_ne!(opened.stream(), stream);
        assert_eq!(opened.ordinal(), 2);
        let events = drain(&mut opened);
        assert_eq!(lost(&events), [(stream, DAMAGED.to_owned())], "from {from}");
        // Once.
        drop(opened);
        let mut again = Outbox::open(&after.path().join("agent.db"), at(3));
        assert_eq!((again.ordinal(), drain(&mut again).len()), (2, 0));
        drop(again);
    }
}

#[test]
fn every_stream_that_a_lost_database_held_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let first = Outbox::open(&path, at(0)).stream();
    // Put back from a copy: another stream begins, and the first is still there.
    fs::copy(&path, folder.path().join("copy")).unwrap();
    fs::remove_file(&path).unwrap();
    let mut second = Outbox::open(&path, at(1));
    assert_eq!(lost(&drain(&mut second)), [(first, GONE.to_owned())]);
    fill(&mut second, 3);
    let between = second.stream();
    drop(second);
    fs::remove_file(&path).unwrap();
    let mut third = Outbox::open(&path, at(2));
    assert_eq!(lost(&drain(&mut third)), [(between, GONE.to_owned())]);
    // All of it was acknowledged: nothing is left to be said.
    drop(third);
    let mut fourth = Outbox::open(&path, at(3));
    assert_eq!(drain(&mut fourth), []);
}

#[test]
fn memory_that_is_empty_at_the_end_was_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    drop(Outbox::open(&path, at(0)));
    // A database that cannot be opened, beside a folder that takes files.
    fs::rename(&path, folder.path().join("aside")).unwrap();
    fs::create_dir(&path).unwrap();
    for (acknowledged, expected) in [(true, 0), (false, 1)] {
        let mut outbox = Outbox::open(&path, at(1));
        assert!(!outbox.is_durable());
        fill(&mut outbox, 2);
        let memory = outbox.stream();
        if acknowledged {
            assert_eq!(drain(&mut outbox).len(), 2);
        }
        outbox.close(at(2));
        drop(outbox);
        fs::remove_dir(&path).unwrap();
        fs::rename(folder.path().join("aside"), &path).unwrap();
        let mut outbox = Outbox::open(&path, at(3));
        let said = lost(&drain(&mut outbox));
        let losses = said.iter().filter(|(stream, _)| *stream == memory);
        assert_eq!(losses.count(), expected, "{said:?}");
        assert_eq!(said.len(), expected, "and nothing else");
        drop(outbox);
        fs::rename(&path, folder.path().join("aside")).unwrap();
        fs::create_dir(&path).unwrap();
    }
}

#[test]
fn events_that_come_back_with_the_disk_are_older_than_what_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.db");
    let mut outbox = Outbox::open(&path, at(0));
    fill(&mut outbox, 2);
    assert!(!outbox.poll_found(), "the first database had nothing");
    let earlier = outbox.stream();
    drop(outbox);
    fs::rename(&path, folder.path().join("aside")).unwrap();
    fs::create_dir(&path).unwrap();
    let mut outbox = Outbox::open(&path, at(1));
    fill(&mut outbox, 1);
    assert_eq!(drain(&mut outbox).len(), 1);
    fs::remove_dir(&path).unwrap();
    fs::rename(folder.path().join("aside"), &path).unwrap();
    outbox.append("test.count", at(31_001), json!({}));
    assert!(outbox.is_durable() && outbox.poll_found());
    assert!(!outbox.poll_found(), "said once");
    let batch = outbox.pending(Limit::default()).unwrap();
    assert_eq!((batch.stream, batch.events.len()), (earlier, 2));
    assert_eq!(lost(&drain(&mut outbox)), []);
}
