//! Renews robots' certificates: the one that a robot shows is what it gets the next one by. Called by the EST endpoint,
//! and by who admits clients to the broker.
//!
//! Invariants: the old certificate goes on counting until the robot has connected with the new one, and not a moment
//! longer; the same key gets the same certificate again, whose answer may have been lost; only who takes part renews.

use std::sync::Arc;

use lekiwi_protocol::message::{RegistrationStatus, kind};
use lekiwi_protocol::{RobotId, Timestamp};

use super::authority::{AuthorityError, Subject};
use super::csr::{Csr, CsrError};
use super::enrolment::{Registry, stream_of};
use crate::broker::ClientCert;
use crate::store::records::{Certificate, CertificateKind, NewEvent, Renewal};
use crate::store::{Store, StoreError};

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The request is none.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The request is for somebody else than who asks.
    #[error("expected a request with the subject of the certificate, {expected}, got {actual}")]
    WrongSubject {
        /// The certificate's.
        expected: String,
        /// The request's, cut.
        actual: String,
    },
    /// The robot waits for a person's word, or was turned away.
    #[error("expected a robot that takes part, {robot} is {status}")]
    NotRegistered {
        /// Who asks.
        robot: RobotId,
        /// How it stands.
        status: RegistrationStatus,
    },
    /// What it was asked with ended meanwhile.
    #[error("certificate {0} was revoked or has expired")]
    Ended(String),
    /// It asks again and again.
    #[error("expected at most 60 renewals of a robot in an hour")]
    TooMany,
    /// The store refused.
    #[error("cannot keep the certificate")]
    Store(#[from] StoreError),
    /// The authority could not sign.
    #[error("cannot make the certificate")]
    Authority(#[from] AuthorityError),
}

/// Answers the certificate (DER) that is to take the place of `shown`, which is `robot`'s.
///
/// # Errors
/// When the request is refused, or the store cannot write.
pub async fn renew(
    registry: Registry<'_>,
    robot: &RobotId,
    status: RegistrationStatus,
    shown: &ClientCert,
    body: &[u8],
    now: Timestamp,
) -> Result<Vec<u8>, RenewError> {
    if status != RegistrationStatus::Registered {
        return Err(RenewError::NotRegistered {
            robot: robot.clone(),
            status,
        });
    }
    let csr = Csr::from_est(body)?;
    check_subject(&csr, shown)?;
    let issued = registry.authority.issue(
        &Subject::Robot(robot.clone()),
        registry.org,
        &csr.spki,
        now.as_ms(),
        registry.lifetime,
    )?;
    let fresh = Certificate {
        serial: issued.serial,
        common_name: robot.to_string(),
        kind: CertificateKind::Robot,
        key: csr.key_digest(),
        not_before_ms: issued.not_before_ms,
        not_after_ms: issued.not_after_ms,
        revoked_ms: None,
        der: issued.der,
    };
    let renewal = registry
        .store
        .renew(&shown.serial, fresh.clone(), now.as_ms());
    match renewal.await? {
        Renewal::Issued => {
            tracing::info!(%robot, serial = %fresh.serial, renews = %shown.serial, "certificate renewed");
            Ok(fresh.der)
        }
        Renewal::Again(earlier) => Ok(earlier.der),
        Renewal::Ended => Err(RenewError::Ended(shown.serial.clone())),
        Renewal::TooMany => Err(RenewError::TooMany),
    }
}

/// RFC 7030 wants the subject to be the certificate's. What the request leaves out is not asked for.
fn check_subject(csr: &Csr, shown: &ClientCert) -> Result<(), RenewError> {
    let unit = shown.unit.as_deref().unwrap_or_default();
    let fits = csr.common_name == shown.common_name
        && csr
            .organization
            .as_ref()
            .is_none_or(|o| *o == shown.organization)
        && csr.profile.as_deref().is_none_or(|ou| ou == unit);
    if fits {
        return Ok(());
    }
    let named = |cn: &str, o: &str, ou: &str| format!("CN={cn}, O={o}, OU={ou}");
    let cut = |text: &str| text.chars().take(80).collect::<String>();
    let or_none = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), cut);
    let asked = named(
        &cut(&csr.common_name),
        &or_none(&csr.organization),
        &or_none(&csr.profile),
    );
    Err(RenewError::WrongSubject {
        expected: named(&shown.common_name, &shown.organization, unit),
        actual: format!("{asked:?}"),
    })
}

/// The robot has connected with this certificate: if that renews another, the other is over.
pub async fn connected(store: &Store, source: &Arc<str>, serial: &str, now: Timestamp) {
    let of = source.clone();
    let event =
        move |certificate: &Certificate, renews: &str| renewed(&of, certificate, renews, now);
    match store.promote(serial, event, now.as_ms()).await {
        Ok(true) => tracing::info!(serial, "the robot uses its new certificate"),
        Ok(false) => {}
        // The one before ends by itself, or when the robot connects again.
        Err(error) => tracing::warn!(serial, %error, "cannot end the certificate before this one"),
    }
}

/// As the log keeps it. Its stream is the certificate's serial, as an enrolment's is.
fn renewed(source: &Arc<str>, certificate: &Certificate, renews: &str, now: Timestamp) -> NewEvent {
    let data = serde_json::json!({
        "old_serial": renews,
        "certificate_serial": certificate.serial,
        "not_after": Timestamp::from_ms(certificate.not_after_ms),
    });
    NewEvent {
        aggregate_type: "robot",
        aggregate_id: certificate.common_name.as_str().into(),
        source: source.clone(),
        stream: stream_of(&certificate.serial),
        seq: 1,
        kind: kind::RENEWED.into(),
        ts_ms: now.as_ms(),
        received_ms: now.as_ms(),
        data: data.to_string().into(),
        metadata: Arc::from("{}"),
    }
}
