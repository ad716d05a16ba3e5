//! What every store promises of certificates that take the place of others.

use lekiwi_relay::store::Store;
use lekiwi_relay::store::records::{Certificate, NewEvent, Renewal};

use super::rows::certificate;
use super::{Place, event};

fn renewed(certificate: &Certificate, renews: &str) -> NewEvent {
    NewEvent {
        aggregate_id: certificate.common_name.as_str().into(),
        ..event(&format!("{renews} to {}", certificate.serial), 1)
    }
}

/// Asks for `serial` with `renews`, with a key of its own.
async fn ask(store: &Store, name: &str, renews: &str, serial: &str) -> Renewal {
    let key = serial.bytes().next().unwrap();
    let fresh = certificate(serial, name, key);
    store.renew(renews, fresh, 10).await.unwrap()
}

/// Those of `serials` that count.
fn standing<'a>(store: &Store, serials: &[&'a str]) -> Vec<&'a str> {
    let counts = |serial: &&str| !store.certificate_status(serial).unwrap().revoked;
    serials.iter().copied().filter(counts).collect()
}

/// What the robot has in use.
fn in_use(store: &Store, robot: &str) -> Option<String> {
    let in_use = store.certificates_in_use();
    in_use.get(robot).map(|it| it.serial.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_ends_what_it_renews_when_it_is_used() {
    for place in Place::of_each_kind() {
        let (store, mut commits) = place.open().await;
        let changes = *store.identity_changes().borrow();
        for (serial, name, key) in [("aa", "kiwi-01", 1), ("dd", "kiwi-02", 9)] {
            let first = certificate(serial, name, key);
            store.insert_certificate(first).await.unwrap();
        }
        assert!(*store.identity_changes().borrow() > changes);
        let fresh = |serial, key| certificate(serial, "kiwi-01", key);
        let is_unused = |serial| store.certificate_status(serial).unwrap().is_unused;
        let is_revoked = |serial| store.certificate_status(serial).unwrap().revoked;
        let first = store.renew("aa", fresh("b1", 2), 10).await.unwrap();
        assert_eq!(first, Renewal::Issued);
        // The answer was lost.
        let again = store.renew("aa", fresh("b2", 2), 11).await.unwrap();
        assert_eq!(again, Renewal::Again(fresh("b1", 2)));
        // So was the key.
        let other = store.renew("aa", fresh("b3", 3), 12).await.unwrap();
        assert_eq!(other, Renewal::Issued);
        assert!(is_revoked("b1") && !is_revoked("b3") && is_unused("b3") && !is_revoked("aa"));

        assert!(!store.promote("b1", renewed, 20).await.unwrap(), "revoked");
        assert!(
            !store.promote("aa", renewed, 20).await.unwrap(),
            "renews none"
        );
        assert_eq!(in_use(&store, "kiwi-01").as_deref(), Some("aa"));
        assert!(store.promote("b3", renewed, 21).await.unwrap());
        assert_eq!(in_use(&store, "kiwi-01").as_deref(), Some("b3"));
        assert_eq!(in_use(&store, "kiwi-02").as_deref(), Some("dd"));
        assert!(!store.promote("b3", renewed, 22).await.unwrap(), "once");
        assert!(is_revoked("aa") && !is_unused("b3") && !is_revoked("dd"));
        let logged = commits.recv().await.unwrap().events;
        assert_eq!(logged.len(), 1);
        assert_eq!(&*logged[0].event.aggregate_id, "kiwi-01");
        let late = store.renew("aa", fresh("b4", 4), 23).await.unwrap();
        assert_eq!(late, Renewal::Ended);
        assert_eq!(
            store.revoked(0).await.unwrap(),
            [("aa".to_owned(), 21), ("b1".to_owned(), 12)]
        );

        // The same after a restart, of which the index is made from the tables.
        let next = store.renew("b3", fresh("c1", 5), 30).await.unwrap();
        assert_eq!(next, Renewal::Issued);
        store.close();
        let (store, _commits) = place.open().await;
        let status = |serial| store.certificate_status(serial).unwrap();
        assert!(status("c1").is_unused && !status("b3").is_unused && status("aa").revoked);
        let standing = store.identities(Some("kiwi-01".to_owned())).await.unwrap();
        let told: Vec<_> = standing
            .iter()
            .map(|it| {
                (
                    &*it.certificate.serial,
                    it.renews.as_deref(),
                    it.is_unused,
                    it.is_replaced,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("aa", None, false, true),
                ("b1", Some("aa"), true, false),
                ("b3", Some("aa"), false, false),
                ("c1", Some("b3"), true, false),
            ]
        );
        assert_eq!(in_use(&store, "kiwi-01").as_deref(), Some("b3"));
        let mut revoked = store.revoke_certificate("b3", 40).await.unwrap();
        revoked.sort_unstable();
        assert_eq!(revoked, ["b3", "c1"]);
        assert_eq!(in_use(&store, "kiwi-01"), None);

        // Nobody fills the disk by asking.
        for n in 0..100_u8 {
            let fresh = certificate(&format!("e{n}"), "kiwi-02", n.wrapping_add(100));
            let renewal = store.renew("dd", fresh, 50).await.unwrap();
            let expected = if n < 60 {
                Renewal::Issued
            } else {
                Renewal::TooMany
            };
            assert_eq!(renewal, expected, "{n}");
        }
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_while_a_certificate_takes_its_place_counts() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        // Both orders in which they may be written.
        for (name, a, b, c, is_asked_first) in [
            ("kiwi-01", "a1", "b1", "c1", true),
            ("kiwi-02", "a2", "b2", "c2", false),
        ] {
            let first = certificate(a, name, 1);
            store.insert_certificate(first).await.unwrap();
            assert_eq!(ask(&store, name, a, b).await, Renewal::Issued);
            let (is_promoted, asked) = if is_asked_first {
                let (asked, promoted) =
                    tokio::join!(ask(&store, name, b, c), store.promote(b, renewed, 20));
                (promoted.unwrap(), asked)
            } else {
                tokio::join!(
                    async { store.promote(b, renewed, 20).await.unwrap() },
                    ask(&store, name, b, c)
                )
            };
            assert!(is_promoted && asked == Renewal::Issued);
            assert_eq!(standing(&store, &[a, b, c]), [b, c], "{is_asked_first}");
            assert!(store.promote(c, renewed, 30).await.unwrap());
            assert_eq!(standing(&store, &[a, b, c]), [c]);
        }
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unused_certificates_stand_and_fall_with_what_they_were_asked_for_with() {
    let chain = ["a", "b", "c", "d"];
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        let begin = async |name: &str| {
            let serials = chain.map(|letter| format!("{letter}{}", &name[5..]));
            let first = certificate(&serials[0], name, 1);
            store.insert_certificate(first).await.unwrap();
            for pair in serials.windows(2) {
                let asked = ask(&store, name, &pair[0], &pair[1]).await;
                assert_eq!(asked, Renewal::Issued);
            }
        };
        for name in ["kiwi-01", "kiwi-02", "kiwi-03"] {
            begin(name).await;
        }
        // Whichever is used ends those before it, and none after it; one that is late ends nothing.
        assert!(store.promote("b01", renewed, 20).await.unwrap());
        let all = ["a01", "b01", "c01", "d01"];
        assert_eq!(standing(&store, &all), ["b01", "c01", "d01"]);
        assert!(store.promote("d01", renewed, 21).await.unwrap());
        assert!(!store.promote("c01", renewed, 22).await.unwrap());
        assert_eq!(standing(&store, &all), ["d01"]);
        // Who has copied a key gets none that outlives its end, by asking with what was asked for.
        let mut revoked = store.revoke_certificate("a02", 30).await.unwrap();
        revoked.sort_unstable();
        assert_eq!(revoked, ["a02", "b02", "c02", "d02"]);
        assert_eq!(ask(&store, "kiwi-03", "a03", "e03").await, Renewal::Issued);
        let all = ["a03", "b03", "c03", "d03", "e03"];
        assert_eq!(standing(&store, &all), ["a03", "e03"]);
        store.close();
    }
}
