//! The robot's key where no file has it: a program signs with it, which knows the token or TPM. `PROGRAM … public-key` prints
//! the key as PEM, `PROGRAM … sign` reads the 32 bytes of a SHA-256 and prints their ECDSA signature in DER.
//!
//! The program is waited for, so everything here that asks it is for [`apart`](super::tls::apart).
//!
//! Invariants: whatever the program does, it is over after [`PATIENCE`]; no signature leaves the robot that is not of the key
//! that its certificate is for.

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls::sign::{Signer as TlsSigner, SigningKey};
use rustls::{OtherError, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use webpki::ring::ECDSA_P256_SHA256;

use super::Identity;
use super::certificate::pem;
use super::key::Key;
use super::tls::apart;
use crate::program::{ProgramError, exchange};

/// Longest time for a signature, or for the key.
const PATIENCE: Duration = Duration::from_secs(10);
/// What stands before the point of a P-256 key in a SubjectPublicKeyInfo (RFC 5480), and before its two coordinates.
const P256: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
const UNCOMPRESSED: u8 = 4;
const COORDINATES_BYTES: usize = 64;

/// Why there is no signature.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct SignerError(Arc<Failure>);

impl SignerError {
    /// What a handshake failed by, where that was it.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        let signers = inner.downcast_ref::<Self>();
        let tls = inner.downcast_ref::<rustls::Error>();
        let within = tls.and_then(|error| match error {
            rustls::Error::Other(OtherError(error)) => error.downcast_ref::<Self>(),
            _ => None,
        });
        signers.or(within).cloned()
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("cannot wait for the robot's key")]
    Thread(#[from] io::Error),
    /// It answers something else.
    #[error("expected {expected} from `{signer} {action}`, got {actual} other bytes")]
    Answer {
        signer: Signer,
        action: &'static str,
        expected: &'static str,
        actual: usize,
    },
    /// It signs, with whatever.
    #[error("expected a signature by this robot's key from `{0} sign`, got another")]
    OtherKey(Signer),
}

impl From<Failure> for SignerError {
    fn from(failure: Failure) -> Self {
        Self(Arc::new(failure))
    }
}

impl From<io::Error> for SignerError {
    fn from(error: io::Error) -> Self {
        Failure::from(error).into()
    }
}

/// A program, and its first arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer(Vec<String>);

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl Signer {
    /// From the program's absolute path and its arguments.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn new(command: Vec<String>) -> Result<Self, String> {
        match command.first() {
            Some(program) if program.starts_with('/') => Ok(Self(command)),
            program => Err(format!(
                "expected the absolute path of a program and its arguments, got {:?}",
                program.map_or("", String::as_str)
            )),
        }
    }

    /// Asks for the key.
    pub(crate) fn key(&self) -> Result<RemoteKey, SignerError> {
        let action = "public-key";
        let answer = self.ask(action, &[])?;
        RemoteKey::from_pem(self.clone(), &answer).ok_or_else(|| {
            let failure = Failure::Answer {
                signer: self.clone(),
                action,
                expected: "a P-256 public key as PEM",
                actual: answer.len(),
            };
            failure.into()
        })
    }

    /// Whether it signs: with this identity's key, or with whatever it has.
    pub(crate) async fn trial(&self, identity: Option<&Identity>) -> Result<(), SignerError> {
        let known = match identity.map(|identity| &identity.key) {
            Some(Key::Remote(key)) => Some(key.clone()),
            _ => None,
        };
        let signer = self.clone();
        let tried = apart(async move {
            let key = known.map_or_else(|| signer.key(), Ok)?;
            key.sign(b"a trial").map(drop)
        });
        tried.await.unwrap_or_else(|error| Err(error.into()))
    }

    fn ask(&self, action: &'static str, input: &[u8]) -> Result<Vec<u8>, SignerError> {
        let (program, arguments) = self.0.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
        let mut command = Command::new(program);
        command.args(arguments).arg(action);
        let answer = exchange(command, input, PATIENCE);
        answer.map_err(|error| Failure::from(error).into())
    }
}

/// A key that a program signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteKey {
    signer: Signer,
    /// The SubjectPublicKeyInfo, in DER.
    spki: Vec<u8>,
}

impl RemoteKey {
    /// The key that `pem` says `signer` has.
    pub(super) fn from_pem(signer: Signer, pem: &[u8]) -> Option<Self> {
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?.to_vec();
        let point = spki.strip_prefix(P256)?;
        let is_point = point.len() == 1 + COORDINATES_BYTES && point[0] == UNCOMPRESSED;
        is_point.then_some(Self { signer, spki })
    }

    pub(super) fn spki(&self) -> &[u8] {
        &self.spki
    }

    pub(super) fn pem(&self) -> String {
        pem("PUBLIC KEY", &[&self.spki])
    }

    fn point(&self) -> &[u8] {
        self.spki.get(P256.len()..).unwrap_or_default()
    }

    /// ECDSA with SHA-256.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signature = self.signer.ask("sign", &Sha256::digest(message))?;
        ECDSA_P256_SHA256
            .verify_signature(self.point(), message, &signature)
            .map_err(|_| Failure::OtherKey(self.signer.clone()))?;
        Ok(signature)
    }
}

impl SigningKey for RemoteKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn TlsSigner>> {
        offered
            .contains(&self.scheme())
            .then(|| Box::new(self.clone()) as Box<dyn TlsSigner>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.spki.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl TlsSigner for RemoteKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Self::sign(self, message).map_err(|error| OtherError(Arc::new(error)).into())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// A key that is about to sign a request. What the library takes for an error has no room for a reason.
pub(super) struct Requesting {
    pub(super) key: RemoteKey,
    pub(super) failure: OnceCell<SignerError>,
}

impl rcgen::PublicKeyData for Requesting {
    fn der_bytes(&self) -> &[u8] {
        self.key.point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Requesting {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(message).map_err(|error| {
            // It is asked once.
            let _ = self.failure.set(error);
            rcgen::Error::RemoteKeyError
        })
    }
}
