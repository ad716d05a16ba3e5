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

/// Why there was no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No such token.
    #[error("expected an enrolment token of this relay, got an unknown one")]
    UnknownToken,
    /// The user name is no robot id.
    #[error(transparent)]
    RobotId(#[from] NameError),
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

/// What enrolment works with.
#[derive(Debug, Clone, Copy)]
pub struct Registry<'a> {
    /// Where tokens and certificates are kept.
    pub store: &'a Store,
    /// Who signs.
    pub authority: &'a Authority,
    /// The organisation of the certificates.
    pub org: &'a Org,
    /// The relay's own name in the log.
    pub source: &'a Arc<str>,
}

/// Enrols the robot `user`: checks the token and the request (EST's body), and answers the certificate
/// (DER).
///
/// # Errors
/// When the token or the request is refused, or the store cannot write.
pub async fn enrol(
    registry: Registry<'_>,
    user: &str,
    secret: &Secret,
    body: &[u8],
    now: Timestamp,
) -> Result<Vec<u8>, EnrolError> {
    let Registry {
        store,
        authority,
        org,
        source,
    } = registry;
    // The token first: strangers get no opinion on anything else.
    let token = store
        .token_by_hash(secret.digest())
        .await?
        .ok_or(EnrolError::UnknownToken)?;
    let robot = RobotId::new(user)?;
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
        events: vec![registered(source, &robot, &certificate, &token, &csr, now)],
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
    source: &Arc<str>,
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
        source: source.clone(),
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
mod tests;
