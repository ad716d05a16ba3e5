//! Each token and request, good and bad, against a real store and authority.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lekiwi_protocol::api::TokenRequest;
use rcgen::{DnType, KeyPair};

use super::*;
use crate::identity::csr::tests::{request, serial_number};
use crate::identity::tokens;
use crate::metrics::Metrics;
use crate::store::records::Commit;

const NOW: Timestamp = Timestamp::from_ms(1_795_233_120_000);

struct Setup {
    _data: tempfile::TempDir,
    store: Store,
    commits: tokio::sync::mpsc::Receiver<Commit>,
    authority: Authority,
}

impl Setup {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (store, commits) =
            Store::open(&data.path().join("relay.db"), Arc::new(Metrics::default())).unwrap();
        let authority =
            Authority::open_or_create(&data.path().join("ca"), &Org::default(), NOW.as_ms())
                .unwrap();
        Self {
            _data: data,
            store,
            commits,
            authority,
        }
    }

    async fn token(&self, request: TokenRequest) -> Secret {
        Secret::shown(
            &tokens::create(&self.store, &request, NOW)
                .await
                .unwrap()
                .token,
        )
    }

    /// Types and data of everything in the log, once what waits is written.
    async fn logged(&self) -> Vec<(String, serde_json::Value)> {
        let mut known = None;
        loop {
            let events = self.store.events_of_robot("kiwi-01", 0, 100).await.unwrap();
            // A write that was asked for later is done after all earlier ones.
            if known.as_ref() == Some(&events) {
                let data = |text: &str| serde_json::from_str(text).unwrap();
                return events
                    .iter()
                    .map(|e| (e.event.kind.to_string(), data(&e.event.data)))
                    .collect();
            }
            known = Some(events);
            self.store.delete_token("none").await.unwrap();
        }
    }

    async fn enrol(
        &self,
        user: &str,
        secret: &Secret,
        csr: &[u8],
        now: Timestamp,
    ) -> Result<Vec<u8>, String> {
        let body = STANDARD.encode(csr);
        let registry = Registry {
            store: &self.store,
            authority: &self.authority,
            org: &Org::default(),
            source: &"relay:r1".into(),
            lifetime: lekiwi_protocol::limits::ROBOT_CERTIFICATE_LIFETIME,
        };
        let outcome = enrol(registry, user, secret, body.as_bytes(), now).await;
        outcome
            .map(|enrolled| enrolled.certificate)
            .map_err(|error| error.to_string())
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn csr(key: &KeyPair, robot: &str) -> Vec<u8> {
    request(key, &[(DnType::CommonName, robot)])
}

#[tokio::test]
async fn the_same_key_gets_the_same_certificate_and_another_key_none() {
    let mut setup = Setup::new();
    let secret = setup.token(TokenRequest::default()).await;
    let (mine, other) = (key(), key());
    let first = setup
        .enrol("kiwi-01", &secret, &csr(&mine, "kiwi-01"), NOW)
        .await
        .unwrap();
    let later = NOW.plus(Duration::from_secs(48 * 3600));
    let again = setup
        .enrol("kiwi-01", &secret, &csr(&mine, "kiwi-01"), later)
        .await
        .unwrap();
    assert_eq!(first, again, "even after the token's time");
    assert_eq!(
        setup
            .enrol("kiwi-01", &secret, &csr(&other, "kiwi-01"), NOW)
            .await
            .unwrap_err(),
        "the token was used at 2026-11-21T03:52:00.000Z by another key"
    );
    assert_eq!(
        setup
            .enrol("kiwi-02", &secret, &csr(&mine, "kiwi-02"), NOW)
            .await
            .unwrap_err(),
        "the token is for robot kiwi-01, the request for kiwi-02"
    );
    let listed = setup.store.tokens().await.unwrap();
    assert_eq!(
        tokens::info(&listed[0]).used_by,
        Some("kiwi-01".parse().unwrap())
    );

    let event = &setup.commits.recv().await.unwrap().events[0].event;
    assert_eq!(&*event.kind, "robot.registered");
    assert_eq!(
        (&*event.source, &*event.aggregate_id, event.seq),
        ("relay:r1", "kiwi-01", 1)
    );
    setup.store.close();
    let mut more = 0;
    while let Some(commit) = setup.commits.recv().await {
        more += commit.events.len();
    }
    assert_eq!(more, 0, "a repetition registers nobody twice");
}

#[tokio::test]
async fn each_wrong_token_has_its_own_message() {
    let setup = Setup::new();
    let mine = key();
    let plain = csr(&mine, "kiwi-01");
    let full = request(
        &mine,
        &[
            (DnType::CommonName, "kiwi-01"),
            (serial_number(), "1000abcd"),
            (DnType::OrganizationalUnitName, "xle"),
        ],
    );

    assert_eq!(
        setup
            .enrol("kiwi-01", &Secret::shown("lkt_guess"), &plain, NOW)
            .await
            .unwrap_err(),
        "expected an enrolment token of this relay, got an unknown one"
    );
    let short = setup
        .token(TokenRequest {
            lifetime_s: Some(60),
            ..Default::default()
        })
        .await;
    assert_eq!(
        setup
            .enrol(
                "kiwi-01",
                &short,
                &plain,
                NOW.plus(Duration::from_secs(3 * 3600 + 60))
            )
            .await
            .unwrap_err(),
        "the token expired at 2026-11-21T03:53:00.000Z, 3h ago"
    );
    let odd = request(
        &mine,
        &[
            (DnType::CommonName, "kiwi-01"),
            (DnType::OrganizationalUnitName, "le kiwi"),
        ],
    );
    let profile = setup
        .token(TokenRequest {
            profile: Some("lekiwi".into()),
            ..Default::default()
        })
        .await;
    assert_eq!(
        setup
            .enrol("kiwi-01", &profile, &odd, NOW)
            .await
            .unwrap_err(),
        "expected the request's OU to be a profile of 1 to 64 printable characters without spaces, got \"le kiwi\""
    );
    let serial = setup
        .token(TokenRequest {
            serial: Some("1000ffff".into()),
            ..Default::default()
        })
        .await;
    assert_eq!(
        setup
            .enrol("kiwi-01", &serial, &full, NOW)
            .await
            .unwrap_err(),
        "the token is for the machine with serial 1000ffff, the request for 1000abcd"
    );
    let robot = setup
        .token(TokenRequest {
            robot_id: Some("kiwi-02".parse().unwrap()),
            ..Default::default()
        })
        .await;
    assert_eq!(
        setup
            .enrol("kiwi-01", &robot, &plain, NOW)
            .await
            .unwrap_err(),
        "the token is for robot kiwi-02, the request for kiwi-01"
    );
    let any = setup.token(TokenRequest::default()).await;
    assert_eq!(
        setup.enrol("kiwi-02", &any, &plain, NOW).await.unwrap_err(),
        "expected a request for kiwi-02, got one for \"kiwi-01\""
    );
    assert_eq!(
        setup.enrol("Kiwi_1", &any, &plain, NOW).await.unwrap_err(),
        "expected a robot id: 1 to 63 of a-z, 0-9 and '-', not starting with '-', got \"Kiwi_1\""
    );
    // None of the refusals spent it.
    setup.enrol("kiwi-01", &any, &plain, NOW).await.unwrap();
}

#[tokio::test]
async fn an_existing_robot_is_replaced_only_by_a_token_made_for_it() {
    let setup = Setup::new();
    let first = setup.token(TokenRequest::default()).await;
    setup
        .enrol("kiwi-01", &first, &csr(&key(), "kiwi-01"), NOW)
        .await
        .unwrap();
    let second = setup.token(TokenRequest::default()).await;
    let reflashed = csr(&key(), "kiwi-01");
    assert_eq!(
        setup
            .enrol("kiwi-01", &second, &reflashed, NOW)
            .await
            .unwrap_err(),
        "robot kiwi-01 has a certificate for another key, and the token is not bound to it"
    );
    let bound = setup
        .token(TokenRequest {
            robot_id: Some("kiwi-01".parse().unwrap()),
            ..Default::default()
        })
        .await;
    setup
        .enrol("kiwi-01", &bound, &reflashed, NOW)
        .await
        .unwrap();
    let mut certificates = setup.store.certificates_of("kiwi-01").await.unwrap();
    certificates.sort_by_key(|certificate| certificate.revoked_ms.is_none());
    let (old, new) = (&certificates[0], &certificates[1]);
    assert_eq!(
        (old.revoked_ms, new.revoked_ms),
        (Some(NOW.as_ms()), None),
        "the old key is out"
    );
    assert!(setup.store.certificate_status(&old.serial).unwrap().revoked);
    assert!(!setup.store.certificate_status(&new.serial).unwrap().revoked);
    let expected = serde_json::json!({ "old_serial": old.serial, "new_serial": new.serial });

    // The answer was lost: the same again, and the log has it once.
    setup
        .enrol(
            "kiwi-01",
            &bound,
            &reflashed,
            NOW.plus(Duration::from_secs(5)),
        )
        .await
        .unwrap();
    let kinds = setup.logged().await;
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(kind, data)| (kind.as_str(), data))
        .collect();
    assert_eq!(
        kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
        ["robot.registered", "robot.registered", "robot.reflashed"]
    );
    assert_eq!(*kinds[2].1, expected);
}

#[tokio::test]
async fn a_token_lets_in_as_many_keys_as_it_was_made_for() {
    let setup = Setup::new();
    let seed = setup
        .token(TokenRequest {
            max_uses: Some(2),
            ..Default::default()
        })
        .await;
    let first = key();
    let again = csr(&first, "kiwi-0a");
    let certificate = setup.enrol("kiwi-0a", &seed, &again, NOW).await.unwrap();
    // Two cards of one seed that say the same id are one too many.
    assert_eq!(
        setup
            .enrol("kiwi-0a", &seed, &csr(&key(), "kiwi-0a"), NOW)
            .await
            .unwrap_err(),
        "robot kiwi-0a has a certificate for another key, and the token is not bound to it"
    );
    let later = NOW.plus(Duration::from_secs(1));
    setup
        .enrol("kiwi-0b", &seed, &csr(&key(), "kiwi-0b"), later)
        .await
        .unwrap();
    assert_eq!(
        setup
            .enrol("kiwi-0c", &seed, &csr(&key(), "kiwi-0c"), NOW)
            .await
            .unwrap_err(),
        "the token was used by 2 other keys, the last at 2026-11-21T03:52:01.000Z; it was made for 2"
    );
    assert_eq!(
        setup.enrol("kiwi-0a", &seed, &again, NOW).await.unwrap(),
        certificate,
        "a known key still gets its own"
    );
    let info = tokens::info(&setup.store.tokens().await.unwrap()[0]);
    assert_eq!(
        (info.max_uses, info.uses, info.used_by),
        (2, 2, Some("kiwi-0a".parse().unwrap()))
    );
}

#[tokio::test]
async fn another_profile_than_the_tokens_is_enrolled_and_said_to_the_fleet() {
    let setup = Setup::new();
    let secret = setup
        .token(TokenRequest {
            profile: Some("lekiwi".into()),
            ..Default::default()
        })
        .await;
    let fields = [
        (DnType::CommonName, "kiwi-01"),
        (serial_number(), "1000abcd"),
        (DnType::OrganizationalUnitName, "xle"),
    ];
    setup
        .enrol("kiwi-01", &secret, &request(&key(), &fields), NOW)
        .await
        .unwrap();
    let (_, data) = setup.logged().await.remove(0);
    let said = ["profile", "token_profile", "hardware_serial", "bound"].map(|name| &data[name]);
    let expected = serde_json::json!(["xle", "lekiwi", "1000abcd", false]);
    assert_eq!(serde_json::json!(said), expected);
}

#[tokio::test]
async fn a_revoked_certificate_is_not_handed_out_again() {
    let setup = Setup::new();
    let secret = setup.token(TokenRequest::default()).await;
    let request = csr(&key(), "kiwi-01");
    setup
        .enrol("kiwi-01", &secret, &request, NOW)
        .await
        .unwrap();
    let serial = setup
        .store
        .certificates_of("kiwi-01")
        .await
        .unwrap()
        .remove(0)
        .serial;
    setup
        .store
        .revoke_certificate(&serial, NOW.as_ms())
        .await
        .unwrap();
    assert_eq!(
        setup
            .enrol("kiwi-01", &secret, &request, NOW)
            .await
            .unwrap_err(),
        "the certificate that this token gave was revoked at 2026-11-21T03:52:00.000Z"
    );
}

#[tokio::test]
async fn a_token_request_is_checked() {
    let setup = Setup::new();
    let refusal = async |request: TokenRequest| {
        tokens::create(&setup.store, &request, NOW)
            .await
            .err()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        refusal(TokenRequest {
            lifetime_s: Some(0),
            ..Default::default()
        })
        .await,
        "expected a lifetime of 1 to 31622400 seconds, got 0"
    );
    for uses in [0, 10_001] {
        assert_eq!(
            refusal(TokenRequest {
                max_uses: Some(uses),
                ..Default::default()
            })
            .await,
            format!("expected max_uses to be 1 to 10000, got {uses}")
        );
    }
    assert_eq!(
        refusal(TokenRequest {
            profile: Some("a b".into()),
            ..Default::default()
        })
        .await,
        "expected profile to be 1 to 64 printable characters without spaces, got \"a b\""
    );
    assert_eq!(
        refusal(TokenRequest {
            serial: Some(String::new()),
            ..Default::default()
        })
        .await,
        "expected serial to be 1 to 64 printable characters without spaces, got \"\""
    );
}
