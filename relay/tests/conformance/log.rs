//! What every store promises of the event log.

use std::collections::BTreeSet;

use lekiwi_protocol::RobotId;
use lekiwi_protocol::message::{CommandState, kind};
use lekiwi_relay::store::records::{NewEvent, Snapshot, StoredEvent};
use lekiwi_relay::store::{Appended, Batch, EventQuery, EventRetention, Expected, Store};
use uuid::Uuid;

use super::{PATIENCE, Place, batch, committed, event, until};

pub(crate) fn seqs(events: &[StoredEvent]) -> Vec<u64> {
    events.iter().map(|stored| stored.event.seq).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_are_acknowledged_and_not_kept() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        store.submit(batch([1, 2, 3, 7].map(|seq| event("kiwi-01", seq))));
        let commit = committed(&mut commits).await;
        let places: Vec<(u64, u64)> = commit
            .events
            .iter()
            .map(|stored| (stored.position, stored.event.seq))
            .collect();
        assert_eq!(places, [(1, 1), (2, 2), (3, 3), (4, 7)]);
        assert_eq!(commit.acks[0].ranges, [[1, 3], [7, 7]]);
        // Again, twice in one batch, and in another robot's numbering.
        let mut other = event("kiwi-02", 3);
        other.stream = Uuid::from_u128(2);
        store.submit(batch([
            event("kiwi-01", 3),
            event("kiwi-01", 4),
            event("kiwi-01", 4),
            other,
        ]));
        let commit = committed(&mut commits).await;
        assert_eq!(seqs(&commit.events), [4, 3]);
        assert_eq!(commit.acks[0].ranges, [[3, 4]]);
        assert_eq!(commit.acks[1].ranges, [[3, 3]]);
        store.close();
        let (store, mut commits) = place.open().await;
        assert_eq!(store.last_position().await.unwrap(), 6);
        store.submit(batch([event("kiwi-01", 7)]));
        let commit = committed(&mut commits).await;
        assert_eq!(commit.events, []);
        assert_eq!(commit.acks[0].ranges, [[7, 7]]);
        let kept = store.events(0, 100).await.unwrap();
        assert_eq!(seqs(&kept), [1, 2, 3, 7, 4, 3]);
        assert_eq!(seqs(&store.events(2, 2).await.unwrap()), [3, 7]);
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_found_by_robot_type_time_and_position() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        let kinds = ["agent.started", "service.changed", "service.flapping"];
        let events = (0..60_u64).map(|n| NewEvent {
            kind: kinds[n as usize % 3].into(),
            received_ms: 1_000 + n * 10,
            ..event(if n % 2 == 0 { "kiwi-01" } else { "kiwi-02" }, n)
        });
        let all: Vec<NewEvent> = events.collect();
        store.submit(batch(all.clone()));
        committed(&mut commits).await;
        let mut queries = Vec::new();
        for robot in [None, Some("kiwi-02")] {
            for kinds in [
                &[][..],
                &["service.changed"],
                &["service.*", "agent.started"],
                &["service", "service.change", "' OR 1=1 --"],
            ] {
                for (from_ms, to_ms) in [
                    (None, None),
                    (Some(1_100), None),
                    (Some(1_100), Some(1_300)),
                ] {
                    for (after, up_to) in [(0, None), (20, Some(40))] {
                        for newest_first in [false, true] {
                            queries.push(EventQuery {
                                robot: robot.map(str::to_owned),
                                kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
                                from_ms,
                                to_ms,
                                after,
                                up_to,
                                newest_first,
                            });
                        }
                    }
                }
            }
        }
        for query in queries {
            let mut expected: Vec<u64> = all
                .iter()
                .zip(1..)
                .filter(|(event, position)| {
                    let is_kind = |kind: &String| match kind.strip_suffix('*') {
                        Some(prefix) => event.kind.starts_with(prefix),
                        None => **kind == *event.kind,
                    };
                    query
                        .robot
                        .as_deref()
                        .is_none_or(|r| r == &*event.aggregate_id)
                        && (query.kinds.is_empty() || query.kinds.iter().any(is_kind))
                        && query.from_ms.is_none_or(|from| event.received_ms >= from)
                        && query.to_ms.is_none_or(|to| event.received_ms < to)
                        && *position > query.after
                        && query.up_to.is_none_or(|up_to| *position <= up_to)
                })
                .map(|(event, _)| event.seq)
                .collect();
            if query.newest_first {
                expected.reverse();
            }
            let found = store.find_events(query.clone(), 1_000).await.unwrap();
            assert_eq!(seqs(&found), expected, "{query:?}");
            let first = store.find_events(query.clone(), 3).await.unwrap();
            expected.truncate(3);
            assert_eq!(seqs(&first), expected, "{query:?}");
        }
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_say_comes_back_as_it_was() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        let strange = NewEvent {
            seq: i64::MAX as u64,
            kind: "custom.ünï'\";--".into(),
            data: "{\"a\":\"\\u0000 ?1 $1 \u{10FFFF}\",\"b\":1e999}".into(),
            metadata: "{\"trace\":\"%s\"}".into(),
            ..event("kiwi-01", 0)
        };
        store.submit(batch([strange.clone()]));
        assert_eq!(committed(&mut commits).await.events[0].event, strange);
        assert_eq!(store.events(0, 1).await.unwrap()[0].event, strange);
        // One that no database can keep as it is holds up no other.
        let poison = NewEvent {
            kind: "custom.\0".into(),
            ..event("kiwi-02", 1)
        };
        store.submit(batch([poison, event("kiwi-03", 1)]));
        assert_eq!(committed(&mut commits).await.events.len(), 2);
        let kept = &store.events(1, 1).await.unwrap()[0].event.kind;
        assert_eq!(&**kept, "custom.\u{FFFD}");
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_stands_only_where_it_was_expected() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        let append = async |expected, seqs: &[u64]| {
            let events = seqs.iter().map(|seq| event("kiwi-01", *seq)).collect();
            store.append(expected, events).await.unwrap()
        };
        let at = |positions: &[u64]| Appended::Appended {
            positions: positions.to_vec(),
        };
        assert_eq!(
            append(Expected::Exact(1), &[1]).await,
            Appended::Conflict { actual: 0 }
        );
        assert_eq!(append(Expected::Empty, &[1, 2]).await, at(&[1, 2]));
        // What is appended is reported as every commit is.
        assert_eq!(seqs(&committed(&mut commits).await.events), [1, 2]);
        assert_eq!(
            append(Expected::Empty, &[3]).await,
            Appended::Conflict { actual: 2 }
        );
        assert_eq!(
            append(Expected::Exact(1), &[3]).await,
            Appended::Conflict { actual: 2 }
        );
        store.submit(batch([event("kiwi-02", 1)]));
        committed(&mut commits).await;
        // Another robot's event does not matter, and the same events again are where they are.
        assert_eq!(append(Expected::Exact(2), &[3]).await, at(&[4]));
        assert_eq!(append(Expected::Exact(2), &[3]).await, at(&[4]));
        assert_eq!(append(Expected::Any, &[4]).await, at(&[5]));
        assert_eq!(append(Expected::Empty, &[]).await, at(&[]));
        let mixed = vec![event("kiwi-01", 8), event("kiwi-02", 8)];
        assert_eq!(
            store
                .append(Expected::Any, mixed)
                .await
                .unwrap_err()
                .to_string(),
            "expected events about robot kiwi-01 only, got one about robot kiwi-02"
        );
        assert_eq!(store.last_position().await.unwrap(), 5);
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_appends_at_the_same_time_one_wins() {
    for place in Place::of_each_kind() {
        let (one, _first) = place.open().await;
        let (two, _second) = place.open().await;
        let mut won = Vec::new();
        for round in 0..10_u64 {
            let last = one.last_position().await.unwrap();
            let expected = if last == 0 {
                Expected::Empty
            } else {
                Expected::Exact(last)
            };
            let append = |store: &Store, source: u128| {
                let event = NewEvent {
                    stream: Uuid::from_u128(source),
                    ..event("kiwi-01", round)
                };
                let store = store.clone();
                async move { store.append(expected, vec![event]).await.unwrap() }
            };
            let both = [tokio::spawn(append(&one, 1)), tokio::spawn(append(&two, 2))];
            let mut positions = Vec::new();
            for answer in both {
                match answer.await.unwrap() {
                    Appended::Appended { positions: at } => positions.extend(at),
                    Appended::Conflict { actual } => assert_eq!(actual, last + 1),
                }
            }
            assert_eq!(positions, [last + 1]);
            won.extend(positions);
        }
        assert_eq!(won, (1..=10).collect::<Vec<_>>());
        one.close();
        two.close();
    }
}

/// Two writers as two relays: on one file they only meet in tests, on one database always.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_two_writers_sees_all_events_in_order() {
    for place in Place::of_each_kind() {
        const EACH: u64 = 400;
        let (one, mut first) = place.open().await;
        let (two, mut second) = place.open().await;
        let mut follower = one.follow(0);
        let following = tokio::spawn(async move {
            let (mut positions, mut seen) = (Vec::new(), BTreeSet::new());
            while seen.len() < 2 * EACH as usize {
                for stored in follower.next(64).await.unwrap() {
                    positions.push(stored.position);
                    assert!(seen.insert((stored.event.source.to_string(), stored.event.seq)));
                }
            }
            positions
        });
        let write = |store: Store, source: &'static str| async move {
            for seq in 0..EACH {
                // What does not fit is handed back, and nothing is that much here.
                assert!(store.submit(batch([event(source, seq)])).is_empty());
                if seq % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::join!(write(one.clone(), "kiwi-01"), write(two.clone(), "kiwi-02"));
        for commits in [&mut first, &mut second] {
            let mut count = 0;
            while count < EACH as usize {
                count += committed(commits).await.events.len();
            }
        }
        let positions = tokio::time::timeout(PATIENCE, following)
            .await
            .expect("all events in time")
            .unwrap();
        assert_eq!(positions, (1..=2 * EACH).collect::<Vec<_>>());
        one.close();
        two.close();
    }
}

fn own(seq: u64, kind: &str, data: &serde_json::Value) -> NewEvent {
    NewEvent {
        source: "relay:one".into(),
        kind: kind.into(),
        data: data.to_string().into(),
        ..event("kiwi-01", seq)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_configurations_are_what_the_log_says() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        let robot = RobotId::new("kiwi-01").unwrap();
        let id = Uuid::from_u128(7);
        let command = serde_json::json!({
            "id": id, "op": "reboot", "arguments": {}, "by": "admin",
            "issued_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T00:05:00.000Z",
        });
        let desired = |version: u64| {
            serde_json::json!({
                "version": version, "settings": {}, "issued_at": "2026-01-01T00:00:00.000Z", "by": "admin",
            })
        };
        store.submit(batch([
            own(1, kind::COMMAND_REQUESTED, &command),
            own(2, kind::CONFIGURATION_DESIRED, &desired(1)),
            own(
                3,
                kind::CONFIGURATION_APPLIED,
                &serde_json::json!({ "version": 1 }),
            ),
            own(4, kind::CONFIGURATION_DESIRED, &desired(2)),
        ]));
        committed(&mut commits).await;
        let open = store.open_commands().await.unwrap();
        assert_eq!(open.len(), 1);
        assert_eq!(store.open_commands_of_robot(&robot).await.unwrap(), 1);
        store.submit(batch([
            own(
                5,
                kind::COMMAND_FAILED,
                &serde_json::json!({ "id": id, "reason": "no" }),
            ),
            // An end is an end.
            own(6, kind::COMMAND_RUNNING, &serde_json::json!({ "id": id })),
            own(
                7,
                kind::CONFIGURATION_REJECTED,
                &serde_json::json!({ "version": 2 }),
            ),
        ]));
        committed(&mut commits).await;
        let view = store.command(&robot, id).await.unwrap().unwrap();
        assert_eq!(
            (view.state, view.reason.as_deref()),
            (CommandState::Failed, Some("no"))
        );
        assert_eq!(store.open_commands_of_robot(&robot).await.unwrap(), 0);
        assert_eq!(store.commands_of_robot(&robot, 10).await.unwrap(), [view]);
        let newest = store.desired_configurations().await.unwrap();
        assert_eq!(newest.len(), 1);
        assert_eq!((newest[0].1.version, newest[0].2), (2, true));
        let applied = store.applied_configuration_before(&robot, 2).await.unwrap();
        assert_eq!(applied.unwrap().version, 1);
        assert!(
            store
                .desired_configuration(&robot, 3)
                .await
                .unwrap()
                .is_none()
        );
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_forgotten_is_and_nothing_else() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        let kinds = [
            "service.changed",
            "command.failed",
            "robot.approved",
            "service.changed",
        ];
        let events = kinds.iter().zip(1..).map(|(kind, seq)| NewEvent {
            kind: (*kind).into(),
            received_ms: seq,
            ..event("kiwi-01", seq)
        });
        let unseen = (5..=6).map(|seq| NewEvent {
            kind: "service.changed".into(),
            received_ms: 1,
            ..event("kiwi-01", seq)
        });
        store.submit(Batch {
            snapshots: vec![Snapshot {
                robot: "kiwi-01".into(),
                position: 4,
                taken_ms: 1,
                picture: "{}".into(),
            }],
            ..batch(events.chain(unseen))
        });
        committed(&mut commits).await;
        let rule = |kind: &str, before_ms| EventRetention {
            kind: kind.into(),
            before_ms,
        };
        // The fourth is too new, the last ones are in no picture yet, and of the others nothing may go.
        store.forget_events(vec![rule("*", 3), rule("service.*", 4)]);
        until("forgotten", async || {
            store.events(0, 10).await.unwrap().len() == 5
        })
        .await;
        assert_eq!(seqs(&store.events(0, 10).await.unwrap()), [2, 3, 4, 5, 6]);
        store.forget_events(vec![rule("*", u64::MAX)]);
        until("forgotten too", async || {
            store.events(0, 10).await.unwrap().len() == 4
        })
        .await;
        assert_eq!(seqs(&store.events(0, 10).await.unwrap()), [2, 3, 5, 6]);
        store.close();
    }
}
