//! Who did what, as every store keeps it: one chain, whoever writes, and nothing in it is changed unnoticed.

use std::collections::BTreeMap;

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::audit::{Broken, Mark};
use lekiwi_relay::audit::{Notary, NotaryError};
use lekiwi_relay::store::backup::{self, BackupError};
use lekiwi_relay::store::{AuditQuery, NewEntry, Store};

use super::Place;

pub(crate) fn entry(number: u64) -> NewEntry {
    NewEntry {
        at_ms: 1_000 + number,
        who: format!(
            "person:{}",
            if number.is_multiple_of(2) {
                "ada"
            } else {
                "bob"
            }
        ),
        address: "192.0.2.7".into(),
        action: "robot-command",
        on: format!("robots/kiwi-0{}/commands", number % 3),
        outcome: "done",
        trace: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        detail: BTreeMap::from([("op".to_owned(), "reboot".to_owned())]),
    }
}

async fn record(store: &Store, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(store.record(entry(number)).await.unwrap(), number);
    }
}

/// How the chain is, as the command line looks at it.
async fn check(place: &Place, marks: &[Mark]) -> Result<u64, Broken> {
    let (location, marks) = (place.location.clone(), marks.to_vec());
    let found = tokio::task::spawn_blocking(move || {
        backup::verify_store(&location, &marks, &mut |_, _, _| ())
    });
    match found.await.unwrap() {
        Ok(found) => {
            let table = found.tables.iter().find(|table| table.name == "audit");
            Ok(table.unwrap().rows)
        }
        Err(BackupError::Audit { source, .. }) => Err(source),
        Err(other) => panic!("{other:?}"),
    }
}

/// Reads the store beside the test's own threads.
async fn batch(place: &Place, sql: &str) {
    tokio::task::block_in_place(|| place.batch(sql));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_changed_in_the_audit_is_found() {
    const ROWS: u64 = 5;
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        record(&store, 1..=ROWS).await;
        assert_eq!(check(&place, &[]).await, Ok(ROWS));
        batch(&place, "CREATE TABLE kept AS SELECT * FROM audit").await;
        let letter = |column: &str| {
            format!("{column} = substr({column}, 1, 2) || '_' || substr({column}, 4)")
        };
        let texts = [
            "who", "address", "action", "subject", "outcome", "trace", "detail",
        ];
        let mut changes: Vec<String> = texts.iter().map(|column| letter(column)).collect();
        changes.extend([
            "number = number + 100".to_owned(),
            "number = -number".to_owned(),
            "at = at + 1".to_owned(),
            "at = -at".to_owned(),
            "detail = detail || ' '".to_owned(),
            "who = who || substr(address, 1, 1), address = substr(address, 2)".to_owned(),
            "hash = (SELECT hash FROM audit other WHERE other.number = (audit.number % 5) + 1)"
                .to_owned(),
        ]);
        for number in 1..=ROWS {
            let mut tampered: Vec<String> = changes
                .iter()
                .map(|change| format!("UPDATE audit SET {change} WHERE number = {number}"))
                .collect();
            if number < ROWS {
                tampered.push(format!("DELETE FROM audit WHERE number = {number}"));
                // Two entries in each other's place.
                let next = number + 1;
                tampered.push(format!(
                    "UPDATE audit SET number = 900 WHERE number = {number};
                     UPDATE audit SET number = {number} WHERE number = {next};
                     UPDATE audit SET number = {next} WHERE number = 900"
                ));
            }
            // Another entry between two.
            tampered.push(format!(
                "INSERT INTO audit SELECT {ROWS} + 1, at, who, address, action, subject, outcome, trace, detail, hash
                 FROM audit WHERE number = {number}"
            ));
            for sql in tampered {
                batch(&place, &sql).await;
                assert!(check(&place, &[]).await.is_err(), "not found: {sql}");
                batch(
                    &place,
                    "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept",
                )
                .await;
            }
        }
        assert_eq!(check(&place, &[]).await, Ok(ROWS));
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_writers_there_is_one_chain() {
    const EACH: u64 = 150;
    for place in Place::of_each_kind() {
        let (one, _first) = place.open().await;
        let (two, _second) = place.open().await;
        let write = async |store: &Store| {
            let mut numbers = Vec::new();
            for number in 0..EACH {
                numbers.push(store.record(entry(number)).await.unwrap());
            }
            numbers
        };
        let (mut numbers, others, more) = tokio::join!(write(&one), write(&two), write(&two));
        numbers.extend(others);
        numbers.extend(more);
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=3 * EACH).collect::<Vec<_>>());
        assert_eq!(check(&place, &[]).await, Ok(3 * EACH));
        one.close();
        two.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_found_by_what_they_say() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        record(&store, 1..=9).await;
        let find = async |query: AuditQuery| -> Vec<u64> {
            let found = store.audit(query, 100).await.unwrap();
            found.iter().map(|entry| entry.number).collect()
        };
        let all = AuditQuery::default();
        let who = Some("person:ada".to_owned());
        assert_eq!(find(AuditQuery { who, ..all.clone() }).await, [2, 4, 6, 8]);
        let robot = Some("kiwi-01".to_owned());
        assert_eq!(
            find(AuditQuery {
                robot,
                ..all.clone()
            })
            .await,
            [1, 4, 7]
        );
        // A robot of which the other's name is the beginning.
        let robot = Some("kiwi-0".to_owned());
        assert!(
            find(AuditQuery {
                robot,
                ..all.clone()
            })
            .await
            .is_empty()
        );
        let times = AuditQuery {
            from_ms: Some(1_003),
            to_ms: Some(1_006),
            newest_first: true,
            ..all.clone()
        };
        assert_eq!(find(times).await, [5, 4, 3]);
        let action = Some("login".to_owned());
        assert!(
            find(AuditQuery {
                action,
                ..all.clone()
            })
            .await
            .is_empty()
        );
        let between = AuditQuery {
            after: 3,
            before: Some(6),
            ..all
        };
        assert_eq!(find(between).await, [4, 5]);
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_goes_and_the_rest_is_still_a_chain() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        record(&store, 1..=8).await;
        let prune = async |before| {
            let relay = "relay:r1".to_owned();
            store.prune_audit(before, 5_000, relay).await.unwrap()
        };
        assert_eq!(prune(1_001).await, 0);
        assert_eq!(prune(1_004).await, 3);
        // Five entries, and the one that says that three went.
        assert_eq!(check(&place, &[]).await, Ok(6));
        assert_eq!(prune(1_006).await, 2);
        assert_eq!(check(&place, &[]).await, Ok(5));
        // All of it goes but what says so.
        assert_eq!(prune(9_000).await, 0, "nothing would stay to begin with");
        assert_eq!(prune(5_000).await, 3);
        assert_eq!(check(&place, &[]).await, Ok(3));
        let first = store.audit(AuditQuery::default(), 1).await.unwrap();
        assert_eq!(
            (first[0].number, first[0].action.as_str()),
            (9, "audit-prune")
        );
        batch(&place, "DELETE FROM audit WHERE number = 9").await;
        assert_eq!(check(&place, &[]).await, Err(Broken::Start(10)));
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_signed_cannot_be_cut_off_or_written_anew() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        let folder = place.dir.path().join("audit");
        let notary = Notary::open_or_create(&folder).unwrap();
        let now = Timestamp::from_ms(9_000);
        let sign = async || notary.checkpoint(&store, now).await;
        sign().await.unwrap();
        record(&store, 1..=6).await;
        let signed = sign().await.unwrap();
        assert_eq!(signed.key, notary.key().to_string());
        let marks = Notary::marks(&folder).unwrap();
        assert_eq!(marks[0].number, 6);
        // The same key, whoever opens it.
        let again = Notary::open_or_create(&folder).unwrap();
        assert_eq!(again.key(), notary.key());

        batch(&place, "CREATE TABLE kept AS SELECT * FROM audit").await;
        let broken = |refused: Result<_, NotaryError>| match refused {
            Err(NotaryError::Broken(broken)) => broken,
            other => panic!("expected a broken chain, got {other:?}"),
        };
        let short = |got| Broken::Short { expected: 6, got };
        batch(&place, "DELETE FROM audit WHERE number > 4").await;
        assert_eq!(check(&place, &[]).await, Ok(4), "a chain, only shorter");
        assert_eq!(check(&place, &marks).await, Err(short(4)));
        assert_eq!(broken(sign().await), short(4));
        batch(&place, "DELETE FROM audit").await;
        assert_eq!(broken(sign().await), short(0));
        // As many entries again, by somebody who can compute hashes.
        for number in 1..=7 {
            let mut forged = entry(number);
            forged.who = "person:eve".into();
            store.record(forged).await.unwrap();
        }
        assert_eq!(check(&place, &[]).await, Ok(7));
        assert_eq!(check(&place, &marks).await, Err(Broken::Mark(6)));
        assert_eq!(broken(sign().await), Broken::Mark(6));
        // What was signed stays what it was.
        assert_eq!(Notary::marks(&folder).unwrap(), marks);
        batch(
            &place,
            "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept",
        )
        .await;
        record(&store, 7..=7).await;
        sign().await.unwrap();
        assert_eq!(Notary::marks(&folder).unwrap()[0].number, 7);
        // What was signed is forgotten with what is old.
        let relay = "relay:r1".to_owned();
        record(&store, 8..=8).await;
        store.prune_audit(1_008, 9_001, relay).await.unwrap();
        sign().await.unwrap();

        let path = folder.join("checkpoint.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\\\"number\\\":9", "\\\"number\\\":1")).unwrap();
        assert!(matches!(sign().await, Err(NotaryError::Damaged { .. })));
        Notary::set_aside(&folder).unwrap();
        sign().await.unwrap();
        store.close();
    }
}
