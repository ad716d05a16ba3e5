//! Trust in a relay whose authority is known by its fingerprint alone (feature `pinned`): the relay sends its
//! authority along, so the chain that it shows must contain the certificate with that fingerprint, and be
//! signed by it. Called by every client of a relay; pure but for the handshake that asks it. The provider of
//! cryptography is an argument: each program has one of its own.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// SHA-256 of a certificate's DER, printed as `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

/// Why a text is no [`Fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected sha256: and 64 hex digits, got {0:?}")]
pub struct FingerprintError(String);

impl Fingerprint {
    /// The certificate's.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let mut bytes = [0; 32];
        text.strip_prefix("sha256:")
            .and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok())
            .map(|()| Self(bytes))
            .ok_or_else(|| FingerprintError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;
    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Believes one authority; with none pinned it believes nobody, and only notes who was shown.
#[derive(Debug)]
pub struct Verifier {
    pin: Option<Fingerprint>,
    provider: Arc<CryptoProvider>,
    shown: Mutex<Option<Fingerprint>>,
}

impl Verifier {
    /// Believes `pin` alone.
    #[must_use]
    pub fn new(pin: Option<Fingerprint>, provider: Arc<CryptoProvider>) -> Self {
        Self {
            pin,
            provider,
            shown: Mutex::new(None),
        }
    }

    /// The authority that the last refused handshake showed, once: TLS libraries only say that it failed.
    #[must_use]
    pub fn take_shown(&self) -> Option<Fingerprint> {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Whether `authority` signed the server's certificate, and that is good for `name` at `now`.
    fn judge(
        &self,
        authority: &CertificateDer<'_>,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            intermediates,
            now,
            algorithms,
        )?;
        verify_server_name(&certificate, name)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| Some(Fingerprint::of(certificate)) == self.pin);
        if let Some(authority) = pinned {
            self.judge(authority, end_entity, intermediates, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        let last = intermediates.last().unwrap_or(end_entity);
        if self.pin.is_none() {
            // Nobody is asked about an authority that would be of no use when believed.
            self.judge(last, end_entity, intermediates, server_name, now)?;
        }
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(Fingerprint::of(last));
        Err(CertificateError::UnknownIssuer.into())
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_print_as_they_parse() {
        let text = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), text);
        for bad in [
            "",
            "sha256:",
            "sha256:zz",
            "0f",
            "sha1:0f",
            &format!("{text}0"),
        ] {
            assert_eq!(
                bad.parse::<Fingerprint>().unwrap_err().to_string(),
                format!(
                    "expected sha256: and 64 hex digits, got {:?}",
                    bad.chars().take(80).collect::<String>()
                )
            );
        }
    }
}
