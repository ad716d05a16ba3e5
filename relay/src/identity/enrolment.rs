//! Spends a token on a certificate. Called by the EST endpoint.
//!
//! Invariants: a token becomes bound to the first key that used it, in the transaction that stores the
//! certificate; the same key gets the same certificate again (its answer may have been lost), any other
//! key nothing. A token that is not bound to a robot cannot take over a robot that exists.

use std::sync::Arc;

use lekiwi_protocol::id::NameError;
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{Org, RobotId, Timestamp, limits};
use uuid::Uuid;

use super::authority::{Authority, AuthorityError, Subject};
use super::csr::{Csr, CsrError};
use super::tokens::Secret;
use crate::store::records::{Certificate, CertificateKind, NewEvent, Redemption, Token};
use crate::store::{Batch, Store, StoreError};

/// The relay's own name: source of its events, and its client id on the broker.
const RESERVED: &str = crate::ingest::OWN_SOURCE;

/// Why there was no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No such token.
    #[error("expected an enrolment token of this relay, got an unknown one")]
    UnknownToken,
    /// The user name is no robot id.
    #[error(transparent)]
    RobotId(#[from] NameError),
    /// The id is the relay's own name in the log and on the broker.
    #[error("expected a robot id other than {RESERVED:?}, which the relay uses itself")]
    Reserved,
    /// The request is none.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The request is for somebody else than the user name.
    #[error("expected a request for {expected}, got one for {actual:?}")]
    WrongSubject {
        /// The user name.
        expected: RobotId,
        /// The request's CN, cut.
        actual: String,
    },
    /// The token came too late.
    #[error("the token expired at {at}, {ago} ago")]
    Expired {
        /// When.
        at: Timestamp,
        /// How long since.
        ago: humantime::FormattedDuration,
    },
    /// Somebody else was first.
    #[error("the token was used{} by another key", at.map(|at| format!(" at {at}")).unwrap_or_default())]
    OtherKey {
        /// When.
        at: Option<Timestamp>,
    },
    /// The token is for another profile.
    #[error("the token is for profile {expected}, the request for {}", shown(actual.as_deref()))]
    WrongProfile {
        /// The token's.
        expected: String,
        /// The request's OU.
        actual: Option<String>,
    },
    /// The token is for another machine.
    #[error("the token is for the machine with serial {expected}, the request for {}", shown(actual.as_deref()))]
    WrongSerial {
        /// The token's.
        expected: String,
        /// The request's serialNumber.
        actual: Option<String>,
    },
    /// The token is for another robot.
    #[error("the token is for robot {expected}, the request for {actual}")]
    WrongRobot {
        /// The token's.
        expected: String,
        /// The request's.
        actual: RobotId,
    },
    /// A robot of this id exists with another key.
    #[error("robot {0} has a certificate for another key, and the token is not bound to it")]
    RobotExists(RobotId),
    /// The certificate that this token gave was revoked.
    #[error("the certificate that this token gave was revoked at {0}")]
    Revoked(Timestamp),
    /// The store refused.
    #[error("cannot keep the certificate")]
    Store(#[from] StoreError),
    /// The authority could not sign.
    #[error("cannot make the certificate")]
    Authority(#[from] AuthorityError),
}

fn shown(value: Option<&str>) -> String {
    value.map_or_else(
        || "none".to_owned(),
        |value| value.chars().take(80).collect(),
    )
}

/// Enrols `robot`: checks the token and the request (EST's body), and answers the certificate (DER).
///
/// # Errors
/// When the token or the request is refused, or the store cannot write.
pub async fn enrol(
    store: &Store,
    authority: &Authority,
    org: &Org,
    user: &str,
    secret: &Secret,
    body: &[u8],
    now: Timestamp,
) -> Result<Vec<u8>, EnrolError> {
    // The token first: strangers get no opinion on anything else.
    let token = store
        .token_by_hash(secret.digest())
        .await?
        .ok_or(EnrolError::UnknownToken)?;
    let robot = RobotId::new(user)?;
    if robot.as_str() == RESERVED {
        return Err(EnrolError::Reserved);
    }
    let csr = Csr::from_est(body)?;
    if csr.common_name != robot.as_str() {
        return Err(EnrolError::WrongSubject {
            expected: robot,
            actual: csr.common_name.chars().take(80).collect(),
        });
    }
    let key = csr.key_digest();
    check_bindings(&token, &robot, &csr)?;
    if token.used_key.is_none() {
        check_fresh(store, &token, &robot, key, now).await?;
    }
    let issued = authority.issue(
        &Subject::Robot(robot.clone()),
        org,
        &csr.spki,
        now.as_ms(),
        limits::ROBOT_CERTIFICATE_LIFETIME,
    )?;
    let fresh = Certificate {
        serial: issued.serial,
        common_name: robot.to_string(),
        kind: CertificateKind::Robot,
        key,
        not_before_ms: issued.not_before_ms,
        not_after_ms: issued.not_after_ms,
        revoked_ms: None,
        der: issued.der,
    };
    let certificate = match store.redeem(&token.id, fresh.clone(), now.as_ms()).await? {
        Redemption::Issued => fresh,
        Redemption::Again(earlier) if earlier.common_name != robot.as_str() => {
            return Err(EnrolError::WrongRobot {
                expected: earlier.common_name,
                actual: robot,
            });
        }
        Redemption::Again(earlier) => match earlier.revoked_ms {
            Some(at) => return Err(EnrolError::Revoked(Timestamp::from_ms(at))),
            None => earlier,
        },
        Redemption::OtherKey => {
            return Err(EnrolError::OtherKey {
                at: token.used_ms.map(Timestamp::from_ms),
            });
        }
        Redemption::Unknown => return Err(EnrolError::UnknownToken),
    };
    tracing::info!(%robot, serial = %certificate.serial, token = %token.id, "robot enrolled");
    // Also on a repetition: should a crash have come between the two writes, this mends it, and the log
    // takes the event only once.
    let batch = Batch {
        events: vec![registered(&robot, &certificate, &token, &csr, now)],
        ..Batch::default()
    };
    if !store.submit(batch).is_empty() {
        return Err(StoreError::Unavailable("too much waits to be written".into()).into());
    }
    Ok(certificate.der)
}

fn check_bindings(token: &Token, robot: &RobotId, csr: &Csr) -> Result<(), EnrolError> {
    match &token.robot {
        Some(expected) if expected != robot.as_str() => {
            return Err(EnrolError::WrongRobot {
                expected: expected.clone(),
                actual: robot.clone(),
            });
        }
        _ => {}
    }
    match &token.profile {
        Some(expected) if csr.profile.as_ref() != Some(expected) => {
            return Err(EnrolError::WrongProfile {
                expected: expected.clone(),
                actual: csr.profile.clone(),
            });
        }
        _ => {}
    }
    match &token.serial {
        Some(expected) if csr.hardware_serial.as_ref() != Some(expected) => {
            Err(EnrolError::WrongSerial {
                expected: expected.clone(),
                actual: csr.hardware_serial.clone(),
            })
        }
        _ => Ok(()),
    }
}

/// What counts only at a token's first use.
async fn check_fresh(
    store: &Store,
    token: &Token,
    robot: &RobotId,
    key: [u8; 32],
    now: Timestamp,
) -> Result<(), EnrolError> {
    let expires = Timestamp::from_ms(token.expires_ms);
    if expires <= now {
        let ago = std::time::Duration::from_secs(now.since(expires).as_secs());
        return Err(EnrolError::Expired {
            at: expires,
            ago: humantime::format_duration(ago),
        });
    }
    if token.robot.is_none() {
        let taken = store
            .certificates_of(robot.as_str())
            .await?
            .into_iter()
            .any(|certificate| {
                certificate.key != key
                    && certificate.revoked_ms.is_none()
                    && certificate.not_after_ms > now.as_ms()
            });
        if taken {
            return Err(EnrolError::RobotExists(robot.clone()));
        }
    }
    Ok(())
}

/// The registration as the log keeps it. Its stream is the certificate's serial, which makes the event
/// the same however often it is written.
fn registered(
    robot: &RobotId,
    certificate: &Certificate,
    token: &Token,
    csr: &Csr,
    now: Timestamp,
) -> NewEvent {
    let mut serial = [0; 16];
    // Serials are made by the authority, of 16 bytes.
    let _ = hex::decode_to_slice(&certificate.serial, &mut serial);
    let data = serde_json::json!({
        "certificate_serial": certificate.serial,
        "not_after": Timestamp::from_ms(certificate.not_after_ms),
        "profile": csr.profile.as_ref().or(token.profile.as_ref()),
        "hardware_serial": csr.hardware_serial,
    });
    NewEvent {
        aggregate_type: "robot",
        aggregate_id: robot.as_str().into(),
        source: RESERVED.into(),
        stream: Uuid::from_bytes(serial),
        seq: 1,
        kind: kind::REGISTERED.into(),
        ts_ms: now.as_ms(),
        received_ms: now.as_ms(),
        data: data.to_string().into(),
        metadata: Arc::from(serde_json::json!({ "token": token.id }).to_string()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
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

        async fn enrol(
            &self,
            user: &str,
            secret: &Secret,
            csr: &[u8],
            now: Timestamp,
        ) -> Result<Vec<u8>, String> {
            let body = STANDARD.encode(csr);
            enrol(
                &self.store,
                &self.authority,
                &Org::default(),
                user,
                secret,
                body.as_bytes(),
                now,
            )
            .await
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
            ("relay", "kiwi-01", 1)
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
        let profile = setup
            .token(TokenRequest {
                profile: Some("lekiwi".into()),
                ..Default::default()
            })
            .await;
        assert_eq!(
            setup
                .enrol("kiwi-01", &profile, &full, NOW)
                .await
                .unwrap_err(),
            "the token is for profile lekiwi, the request for xle"
        );
        assert_eq!(
            setup
                .enrol("kiwi-01", &profile, &plain, NOW)
                .await
                .unwrap_err(),
            "the token is for profile lekiwi, the request for none"
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
        assert_eq!(
            setup
                .enrol("relay", &any, &csr(&mine, "relay"), NOW)
                .await
                .unwrap_err(),
            "expected a robot id other than \"relay\", which the relay uses itself"
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
}
