//! What the relay knows about certificates and people. Certificates and sessions are asked
//! for at every connection and request, so they are answered from memory, which the writing thread
//! updates after each commit.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::records::{Certificate, CertificateKind, CertificateStatus, Credential, Session};
use super::{Store, StoreError};

/// The part of the store that is in memory.
#[derive(Default)]
pub(super) struct Index {
    certificates: RwLock<HashMap<Box<str>, CertificateStatus>>,
    sessions: RwLock<HashMap<[u8; 32], Session>>,
}

impl Index {
    pub(super) fn load(connection: &Connection) -> Result<Self, StoreError> {
        let index = Self::default();
        for certificate in connection
            .prepare("SELECT * FROM certificates")?
            .query_map([], certificate)?
        {
            index.put(&certificate?);
        }
        for session in connection
            .prepare("SELECT * FROM sessions")?
            .query_map([], session)?
        {
            let session = session?;
            index.sessions_mut(|s| s.insert(session.hash, session));
        }
        Ok(index)
    }

    fn put(&self, certificate: &Certificate) {
        let status = CertificateStatus {
            common_name: certificate.common_name.as_str().into(),
            kind: certificate.kind,
            key: certificate.key,
            not_after_ms: certificate.not_after_ms,
            revoked: certificate.revoked_ms.is_some(),
        };
        self.certificates_mut(|c| c.insert(certificate.serial.as_str().into(), status));
    }

    /// A robot's new certificate; its others for other keys are over.
    pub(super) fn replace(&self, certificate: &Certificate, replaces: bool, now_ms: u64) {
        if replaces {
            self.certificates_mut(|certificates| {
                for status in certificates.values_mut() {
                    if *status.common_name == *certificate.common_name
                        && status.key != certificate.key
                        && status.not_after_ms > now_ms
                    {
                        status.revoked = true;
                    }
                }
            });
        }
        self.put(certificate);
    }

    fn certificates_mut<T>(
        &self,
        change: impl FnOnce(&mut HashMap<Box<str>, CertificateStatus>) -> T,
    ) -> T {
        change(
            &mut self
                .certificates
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn sessions_mut<T>(&self, change: impl FnOnce(&mut HashMap<[u8; 32], Session>) -> T) -> T {
        change(
            &mut self
                .sessions
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

pub(super) fn certificate(row: &Row<'_>) -> rusqlite::Result<Certificate> {
    let kind: String = row.get("kind")?;
    Ok(Certificate {
        serial: row.get("serial")?,
        common_name: row.get("common_name")?,
        kind: if kind == CertificateKind::Robot.as_str() {
            CertificateKind::Robot
        } else {
            CertificateKind::Consumer
        },
        key: row.get("key")?,
        not_before_ms: row.get::<_, i64>("not_before")? as u64,
        not_after_ms: row.get::<_, i64>("not_after")? as u64,
        revoked_ms: row.get::<_, Option<i64>>("revoked")?.map(|ms| ms as u64),
        der: row.get("der")?,
    })
}

fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    Ok(Session {
        hash: row.get("hash")?,
        user: row.get("user")?,
        created_ms: row.get::<_, i64>("created")? as u64,
        expires_ms: row.get::<_, i64>("expires")? as u64,
    })
}

pub(super) fn insert_certificate(
    connection: &Connection,
    certificate: &Certificate,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO certificates (serial, common_name, kind, key, not_before, not_after, revoked, der)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            certificate.serial,
            certificate.common_name,
            certificate.kind.as_str(),
            certificate.key,
            certificate.not_before_ms as i64,
            certificate.not_after_ms as i64,
            certificate.revoked_ms.map(|ms| ms as i64),
            certificate.der,
        ])?;
    Ok(())
}

/// Certificates.
impl Store {
    /// Keeps a certificate that was issued without a token (a consumer's, a renewal).
    ///
    /// # Errors
    /// When it cannot be written, or the serial exists.
    pub async fn insert_certificate(&self, certificate: Certificate) -> Result<(), StoreError> {
        let (index, issued) = (self.inner.index.clone(), certificate.clone());
        self.write(
            move |c| insert_certificate(c, &certificate),
            move |()| index.put(&issued),
        )
        .await
    }

    /// What is known about a serial (lower-case hex, no leading zeros). From memory, never waits.
    #[must_use]
    pub fn certificate_status(&self, serial: &str) -> Option<CertificateStatus> {
        self.inner
            .index
            .certificates
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(serial)
            .cloned()
    }

    /// The certificate with this serial.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn certificate(&self, serial: &str) -> Result<Option<Certificate>, StoreError> {
        let serial = serial.to_owned();
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached("SELECT * FROM certificates WHERE serial = ?1")?
                    .query_row([serial], certificate)
                    .optional()
            })
            .await
    }

    /// All certificates with this common name, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn certificates_of(&self, common_name: &str) -> Result<Vec<Certificate>, StoreError> {
        let name = common_name.to_owned();
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached(
                    "SELECT * FROM certificates WHERE common_name = ?1 ORDER BY not_before DESC",
                )?
                .query_map([name], certificate)?
                .collect()
            })
            .await
    }

    /// Revokes a serial; false when it is unknown or was revoked already. The broker refuses it from
    /// then on; a client that is connected must be disconnected by the caller.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn revoke_certificate(&self, serial: &str, now_ms: u64) -> Result<bool, StoreError> {
        let (serial, index) = (serial.to_owned(), self.inner.index.clone());
        let key: Box<str> = serial.as_str().into();
        self.write(
            move |c| {
                Ok(c.prepare_cached(
                    "UPDATE certificates SET revoked = ?2 WHERE serial = ?1 AND revoked IS NULL",
                )?
                .execute(params![serial, now_ms as i64])?
                    == 1)
            },
            move |_| {
                index.certificates_mut(|c| {
                    if let Some(status) = c.get_mut(&key) {
                        status.revoked = true;
                    }
                });
            },
        )
        .await
    }
}

/// All of one client at once.
impl Store {
    /// Revokes every certificate of this common name that stands; their serials. The broker refuses them
    /// from then on; a client that is connected must be disconnected by the caller.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn revoke_all(
        &self,
        common_name: &str,
        now_ms: u64,
    ) -> Result<Vec<String>, StoreError> {
        let (name, index) = (common_name.to_owned(), self.inner.index.clone());
        self.write(
            move |c| {
                c.prepare_cached(
                    "UPDATE certificates SET revoked = ?2 WHERE common_name = ?1 AND revoked IS NULL RETURNING serial",
                )?
                .query_map(params![name, now_ms as i64], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<String>>>()
            },
            move |serials| {
                index.certificates_mut(|certificates| {
                    for serial in serials {
                        if let Some(status) = certificates.get_mut(serial.as_str()) {
                            status.revoked = true;
                        }
                    }
                });
            },
        )
        .await
    }
}

/// People.
impl Store {
    /// Keeps a session.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn insert_session(&self, session: Session) -> Result<(), StoreError> {
        let (index, kept) = (self.inner.index.clone(), session.clone());
        self.write(
            move |c| {
                c.prepare_cached(
                    "INSERT INTO sessions (hash, user, created, expires) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![
                    session.hash,
                    session.user,
                    session.created_ms as i64,
                    session.expires_ms as i64
                ])?;
                Ok(())
            },
            move |()| {
                index.sessions_mut(|s| s.insert(kept.hash, kept));
            },
        )
        .await
    }

    /// The session with this hash, unless it ended before `now_ms`. From memory, never waits.
    #[must_use]
    pub fn session(&self, hash: &[u8; 32], now_ms: u64) -> Option<Session> {
        let sessions = self
            .inner
            .index
            .sessions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        sessions
            .get(hash)
            .filter(|session| session.expires_ms > now_ms)
            .cloned()
    }

    /// Ends a session; false when there was none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn delete_session(&self, hash: [u8; 32]) -> Result<bool, StoreError> {
        let index = self.inner.index.clone();
        self.write(
            move |c| {
                Ok(c.prepare_cached("DELETE FROM sessions WHERE hash = ?1")?
                    .execute([hash])?
                    == 1)
            },
            move |_| {
                index.sessions_mut(|s| s.remove(&hash));
            },
        )
        .await
    }

    /// Forgets sessions that ended before `now_ms`; how many.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn expire_sessions(&self, now_ms: u64) -> Result<usize, StoreError> {
        let index = self.inner.index.clone();
        self.write(
            move |c| {
                c.prepare_cached("DELETE FROM sessions WHERE expires <= ?1")?
                    .execute([now_ms as i64])
            },
            move |_| index.sessions_mut(|s| s.retain(|_, session| session.expires_ms > now_ms)),
        )
        .await
    }

    /// A person's password hash.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn credential(&self, user: &str) -> Result<Option<Credential>, StoreError> {
        let user = user.to_owned();
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached("SELECT user, hash FROM credentials WHERE user = ?1")?
                    .query_row([user], |row| {
                        Ok(Credential {
                            user: row.get(0)?,
                            hash: row.get(1)?,
                        })
                    })
                    .optional()
            })
            .await
    }

    /// Sets a person's password hash. With `only_first`, an existing one stays as it is and the
    /// answer is false.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn set_credential(
        &self,
        credential: Credential,
        only_first: bool,
    ) -> Result<bool, StoreError> {
        let statement = if only_first {
            "INSERT INTO credentials (user, hash) VALUES (?1, ?2) ON CONFLICT (user) DO NOTHING"
        } else {
            "INSERT INTO credentials (user, hash) VALUES (?1, ?2) ON CONFLICT (user) DO UPDATE SET hash = excluded.hash"
        };
        self.write(
            move |c| {
                Ok(c.prepare_cached(statement)?
                    .execute(params![credential.user, credential.hash])?
                    == 1)
            },
            |_| (),
        )
        .await
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("health", &*self.inner.health.borrow())
            .finish_non_exhaustive()
    }
}
