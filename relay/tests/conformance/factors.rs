//! Second factors and invitations, of every kind of store.

use lekiwi_relay::store::records::Invitation;
use lekiwi_relay::store::{Joining, MOST_MISSES, Store};

use super::Place;

const NOW_MS: u64 = 1_000;

fn invitation(id: &str, hash: [u8; 32], expires_ms: u64) -> Invitation {
    Invitation {
        id: id.into(),
        hash,
        person: "ada".parse().unwrap(),
        roles: Vec::new(),
        inviter: "admin".parse().unwrap(),
        created_ms: 1,
        expires_ms,
        used_ms: None,
        revoked_ms: None,
    }
}

/// An authenticator of `admin`, confirmed at step 7, with two recovery codes; and an invitation.
pub(crate) async fn filled(store: &Store) {
    let admin = || "admin".parse().unwrap();
    assert!(store.begin_factor(admin(), vec![1; 20]).await.unwrap());
    assert!(store.begin_factor(admin(), vec![2; 20]).await.unwrap());
    let confirm = async |secret: u8| {
        let codes = vec![[8; 32], [9; 32]];
        let confirmed = store.confirm_factor(admin(), vec![secret; 20], 7, codes, NOW_MS);
        confirmed.await.unwrap()
    };
    assert!(!confirm(1).await, "another one was begun since");
    assert!(confirm(2).await);
    assert!(!confirm(2).await, "again");
    assert!(!store.begin_factor(admin(), vec![3; 20]).await.unwrap());
    let invitation = invitation("i1", [4; 32], NOW_MS + 1);
    store.insert_invitation(invitation).await.unwrap();
}

async fn with_admin(store: &Store) {
    let name = "admin".parse().unwrap();
    let added = store.add_person(name, Some("slow".into()), Vec::new(), 3);
    assert!(added.await.unwrap());
    filled(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_code_is_taken_twice_and_a_hundred_wrong_ones_are_enough() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        with_admin(&store).await;
        let spend = async |step| store.spend_step("admin", step).await.unwrap();
        assert!(!spend(Some(7)).await, "it was confirmed by this one");
        assert!(spend(Some(9)).await);
        assert!(!spend(Some(9)).await);
        assert!(!spend(Some(8)).await);
        assert_eq!(store.factor("admin").await.unwrap().unwrap().misses, 2);
        assert!(spend(Some(10)).await, "a right one forgives those before");
        for _ in 0..MOST_MISSES {
            assert!(!spend(None).await);
        }
        assert!(!spend(Some(11)).await);
        // A recovery code is taken once, and codes again after it.
        let recover = async |hash| store.spend_recovery_code("admin", hash).await.unwrap();
        assert!(!recover([7; 32]).await);
        assert!(recover([8; 32]).await);
        assert!(!recover([8; 32]).await);
        assert!(spend(Some(12)).await);
        store.close();
        let (store, _commits) = place.open().await;
        let people = store.people();
        let admin = &people.accounts["admin"];
        assert_eq!((admin.has_factor, admin.recovery_codes), (true, 1));
        assert_eq!(store.factor("admin").await.unwrap().unwrap().last_step, 12);
        assert!(store.end_factor("admin".parse().unwrap()).await.unwrap());
        assert_eq!(store.people().accounts["admin"].recovery_codes, 0);
        assert!(store.factor("admin").await.unwrap().is_none());
        assert!(!store.end_factor("admin".parse().unwrap()).await.unwrap());
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_is_used_once_while_it_lasts() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        with_admin(&store).await;
        let join = async |hash, now_ms| {
            let joined = store.join(hash, "slow".into(), now_ms);
            joined.await.unwrap()
        };
        assert_eq!(join([5; 32], NOW_MS).await, Joining::Over, "there is none");
        assert_eq!(join([4; 32], NOW_MS + 1).await, Joining::Over, "too late");
        for (id, hash) in [("i2", [5; 32]), ("i3", [6; 32])] {
            let other = invitation(id, hash, NOW_MS + 10);
            store.insert_invitation(other).await.unwrap();
        }
        assert!(store.revoke_invitation("i3", NOW_MS).await.unwrap());
        assert!(!store.revoke_invitation("i3", NOW_MS).await.unwrap());
        assert_eq!(join([6; 32], NOW_MS).await, Joining::Over, "taken back");
        let ada = || "ada".parse().unwrap();
        assert_eq!(join([4; 32], NOW_MS).await, Joining::Joined(ada()));
        assert_eq!(join([4; 32], NOW_MS).await, Joining::Over, "used");
        assert_eq!(join([5; 32], NOW_MS).await, Joining::Taken(ada()));
        assert!(store.people().accounts["ada"].has_password);
        // Whom nobody was let in by stays open.
        let open = store.invitation([5; 32]).await.unwrap().unwrap();
        assert_eq!((open.used_ms, open.revoked_ms), (None, None));
        assert!(
            !store.revoke_invitation("i1", NOW_MS).await.unwrap(),
            "used"
        );
        assert_eq!(store.forget_invitations(NOW_MS + 2).await.unwrap(), 1);
        let left: Vec<_> = store.invitations().await.unwrap();
        assert_eq!(
            left.iter().map(|one| &*one.id).collect::<Vec<_>>(),
            ["i2", "i3"]
        );
        store.close();
    }
}
