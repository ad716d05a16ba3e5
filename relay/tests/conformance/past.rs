//! Looking back: the fleet as the log had it, also from a backup and after the log's beginning was forgotten.

use std::time::Duration;

use lekiwi_protocol::api::RobotView;
use lekiwi_protocol::message::{ConnectionState, kind};
use lekiwi_protocol::{Clock, Envelope, MessageType, MetricName, RobotId, Timestamp};
use lekiwi_relay::store::records::{NewEvent, Snapshot};
use lekiwi_relay::store::{Batch, EventRetention, Location, LookedBack, Moment, Store, backup};
use lekiwi_relay_core::{Fleet, Input, Past, Policy};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Place, committed, event, open, until};

const ROBOTS: u64 = 3;
const HOUR_MS: u64 = 3_600_000;

/// What a relay writes about one robot after the other: every kind that changes what is recorded, and one that does not.
fn written(seq: u64) -> NewEvent {
    let (robot, turn) = (format!("kiwi-{:02}", seq % ROBOTS), (seq - 1) / ROBOTS);
    let session = Uuid::from_u128(turn.into());
    let (name, data) = match turn % 8 {
        0 => (
            kind::REGISTERED,
            json!({ "profile": "lekiwi", "hardware_serial": seq.to_string() }),
        ),
        1 => (kind::CONNECTED, json!({ "session": session })),
        2 => (
            kind::CONFIGURATION_DESIRED,
            json!({ "version": turn, "settings": {} }),
        ),
        3 => (kind::QUARANTINED, json!({ "reason": "it says xle" })),
        4 => (
            kind::APPROVED,
            json!({ "by": "admin", "profile": "xle", "seen": { "profile": "xle", "serial": "1a" } }),
        ),
        5 => (kind::STALE, json!({})),
        6 => (kind::SERVICE_CHANGED, json!({ "state": "active" })),
        _ => (
            kind::DISCONNECTED,
            json!({ "session": Uuid::from_u128(turn as u128 - 6), "state": "OFFLINE" }),
        ),
    };
    NewEvent {
        aggregate_id: robot.as_str().into(),
        kind: name.into(),
        data: data.to_string().into(),
        ts_ms: 1_000 * seq,
        received_ms: 1_000 * seq,
        ..event("relay:one", seq)
    }
}

fn telemetry(n: u64, value: f64) -> Input {
    let robot = RobotId::new(&format!("kiwi-{:02}", n % ROBOTS)).unwrap();
    Input::Telemetry(Envelope {
        message_type: MessageType::Telemetry,
        robot_id: robot,
        timestamp: Timestamp::from_ms(0),
        sequence: 0,
        clock: Clock::Synced,
        payload: lekiwi_protocol::message::Telemetry {
            metrics: [(MetricName::new("cpu_percent").unwrap(), value)].into(),
        },
    })
}

/// The pictures that a relay takes of the log up to `position`.
async fn pictures(store: &Store, position: u64, taken_ms: u64) -> Vec<Snapshot> {
    let mut fleet = Fleet::new(Policy::Open);
    let log = store.events(0, position as usize).await.unwrap();
    for stored in log.iter().filter(|stored| stored.position <= position) {
        let input = Input::Logged(stored.fact().unwrap());
        fleet.handle(Timestamp::from_ms(stored.event.received_ms), input);
        while fleet.poll_output().is_some() {}
    }
    for n in 0..ROBOTS {
        fleet.handle(Timestamp::from_ms(taken_ms), telemetry(n, position as f64));
    }
    let changed = fleet.take_changed().into_iter();
    changed
        .map(|picture| Snapshot {
            robot: picture.view.id.as_str().into(),
            position,
            taken_ms,
            picture: serde_json::to_string(&picture).unwrap(),
        })
        .collect()
}

fn json(views: impl Iterator<Item = RobotView>) -> String {
    serde_json::to_string_pretty(&views.collect::<Vec<_>>()).unwrap()
}

/// The fleet at that position, as people are told.
async fn shown(store: &Store, position: u64) -> String {
    match store.look_back(Moment::Position(position), None).await {
        Ok(LookedBack::Past(past, at)) => {
            assert_eq!(at, position);
            json(past.views())
        }
        other => panic!("expected the fleet at {position}, got {other:?}"),
    }
}

/// The same from the log alone.
async fn folded(store: &Store, position: u64) -> String {
    let mut past = Past::new(position);
    for stored in store.events(0, position as usize).await.unwrap() {
        past.fold(&stored.fact().unwrap());
    }
    json(past.views())
}

/// Without what only pictures know.
fn by_the_log(views: &str) -> Value {
    let mut views: Value = serde_json::from_str(views).unwrap();
    for view in views.as_array_mut().unwrap() {
        let view = view.as_object_mut().unwrap();
        view.remove("as_of");
        view.remove("resources");
        view.remove("resources_at");
        // A picture is a later word of the robot than the log has.
        view["status"].as_object_mut().unwrap().remove("last_seen");
        view["status"].as_object_mut().unwrap().remove("online");
        view["status"].as_object_mut().unwrap().remove("stale");
    }
    views
}

async fn write(
    store: &Store,
    commits: &mut tokio::sync::mpsc::Receiver<lekiwi_relay::store::records::Commit>,
    seqs: std::ops::RangeInclusive<u64>,
    snapshots: Vec<Snapshot>,
) {
    let events = seqs.map(written).collect();
    store.submit(Batch {
        events,
        snapshots,
        ..Batch::default()
    });
    committed(commits).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_has_the_fleet_of_its_position_to_the_byte() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        write(&store, &mut commits, 1..=500, Vec::new()).await;
        let taken_ms = 500_000;
        let kept = pictures(&store, 400, taken_ms).await;
        assert_eq!(kept.len() as u64, ROBOTS);
        write(&store, &mut commits, 501..=600, kept).await;
        let later = pictures(&store, 600, taken_ms + 1_000).await;
        let writing = {
            let store = store.clone();
            tokio::spawn(async move {
                for seq in 601..=1_000 {
                    // Pictures of the same hour: those of before are the ones to look back at.
                    let snapshots = if seq % 50 == 0 {
                        later.clone()
                    } else {
                        Vec::new()
                    };
                    let events = vec![written(seq)];
                    let batch = Batch {
                        events,
                        snapshots,
                        ..Batch::default()
                    };
                    assert!(store.submit(batch).is_empty());
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        tokio::spawn(async move { while commits.recv().await.is_some() {} });
        let file = place.dir.path().join("backup");
        let (location, target) = (place.location.clone(), file.clone());
        let backed_up = tokio::task::spawn_blocking(move || {
            backup::backup(&location, &target, &mut |_, _, _| ()).unwrap()
        });
        let position = backed_up.await.unwrap().position;
        writing.await.unwrap();
        until("all is written", async || {
            store.last_position().await.unwrap() == 1_000
        })
        .await;
        assert!((600..=1_000).contains(&position), "{position}");

        let (expected, by_log) = (
            shown(&store, position).await,
            folded(&store, position).await,
        );
        assert!(
            expected.contains(r#""picture_at": "1970-01-01T00:08:20.000Z""#),
            "{expected}"
        );
        assert_eq!(by_the_log(&expected), by_the_log(&by_log));
        store.close();
        for target in [Place::sqlite(), Place::postgres()] {
            let (file, location) = (file.clone(), target.location.clone());
            tokio::task::spawn_blocking(move || {
                backup::restore(&file, &location, &mut |_, _, _| ()).unwrap();
            })
            .await
            .unwrap();
            let (restored, _commits) = open(&target.location).await.unwrap();
            assert_eq!(restored.last_position().await.unwrap(), position);
            assert_eq!(shown(&restored, position).await, expected);
            assert_eq!(folded(&restored, position).await, by_log);
            restored.close();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_is_in_a_picture_first_and_nothing_else_changes() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        write(&store, &mut commits, 1..=60, Vec::new()).await;
        let mut before = Vec::new();
        for position in [30, 40] {
            let taken_ms = 1_000 * position + HOUR_MS * position;
            let snapshots = pictures(&store, position, taken_ms).await;
            write(
                &store,
                &mut commits,
                position + 31..=position + 40,
                snapshots,
            )
            .await;
        }
        for position in 40..=80 {
            before.push(shown(&store, position).await);
        }
        let rule = |kind: &str, before_ms| EventRetention {
            kind: kind.into(),
            before_ms,
        };
        // No picture is as old as that.
        store.forget_events(vec![rule("*", 29 * HOUR_MS)]);
        let gone = |all: &[lekiwi_relay::store::records::StoredEvent], name: &str| {
            !all.iter()
                .any(|stored| *stored.event.kind == *name && stored.position <= 40)
        };
        until("services are forgotten", async || {
            gone(&store.events(0, 100).await.unwrap(), kind::SERVICE_CHANGED)
        })
        .await;
        let left = store.events(0, 100).await.unwrap();
        let presence = |stored: &&lekiwi_relay::store::records::StoredEvent| {
            [kind::CONNECTED, kind::DISCONNECTED, kind::STALE].contains(&&*stored.event.kind)
        };
        let first = left.iter().find(presence).unwrap().position;
        assert!(
            first < 10,
            "the log's beginning is in a picture of later only: {first}"
        );

        store.forget_events(vec![rule("robot.*", 41 * HOUR_MS)]);
        until("presence is forgotten", async || {
            gone(&store.events(0, 100).await.unwrap(), kind::CONNECTED)
                && gone(&store.events(0, 100).await.unwrap(), kind::DISCONNECTED)
        })
        .await;
        let left = store.events(0, 100).await.unwrap();
        let next = left.iter().find(presence).unwrap().position;
        assert!(next > 40, "nothing that no picture has: {next}");
        assert!(
            left.iter()
                .any(|stored| *stored.event.kind == *kind::REGISTERED)
        );
        for (position, expected) in (40..).zip(&before) {
            if position == 40 && left.iter().all(|stored| stored.position != 40) {
                continue;
            }
            assert_eq!(shown(&store, position).await, *expected, "at {position}");
        }
        let earlier = store.look_back(Moment::Position(39), None).await.unwrap();
        let LookedBack::Gone(Some((begin, _))) = earlier else {
            panic!("expected to be refused, got {earlier:?}");
        };
        assert!((40..=41).contains(&begin), "{begin}");
        let later = store.look_back(Moment::Position(81), None).await.unwrap();
        assert!(matches!(later, LookedBack::NotYet(80)), "{later:?}");
        store.close();
    }
}

/// A relay that kept no pictures had forgotten how sessions ended; what it showed last is what later moments begin with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_forgotten_before_there_were_pictures_is_not_looked_back_at() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        write(&store, &mut commits, 1..=60, Vec::new()).await;
        let mut shown = pictures(&store, 60, 60_000).await;
        for snapshot in &mut shown {
            let mut picture: Value = serde_json::from_str(&snapshot.picture).unwrap();
            picture["view"]["status"]["connection"] = json!(ConnectionState::ConnectionBroken);
            snapshot.picture = picture["view"].to_string();
        }
        write(&store, &mut commits, 60..=60, shown).await;
        store.close();
        let version = match place.location {
            Location::Sqlite(_) => "PRAGMA user_version = 7",
            Location::Postgres(_) => "UPDATE lekiwi_schema SET version = 2",
        };
        // What later versions brought is not there yet.
        place.batch(&format!(
            "DELETE FROM pictures; DELETE FROM events WHERE type = 'robot.disconnected';
             DROP TABLE people; DROP TABLE rights; DROP TABLE robot_groups; DROP TABLE group_robots;
             DROP TABLE audit; DROP TABLE keys; DROP TABLE renewals; DROP TABLE consumer_reads;
             DROP TABLE second_factors; DROP TABLE recovery_codes; DROP TABLE invitations;
             ALTER TABLE sessions DROP COLUMN address; ALTER TABLE sessions DROP COLUMN agent; {version}"
        ));
        let (store, mut commits) = place.open().await;
        write(&store, &mut commits, 61..=61, Vec::new()).await;
        let gone = store.look_back(Moment::Position(59), None).await.unwrap();
        assert!(matches!(gone, LookedBack::Gone(Some((60, _)))), "{gone:?}");
        for position in [60, 61] {
            let then = store.look_back(Moment::Position(position), None).await;
            let LookedBack::Past(then, _) = then.unwrap() else {
                panic!("expected the fleet at {position}");
            };
            let connections: Vec<_> = then.views().map(|view| view.status.connection).collect();
            assert_eq!(connections, [ConnectionState::ConnectionBroken; 3]);
        }
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_is_the_last_event_by_then() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        let empty = store.look_back(Moment::Time(1), None).await.unwrap();
        assert!(matches!(empty, LookedBack::Gone(None)), "{empty:?}");
        write(&store, &mut commits, 1..=20, Vec::new()).await;
        let at = async |ms| match store.look_back(Moment::Time(ms), None).await.unwrap() {
            LookedBack::Past(_, position) => Some(position),
            LookedBack::Gone(Some((1, 1_000))) => None,
            other => panic!("expected a position, got {other:?}"),
        };
        assert_eq!(at(999).await, None);
        assert_eq!(at(1_000).await, Some(1));
        assert_eq!(at(7_999).await, Some(7));
        assert_eq!(at(u64::MAX).await, Some(20));
        // One robot is what it is among all.
        let one = Some("kiwi-01".to_owned());
        let alone = store.look_back(Moment::Position(9), one).await.unwrap();
        let all = store.look_back(Moment::Position(9), None).await.unwrap();
        let (LookedBack::Past(alone, _), LookedBack::Past(all, _)) = (alone, all) else {
            panic!("expected the past");
        };
        let id = RobotId::new("kiwi-01").unwrap();
        let view = alone.view(&id).unwrap();
        assert_eq!((alone.views().count(), all.views().count()), (1, 3));
        assert_eq!(Some(&view), all.view(&id).as_ref());
        assert_eq!(view.status.connection, ConnectionState::Online);
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_are_thinned_out_as_they_get_older() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        write(&store, &mut commits, 1..=1, Vec::new()).await;
        let day = 24 * HOUR_MS;
        // Twice an hour for a hundred days.
        let snapshots = (0..100 * 48).map(|n| Snapshot {
            robot: "kiwi-01".into(),
            position: n + 1,
            taken_ms: n * HOUR_MS / 2,
            picture: "{}".into(),
        });
        let snapshots: Vec<_> = snapshots.collect();
        // In parts, each of which is written in time.
        for (seq, part) in (2..).zip(snapshots.chunks(480)) {
            write(&store, &mut commits, seq..=seq, part.to_vec()).await;
        }
        store.close();
        let location = place.location.clone();
        let contents = tokio::task::spawn_blocking(move || {
            backup::verify_store(&location, &[], &mut |_, _, _| ()).unwrap()
        });
        let tables = contents.await.unwrap().tables;
        let pictures = tables
            .iter()
            .find(|table| table.name == "pictures")
            .unwrap();
        // The last week, hour by hour, and the last of each day before, back to the ninetieth.
        let last = 100 * day - HOUR_MS;
        let hourly = (last - (last - 7 * day)) / HOUR_MS + 1;
        let daily = 90 - 7;
        assert_eq!(pictures.rows, hourly + daily);
    }
}
