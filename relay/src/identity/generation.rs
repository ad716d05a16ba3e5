//! One authority in a folder of its own: a self-signed P-256 root, and, where the root's key is kept offline, an
//! issuing authority below it. Blocking file IO; what the files hold is decided here.
//!
//! Invariant: the folder appears whole (made beside and renamed), so a folder with a missing or wrong
//! file means damage, and is reported rather than replaced: a new authority would lock every robot out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lekiwi_protocol::Org;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;

use super::authority::{AuthorityError, io_error};
use crate::files;

/// The root's certificate, PEM: what robots pin.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The root's key, PKCS#8 PEM; absent where it is kept offline.
pub const CA_KEY: &str = "ca.key";
/// The issuing authority's certificate, PEM, where there is one.
pub(super) const ISSUING_CERTIFICATE: &str = "issuing.pem";
/// Its key, PKCS#8 PEM.
pub(super) const ISSUING_KEY: &str = "issuing.key";
/// The root as the root before signs it, PEM, while that one is trusted.
pub(super) const CROSS_CERTIFICATE: &str = "cross.pem";

const ROOT: [&str; 2] = [CA_KEY, CA_CERTIFICATE];
const ISSUING: [&str; 2] = [ISSUING_KEY, ISSUING_CERTIFICATE];
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const ROOT_LIFETIME: Duration = YEAR.saturating_mul(20);
const ISSUING_LIFETIME: Duration = YEAR.saturating_mul(5);
/// How far back authorities and the server certificate begin: a Pi has no clock at boot and judges them by the time its
/// agent was built.
pub(super) const BACKDATED: Duration = YEAR;
/// Below a root there may be its successor, and that one's issuing authority.
const BELOW_ROOT: u8 = 2;

/// One authority, as its folder has it.
pub(super) struct Generation {
    pub(super) root: CertificateDer<'static>,
    /// Below the root, where there is one: it signs, and the root's key may be elsewhere.
    pub(super) issuing: Option<CertificateDer<'static>>,
    /// The root, signed by the root before.
    pub(super) cross: Option<CertificateDer<'static>>,
    /// Who signs: the issuing authority, or the root.
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// The root, where an issuing authority signs and the root's key is here all the same.
    above: Option<Issuer<'static, KeyPair>>,
    /// The end of who signs, milliseconds since the epoch.
    pub(super) not_after_ms: u64,
}

impl Generation {
    /// Loads the authority in `folder`.
    ///
    /// # Errors
    /// When there is none, it is damaged, or cannot be read.
    pub(super) fn open(folder: &Path) -> Result<Self, AuthorityError> {
        if !folder.try_exists().map_err(io_error("read", folder))? {
            return Err(AuthorityError::Missing(folder.to_owned()));
        }
        let (issuing_key, issuing) = (
            optional(folder, ISSUING_KEY)?,
            certificate(folder, ISSUING_CERTIFICATE)?,
        );
        let root_key = optional(folder, CA_KEY)?;
        let incomplete = |pair, missing| AuthorityError::Incomplete {
            folder: folder.to_owned(),
            pair,
            missing,
        };
        let below = match (issuing_key, issuing) {
            (None, None) => None,
            (Some(key), Some(issuing)) => Some((key, issuing)),
            (None, Some(_)) => return Err(incomplete(ISSUING, ISSUING_KEY)),
            // Where it was being made, and the disk was full, say: it is made again, and nothing was signed yet.
            (Some(_), None) if root_key.is_some() => None,
            (Some(_), None) => return Err(incomplete(ISSUING, ISSUING_CERTIFICATE)),
        };
        if root_key.is_none() && below.is_none() {
            return Err(incomplete(ROOT, CA_KEY));
        }
        let root = certificate(folder, CA_CERTIFICATE)?.ok_or(incomplete(ROOT, CA_CERTIFICATE))?;
        let root_key = root_key
            .map(|key| key_of(&folder.join(CA_KEY), &key, CA_CERTIFICATE, &root))
            .transpose()?;
        let cross = certificate(folder, CROSS_CERTIFICATE)?;
        let (issuing, signs, key, above) = match (below, root_key) {
            (Some((key, issuing)), root_key) => {
                let path = folder.join(ISSUING_KEY);
                let key = key_of(&path, &key, ISSUING_CERTIFICATE, &issuing)?;
                if !is_signed_by(&issuing, &root) {
                    return Err(AuthorityError::Damaged {
                        expected: "a certificate that ca.pem has signed",
                        path: folder.join(ISSUING_CERTIFICATE),
                    });
                }
                let above = root_key.map(|key| Issuer::from_ca_cert_der(&root, key));
                (Some(issuing.clone()), issuing, key, above.transpose()?)
            }
            (None, Some(key)) => (None, root.clone(), key, None),
            (None, None) => return Err(incomplete(ROOT, CA_KEY)),
        };
        Ok(Self {
            not_after_ms: not_after_ms(&signs),
            issuer: Issuer::from_ca_cert_der(&signs, key)?,
            above,
            root,
            issuing,
            cross,
        })
    }

    /// Whether a key of its own signed `certificate`, DER: also the root's, before there was an issuing authority.
    pub(super) fn has_signed(&self, certificate: &[u8]) -> bool {
        let mut own = self.issuing.iter().chain([&self.root]);
        own.any(|authority| is_signed_by(certificate, authority))
    }

    /// Who can sign a list of revoked certificates: who signs now first, and the root, which signed before that, as long
    /// as its key is here.
    pub(super) fn issuers(&self) -> impl Iterator<Item = &Issuer<'static, KeyPair>> {
        [&self.issuer].into_iter().chain(&self.above)
    }
}

/// Makes an authority in `folder`, which must not be there. `before` signs its root, too.
pub(super) fn create(
    folder: &Path,
    org: &Org,
    now_ms: u64,
    before: Option<&Root>,
    has_issuing: bool,
) -> Result<(), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = authority("authority", org, &key, BELOW_ROOT)?;
    let (_, ends_ms) = validity(&mut params, now_ms, BACKDATED, ROOT_LIFETIME);
    let root = params.self_signed(&key)?.der().clone();
    let issuing = match has_issuing {
        true => {
            let below = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let issuer = Issuer::from_ca_cert_der(&root, &key)?;
            let certificate = issuing(&issuer, &below, org, now_ms, ends_ms)?;
            Some((below, certificate))
        }
        false => None,
    };
    let cross = match before {
        Some(before) => {
            let left = Duration::from_millis(before.not_after_ms.saturating_sub(now_ms));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(u8::from(has_issuing)));
            params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
            params.use_authority_key_identifier_extension = true;
            validity(&mut params, now_ms, BACKDATED, left.min(ROOT_LIFETIME));
            Some(params.signed_by(&key, &before.issuer)?.der().clone())
        }
        None => None,
    };

    let beside = beside(folder, ".new");
    remove(&beside)?;
    files::create_folder(&beside).map_err(io_error("create", &beside))?;
    let write = |name: &str, pem: String, mode| {
        let path = beside.join(name);
        files::create_for_owner(&path, pem.as_bytes(), mode).map_err(io_error("write", &path))
    };
    let pem = |der: &CertificateDer<'_>| super::pem("CERTIFICATE", der);
    write(CA_KEY, key.serialize_pem(), files::SECRET)?;
    write(CA_CERTIFICATE, pem(&root), files::PUBLIC)?;
    if let Some((key, certificate)) = issuing {
        write(ISSUING_KEY, key.serialize_pem(), files::SECRET)?;
        write(ISSUING_CERTIFICATE, pem(&certificate), files::PUBLIC)?;
    }
    if let Some(cross) = cross {
        write(CROSS_CERTIFICATE, pem(&cross), files::PUBLIC)?;
    }
    files::sync_parent(&beside.join(CA_KEY)).map_err(io_error("sync", &beside))?;
    fs::rename(&beside, folder).map_err(io_error("create", folder))?;
    files::sync_parent(folder).map_err(io_error("sync", folder))
}

/// A root with its key, which may lie elsewhere than its folder.
pub(super) struct Root {
    issuer: Issuer<'static, KeyPair>,
    not_after_ms: u64,
    /// How many authorities it allows below it; `None` is any number.
    below: Option<u32>,
}

impl Root {
    /// The root in `folder`, and its key there or at `key`.
    ///
    /// # Errors
    /// When the key is not there, or another's.
    pub(super) fn open(folder: &Path, key: Option<&Path>) -> Result<Self, AuthorityError> {
        let root = certificate(folder, CA_CERTIFICATE)?
            .ok_or_else(|| AuthorityError::Missing(folder.to_owned()))?;
        let path = key.map_or_else(|| folder.join(CA_KEY), Path::to_owned);
        let pem = match fs::read(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(AuthorityError::RootOffline(path));
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let key = key_of(&path, &pem, CA_CERTIFICATE, &root).map_err(|error| match key {
            Some(_) => AuthorityError::NotRootKey(path),
            None => error,
        })?;
        let below = parsed(&root).and_then(|root| {
            let constraints = root.basic_constraints().ok().flatten()?;
            constraints.value.path_len_constraint
        });
        Ok(Self {
            not_after_ms: not_after_ms(&root),
            issuer: Issuer::from_ca_cert_der(&root, key)?,
            below,
        })
    }

    /// Whether so many authorities, one below the other, may be below it.
    pub(super) fn allows(&self, authorities: u32) -> bool {
        self.below.is_none_or(|below| authorities <= below)
    }
}

/// Puts an issuing authority below `root` in `folder`, or gives the one that is there a certificate that lasts.
///
/// # Errors
/// When the folder cannot be written.
pub(super) fn set_issuing(
    folder: &Path,
    root: &Root,
    org: &Org,
    now_ms: u64,
) -> Result<(), AuthorityError> {
    let key = match optional(folder, ISSUING_KEY)? {
        Some(pem) => key_pair(&folder.join(ISSUING_KEY), &pem)?,
        None => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
    };
    let made = issuing(&root.issuer, &key, org, now_ms, root.not_after_ms)?;
    let write = |name: &str, pem: String, mode| {
        let path = folder.join(name);
        files::replace(&path, pem.as_bytes(), mode).map_err(io_error("write", &path))
    };
    write(ISSUING_KEY, key.serialize_pem(), files::SECRET)?;
    write(
        ISSUING_CERTIFICATE,
        super::pem("CERTIFICATE", &made),
        files::PUBLIC,
    )
}

/// The certificate of an issuing authority with `key`; the same key has the same name.
fn issuing(
    root: &Issuer<'_, impl rcgen::SigningKey>,
    key: &KeyPair,
    org: &Org,
    now_ms: u64,
    root_ends_ms: u64,
) -> Result<CertificateDer<'static>, AuthorityError> {
    let mut params = authority("issuing authority", org, key, 0)?;
    params.use_authority_key_identifier_extension = true;
    let left = Duration::from_millis(root_ends_ms.saturating_sub(now_ms));
    validity(&mut params, now_ms, BACKDATED, left.min(ISSUING_LIFETIME));
    Ok(params.signed_by(key, root)?.der().clone())
}

/// An authority with so many others below it. No two have one name: whoever looks for an issuer does so by name.
fn authority(
    what: &str,
    org: &Org,
    key: &KeyPair,
    below: u8,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let print = Sha256::digest(key.subject_public_key_info());
    let name = format!("Lekiwi Heartbeat {what} {}", hex::encode(&print[..4]));
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, org.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    Ok(params)
}

/// 127 bits with the highest one set: positive, never with leading zeros, 126 of them random.
pub(super) fn random_serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(AuthorityError::Random)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// Sets the validity, in whole seconds as certificates know them; returns it in milliseconds.
pub(super) fn validity(
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

/// A file that need not be there.
fn optional(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, AuthorityError> {
    let path = folder.join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// A certificate that need not be there.
fn certificate(
    folder: &Path,
    name: &str,
) -> Result<Option<CertificateDer<'static>>, AuthorityError> {
    let Some(pem) = optional(folder, name)? else {
        return Ok(None);
    };
    let damaged = |expected| AuthorityError::Damaged {
        expected,
        path: folder.join(name),
    };
    let der = CertificateDer::from_pem_slice(&pem).map_err(|_| damaged("a certificate as PEM"))?;
    parsed(&der).ok_or_else(|| damaged("an X.509 certificate"))?;
    Ok(Some(der))
}

/// The key in `pem`, which lies at `path`, of the certificate in the file `name`.
fn key_of(
    path: &Path,
    pem: &[u8],
    name: &'static str,
    certificate: &CertificateDer<'_>,
) -> Result<KeyPair, AuthorityError> {
    let key = key_pair(path, pem)?;
    let is_its = parsed(certificate)
        .is_some_and(|it| it.public_key().subject_public_key.data.as_ref() == key.der_bytes());
    match is_its {
        true => Ok(key),
        false => Err(AuthorityError::Mismatch {
            certificate: name,
            path: path.to_owned(),
        }),
    }
}

fn key_pair(path: &Path, pem: &[u8]) -> Result<KeyPair, AuthorityError> {
    std::str::from_utf8(pem)
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok())
        .ok_or_else(|| AuthorityError::Damaged {
            expected: "a private key as PKCS#8 PEM",
            path: path.to_owned(),
        })
}

fn parsed<'a>(certificate: &'a [u8]) -> Option<X509Certificate<'a>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed)
}

fn is_signed_by(certificate: &[u8], authority: &[u8]) -> bool {
    let (Some(certificate), Some(authority)) = (parsed(certificate), parsed(authority)) else {
        return false;
    };
    certificate
        .verify_signature(Some(authority.public_key()))
        .is_ok()
}

fn not_after_ms(certificate: &[u8]) -> u64 {
    let ends = parsed(certificate).map_or(0, |it| it.validity().not_after.timestamp());
    u64::try_from(ends).unwrap_or(0) * 1000
}

/// What is named after a folder, beside it.
pub(super) fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut beside = folder.as_os_str().to_owned();
    beside.push(ending);
    beside.into()
}

/// Removes a folder that need not be there.
pub(super) fn remove(folder: &Path) -> Result<(), AuthorityError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", folder)(error))
        }
        _ => Ok(()),
    }
}
