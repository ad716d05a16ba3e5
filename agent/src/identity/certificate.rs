//! Checks of certificates. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::{Decode, Encode};
use lekiwi_protocol::{RobotId, Timestamp};
use rcgen::{DistinguishedName, DnType};
use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};

use super::key::Key;
use super::provider;
use crate::clock::unix_time;

/// `commonName`.
const COMMON_NAME: der::asn1::ObjectIdentifier = der::asn1::ObjectIdentifier::new_unwrap("2.5.4.3");

/// Why a certificate is of no use to this robot.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate.
    #[error("expected an X.509 certificate")]
    Malformed,
    /// For somebody else.
    #[error("expected a certificate for {expected}, got one for {actual:?}")]
    OtherRobot {
        /// This robot.
        expected: RobotId,
        /// The certificate's common name.
        actual: String,
    },
    /// For another key.
    #[error("expected a certificate for this robot's key, got one for another key")]
    OtherKey,
    /// Its time is over.
    #[error("expected a certificate that is valid at {now}, got one that ended at {not_after}")]
    Expired {
        /// The time that certificates are judged by.
        now: Timestamp,
        /// Its end.
        not_after: Timestamp,
    },
    /// Not signed by an authority that is trusted, or not for clients.
    #[error("expected a client certificate signed by the pinned authority")]
    Untrusted {
        /// What the verifier found.
        #[source]
        source: webpki::Error,
    },
}

/// What a certificate says of itself.
pub(super) struct Facts {
    /// Lower-case hex digits, without leading zeros.
    pub(super) serial: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// Whether the first of `chain` is good for `robot` with `key` at `now`, signed by one of `authorities`.
pub(super) fn check(
    chain: &[CertificateDer<'_>],
    authorities: &[CertificateDer<'_>],
    robot: &RobotId,
    key: &Key,
    now: Timestamp,
) -> Result<Facts, CertificateError> {
    let (leaf, intermediates) = chain.split_first().ok_or(CertificateError::Malformed)?;
    let parsed = Certificate::from_der(leaf).map_err(|_| CertificateError::Malformed)?;
    let actual = common_name(&parsed).unwrap_or_default();
    if actual != robot.as_str() {
        return Err(CertificateError::OtherRobot {
            expected: robot.clone(),
            actual: actual.chars().take(80).collect(),
        });
    }
    let spki = parsed.tbs_certificate.subject_public_key_info.to_der();
    if spki.ok().as_deref() != Some(&key.spki()[..]) {
        return Err(CertificateError::OtherKey);
    }
    let serial = hex::encode(parsed.tbs_certificate.serial_number.as_bytes());
    let validity = parsed.tbs_certificate.validity;
    let facts = Facts {
        serial: serial.trim_start_matches('0').to_owned(),
        not_before: timestamp(validity.not_before),
        not_after: timestamp(validity.not_after),
    };
    if facts.not_after < now {
        return Err(CertificateError::Expired {
            now,
            not_after: facts.not_after,
        });
    }
    // A certificate that was just made must not fail on a clock that lags: it is proof of the time.
    let time = unix_time(now.max(facts.not_before));
    let untrusted = |source| CertificateError::Untrusted { source };
    let anchors = authorities.iter().map(anchor_from_trusted_cert);
    let anchors: Vec<_> = anchors.collect::<Result<_, _>>().map_err(untrusted)?;
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| {
            leaf.verify_for_usage(
                provider().signature_verification_algorithms.all,
                &anchors,
                intermediates,
                time,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map(|_| ())
        })
        .map_err(untrusted)?;
    Ok(facts)
}

fn timestamp(time: x509_cert::time::Time) -> Timestamp {
    let since = u64::try_from(time.to_unix_duration().as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_ms(since)
}

/// The subject of the first of `chain`, as a request for its successor must have it.
pub(super) fn subject(chain: &[CertificateDer<'_>]) -> Result<DistinguishedName, CertificateError> {
    let leaf = chain.first().ok_or(CertificateError::Malformed)?;
    let parsed = Certificate::from_der(leaf).map_err(|_| CertificateError::Malformed)?;
    let mut subject = DistinguishedName::new();
    for name in parsed
        .tbs_certificate
        .subject
        .0
        .iter()
        .flat_map(|rdn| rdn.0.iter())
    {
        let text = text(&name.value).ok_or(CertificateError::Malformed)?;
        let oid = name.oid.arcs().map(u64::from).collect();
        subject.push(DnType::CustomDnType(oid), text);
    }
    Ok(subject)
}

/// Whether it signs itself, as the root of an authority does; what signs others only has a root of its own.
#[must_use]
pub fn is_root(certificate: &CertificateDer<'_>) -> bool {
    Certificate::from_der(certificate).is_ok_and(|parsed| {
        let tbs = parsed.tbs_certificate;
        tbs.issuer == tbs.subject
    })
}

fn common_name(certificate: &Certificate) -> Option<String> {
    let mut names = certificate
        .tbs_certificate
        .subject
        .0
        .iter()
        .flat_map(|rdn| rdn.0.iter());
    text(&names.find(|name| name.oid == COMMON_NAME)?.value)
}

fn text(value: &der::Any) -> Option<String> {
    let utf8 = value
        .decode_as::<Utf8StringRef<'_>>()
        .map(|text| text.to_string());
    utf8.or_else(|_| {
        value
            .decode_as::<PrintableStringRef<'_>>()
            .map(|text| text.to_string())
    })
    .ok()
}

/// Certificates as PEM text.
pub(super) fn certificates_pem(certificates: &[CertificateDer<'_>]) -> String {
    pem("CERTIFICATE", certificates)
}

/// As PEM text: whatever of this kind.
pub(super) fn pem(kind: &str, all: &[impl AsRef<[u8]>]) -> String {
    let mut text = String::new();
    for der in all {
        text.push_str(&format!("-----BEGIN {kind}-----\n"));
        for line in STANDARD.encode(der).as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str(&format!("-----END {kind}-----\n"));
    }
    text
}
