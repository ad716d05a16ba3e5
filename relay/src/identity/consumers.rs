//! Read-only certificates for programs that listen on the broker. Called by the HTTP interface.

use std::time::Duration;

use lekiwi_protocol::access::{Reads, ReadsError};
use lekiwi_protocol::api::{ConsumerCreated, ConsumerRequest};
use lekiwi_protocol::topic::Root;
use lekiwi_protocol::{Timestamp, limits};

use super::authority::{Authority, AuthorityError, Subject};
use super::csr::{Csr, CsrError};
use crate::store::records::{Certificate, CertificateKind};
use crate::store::{Store, StoreError};

/// Longest life of a consumer's certificate, in days.
pub const MAX_LIFETIME_DAYS: u16 = 825;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Why there was no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The request is none.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// What it may read is no such thing.
    #[error(transparent)]
    Reads(#[from] ReadsError),
    /// The lifetime is out of bounds.
    #[error("expected a lifetime of 1 to {MAX_LIFETIME_DAYS} days, got {0}")]
    Lifetime(u16),
    /// The store refused.
    #[error("cannot keep the certificate")]
    Store(#[from] StoreError),
    /// The authority could not sign.
    #[error("cannot make the certificate")]
    Authority(#[from] AuthorityError),
}

/// Issues a certificate for the key in the request; its subject is `request.name`, whatever the CSR says. What it may read is
/// said of the name: earlier certificates of it may read the same from then on.
/// `mqtt` is the broker's `host:port` for the answer.
///
/// # Errors
/// When the request is refused or the store cannot write.
pub async fn create(
    store: &Store,
    authority: &Authority,
    root: &Root,
    mqtt: String,
    request: &ConsumerRequest,
    now: Timestamp,
) -> Result<ConsumerCreated, ConsumerError> {
    let lifetime = match request.lifetime_days {
        None => limits::ROBOT_CERTIFICATE_LIFETIME,
        Some(days @ 1..=MAX_LIFETIME_DAYS) => DAY * u32::from(days),
        Some(days) => return Err(ConsumerError::Lifetime(days)),
    };
    let csr = Csr::from_pem(&request.csr_pem)?;
    let reads = Reads::parse(&request.reads)?;
    let subject = Subject::Consumer(request.name.clone());
    let issued = authority.issue(&subject, root.org(), &csr.spki, now.as_ms(), lifetime)?;
    let answer = ConsumerCreated {
        certificate_pem: super::pem("CERTIFICATE", &issued.der) + &authority.path_pem(),
        ca_pem: authority.roots_pem(),
        serial: issued.serial.clone(),
        expires_at: Timestamp::from_ms(issued.not_after_ms),
        mqtt,
        filter: match reads.filters().first() {
            Some(filter) => format!("{root}/{filter}"),
            None => root.all_robots(),
        },
    };
    // Before there is a certificate that would read more.
    store.set_reads(request.name.clone(), reads).await?;
    store
        .insert_certificate(Certificate {
            serial: issued.serial,
            common_name: subject.common_name(),
            kind: CertificateKind::Consumer,
            key: csr.key_digest(),
            not_before_ms: issued.not_before_ms,
            not_after_ms: issued.not_after_ms,
            revoked_ms: None,
            der: issued.der,
        })
        .await?;
    tracing::info!(consumer = %request.name, serial = %answer.serial, "consumer certificate issued");
    Ok(answer)
}
