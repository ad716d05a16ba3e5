//! Signs how far the audit goes, with a key of its own in the data folder, and keeps the last that it signed beside it, away
//! from the database: who cuts the end off the audit, or writes all of it anew, does not have that.
//!
//! Invariant: nothing is signed that does not go on from what was signed before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::AuditCheckpoint;
use lekiwi_protocol::audit::{self, Broken, Mark};
use lekiwi_protocol::signed::minisign::PublicKey;
use tokio::sync::Mutex;

use crate::files;
use crate::store::{AuditQuery, Store, StoreError};

const KEY: &str = "key.der";
const CHECKPOINT: &str = "checkpoint.json";
const BEFORE_RESTORE: &str = "checkpoint-before-restore.json";

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum NotaryError {
    /// A file cannot be read or written.
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
    /// A file is not what it was.
    #[error("expected {expected} in {path}")]
    Damaged {
        /// What.
        expected: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// No key could be made.
    #[error("cannot make a key: the system gives no random numbers")]
    Random,
    /// The audit does not go on from what was signed.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NotaryError {
    let path = path.to_owned();
    move |source| NotaryError::Io {
        action,
        path,
        source,
    }
}

/// The key, and where the last checkpoint is.
pub struct Notary {
    folder: PathBuf,
    pair: Ed25519KeyPair,
    key: PublicKey,
    turn: Mutex<()>,
}

impl std::fmt::Debug for Notary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notary")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Notary {
    /// The notary in `folder`, which is made if there is none: one, however many relays start at once. Blocks.
    ///
    /// # Errors
    /// When its key cannot be read or made.
    pub fn open_or_create(folder: &Path) -> Result<Self, NotaryError> {
        let path = folder.join(KEY);
        if !path.try_exists().map_err(io_error("read", &path))? {
            fs::create_dir_all(folder).map_err(io_error("create", folder))?;
            let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map_err(|_| NotaryError::Random)?;
            let beside = folder.join(format!("{KEY}.{}", std::process::id()));
            // What a crash left of a process of the same number.
            let _ = fs::remove_file(&beside);
            files::create(&beside, made.as_ref(), files::SECRET)
                .map_err(io_error("write", &beside))?;
            // Unlike a rename, a link replaces nothing: the first one counts.
            let linked = fs::hard_link(&beside, &path);
            let _ = fs::remove_file(&beside);
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("create", &path)(error));
                }
                _ => files::sync_parent(&path).map_err(io_error("write", folder))?,
            }
        }
        Self::open(folder)
    }

    fn open(folder: &Path) -> Result<Self, NotaryError> {
        let path = folder.join(KEY);
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        let damaged = || NotaryError::Damaged {
            expected: "an Ed25519 key as PKCS#8",
            path: path.clone(),
        };
        let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| damaged())?;
        let public = pair.public_key().as_ref().try_into();
        Ok(Self {
            folder: folder.to_owned(),
            key: audit::public_key(public.map_err(|_| damaged())?),
            pair,
            turn: Mutex::new(()),
        })
    }

    /// What its signatures are checked with.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    fn signed(&self, mark: &Mark) -> AuditCheckpoint {
        let ed25519 = |bytes: &[u8]| {
            let signature = self.pair.sign(bytes);
            // Ed25519's are always so long.
            signature.as_ref().try_into().unwrap_or([0; 64])
        };
        audit::checkpoint(mark, &self.key, ed25519)
    }

    /// What was signed last, if anything was. Blocks.
    fn last(&self) -> Result<Option<Mark>, NotaryError> {
        let path = self.folder.join(CHECKPOINT);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let mark = serde_json::from_str(&text)
            .ok()
            .and_then(|kept: AuditCheckpoint| {
                let mark = serde_json::from_str(&kept.document).ok()?;
                // The same key signs the same mark in the same way.
                (self.signed(&mark) == kept).then_some(mark)
            });
        mark.map(Some).ok_or(NotaryError::Damaged {
            expected: "a checkpoint that this relay signed",
            path,
        })
    }

    /// Signs how far the audit goes now, if it goes on from what was signed last.
    ///
    /// # Errors
    /// When it does not, or something cannot be read or written.
    pub async fn checkpoint(
        &self,
        store: &Store,
        now: Timestamp,
    ) -> Result<AuditCheckpoint, NotaryError> {
        let _turn = self.turn.lock().await;
        if let Some(last) = self.last()? {
            goes_on(store, &last).await?;
        }
        let newest = AuditQuery {
            newest_first: true,
            ..AuditQuery::default()
        };
        let newest = store.audit(newest, 1).await?.pop();
        let (number, hash) = newest.map_or((0, hex::encode(audit::START)), |newest| {
            (newest.number, newest.hash)
        });
        let signed = self.signed(&Mark {
            number,
            hash,
            at: now,
        });
        let path = self.folder.join(CHECKPOINT);
        // Texts always become JSON.
        let bytes = serde_json::to_vec(&signed).unwrap_or_default();
        files::replace(&path, &bytes, files::PUBLIC).map_err(io_error("write", &path))?;
        Ok(signed)
    }

    /// What was signed last in `folder`, for who looks at a store offline; nothing where there never was a notary.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was signed.
    pub fn marks(folder: &Path) -> Result<Vec<Mark>, NotaryError> {
        let path = folder.join(KEY);
        if !path.try_exists().map_err(io_error("read", &path))? {
            return Ok(Vec::new());
        }
        Ok(Self::open(folder)?.last()?.into_iter().collect())
    }

    /// Puts aside what was signed last, because an earlier state of the store takes the place of that one.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub fn set_aside(folder: &Path) -> Result<(), NotaryError> {
        let path = folder.join(CHECKPOINT);
        match fs::rename(&path, folder.join(BEFORE_RESTORE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("rename", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the audit still has what was signed, or forgot it with what was before.
async fn goes_on(store: &Store, last: &Mark) -> Result<(), NotaryError> {
    let at = AuditQuery {
        after: last.number.saturating_sub(1),
        ..AuditQuery::default()
    };
    let found = store.audit(at, 1).await?.pop();
    match found {
        _ if last.number == 0 => Ok(()),
        Some(entry) if entry.number == last.number && entry.hash == last.hash => Ok(()),
        Some(entry) if entry.number == last.number => Err(Broken::Mark(last.number).into()),
        Some(entry) => {
            let first = store.audit(AuditQuery::default(), 1).await?.pop();
            let is_first = first.is_some_and(|first| first.number == entry.number);
            let gap = Broken::Gap {
                expected: last.number,
                got: entry.number,
            };
            if is_first { Ok(()) } else { Err(gap.into()) }
        }
        None => {
            let newest = AuditQuery {
                newest_first: true,
                ..AuditQuery::default()
            };
            let newest = store.audit(newest, 1).await?.pop();
            Err(Broken::Short {
                expected: last.number,
                got: newest.map_or(0, |newest| newest.number),
            }
            .into())
        }
    }
}
