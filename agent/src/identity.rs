//! Who this robot is, cryptographically: a key made here that never leaves, a certificate from the
//! relay's authority, and that authority itself, pinned by fingerprint. Files in the state folder,
//! written atomically; the keys are 0600, or not files at all: see [`Signer`].
//!
//! The next key and certificate lie beside the present ones until they are promoted: the key's rename first, then the
//! certificate's. A next certificate without a next key is therefore a promotion that was interrupted, and counts.
//!
//! Invariants: what [`Store::load`] returns fits together: the certificate is for this key and this
//! robot, is valid at the given time, and chains to the pinned authority or one that the relay named over a connection
//! with it; and whatever step of a renewal is interrupted, there is something to load.

mod certificate;
mod enrolment;
mod est;
mod key;
mod renewal;
mod signer;
mod tls;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lekiwi_agent_core::renewal::{Term, Which};
use lekiwi_protocol::pinned::Fingerprint;
use lekiwi_protocol::{RobotId, Timestamp};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub use certificate::{CertificateError, is_root};
pub(crate) use enrolment::remove_token;
pub use enrolment::{Enrolment, enrol};
pub use est::{EnrolError, certs_only, probe};
pub use renewal::renew;
pub use signer::{Signer, SignerError};
pub use tls::{BrokerTls, Tls, https};

use key::{Key, Keys};
use renewal::remove;

use crate::storage::{Places, write_atomically};

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

/// Key, certificate and authorities of this robot, checked.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Key,
    authorities: Vec<CertificateDer<'static>>,
    /// The certificate's number: lower-case hex digits, without leading zeros.
    pub serial: String,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// When it began: a signed lower bound of the time.
    pub not_before: Timestamp,
}

impl Identity {
    /// From when until when the certificate serves.
    #[must_use]
    pub fn term(&self) -> Term {
        Term {
            since: self.not_before,
            not_after: self.not_after,
        }
    }
}

/// The one crypto provider of this program.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The files.
#[derive(Debug, Clone)]
pub struct Store {
    keys: Keys,
    certificate: PathBuf,
    authority: PathBuf,
    /// Authorities beside the pinned one.
    anchors: PathBuf,
    next_certificate: PathBuf,
    places: Arc<Places>,
}

impl Store {
    /// In this folder; the key too, unless a program signs with it.
    #[must_use]
    pub fn new(state_dir: &Path, signer: Option<Signer>) -> Self {
        Self {
            keys: Keys::new(state_dir, signer),
            certificate: state_dir.join("cert.pem"),
            authority: state_dir.join("ca.pem"),
            anchors: state_dir.join("anchors.pem"),
            next_certificate: state_dir.join("next-cert.pem"),
            places: Arc::default(),
        }
    }

    /// The same, with `places` between a renewal's steps.
    pub(crate) fn with_places(self, places: Places) -> Self {
        Self {
            places: Arc::new(places),
            ..self
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
        self.load_one(Which::Present, robot, pinned, now)
    }

    /// The same of the next certificate, too.
    pub(crate) fn load_one(
        &self,
        which: Which,
        robot: &RobotId,
        pinned: Fingerprint,
        now: Timestamp,
    ) -> Result<Identity, IdentityError> {
        let key = self.keys.load(which)?;
        let authorities = self.authorities(pinned)?;
        let path = match which {
            Which::Present if !self.is_promoting() => &self.certificate,
            Which::Present | Which::Next => &self.next_certificate,
        };
        let chain = certificates(path)?;
        let facts =
            certificate::check(&chain, &authorities, robot, &key, now).map_err(|source| {
                IdentityError::Certificate {
                    path: path.clone(),
                    source,
                }
            })?;
        Ok(Identity {
            chain,
            key,
            authorities,
            serial: facts.serial,
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    }

    /// The pinned authority first, then those that the relay named.
    fn authorities(
        &self,
        pinned: Fingerprint,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let first = certificates(&self.authority)?
            .into_iter()
            .next()
            .ok_or_else(|| malformed(&self.authority, "a certificate"))?;
        let actual = Fingerprint::of(&first);
        let mut authorities = match certificates(&self.anchors) {
            Ok(anchors) => anchors,
            Err(IdentityError::Missing(_)) => Vec::new(),
            // The pinned one is enough until the next renewal, for most.
            Err(error) => {
                log::warn!("{error}");
                Vec::new()
            }
        };
        if actual == pinned {
            authorities.retain(|authority| *authority != first);
            authorities.insert(0, first);
            return Ok(authorities);
        }
        let is_pinned = |known: &CertificateDer<'_>| Fingerprint::of(known) == pinned;
        let Some(index) = authorities.iter().position(is_pinned) else {
            return Err(IdentityError::OtherAuthority {
                expected: pinned,
                actual,
                path: self.authority.clone(),
            });
        };
        authorities.swap(0, index);
        Ok(authorities)
    }

    fn keep(
        &self,
        chain: &[CertificateDer<'_>],
        authority: &CertificateDer<'_>,
    ) -> Result<(), IdentityError> {
        // The certificate last: with it the robot counts as enrolled.
        write(
            &self.authority,
            certificate::certificates_pem(std::slice::from_ref(authority)).as_bytes(),
            0o644,
        )?;
        let pem = certificate::certificates_pem(chain);
        write(&self.certificate, pem.as_bytes(), 0o644)?;
        self.keys.former().iter().try_for_each(|path| remove(path))
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
