//! The list of revoked certificates (RFC 5280), for brokers and others who cannot ask the store: signed by the authority,
//! answered over HTTP, and kept in a file where one is configured.
//!
//! Invariants: the file appears whole; numbers ascend; a list says what was revoked before it was asked for. It begins
//! an hour ago and ends in thirty days: a broker whose clock is a little behind, or whose relay was away for a while,
//! refuses nobody for the list's sake.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use super::authority::{Authority, AuthorityError, io_error};
use crate::store::{Store, StoreError};
use crate::{clock, files};

const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far back a list begins.
const BACKDATED: Duration = Duration::from_secs(3600);
/// A list is made anew after so long, whatever happens.
const FRESH: Duration = Duration::from_secs(3600);
/// Pause after a file could not be written.
const RETRY: Duration = Duration::from_secs(10);
/// Pause between two files, when much is revoked at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be signed, or the file not be written.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// What is revoked, as it was signed.
#[derive(Debug, Clone)]
struct Signed {
    /// DER, by each authority whose certificates count, that of now first.
    lists: Arc<[Vec<u8>]>,
    /// What they list.
    revoked: Vec<(String, u64)>,
    /// The store's count of changes before it was asked.
    changes: u64,
    made_ms: u64,
}

/// Makes lists, and keeps the newest.
#[derive(Debug)]
pub struct Revocations {
    store: Store,
    authority: Arc<Authority>,
    file: Option<PathBuf>,
    newest: Mutex<Option<Signed>>,
}

impl Revocations {
    /// Of this authority's certificates in `store`; in `file` too, PEM, as long as [`Revocations::keep`] runs.
    #[must_use]
    pub fn new(store: Store, authority: Arc<Authority>, file: Option<PathBuf>) -> Self {
        Self {
            store,
            authority,
            file,
            newest: Mutex::new(None),
        }
    }

    /// The list as of now, DER; and the same by the authority before, while that is trusted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn current(&self) -> Result<Arc<[Vec<u8>]>, CrlError> {
        let now_ms = clock::now_ms();
        // Before it is asked: what changes meanwhile is in the next one.
        let changes = *self.store.identity_changes().borrow();
        let newest = || self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |signed: &Signed| {
            let age = now_ms.saturating_sub(signed.made_ms);
            Duration::from_millis(age) < FRESH
        };
        let fresh = newest().clone().filter(is_fresh);
        if let Some(known) = &fresh
            && known.changes == changes
        {
            return Ok(known.lists.clone());
        }
        let revoked = self.store.revoked(now_ms).await?;
        let newest = &mut *newest();
        if let Some(mut known) = fresh
            && known.revoked == revoked
        {
            known.changes = changes;
            let lists = known.lists.clone();
            *newest = Some(known);
            return Ok(lists);
        }
        let number = newest
            .as_ref()
            .map_or(0, |signed| signed.made_ms + 1)
            .max(now_ms);
        let lists: Arc<[Vec<u8>]> = sign(&self.authority, &revoked, number, now_ms)?.into();
        *newest = Some(Signed {
            lists: lists.clone(),
            revoked,
            changes,
            made_ms: number,
        });
        Ok(lists)
    }

    /// Keeps the file fresh, for ever; returns where there is none.
    pub async fn keep(self: Arc<Self>) {
        let Some(file) = self.file.clone() else {
            return;
        };
        let mut changes = self.store.identity_changes();
        let mut written: Option<Arc<[Vec<u8>]>> = None;
        loop {
            changes.mark_unchanged();
            let wait = match self.write(&file, &mut written).await {
                Ok(()) => FRESH,
                Err(error) => {
                    tracing::warn!(%error, file = %file.display(), "cannot write the list of revoked certificates");
                    RETRY
                }
            };
            tokio::time::sleep(PAUSE).await;
            // Either is a reason to look again; the store lives as long as this.
            let _ = tokio::time::timeout(wait, changes.changed()).await;
        }
    }

    async fn write(
        &self,
        file: &std::path::Path,
        written: &mut Option<Arc<[Vec<u8>]>>,
    ) -> Result<(), CrlError> {
        let lists = self.current().await?;
        if written.as_ref() == Some(&lists) {
            return Ok(());
        }
        let pem: String = lists.iter().map(|it| super::pem("X509 CRL", it)).collect();
        files::replace(file, pem.as_bytes(), files::PUBLIC).map_err(io_error("write", file))?;
        *written = Some(lists);
        Ok(())
    }
}

fn sign(
    authority: &Authority,
    revoked: &[(String, u64)],
    number: u64,
    now_ms: u64,
) -> Result<Vec<Vec<u8>>, AuthorityError> {
    let time = |ms: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(ms / 1000);
    let entry = |(serial, at): &(String, u64)| {
        // Serials have a highest digit that is not zero, of an even count where they are the authority's.
        let even = format!("{}{serial}", if serial.len() % 2 == 0 { "" } else { "0" });
        let serial = hex::decode(even).ok()?;
        Some(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: time(*at),
            reason_code: None,
            invalidity_date: None,
        })
    };
    let lifetime_ms = u64::try_from(LIFETIME.as_millis()).unwrap_or(u64::MAX);
    let backdated_ms = u64::try_from(BACKDATED.as_millis()).unwrap_or(u64::MAX);
    let list = CertificateRevocationListParams {
        this_update: time(now_ms.saturating_sub(backdated_ms)),
        next_update: time(now_ms.saturating_add(lifetime_ms)),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().filter_map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    authority.sign_list(&list)
}
