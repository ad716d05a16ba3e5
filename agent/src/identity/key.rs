//! Where the robot's key is, and what is done with it: a file of the state folder, or a program that signs with it.
//!
//! Files: the key, and beside it the next one, which a renewal makes and its promotion puts in the first one's place. A program
//! has one key, which is renewed over and over; its public half lies in the state folder from the enrolment on, so that nobody
//! waits for the program but who signs.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lekiwi_agent_core::renewal::Which;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::sign::SigningKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::signer::{RemoteKey, Requesting, Signer};
use super::tls::apart;
use super::{EnrolError, IdentityError, malformed, provider, read, write};

/// A key that can be used.
#[derive(Debug, Clone)]
pub(super) enum Key {
    /// In memory, from a file.
    Local(Arc<KeyPair>),
    /// Where only a program can use it.
    Remote(RemoteKey),
}

impl Key {
    /// The SubjectPublicKeyInfo, in DER.
    pub(super) fn spki(&self) -> Vec<u8> {
        match self {
            Self::Local(key) => key.subject_public_key_info(),
            Self::Remote(key) => key.spki().to_vec(),
        }
    }

    /// Whether a program signs with it.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }

    /// As TLS takes it.
    pub(super) fn for_tls(&self) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        match self {
            Self::Local(key) => {
                let der = PrivatePkcs8KeyDer::from(key.serialize_der());
                let provider = provider().key_provider;
                provider.load_private_key(PrivateKeyDer::Pkcs8(der))
            }
            Self::Remote(key) => Ok(Arc::new(key.clone())),
        }
    }

    /// PKCS#10 in DER.
    pub(super) async fn request(&self, subject: DistinguishedName) -> Result<Vec<u8>, EnrolError> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = subject;
        let made = match self {
            Self::Local(key) => parameters.serialize_request(key.as_ref()),
            Self::Remote(key) => {
                let key = key.clone();
                let asked = apart(async move {
                    let key = Requesting {
                        key,
                        failure: OnceCell::new(),
                    };
                    let made = parameters.serialize_request(&key);
                    key.failure.into_inner().map_or(Ok(made), Err)
                });
                asked.await.unwrap_or_else(|error| Err(error.into()))?
            }
        };
        made.map(|request| request.der().to_vec())
            .map_err(|error| EnrolError::Relay(error.to_string()))
    }
}

/// Where the keys are.
#[derive(Debug, Clone)]
pub(super) enum Keys {
    Files {
        present: PathBuf,
        next: PathBuf,
    },
    Signer {
        signer: Signer,
        /// Its key, as PEM.
        public: PathBuf,
        /// Keys of a time before the signer.
        former: [PathBuf; 2],
    },
}

impl Keys {
    pub(super) fn new(folder: &Path, signer: Option<Signer>) -> Self {
        let (present, next) = (folder.join("key.pem"), folder.join("next-key.pem"));
        match signer {
            None => Self::Files { present, next },
            Some(signer) => Self::Signer {
                signer,
                public: folder.join("public-key.pem"),
                former: [present, next],
            },
        }
    }

    /// The key that is there.
    pub(super) fn load(&self, which: Which) -> Result<Key, IdentityError> {
        match (self, which) {
            (Self::Files { present: path, .. }, Which::Present)
            | (Self::Files { next: path, .. }, Which::Next) => Ok(Key::Local(read_file(path)?)),
            (Self::Signer { signer, public, .. }, _) => {
                let pem = read(public)?;
                RemoteKey::from_pem(signer.clone(), &pem)
                    .map(Key::Remote)
                    .ok_or_else(|| malformed(public, "a P-256 public key as PEM"))
            }
        }
    }

    /// The key to enrol with: the one that is there, or a new one, on disk before it is used. An enrolment that was
    /// interrupted asks again with the same key, and gets the same certificate. One that is no key any more is
    /// set aside: whoever comes here has a token for a new one.
    pub(super) async fn obtain(&self) -> Result<Key, EnrolError> {
        match self {
            Self::Files { present, .. } => present_file(present)
                .map(Key::Local)
                .map_err(EnrolError::Store),
            Self::Signer { signer, public, .. } => {
                let asked = signer.clone();
                let asked = apart(async move { asked.key() }).await;
                let key = asked.unwrap_or_else(|error| Err(error.into()))?;
                write(public, key.pem().as_bytes(), 0o644).map_err(EnrolError::Store)?;
                Ok(Key::Remote(key))
            }
        }
    }

    /// Whether there is a key for the next certificate. A signer's is always there.
    pub(super) fn has_next(&self) -> bool {
        match self {
            Self::Files { next, .. } => next.exists(),
            Self::Signer { .. } => true,
        }
    }

    /// The key for the next certificate, or a new one, kept by `keep`.
    pub(super) fn next(
        &self,
        keep: impl Fn(&Path, &[u8]) -> Result<(), IdentityError>,
    ) -> Result<Key, IdentityError> {
        let Self::Files { next, .. } = self else {
            return self.load(Which::Next);
        };
        if let Ok(key) = read_file(next) {
            return Ok(Key::Local(key));
        }
        let key = generate(next)?;
        keep(next, key.serialize_pem().as_bytes())?;
        Ok(Key::Local(key))
    }

    /// Files of keys that count no more once a certificate came with the present one.
    pub(super) fn former(&self) -> &[PathBuf] {
        match self {
            Self::Files { .. } => &[],
            Self::Signer { former, .. } => former,
        }
    }
}

/// The key of a file, made where there is none.
fn present_file(path: &Path) -> Result<Arc<KeyPair>, IdentityError> {
    match read_file(path) {
        Err(IdentityError::Missing(_)) => {}
        Err(error @ IdentityError::Malformed { .. }) => {
            let aside = path.with_extension("pem.damaged");
            fs::rename(path, &aside).map_err(|source| IdentityError::File {
                path: aside.clone(),
                source,
            })?;
            log::warn!("{error}: moved to {}, a new key is made", aside.display());
        }
        other => return other,
    }
    let key = generate(path)?;
    write(path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn read_file(path: &Path) -> Result<Arc<KeyPair>, IdentityError> {
    let text = read(path)?;
    std::str::from_utf8(&text)
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok())
        .map(Arc::new)
        .ok_or_else(|| malformed(path, "a P-256 key as PEM"))
}

fn generate(path: &Path) -> Result<Arc<KeyPair>, IdentityError> {
    let key = KeyPair::generate().map_err(|_| malformed(path, "room for a new key"))?;
    Ok(Arc::new(key))
}
