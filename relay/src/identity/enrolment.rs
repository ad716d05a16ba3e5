//! Spends a token on a certificate. Called by the EST endpoint.
//!
//! Invariants: each use of a token becomes bound to the key that took it, in the transaction that stores
//! the certificate; the same key gets the same certificate again (its answer may have been lost), one key
//! too many nothing. A token that is not bound to a robot cannot take over a robot that exists; one that is
//! revokes the robot's older keys in that same transaction. A profile that differs from the token's is no
//! reason to refuse: the robot is enrolled, and the fleet quarantines it where a person sees it.

use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::id::NameError;
use lekiwi_protocol::message::kind;
use lekiwi_protocol::{Org, RobotId, Timestamp};
use uuid::Uuid;

use super::authority::{Authority, AuthorityError, Subject};
use super::csr::{Csr, CsrError};
use super::tokens::{MAX_BINDING_BYTES, Secret, is_binding};
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
    /// Others were first.
    #[error("{}", used_up(*max_uses, *last))]
    UsedUp {
        /// How many keys it is for.
        max_uses: u32,
        /// When the last one came.
        last: Timestamp,
    },
    /// The request's OU is no profile.
    #[error(
        "expected the request's OU to be a profile of 1 to {MAX_BINDING_BYTES} printable characters without spaces, got {actual:?}"
    )]
    Profile {
        /// The request's OU, cut.
        actual: String,
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

fn used_up(max_uses: u32, last: Timestamp) -> String {
    match max_uses {
        1 => format!("the token was used at {last} by another key"),
        n => {
            format!("the token was used by {n} other keys, the last at {last}; it was made for {n}")
        }
    }
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
    /// How long robots' certificates are good for.
    pub lifetime: Duration,
}

/// A certificate that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The robot.
    pub robot: RobotId,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// Whether it replaced older ones, which are revoked: who is connected with one must go.
    pub replaced: bool,
}

/// Enrols the robot `user`: checks the token and the request (EST's body), and answers the certificate.
///
/// # Errors
/// When the token or the request is refused, or the store cannot write.
pub async fn enrol(
    registry: Registry<'_>,
    user: &str,
    secret: &Secret,
    body: &[u8],
    now: Timestamp,
) -> Result<Enrolled, EnrolError> {
    let Registry {
        store,
        authority,
        org,
        source,
        lifetime,
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
    if !store.has_used(&token.id, key).await? {
        check_time(&token, now)?;
    }
    let issued = authority.issue(
        &Subject::Robot(robot.clone()),
        org,
        &csr.spki,
        now.as_ms(),
        lifetime,
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
    let bound = token.robot.is_some();
    let redemption = store.redeem(&token.id, fresh.clone(), bound, now.as_ms());
    let certificate = match redemption.await? {
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
        Redemption::UsedUp { max_uses, last_ms } => {
            return Err(EnrolError::UsedUp {
                max_uses,
                last: Timestamp::from_ms(last_ms),
            });
        }
        Redemption::Taken => return Err(EnrolError::RobotExists(robot)),
        Redemption::Unknown => return Err(EnrolError::UnknownToken),
    };
    tracing::info!(%robot, serial = %certificate.serial, token = %token.id, "robot enrolled");
    let old_serial = if bound {
        store.replaced_by(&certificate.serial).await?
    } else {
        None
    };
    // Also on a repetition: should a crash have come between the two writes, this mends it, and the log
    // takes each event only once.
    let mut events = vec![registered(source, &robot, &certificate, &token, &csr, now)];
    if let Some(old_serial) = &old_serial {
        let data = serde_json::json!({
            "old_serial": old_serial,
            "new_serial": certificate.serial,
        });
        events.push(NewEvent {
            seq: 2,
            kind: kind::REFLASHED.into(),
            data: data.to_string().into(),
            ..events[0].clone()
        });
    }
    let batch = Batch {
        events,
        ..Batch::default()
    };
    if !store.submit(batch).is_empty() {
        return Err(StoreError::Unavailable("too much waits to be written".into()).into());
    }
    Ok(Enrolled {
        robot,
        certificate: certificate.der,
        replaced: old_serial.is_some(),
    })
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
    if let Some(profile) = csr.profile.as_ref().filter(|profile| !is_binding(profile)) {
        return Err(EnrolError::Profile {
            actual: profile.chars().take(80).collect(),
        });
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

/// What counts only at a key's first use of a token.
fn check_time(token: &Token, now: Timestamp) -> Result<(), EnrolError> {
    let expires = Timestamp::from_ms(token.expires_ms);
    if expires > now {
        return Ok(());
    }
    let ago = Duration::from_secs(now.since(expires).as_secs());
    Err(EnrolError::Expired {
        at: expires,
        ago: humantime::format_duration(ago),
    })
}

/// The stream of what the log says about a certificate: its serial.
pub(super) fn stream_of(serial: &str) -> Uuid {
    let mut bytes = [0; 16];
    // Serials are made by the authority, of 16 bytes.
    let _ = hex::decode_to_slice(serial, &mut bytes);
    Uuid::from_bytes(bytes)
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
    let data = serde_json::json!({
        "certificate_serial": certificate.serial,
        "not_after": Timestamp::from_ms(certificate.not_after_ms),
        "profile": csr.profile,
        "token_profile": token.profile,
        "hardware_serial": csr.hardware_serial,
        "bound": token.robot.is_some(),
    });
    NewEvent {
        aggregate_type: "robot",
        aggregate_id: robot.as_str().into(),
        source: source.clone(),
        stream: stream_of(&certificate.serial),
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
