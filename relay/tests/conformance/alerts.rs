//! The past of alerts, and a robot's events with those of its alerts, are the log's and all of them.

use lekiwi_protocol::RobotId;
use lekiwi_protocol::message::kind;
use lekiwi_relay::store::Store;
use lekiwi_relay::store::records::{NewEvent, StoredEvent};
use lekiwi_relay_core::alerts::history::{About, Name, page};
use lekiwi_relay_core::alerts::{ALERT, ALERT_RECEIVER, ALERT_SILENCE};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Place, batch, committed, event};

/// Deliveries about others, after the ones that are asked for: more than is looked through at once.
const OTHERS: u64 = 10_500;

fn own(aggregate_type: &'static str, id: &str, kind: &str, data: Value) -> NewEvent {
    NewEvent {
        aggregate_type,
        aggregate_id: id.into(),
        kind: kind.into(),
        data: data.to_string().into(),
        ..event("relay:one", 0)
    }
}

/// What two rules found out about three robots, who was told, and what the robots said between.
fn written() -> Vec<NewEvent> {
    let mut events = Vec::new();
    for turn in 0..12_u64 {
        // Names that begin alike.
        for robot in ["kiwi-1", "kiwi-10", "xle-1"] {
            for rule in ["hot", "hot-2"] {
                let id = format!("{rule}:{robot}:{turn}");
                let about = json!({ "rule": rule, "robot_id": robot, "by": "ana" });
                events.push(own(ALERT, &id, kind::ALERT_FIRING, about.clone()));
                events.push(event(robot, 0));
                let told =
                    json!({ "receiver": "ops", "rule": rule, "firing": [id], "resolved": [] });
                events.push(own(
                    ALERT_RECEIVER,
                    "ops",
                    kind::ALERT_NOTIFIED,
                    told.clone(),
                ));
                if turn % 3 == 0 {
                    events.push(own(ALERT, &id, kind::ALERT_ACKNOWLEDGED, about.clone()));
                    events.push(own(ALERT_RECEIVER, "ops", kind::ALERT_UNDELIVERED, told));
                }
                events.push(own(ALERT, &id, kind::ALERT_RESOLVED, about));
            }
        }
        let silence = json!({
            "id": Uuid::from_u128(turn.into()), "matchers": { "robots": ["kiwi-1"] }, "since": "2026-11-21T12:00:00.000Z",
            "until": "2026-11-21T13:00:00.000Z", "by": "ana", "comment": "",
        });
        events.push(own(ALERT_SILENCE, "…", kind::ALERT_SILENCED, silence));
        // A robot may call its own events what it likes.
        let mut forged = event("kiwi-1", 0);
        forged.kind = kind::ALERT_FIRING.into();
        events.push(forged);
    }
    for n in 0..OTHERS {
        let told =
            json!({ "receiver": "ops", "firing": [format!("cold:far-1:{n}")], "resolved": [] });
        events.push(own(ALERT_RECEIVER, "ops", kind::ALERT_NOTIFIED, told));
    }
    for (seq, event) in events.iter_mut().enumerate() {
        event.seq = seq as u64 + 1;
    }
    events
}

/// All pages, as who asks for one after the other gets them.
async fn past(store: &Store, about: &About, limit: usize) -> Vec<u64> {
    let (mut positions, mut before) = (Vec::new(), u64::MAX);
    loop {
        let found = store
            .alert_events(about.clone(), before, limit)
            .await
            .unwrap();
        let entries = found
            .events
            .iter()
            .filter_map(|stored| about.entry(&stored.logged()));
        let (entries, next) = page(about, entries.collect(), found.down_to, limit);
        assert!(entries.len() <= limit);
        positions.extend(entries.iter().map(|entry| entry.position));
        match next {
            Some(next) => {
                assert!(next < before, "each page is before the last one");
                before = next;
            }
            None => return positions,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_of_alerts_is_told_whole_and_page_by_page() {
    let robot = |id: &str| RobotId::new(id).unwrap();
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        store.submit(batch(written()));
        committed(&mut commits).await;
        let log = store.events(0, usize::MAX).await.unwrap();
        let is_relays = |stored: &&StoredEvent| stored.event.aggregate_type != "robot";
        let of_robot = |id: &str| About {
            robot: Some(robot(id)),
            ..About::default()
        };
        let of_rule = |name: &str| About {
            rule: Some(name.parse().unwrap()),
            ..About::default()
        };
        for about in [
            of_robot("kiwi-1"),
            of_robot("kiwi-10"),
            of_robot("none"),
            of_rule("hot"),
            About {
                robot: Some(robot("kiwi-1")),
                ..of_rule("hot-2")
            },
            About {
                alert: Name::parse("hot:kiwi-1:3"),
                ..About::default()
            },
        ] {
            let fits = |stored: &&StoredEvent| about.entry(&stored.logged()).is_some();
            let all = log.iter().filter(is_relays).filter(fits);
            let mut all: Vec<u64> = all.map(|stored| stored.position).collect();
            all.reverse();
            for limit in [3, 1_000] {
                let told = past(&store, &about, limit).await;
                if about.alert.is_none() {
                    assert_eq!(told, all, "{about:?}");
                } else {
                    // What was silenced before its end, and not what was afterwards.
                    assert_eq!(told.len(), 5 + 3, "{told:?}");
                    assert!(told.iter().all(|position| all.contains(position)));
                }
            }
        }
        assert_eq!(
            past(&store, &About::default(), 1_000).await.len() as u64,
            OTHERS + 12 * 19 + 4 * 12
        );
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_robots_pages_have_its_events_and_those_of_its_alerts() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        store.submit(batch(written()));
        let end = committed(&mut commits).await.events.len() as u64;
        let log = store.events(0, usize::MAX).await.unwrap();
        for id in ["kiwi-1", "kiwi-10", "none"] {
            let is_told =
                |stored: &&StoredEvent| stored.told_as().is_some_and(|robot| robot.as_str() == id);
            let all: Vec<u64> = log
                .iter()
                .filter(is_told)
                .map(|stored| stored.position)
                .collect();
            for limit in [1, 7, 1_000] {
                let (mut told, mut after) = (Vec::new(), 0);
                loop {
                    let page = store.page(Some(id), after, limit).await.unwrap();
                    told.extend(page.events.iter().map(|stored| stored.position));
                    assert!(page.whole || page.position > after);
                    after = page.position;
                    if page.whole {
                        break;
                    }
                }
                assert_eq!(
                    (told.as_slice(), after),
                    (all.as_slice(), end),
                    "{id} by {limit}"
                );
            }
        }
        store.close();
    }
}
