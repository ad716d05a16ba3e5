//! Trust in a server whose authority is known by fingerprint only: the chain that it presents must
//! contain the certificate with that fingerprint, and verify against it.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{fingerprint, provider};
use crate::config::Fingerprint;

/// The verifier. Remembers what another authority showed, for the message to people.
#[derive(Debug)]
pub(super) struct Pinned {
    expected: Fingerprint,
    provider: Arc<CryptoProvider>,
    stranger: Mutex<Option<Fingerprint>>,
}

impl Pinned {
    pub(super) fn new(expected: Fingerprint) -> Self {
        Self {
            expected,
            provider: provider(),
            stranger: Mutex::new(None),
        }
    }

    /// The fingerprint of the last certificate of a chain without the pinned one.
    pub(super) fn stranger(&self) -> Option<Fingerprint> {
        *self.stranger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(error: webpki::Error) -> Error {
    Error::InvalidCertificate(match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::CertNotValidForName(_) => CertificateError::NotValidForName,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    })
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|c| fingerprint(c) == self.expected);
        let Some(authority) = authority else {
            let last = intermediates.last().unwrap_or(end_entity);
            *self.stranger.lock().unwrap_or_else(PoisonError::into_inner) = Some(fingerprint(last));
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let anchors = [webpki::anchor_from_trusted_cert(authority).map_err(refused)?];
        let leaf = webpki::EndEntityCert::try_from(end_entity).map_err(refused)?;
        leaf.verify_for_usage(
            self.provider.signature_verification_algorithms.all,
            &anchors,
            intermediates,
            now,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(refused)?;
        leaf.verify_is_valid_for_subject_name(server_name)
            .map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
