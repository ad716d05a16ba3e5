//! What every store promises of those for whom a provider of OpenID Connect vouches.

use lekiwi_protocol::api::Grant;
use lekiwi_protocol::{RobotId, Role, Scope, Timestamp, UserName};
use lekiwi_relay::store::records::{Outsider, Welcome};
use lekiwi_relay_core::policy::Right;

use super::Place;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_provider_vouches_for_is_known_by_their_subject() {
    for place in Place::of_each_kind() {
        let (store, _commits) = place.open().await;
        let name = |name: &str| UserName::new(name).unwrap();
        let role = |role: Role, until| Grant {
            role,
            on: Scope::Fleet,
            until: Some(Timestamp::from_ms(until)),
        };
        let outsider = |issuer: &str, subject: &str, called: &str, roles: &[Grant]| Outsider {
            issuer: issuer.into(),
            subject: subject.into(),
            name: UserName::new(called).ok(),
            roles: roles.to_vec(),
        };
        let operator = [role(Role::Operator, 100)];
        let come = async |who| store.welcome(who, 7).await.unwrap();
        let roles = |who: &str| {
            let people = store.people();
            let account = people.accounts.get(who).cloned().unwrap();
            let shown = |right: &Right| right.to_string();
            account.rights.iter().map(shown).collect::<Vec<_>>()
        };
        assert!(
            store
                .add_person(name("admin"), None, vec![], 1)
                .await
                .unwrap()
        );

        assert_eq!(come(outsider("i", "1", "ada", &[])).await, Welcome::NoRole);
        assert_eq!(
            come(outsider("i", "1", "?", &operator)).await,
            Welcome::Nameless
        );
        let taken = come(outsider("i", "1", "admin", &operator)).await;
        assert_eq!(taken, Welcome::Taken(name("admin")));
        assert_eq!(store.people().accounts.len(), 1);
        let ada = Welcome::In(name("ada"));
        assert_eq!(come(outsider("i", "1", "ada", &operator)).await, ada);
        assert_eq!(
            roles("ada"),
            ["operator on fleet until 1970-01-01T00:00:00.100Z"]
        );
        // The same subject of another provider is somebody else; the same one under another name is not.
        let other = come(outsider("j", "1", "ada", &operator)).await;
        assert_eq!(other, Welcome::Taken(name("ada")));
        let lent = Scope::Robot(RobotId::new("kiwi-01").unwrap());
        let until = Timestamp::from_ms(1_000);
        store
            .lend(name("admin"), name("ada"), lent, until)
            .await
            .unwrap();
        assert_eq!(roles("admin").len(), 1, "it is ada's to lend");
        let engineer = [role(Role::Engineer, 200)];
        assert_eq!(come(outsider("i", "1", "admin", &engineer)).await, ada);
        assert_eq!(
            roles("ada"),
            ["engineer on fleet until 1970-01-01T00:00:00.200Z"]
        );
        assert_eq!(roles("admin").len(), 0, "and is no more");
        assert_eq!(come(outsider("i", "1", "ada", &[])).await, Welcome::NoRole);
        assert_eq!(roles("ada").len(), 0);
        store.disable_person(name("ada"), Some(8)).await.unwrap();
        let disabled = Welcome::Disabled(name("ada"));
        assert_eq!(come(outsider("i", "1", "ada", &operator)).await, disabled);
        store.close();
        let (store, _commits) = place.open().await;
        let account = store.people().accounts["ada"].clone();
        assert_eq!(
            (account.issuer.as_deref(), account.created_ms),
            (Some("i"), 7)
        );
        store.close();
    }
}
