//! What every store promises of everything but the log: identity, history, refused messages, pictures.

use std::sync::atomic::{AtomicU64, Ordering};

use lekiwi_protocol::access::Reads;
use lekiwi_protocol::{ConsumerName, Role, Timestamp, UserName};
use lekiwi_relay::store::records::{
    Certificate, CertificateKind, Credential, Key, NewBacklog, NewSample, Redemption, Refused,
    Session, Snapshot, Token,
};
use lekiwi_relay::store::{Batch, backup};
use lekiwi_relay_core::history::Retention;
use lekiwi_relay_core::history::query::{Plan, Range};
use lekiwi_relay_core::policy::{Right, Source};
use uuid::Uuid;

use super::log::seqs;
use super::{Place, batch, committed, event, until};

pub(crate) fn certificate(serial: &str, name: &str, key: u8) -> Certificate {
    Certificate {
        serial: serial.into(),
        common_name: name.into(),
        kind: CertificateKind::Robot,
        key: [key; 32],
        not_before_ms: 0,
        not_after_ms: 10_000,
        revoked_ms: None,
        der: vec![0, 1, 2, 255],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_outlives_the_process() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        let session = Session {
            hash: [1; 32],
            user: "admin".into(),
            created_ms: 1,
            expires_ms: 100,
            address: "127.0.0.1".into(),
            agent: "curl".into(),
        };
        store.insert_session(session.clone()).await.unwrap();
        let credential = |hash: &str| Credential {
            user: "admin".into(),
            hash: hash.into(),
        };
        assert!(!store.set_credential(credential("a")).await.unwrap());
        let admin = || UserName::new("admin").unwrap();
        let hash = Some("b".to_owned());
        assert!(store.add_person(admin(), hash, vec![], 1).await.unwrap());
        assert!(!store.add_person(admin(), None, vec![], 2).await.unwrap());
        assert!(store.set_credential(credential("c")).await.unwrap());
        for (serial, name, key) in [
            ("aa", "kiwi-01", 1),
            ("bb", "kiwi-01", 2),
            ("cc", "kiwi-02", 3),
        ] {
            store
                .insert_certificate(certificate(serial, name, key))
                .await
                .unwrap();
        }
        assert_eq!(store.revoke_certificate("cc", 7).await.unwrap(), ["cc"]);
        assert!(store.revoke_certificate("cc", 8).await.unwrap().is_empty());
        let mut revoked = store.revoke_all("kiwi-01", 9).await.unwrap();
        revoked.sort();
        assert_eq!(revoked, ["aa", "bb"]);
        store.close();
        let (store, _commits) = place.open().await;
        assert_eq!(store.session(&[1; 32], 99), Some(session));
        assert_eq!(store.session(&[1; 32], 100), None);
        assert_eq!(
            store.credential("admin").await.unwrap(),
            Some(credential("c"))
        );
        assert_eq!(store.credential("root").await.unwrap(), None);
        assert!(store.certificate_status("cc").unwrap().revoked);
        assert_eq!(
            store.certificate("cc").await.unwrap(),
            Some(Certificate {
                revoked_ms: Some(7),
                ..certificate("cc", "kiwi-02", 3)
            })
        );
        assert_eq!(store.certificates_of("kiwi-01").await.unwrap().len(), 2);
        assert_eq!(store.expire_sessions(100).await.unwrap(), 1);
        assert_eq!(store.session(&[1; 32], 0), None);
        assert!(!store.delete_session([1; 32]).await.unwrap());
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_outlive_the_process_and_end_with_their_group() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        let ada = || UserName::new("ada").unwrap();
        let key = |hash: u8, on: &str| Key {
            id: Uuid::from_u128(hash.into()),
            owner: ada(),
            name: "ci".into(),
            note: "nightly".into(),
            right: Right {
                permissions: Role::Operator.permissions(),
                on: on.parse().unwrap(),
                until: Some(Timestamp::from_ms(100)),
                source: Source::Key,
            },
            hash: [hash; 32],
            old: None,
            created_ms: 1,
            expires_ms: 100,
            used_ms: AtomicU64::default(),
        };
        // Of nobody, there is none.
        assert!(!store.insert_key(key(1, "fleet"), 2).await.unwrap());
        assert!(store.add_person(ada(), None, vec![], 1).await.unwrap());
        assert!(store.insert_key(key(1, "fleet"), 2).await.unwrap());
        let on = "group:warehouse";
        assert!(store.insert_key(key(2, on), 2).await.unwrap());
        assert!(!store.insert_key(key(3, "fleet"), 2).await.unwrap());
        let rotate = |shown, hash, until| store.rotate_key(Uuid::from_u128(1), shown, hash, until);
        assert!(!rotate([9; 32], [4; 32], 50).await.unwrap());
        assert!(rotate([1; 32], [4; 32], 50).await.unwrap());
        let alerts = Reads::parse(&["alerts/+".to_owned()]).unwrap();
        let wall = || ConsumerName::new("wall").unwrap();
        store.set_reads(wall(), alerts.clone()).await.unwrap();
        let used = store.key(&[4; 32], 7).unwrap();
        store.note_use(&used, 60_000);
        store.close();
        let (store, _commits) = place.open().await;
        let old = store.key(&[1; 32], 49).unwrap();
        assert_eq!(old.right, key(1, "fleet").right);
        assert_eq!((old.name.as_str(), old.note.as_str()), ("ci", "nightly"));
        assert_eq!(old.used_ms.load(Ordering::Relaxed), 60_000);
        assert!(store.key(&[1; 32], 50).is_none());
        assert!(store.key(&[4; 32], 99).is_some() && store.key(&[4; 32], 100).is_none());
        assert_eq!(store.reads(&wall()), alerts);
        store.set_reads(wall(), Reads::default()).await.unwrap();
        assert_eq!(store.reads(&wall()), Reads::default());
        let warehouse = "warehouse".parse().unwrap();
        store.remove_group(warehouse).await.unwrap();
        assert!(store.key(&[2; 32], 7).is_none() && store.key(&[4; 32], 7).is_some());
        assert_eq!(store.expire_keys(100).await.unwrap(), 1);
        assert!(store.key(&[4; 32], 7).is_none());
        store.close();
    }
}

pub(crate) fn token(max_uses: u32) -> Token {
    Token {
        id: "t1".into(),
        hash: [9; 32],
        profile: Some("lekiwi".into()),
        serial: None,
        robot: None,
        created_ms: 1,
        expires_ms: 2,
        max_uses,
        uses: 0,
        used_ms: None,
        used_by: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_in_as_many_keys_as_it_should() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        store.insert_token(token(2)).await.unwrap();
        assert_eq!(store.token_by_hash([9; 32]).await.unwrap(), Some(token(2)));
        let redeem = async |id: &str, certificate: Certificate, replaces, now| {
            store.redeem(id, certificate, replaces, now).await.unwrap()
        };
        assert_eq!(
            redeem("t1", certificate("aa", "kiwi-01", 1), false, 5).await,
            Redemption::Issued
        );
        assert_eq!(
            redeem("t1", certificate("bb", "kiwi-01", 1), false, 6).await,
            Redemption::Again(certificate("aa", "kiwi-01", 1))
        );
        assert_eq!(
            redeem("t1", certificate("cc", "kiwi-01", 2), false, 7).await,
            Redemption::Taken
        );
        assert_eq!(
            redeem("t1", certificate("dd", "kiwi-01", 2), true, 8).await,
            Redemption::Issued
        );
        assert!(store.certificate_status("aa").unwrap().revoked);
        assert_eq!(store.replaced_by("dd").await.unwrap(), Some("aa".into()));
        assert_eq!(
            redeem("t1", certificate("ee", "kiwi-03", 3), false, 9).await,
            Redemption::UsedUp {
                max_uses: 2,
                last_ms: 8
            }
        );
        assert_eq!(
            redeem("t2", certificate("ff", "kiwi-03", 3), false, 9).await,
            Redemption::Unknown
        );
        assert!(store.has_used("t1", [1; 32]).await.unwrap());
        assert!(!store.has_used("t1", [3; 32]).await.unwrap());
        let used = &store.tokens().await.unwrap()[0];
        assert_eq!(
            (used.uses, used.used_ms, used.used_by.as_deref()),
            (2, Some(5), Some("kiwi-01"))
        );
        assert!(store.delete_token("t1").await.unwrap());
        assert!(!store.delete_token("t1").await.unwrap());
        // The uses went with it.
        assert!(!store.has_used("t1", [1; 32]).await.unwrap());
        store.close();
    }
}

/// The first of January 2026.
pub(crate) const JANUARY: u64 = 1_767_225_600_000;

pub(crate) const DAY: u64 = 86_400_000;

pub(crate) fn sample(metric: &str, ts_ms: u64, value: f64) -> NewSample {
    NewSample {
        robot: "kiwi-01".into(),
        metric: metric.into(),
        ts_ms,
        value,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_given_newest_first_and_old_parts_are_deleted() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        // A hundred days, so several months, one value an hour.
        let times: Vec<u64> = (0..2_400).map(|hour| JANUARY + hour * DAY / 24).collect();
        let samples = times
            .iter()
            .flat_map(|ts| {
                [
                    sample("cpu_percent", *ts, *ts as f64),
                    sample("disk_percent", *ts, 1.5),
                ]
            })
            .collect();
        store.submit(Batch {
            samples,
            ..Batch::default()
        });
        let read = async |metric: &str, from, to, limit| {
            let samples = store
                .telemetry("kiwi-01", metric, from, to, limit)
                .await
                .unwrap();
            samples.into_iter().map(|s| s.ts_ms).collect::<Vec<_>>()
        };
        until("written", async || {
            !read("disk_percent", 0, u64::MAX, 1).await.is_empty()
        })
        .await;
        assert_eq!(read("cpu_percent", 0, u64::MAX, 3).await, times[2_397..]);
        assert_eq!(
            read("cpu_percent", times[10], times[20], 100).await,
            times[10..20]
        );
        assert_eq!(read("other", 0, u64::MAX, 1).await, [0; 0]);
        // Of a hundred days the last twenty-two, today not counted.
        let kept = Retention {
            raw_days: 22,
            minute_days: 22,
            quarter_days: 22,
            hour_days: 22,
        };
        store.keep_history(kept, JANUARY + 100 * DAY);
        let first = (100 - 22) * 24;
        until("expired", async || {
            read("cpu_percent", 0, u64::MAX, 10_000).await == times[first..]
        })
        .await;
        until("the other metric too", async || {
            read("disk_percent", 0, u64::MAX, 10_000).await == times[first..]
        })
        .await;
        // There is room again where all was forgotten. Until the walk is over it may forget what is written again.
        until("written again", async || {
            store.submit(Batch {
                samples: vec![sample("cpu_percent", JANUARY, 3.0)],
                ..Batch::default()
            });
            read("cpu_percent", 0, JANUARY + 1, 10).await == [JANUARY]
        })
        .await;
        assert_eq!(
            store.metrics_of_robot("kiwi-01").await.unwrap(),
            ["cpu_percent", "disk_percent"]
        );
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_reads_the_same_before_and_after_it_is_packed() {
    const NOW: u64 = JANUARY + 33 * DAY + DAY / 2;
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        // Four days and a half, around the end of a month.
        let samples = (0..6_480).map(|n| {
            let ts_ms = NOW - 9 * DAY / 2 + n * 60_000 + n % 13;
            sample("cpu_percent", ts_ms, (n as f64 / 700.0).sin())
        });
        store.submit(Batch {
            samples: samples.collect(),
            ..Batch::default()
        });
        let everything = async || {
            let mut answers = Vec::new();
            for (length, points) in [(DAY, 2_000), (3 * DAY, 300), (5 * DAY, 100), (40 * DAY, 50)] {
                let range = Range {
                    from_ms: NOW - length,
                    to_ms: NOW,
                    points,
                    aggregate: None,
                };
                let plan = Plan::new(range, &Retention::default(), NOW);
                let metrics = vec!["cpu_percent".to_owned(), "none".to_owned()];
                answers.push(store.history("kiwi-01", metrics, plan).await.unwrap());
            }
            let newest = store.telemetry("kiwi-01", "cpu_percent", 0, u64::MAX, 5_000);
            (answers, newest.await.unwrap())
        };
        until("written", async || everything().await.1.len() == 5_000).await;
        let before = everything().await;
        let rows = async || {
            let location = place.location.clone();
            let found = tokio::task::spawn_blocking(move || {
                backup::verify_store(&location, &[], &mut |_, _, _| ()).unwrap()
            });
            let tables = found.await.unwrap().tables;
            ["telemetry", "telemetry_blocks"].map(|name| {
                let table = tables.iter().find(|table| table.name == name);
                table.unwrap().rows
            })
        };
        assert_eq!(rows().await, [6_480, 0]);
        store.keep_history(Retention::default(), NOW);
        // Today's rows, and a block of each level for each other day.
        until("packed", async || rows().await == [720, 4 * 4]).await;
        assert_eq!(everything().await, before);
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_samples_are_acknowledged_and_replace() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        let late = |seqs: &[u64], samples: Vec<NewSample>| Batch {
            backlogs: vec![NewBacklog {
                source: "kiwi-01".into(),
                stream: Uuid::from_u128(5),
                seqs: seqs.to_vec(),
                samples,
            }],
            ..Batch::default()
        };
        let samples = vec![
            sample("cpu_percent", JANUARY, 1.0),
            sample("cpu_percent", JANUARY, 2.0),
        ];
        for value in [2.0, 3.0] {
            let mut samples = samples.clone();
            samples[1].value = value;
            store.submit(late(&[1, 2], samples));
            assert_eq!(committed(&mut commits).await.acks[0].ranges, [[1, 2]]);
            let kept = store
                .telemetry("kiwi-01", "cpu_percent", 0, u64::MAX, 9)
                .await
                .unwrap();
            assert_eq!(kept.iter().map(|s| s.value).collect::<Vec<_>>(), [value]);
        }
        // Nothing of it was of use, and it is over for the robot all the same.
        store.submit(late(&[3], Vec::new()));
        assert_eq!(committed(&mut commits).await.acks[0].ranges, [[3, 3]]);
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_messages_are_bounded() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        let refused = (0..1_205_u64).map(|at_ms| Refused {
            at_ms,
            client: "nobody\0".into(),
            topic: "fleet/#".into(),
            kind: "malformed",
            reason: "expected JSON, got \0".into(),
            payload: vec![0, 159, 146, 150],
            payload_bytes: 4,
        });
        store.submit(Batch {
            refused: refused.collect(),
            ..Batch::default()
        });
        until("kept", async || !store.refused(1).await.unwrap().is_empty()).await;
        let kept = store.refused(5_000).await.unwrap();
        assert_eq!(kept.len(), 1_000);
        assert_eq!((kept[0].at_ms, kept[999].at_ms), (1_204, 205));
        assert_eq!(kept[0].payload, [0, 159, 146, 150]);
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_never_go_back() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        for (position, picture) in [(5, "old"), (9, "new"), (5, "late")] {
            store.submit(Batch {
                snapshots: vec![Snapshot {
                    robot: "kiwi-01".into(),
                    position,
                    taken_ms: position,
                    picture: picture.into(),
                }],
                // So that there is something to wait for.
                ..batch([event("kiwi-01", position + picture.len() as u64)])
            });
            committed(&mut commits).await;
        }
        let kept = store.snapshots().await.unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].position, kept[0].picture.as_str()), (9, "new"));
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_undoes_itself_alone() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        store
            .insert_certificate(certificate("aa", "kiwi-01", 1))
            .await
            .unwrap();
        let again = store.insert_certificate(certificate("aa", "kiwi-02", 2));
        store.submit(batch([event("kiwi-01", 1)]));
        let other = store.insert_certificate(certificate("bb", "kiwi-02", 2));
        let (again, other) = tokio::join!(again, other);
        assert_eq!(
            again.unwrap_err().to_string(),
            "the store could not carry out a statement"
        );
        other.unwrap();
        assert_eq!(seqs(&committed(&mut commits).await.events), [1]);
        assert_eq!(
            &*store.certificate_status("aa").unwrap().common_name,
            "kiwi-01"
        );
        store.close();
    }
}
