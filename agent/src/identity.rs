//! Who this robot is, cryptographically: a key made here that never leaves, a certificate from the
//! relay's authority, and that authority itself, pinned by fingerprint. Files in the state folder,
//! written atomically; the key is 0600.
//!
//! Invariant: what [`Store::load`] returns fits together: the certificate is for this key and this
//! robot, is valid at the given time, and chains to the pinned authority.

mod certificate;
mod enrolment;
mod est;
mod tls;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lekiwi_protocol::pinned::Fingerprint;
use lekiwi_protocol::{RobotId, Timestamp};
use rcgen::KeyPair;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

pub use certificate::CertificateError;
pub(crate) use enrolment::remove_token;
pub use enrolment::{Enrolled, Enrolment, enrol};
pub use est::{EnrolError, certs_only, probe};
pub use tls::{BrokerTls, https};

use crate::storage::write_atomically;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nothing there yet: the robot was never enrolled.
    #[error("expected {} of an enrolled robot", .0.display())]
    Missing(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot read or write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("expected {expected} in {}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// The stored authority is not the configured one.
    #[error("expected the authority {expected} in {}, got {actual}", path.display())]
    OtherAuthority {
        /// The configured fingerprint.
        expected: Fingerprint,
        /// The stored certificate's.
        actual: Fingerprint,
        /// Which.
        path: PathBuf,
    },
    /// The certificate is not good for this robot, now.
    #[error("the certificate in {} is of no use", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: CertificateError,
    },
}

/// Key, certificate and authority of this robot, checked.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
    authority: CertificateDer<'static>,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// When it began: a signed lower bound of the time.
    pub not_before: Timestamp,
}

/// The one crypto provider of this program.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The files.
#[derive(Debug, Clone)]
pub struct Store {
    key: PathBuf,
    certificate: PathBuf,
    authority: PathBuf,
}

impl Store {
    /// In this folder.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            key: state_dir.join("key.pem"),
            certificate: state_dir.join("cert.pem"),
            authority: state_dir.join("ca.pem"),
        }
    }

    /// What is there, checked for `robot`, the authority `pinned`, and the time `now`.
    ///
    /// # Errors
    /// When something is missing, or does not fit together.
    pub fn load(
        &self,
        robot: &RobotId,
        pinned: Fingerprint,
        now: Timestamp,
    ) -> Result<Identity, IdentityError> {
        let key = self.read_key()?;
        let authority = certificates(&self.authority)?
            .into_iter()
            .next()
            .ok_or_else(|| malformed(&self.authority, "a certificate"))?;
        let actual = Fingerprint::of(&authority);
        if actual != pinned {
            return Err(IdentityError::OtherAuthority {
                expected: pinned,
                actual,
                path: self.authority.clone(),
            });
        }
        let chain = certificates(&self.certificate)?;
        let validity =
            certificate::check(&chain, &authority, robot, &key, now).map_err(|source| {
                IdentityError::Certificate {
                    path: self.certificate.clone(),
                    source,
                }
            })?;
        Ok(Identity {
            chain,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            authority,
            not_before: validity.not_before,
            not_after: validity.not_after,
        })
    }

    /// The key: the one that is there, or a new one, on disk before it is used. An enrolment that was
    /// interrupted asks again with the same key, and gets the same certificate. One that is no key any more is
    /// set aside: whoever comes here has a token for a new one.
    fn key(&self) -> Result<KeyPair, IdentityError> {
        match self.read_key() {
            Err(IdentityError::Missing(_)) => {}
            Err(error @ IdentityError::Malformed { .. }) => {
                let aside = self.key.with_extension("pem.damaged");
                fs::rename(&self.key, &aside).map_err(|source| IdentityError::File {
                    path: aside.clone(),
                    source,
                })?;
                log::warn!("{error}: moved to {}, a new key is made", aside.display());
            }
            other => return other,
        }
        let key = KeyPair::generate().map_err(|_| malformed(&self.key, "room for a new key"))?;
        write(&self.key, key.serialize_pem().as_bytes(), 0o600)?;
        Ok(key)
    }

    fn read_key(&self) -> Result<KeyPair, IdentityError> {
        let text = read(&self.key)?;
        std::str::from_utf8(&text)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            .ok_or_else(|| malformed(&self.key, "a P-256 key as PEM"))
    }

    fn keep(
        &self,
        chain: &[CertificateDer<'_>],
        authority: &CertificateDer<'_>,
    ) -> Result<(), IdentityError> {
        // The certificate last: with it the robot counts as enrolled.
        write(
            &self.authority,
            certificate::pem(std::slice::from_ref(authority)).as_bytes(),
            0o644,
        )?;
        write(&self.certificate, certificate::pem(chain).as_bytes(), 0o644)
    }
}

fn malformed(path: &Path, expected: &'static str) -> IdentityError {
    IdentityError::Malformed {
        path: path.to_owned(),
        expected,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing(path.to_owned()),
        _ => IdentityError::File {
            path: path.to_owned(),
            source,
        },
    })
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    write_atomically(path, content, mode).map_err(|source| IdentityError::File {
        path: path.to_owned(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| malformed(path, "certificates as PEM"))
}
