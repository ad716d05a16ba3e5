//! The fleet's certificate authority, in the data folder: signs robots, consumers and the relay's own server certificate;
//! what goes into a certificate is decided here, never taken from a request. Made at the first start; while the fleet
//! moves to another root, that one or the one before is beside it. Blocking file IO at open, pure afterwards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lekiwi_protocol::access::Principal;
use lekiwi_protocol::{ConsumerName, Org, RelayId, RobotId};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::generation::{self, Generation, beside, random_serial, validity};

/// The authority that comes after this one, inside its folder, until it signs.
pub(super) const NEXT: &str = "next";
/// The authority before this one, inside its folder, as long as it is trusted.
pub(super) const PREVIOUS: &str = "previous";
/// What is to take the place of the folder, beside it.
pub(super) const SWITCHED: &str = ".switched";
/// What it takes the place of, until it is removed.
pub(super) const BEFORE: &str = ".before";

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
    #[error("expected both {} and {} in {folder}, found no {missing}", pair[0], pair[1])]
    Incomplete {
        /// The authority's folder.
        folder: PathBuf,
        /// What belongs together.
        pair: [&'static str; 2],
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
    #[error("expected the key of {certificate} in {path}, got another key")]
    Mismatch {
        /// The certificate's file.
        certificate: &'static str,
        /// The key's file.
        path: PathBuf,
    },
    /// The root has to sign, and its key is not there.
    #[error("expected the root's key in {0}, found none")]
    RootOffline(PathBuf),
    /// A file that was named does not have the root's key.
    #[error("expected the key of ca.pem in {0}, got something else")]
    NotRootKey(PathBuf),
    /// The move to another root is not where it should be for this step.
    #[error("expected {expected}, found {found}")]
    OutOfStep {
        /// What should be.
        expected: &'static str,
        /// What is.
        found: &'static str,
        /// What a person can do about it.
        hint: &'static str,
    },
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
            Self::Incomplete { .. } | Self::Damaged { .. } | Self::Mismatch { .. } => Some(
                "restore the folder from a backup; or move it away, begin anew with `lekiwi-relay ca new`, and enrol every robot again",
            ),
            Self::RootOffline(_) => {
                Some("bring the key from where it is kept, and name it with --root-key FILE")
            }
            Self::NotRootKey(_) => {
                Some("the key of the root is wanted, PKCS#8 PEM, not that of the issuing authority")
            }
            Self::OutOfStep { hint, .. } => Some(hint),
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

/// The authority that signs, its key in memory; and while the fleet moves to another root, that one or the one before.
pub struct Authority {
    folder: PathBuf,
    present: Generation,
    previous: Option<Generation>,
    next: Option<Generation>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Whether there is one in `folder`.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn is_in(folder: &Path) -> Result<bool, AuthorityError> {
        let is_there = || folder.try_exists().map_err(io_error("read", folder));
        let switched = beside(folder, SWITCHED);
        if is_there()? || !switched.exists() {
            return is_there();
        }
        // The power went between the two renames of a switch. Whoever was quicker did the same.
        match fs::rename(&switched, folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("rename", &switched)(error))
            }
            _ => {
                // Keys are in it. What stays is removed by the next switch.
                let _ = generation::remove(&beside(folder, BEFORE));
                is_there()
            }
        }
    }

    /// Loads the authority in `folder`, or makes one if there is no such folder: one, however many relays start at once.
    ///
    /// # Errors
    /// When the folder is damaged, or cannot be read or written.
    pub fn open_or_create(folder: &Path, org: &Org, now_ms: u64) -> Result<Self, AuthorityError> {
        if !Self::is_in(folder)? {
            let _lock = lock(folder)?;
            if !Self::is_in(folder)? {
                generation::create(folder, org, now_ms, None, false)?;
            }
        }
        Self::open(folder)
    }

    /// Loads the authority in `folder`.
    ///
    /// # Errors
    /// When there is none, it is damaged, or cannot be read.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        if !Self::is_in(folder)? {
            return Err(AuthorityError::Missing(folder.to_owned()));
        }
        let beside_it = |name: &str| match Generation::open(&folder.join(name)) {
            Err(AuthorityError::Missing(_)) => Ok(None),
            other => other.map(Some),
        };
        loop {
            let read = Self {
                folder: folder.to_owned(),
                present: Generation::open(folder)?,
                previous: beside_it(PREVIOUS)?,
                next: beside_it(NEXT)?,
            };
            // A switch in between would leave one of before beside one of after.
            if Generation::open(folder)?.root == read.present.root {
                return Ok(read);
            }
        }
    }

    /// Where the authority lives.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The root's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.present.root
    }

    /// The root that robots pin from now on, for people and files.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        super::pem("CERTIFICATE", self.certificate())
    }

    /// What robots pin: `sha256:` and the hex digest of the root's certificate.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(self.certificate())
    }

    /// The fingerprint of the root that comes next, as soon as there is one.
    #[must_use]
    pub fn next_fingerprint(&self) -> Option<String> {
        Some(fingerprint(&self.next.as_ref()?.root))
    }

    /// The fingerprint of the root before, as long as it is trusted.
    #[must_use]
    pub fn previous_fingerprint(&self) -> Option<String> {
        Some(fingerprint(&self.previous.as_ref()?.root))
    }

    /// Whether an issuing authority signs, and not the root.
    #[must_use]
    pub fn has_issuing(&self) -> bool {
        self.present.issuing.is_some()
    }

    /// When who signs ends, milliseconds since the epoch.
    #[must_use]
    pub fn not_after_ms(&self) -> u64 {
        self.present.not_after_ms
    }

    /// Whether the authority of now signed `certificate`, DER.
    #[must_use]
    pub fn has_signed(&self, certificate: &[u8]) -> bool {
        self.present.has_signed(certificate)
    }

    /// The roots that are trusted, that of now first.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.generations().map(|it| it.root.clone()).collect()
    }

    /// [`Authority::roots`], PEM.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        let pem = |root: &Generation| super::pem("CERTIFICATE", &root.root);
        self.generations().map(pem).collect()
    }

    /// Who may have signed a client's certificate: the roots, and the issuing authorities below them, for clients that
    /// show their own certificate only.
    #[must_use]
    pub fn of_clients(&self) -> Vec<CertificateDer<'static>> {
        let issuing = self.generations().filter_map(|it| it.issuing.clone());
        self.roots().into_iter().chain(issuing).collect()
    }

    /// All certificates of the authority.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let cross = self.generations().filter_map(|it| it.cross.clone());
        self.of_clients().into_iter().chain(cross).collect()
    }

    /// From what is signed now up to a root, without the roots: what a client that has a certificate shows after it.
    #[must_use]
    pub fn path(&self) -> Vec<CertificateDer<'static>> {
        let Generation { issuing, cross, .. } = &self.present;
        issuing.iter().chain(cross).cloned().collect()
    }

    /// [`Authority::path`], PEM.
    #[must_use]
    pub fn path_pem(&self) -> String {
        let path = self.path();
        path.iter()
            .map(|it| super::pem("CERTIFICATE", it))
            .collect()
    }

    /// What a server shows after its own certificate. The roots are there for clients that know their fingerprints only,
    /// and that of now is the last, for those that ask a person.
    pub(super) fn path_to_roots(&self) -> Vec<CertificateDer<'static>> {
        let previous = self.previous.as_ref().map(|it| it.root.clone());
        let present = self.present.root.clone();
        self.path()
            .into_iter()
            .chain(previous)
            .chain([present])
            .collect()
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        [&self.present]
            .into_iter()
            .chain(&self.previous)
            .chain(&self.next)
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

    /// Signs a list of revoked certificates as each authority whose certificates count; DER, that of now first.
    pub(super) fn sign_list(
        &self,
        list: &CertificateRevocationListParams,
    ) -> Result<Vec<Vec<u8>>, AuthorityError> {
        [&self.present]
            .into_iter()
            .chain(&self.previous)
            .flat_map(Generation::issuers)
            .map(|issuer| Ok(list.signed_by(issuer)?.der().to_vec()))
            .collect()
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
        let left = Duration::from_millis(self.present.not_after_ms.saturating_sub(now_ms));
        let lifetime = lifetime.min(left);
        let (not_before_ms, not_after_ms) = validity(&mut params, now_ms, backdated, lifetime);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.present.issuer)?;
        Ok(Issued {
            // The first digit is never zero, so this is also "without leading zeros".
            serial: hex::encode(serial),
            der: certificate.der().to_vec(),
            not_before_ms,
            not_after_ms,
        })
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(certificate)))
}

/// Held while the folder is changed.
pub(super) fn lock(folder: &Path) -> Result<fs::File, AuthorityError> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    let path = beside(folder, ".lock");
    let lock = fs::File::create(&path).or_else(|error| fs::File::open(&path).map_err(|_| error));
    let lock = lock.map_err(io_error("create", &path))?;
    lock.lock().map_err(io_error("lock", &path))?;
    Ok(lock)
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

    use rcgen::KeyPair;

    use super::super::generation::{CA_CERTIFICATE, CA_KEY};
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
