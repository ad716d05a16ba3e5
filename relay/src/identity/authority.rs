//! The fleet's certificate authority: one self-signed P-256 root in the data folder, made at the first
//! start. Signs robots, consumers and the relay's own server certificate; what goes into a certificate
//! is decided here, never taken from a request. Blocking file IO at open, pure afterwards.
//!
//! Invariant: the folder appears whole (made beside and renamed), so a folder with a missing or wrong
//! file means damage, and is reported rather than replaced: a new authority would lock every robot out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lekiwi_protocol::access::Principal;
use lekiwi_protocol::{ConsumerName, Org, RelayId, RobotId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::files;

/// The root's certificate, PEM.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The root's key, PKCS#8 PEM.
pub const CA_KEY: &str = "ca.key";
const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How far back the root and the server certificate begin: a Pi has no clock at boot and judges them by
/// the time its agent was built.
pub(super) const BACKDATED: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far back a client's certificate begins at most, for relays whose clocks differ; and never more than a tenth of
/// its lifetime, so that clients can tell when a third of that is left.
const SKEW: Duration = Duration::from_secs(3600);

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The folder lacks a file.
    #[error("expected both {CA_KEY} and {CA_CERTIFICATE} in {folder}, found no {missing}")]
    Incomplete {
        /// The authority's folder.
        folder: PathBuf,
        /// The missing file.
        missing: &'static str,
    },
    /// A file does not hold what it should.
    #[error("expected {expected} in {path}")]
    Damaged {
        /// What it should hold.
        expected: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate are of different authorities.
    #[error("expected the key of {CA_CERTIFICATE} in {0}, got another key")]
    Mismatch(PathBuf),
    /// There is no authority yet.
    #[error("expected a certificate authority in {0}, found none")]
    Missing(PathBuf),
    /// The crypto library refused.
    #[error("cannot sign a certificate")]
    Sign(#[from] rcgen::Error),
    /// The system gave no random numbers.
    #[error("cannot draw random numbers: {0}")]
    Random(getrandom::Error),
}

impl AuthorityError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Incomplete { .. } | Self::Damaged { .. } | Self::Mismatch(_) => Some(
                "restore the folder from a backup; or move it away, begin anew with `lekiwi-relay ca new`, and enrol every robot again",
            ),
            Self::Missing(_) => Some("start the relay once with `lekiwi-relay run`; it makes one"),
            _ => None,
        }
    }
}

/// Who a client certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A robot.
    Robot(RobotId),
    /// A read-only broker client.
    Consumer(ConsumerName),
    /// A relay, as a client of an external broker.
    Relay(RelayId),
}

impl Subject {
    /// The certificate's CN.
    #[must_use]
    pub fn common_name(&self) -> String {
        match self {
            Self::Robot(id) => id.to_string(),
            Self::Consumer(name) => name.common_name(),
            Self::Relay(id) => Principal::Relay(id.clone()).common_name(),
        }
    }

    fn unit(&self) -> &'static str {
        match self {
            Self::Robot(_) => "robot",
            Self::Consumer(_) => "consumer",
            Self::Relay(_) => "relay",
        }
    }
}

/// A certificate that was just signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Lower-case hex without leading zeros.
    pub serial: String,
    /// The certificate.
    pub der: Vec<u8>,
    /// Start of validity, milliseconds since the epoch.
    pub not_before_ms: u64,
    /// End of validity, milliseconds since the epoch.
    pub not_after_ms: u64,
}

/// The root, its key in memory.
pub struct Authority {
    folder: PathBuf,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// End of its validity, milliseconds since the epoch.
    not_after_ms: u64,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Loads the authority in `folder`, or makes one if there is no such folder: one, however many relays start at once.
    ///
    /// # Errors
    /// When the folder is damaged, or cannot be read or written.
    pub fn open_or_create(folder: &Path, org: &Org, now_ms: u64) -> Result<Self, AuthorityError> {
        match Self::open(folder) {
            Err(AuthorityError::Missing(_)) => {}
            other => return other,
        }
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        let path = beside(folder, ".lock");
        let lock = fs::File::create(&path).map_err(io_error("create", &path))?;
        lock.lock().map_err(io_error("lock", &path))?;
        match Self::open(folder) {
            Err(AuthorityError::Missing(_)) => {
                create(folder, org, now_ms)?;
                Self::open(folder)
            }
            other => other,
        }
    }

    /// Loads the authority in `folder`.
    ///
    /// # Errors
    /// When there is none, it is damaged, or cannot be read.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        if !folder.try_exists().map_err(io_error("read", folder))? {
            return Err(AuthorityError::Missing(folder.to_owned()));
        }
        let read = |name: &'static str| match fs::read(folder.join(name)) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(AuthorityError::Incomplete {
                    folder: folder.to_owned(),
                    missing: name,
                })
            }
            Err(error) => Err(io_error("read", &folder.join(name))(error)),
        };
        let damaged = |name: &str, expected| AuthorityError::Damaged {
            expected,
            path: folder.join(name),
        };
        let (key, certificate) = (read(CA_KEY)?, read(CA_CERTIFICATE)?);
        let key = std::str::from_utf8(&key)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            .ok_or_else(|| damaged(CA_KEY, "a private key as PKCS#8 PEM"))?;
        let certificate = CertificateDer::from_pem_slice(&certificate)
            .map_err(|_| damaged(CA_CERTIFICATE, "a certificate as PEM"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|_| damaged(CA_CERTIFICATE, "an X.509 certificate"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(AuthorityError::Mismatch(folder.join(CA_KEY)));
        }
        let not_after = parsed.validity().not_after.timestamp();
        let not_after_ms = u64::try_from(not_after).unwrap_or(0) * 1000;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            folder: folder.to_owned(),
            certificate,
            issuer,
            not_after_ms,
        })
    }

    /// Where the authority lives.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The root certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// End of its validity, milliseconds since the epoch.
    #[must_use]
    pub fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }

    /// The root certificate for people and files.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        super::pem("CERTIFICATE", &self.certificate)
    }

    /// What robots pin: `sha256:` and the hex digest of the root certificate.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(&self.certificate)))
    }

    /// Signs a client certificate for the P-256 key `spki` (SubjectPublicKeyInfo, DER).
    ///
    /// # Errors
    /// When the key is none that can be certified, or the system has no random numbers.
    pub fn issue(
        &self,
        subject: &Subject,
        org: &Org,
        spki: &[u8],
        now_ms: u64,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let key = SubjectPublicKeyInfo::from_der(spki)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, subject.common_name());
        params
            .distinguished_name
            .push(DnType::OrganizationName, org.as_str());
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, subject.unit());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, &key, now_ms, SKEW.min(lifetime / 10), lifetime)
    }

    /// Signs a list of revoked certificates; DER.
    pub(super) fn sign_list(
        &self,
        list: &CertificateRevocationListParams,
    ) -> Result<Vec<u8>, AuthorityError> {
        let signed = list.signed_by(&self.issuer)?;
        Ok(signed.der().to_vec())
    }

    pub(super) fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        now_ms: u64,
        backdated: Duration,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let serial = random_serial()?;
        // What outlives its authority is good for nobody.
        let left = Duration::from_millis(self.not_after_ms.saturating_sub(now_ms));
        let lifetime = lifetime.min(left);
        let (not_before_ms, not_after_ms) = validity(&mut params, now_ms, backdated, lifetime);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued {
            // The first digit is never zero, so this is also "without leading zeros".
            serial: hex::encode(serial),
            der: certificate.der().to_vec(),
            not_before_ms,
            not_after_ms,
        })
    }
}

fn create(folder: &Path, org: &Org, now_ms: u64) -> Result<(), AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Lekiwi Heartbeat authority");
    params
        .distinguished_name
        .push(DnType::OrganizationName, org.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    validity(&mut params, now_ms, BACKDATED, CA_LIFETIME);
    let certificate = params.self_signed(&key)?;

    let beside = beside(folder, ".new");
    if beside.exists() {
        // A crash before the rename: no robot has ever seen this authority.
        fs::remove_dir_all(&beside).map_err(io_error("remove", &beside))?;
    }
    fs::create_dir_all(&beside).map_err(io_error("create", &beside))?;
    let write = |name: &str, pem: String, mode| {
        let path = beside.join(name);
        files::create(&path, pem.as_bytes(), mode).map_err(io_error("write", &path))
    };
    write(CA_KEY, key.serialize_pem(), files::SECRET)?;
    write(
        CA_CERTIFICATE,
        super::pem("CERTIFICATE", certificate.der()),
        files::PUBLIC,
    )?;
    fs::rename(&beside, folder).map_err(io_error("create", folder))?;
    files::sync_parent(folder).map_err(io_error("sync", folder))
}

/// What is named after a folder, beside it.
fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut beside = folder.as_os_str().to_owned();
    beside.push(ending);
    beside.into()
}

/// 127 bits with the highest one set: positive, never with leading zeros, 126 of them random.
fn random_serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(AuthorityError::Random)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// Sets the validity, in whole seconds as certificates know them; returns it in milliseconds.
fn validity(
    params: &mut CertificateParams,
    now_ms: u64,
    backdated: Duration,
    lifetime: Duration,
) -> (u64, u64) {
    let now_s = now_ms / 1000;
    let (from_s, to_s) = (
        now_s.saturating_sub(backdated.as_secs()),
        now_s + lifetime.as_secs(),
    );
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from_s);
    params.not_after = epoch + Duration::from_secs(to_s);
    (from_s * 1000, to_s * 1000)
}

pub(super) fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> AuthorityError + 'a {
    move |source| AuthorityError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: u64 = 1_795_233_120_000;

    fn made() -> (tempfile::TempDir, PathBuf, Authority) {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("ca");
        let authority = Authority::open_or_create(&folder, &Org::default(), NOW).unwrap();
        (data, folder, authority)
    }

    #[test]
    fn is_made_once_and_kept() {
        let (_data, folder, first) = made();
        let again = Authority::open_or_create(&folder, &Org::default(), NOW).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), "sha256:".len() + 64);
        let mode = fs::metadata(folder.join(CA_KEY))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_a_crash_left_before_the_rename_is_replaced() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("ca");
        fs::create_dir(data.path().join("ca.new")).unwrap();
        fs::write(data.path().join("ca.new").join(CA_KEY), "half a k").unwrap();
        Authority::open_or_create(&folder, &Org::default(), NOW).unwrap();
        assert!(!data.path().join("ca.new").exists());
    }

    #[test]
    fn damage_is_reported_and_never_replaced() {
        let open = |folder: &Path| {
            Authority::open_or_create(folder, &Org::default(), NOW)
                .unwrap_err()
                .to_string()
        };
        let (_data, folder, _) = made();
        let shown = folder.display();

        let certificate = fs::read(folder.join(CA_CERTIFICATE)).unwrap();
        fs::write(folder.join(CA_CERTIFICATE), &certificate[..100]).unwrap();
        assert_eq!(
            open(&folder),
            format!("expected a certificate as PEM in {shown}/ca.pem")
        );
        fs::remove_file(folder.join(CA_CERTIFICATE)).unwrap();
        assert_eq!(
            open(&folder),
            format!("expected both ca.key and ca.pem in {shown}, found no ca.pem")
        );
        fs::write(folder.join(CA_CERTIFICATE), &certificate).unwrap();

        let key = fs::read(folder.join(CA_KEY)).unwrap();
        fs::write(folder.join(CA_KEY), &key[..40]).unwrap();
        assert_eq!(
            open(&folder),
            format!("expected a private key as PKCS#8 PEM in {shown}/ca.key")
        );
        let (_other_data, other, _) = made();
        fs::copy(other.join(CA_KEY), folder.join(CA_KEY)).unwrap();
        assert_eq!(
            open(&folder),
            format!("expected the key of ca.pem in {shown}/ca.key, got another key")
        );
        fs::remove_file(folder.join(CA_KEY)).unwrap();
        assert_eq!(
            open(&folder),
            format!("expected both ca.key and ca.pem in {shown}, found no ca.key")
        );
    }

    #[test]
    fn a_robot_certificate_says_what_the_relay_knows() {
        let (_data, _, authority) = made();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let subject = Subject::Robot("kiwi-01".parse().unwrap());
        let day = Duration::from_secs(24 * 3600);
        let issued = authority
            .issue(
                &subject,
                &Org::default(),
                &key.subject_public_key_info(),
                NOW,
                90 * day,
            )
            .unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
        let (_, root) = x509_parser::parse_x509_certificate(authority.certificate()).unwrap();
        certificate
            .verify_signature(Some(root.public_key()))
            .unwrap();
        assert_eq!(
            certificate.subject().to_string(),
            "CN=kiwi-01, O=default, OU=robot"
        );
        assert_eq!(certificate.serial.to_str_radix(16), issued.serial);
        assert_eq!(issued.serial.len(), 32);
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        let days = (issued.not_after_ms - NOW) / 1000 / day.as_secs();
        assert_eq!(days, 90);
        assert_eq!(
            certificate.validity().not_after.timestamp() as u64 * 1000,
            issued.not_after_ms
        );
    }
}
