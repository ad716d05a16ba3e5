//! Reads certificate requests (PKCS#10). Pure.
//!
//! Invariant: only the public key and the subject fields below ever leave a request; whatever
//! else it asks for is ignored. A [`Csr`] was signed by the key that it carries.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME,
    OID_X509_ORGANIZATIONAL_UNIT, OID_X509_SERIALNUMBER, Oid,
};
use x509_parser::prelude::FromDer;

/// Encoders differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A request whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    /// Subject CN.
    pub common_name: String,
    /// Subject serialNumber: the machine's serial.
    pub hardware_serial: Option<String>,
    /// Subject OU: the hardware profile where a robot enrols, the certificate's OU where it renews.
    pub profile: Option<String>,
    /// Subject O.
    pub organization: Option<String>,
    /// The public key (SubjectPublicKeyInfo, DER): P-256.
    pub spki: Vec<u8>,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// The body is PEM where EST wants bare base64.
    #[error("expected a PKCS#10 request as base64 of DER, got PEM")]
    Armoured,
    /// The body is no base64.
    #[error("expected a PKCS#10 request as base64 of DER, got {0} bytes that are no base64")]
    Base64(usize),
    /// The text is no PEM.
    #[error("expected a PKCS#10 request as PEM (-----BEGIN CERTIFICATE REQUEST-----)")]
    Pem,
    /// The bytes are no request.
    #[error("expected a PKCS#10 request, got {0} bytes that are none")]
    Malformed(usize),
    /// The key is of another kind.
    #[error("expected a P-256 key, got {0}")]
    KeyType(String),
    /// The request was not signed by its own key.
    #[error("expected a request signed by the key it carries, got another signature")]
    Signature,
    /// The subject does not name one CN.
    #[error("expected one {field} in the request's subject, got {found}")]
    Subject {
        /// Which part of the subject.
        field: &'static str,
        /// How many there were.
        found: usize,
    },
}

impl CsrError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Armoured | Self::Base64(_) | Self::Malformed(_) => {
                "make the body with `openssl req -new -key key.pem -subj /CN=ROBOT -outform DER | base64`"
            }
            Self::Pem => "make the request with `openssl req -new -key key.pem -subj /CN=NAME`",
            Self::KeyType(_) | Self::Signature => {
                "make the key with `openssl ecparam -genkey -name prime256v1 -noout -out key.pem`"
            }
            Self::Subject { .. } => {
                "the subject is /CN=ROBOT, with /serialNumber=… and /OU=PROFILE as needed"
            }
        }
    }
}

impl Csr {
    /// Reads the body of EST's simpleenroll: base64, with or without line breaks.
    ///
    /// # Errors
    /// When it is no request that this relay certifies.
    pub fn from_est(body: &[u8]) -> Result<Self, CsrError> {
        if body.trim_ascii_start().starts_with(b"-----") {
            return Err(CsrError::Armoured);
        }
        let base64: Vec<u8> = body
            .iter()
            .copied()
            .filter(|b| !b.is_ascii_whitespace())
            .collect();
        let der = BASE64
            .decode(&base64)
            .map_err(|_| CsrError::Base64(body.len()))?;
        Self::from_der(&der)
    }

    /// Reads a PEM request.
    ///
    /// # Errors
    /// When it is no request that this relay certifies.
    pub fn from_pem(pem: &str) -> Result<Self, CsrError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| CsrError::Pem)?;
        Self::from_der(&der)
    }

    fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        let malformed = || CsrError::Malformed(der.len());
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        let info = &request.certification_request_info;
        let algorithm = &info.subject_pki.algorithm;
        if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
            return Err(CsrError::KeyType(oid_name(&algorithm.algorithm)));
        }
        let curve = algorithm
            .parameters
            .as_ref()
            .and_then(|p| p.as_oid().ok())
            .ok_or_else(malformed)?;
        if curve != OID_EC_P256 {
            return Err(CsrError::KeyType(oid_name(&curve)));
        }
        request
            .verify_signature()
            .map_err(|_| CsrError::Signature)?;
        let field = |name, oid: &Oid<'_>| -> Result<Option<String>, CsrError> {
            let mut values = info.subject.iter_by_oid(oid);
            match (values.next(), values.count()) {
                (None, _) => Ok(None),
                (Some(value), 0) => value
                    .as_str()
                    .map(|v| Some(v.to_owned()))
                    .map_err(|_| malformed()),
                (Some(_), more) => Err(CsrError::Subject {
                    field: name,
                    found: more + 1,
                }),
            }
        };
        Ok(Self {
            common_name: field("CN", &OID_X509_COMMON_NAME)?.ok_or(CsrError::Subject {
                field: "CN",
                found: 0,
            })?,
            hardware_serial: field("serialNumber", &OID_X509_SERIALNUMBER)?,
            profile: field("OU", &OID_X509_ORGANIZATIONAL_UNIT)?,
            organization: field("O", &OID_X509_ORGANIZATION_NAME)?,
            spki: info.subject_pki.raw.to_vec(),
        })
    }

    /// SHA-256 of the public key: what a token is bound to.
    #[must_use]
    pub fn key_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }
}

fn oid_name(oid: &Oid<'_>) -> String {
    x509_parser::objects::oid2sn(oid, x509_parser::objects::oid_registry())
        .map_or_else(|_| oid.to_id_string(), str::to_owned)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use base64::engine::general_purpose::STANDARD as PLAIN;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    /// A request as an agent makes it, in DER.
    pub(crate) fn request(key: &KeyPair, subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (field, value) in subject {
            params.distinguished_name.push(field.clone(), *value);
        }
        params.serialize_request(key).unwrap().der().to_vec()
    }

    pub(crate) fn serial_number() -> DnType {
        DnType::CustomDnType(vec![2, 5, 4, 5])
    }

    fn p256() -> KeyPair {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
    }

    #[test]
    fn reads_base64_with_and_without_line_breaks() {
        let key = p256();
        let der = request(
            &key,
            &[
                (DnType::CommonName, "kiwi-01"),
                (serial_number(), "100000009a3f"),
                (DnType::OrganizationalUnitName, "lekiwi"),
            ],
        );
        let csr = Csr::from_est(PLAIN.encode(&der).as_bytes()).unwrap();
        assert_eq!(csr.common_name, "kiwi-01");
        assert_eq!(csr.hardware_serial.as_deref(), Some("100000009a3f"));
        assert_eq!(csr.profile.as_deref(), Some("lekiwi"));
        assert_eq!(
            csr.spki,
            rcgen::PublicKeyData::subject_public_key_info(&key)
        );
        let broken = crate::identity::wrapped(&PLAIN.encode(&der)).replace('\n', "\r\n");
        assert_eq!(Csr::from_est(broken.as_bytes()).unwrap(), csr);
        let pem = crate::identity::pem("CERTIFICATE REQUEST", &der);
        assert_eq!(Csr::from_pem(&pem).unwrap(), csr);
    }

    #[test]
    fn says_what_is_wrong_with_a_request() {
        let refusal = |body: &[u8]| Csr::from_est(body).unwrap_err().to_string();
        let good = request(&p256(), &[(DnType::CommonName, "kiwi-01")]);
        let encoded = |der: &[u8]| PLAIN.encode(der).into_bytes();

        let pem = crate::identity::pem("CERTIFICATE REQUEST", &good);
        assert_eq!(
            refusal(pem.as_bytes()),
            "expected a PKCS#10 request as base64 of DER, got PEM"
        );
        assert_eq!(
            refusal(&good),
            format!(
                "expected a PKCS#10 request as base64 of DER, got {} bytes that are no base64",
                good.len()
            )
        );
        assert_eq!(
            refusal(b""),
            "expected a PKCS#10 request, got 0 bytes that are none"
        );
        let half = &good[..good.len() / 2];
        assert_eq!(
            refusal(&encoded(half)),
            format!(
                "expected a PKCS#10 request, got {} bytes that are none",
                half.len()
            )
        );
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(
            refusal(&encoded(&longer)),
            format!(
                "expected a PKCS#10 request, got {} bytes that are none",
                longer.len()
            )
        );

        // Another name in a signed request: the signature no longer fits.
        let at = good.windows(7).position(|w| w == b"kiwi-01").unwrap();
        let mut forged = good.clone();
        forged[at + 6] = b'2';
        assert_eq!(
            refusal(&encoded(&forged)),
            "expected a request signed by the key it carries, got another signature"
        );

        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let other = request(&p384, &[(DnType::CommonName, "kiwi-01")]);
        assert_eq!(
            refusal(&encoded(&other)),
            "expected a P-256 key, got secp384r1"
        );
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other = request(&ed25519, &[(DnType::CommonName, "kiwi-01")]);
        assert_eq!(
            refusal(&encoded(&other)),
            "expected a P-256 key, got ed25519"
        );

        let nameless = request(&p256(), &[(DnType::OrganizationalUnitName, "lekiwi")]);
        assert_eq!(
            refusal(&encoded(&nameless)),
            "expected one CN in the request's subject, got 0"
        );
        assert_eq!(
            Csr::from_pem("no pem").unwrap_err().to_string(),
            "expected a PKCS#10 request as PEM (-----BEGIN CERTIFICATE REQUEST-----)"
        );
    }
}
