//! What the relay knows about certificates and sessions. They are asked
//! for at every connection and request, so they are answered from memory, which the writing thread
//! updates after each commit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use super::database::{Database, Result, Row, values};
use super::records::{
    Certificate, CertificateKind, CertificateStatus, Credential, InUse, People, Session,
};
use super::renewals::LATER;
use super::{Store, StoreError, people};

/// What [`certificate`] reads, of the table `certificates c`.
pub(super) const CERTIFICATE: &str =
    "c.serial, c.common_name, c.kind, c.key, c.not_before, c.not_after, c.revoked, c.der";

/// Whether that one renews another that goes on counting until it is used: 1, else 0.
const UNUSED: &str =
    "(SELECT count(*) FROM renewals r WHERE r.certificate = c.serial AND r.used IS NULL)";

/// By the robot's id.
pub type InUseByName = HashMap<Box<str>, InUse>;

/// The part of the store that is in memory.
#[derive(Default)]
pub(super) struct Index {
    certificates: RwLock<HashMap<Box<str>, CertificateStatus>>,
    sessions: RwLock<HashMap<[u8; 32], Session>>,
    people: RwLock<Arc<People>>,
    /// Held while one of them changes, and from before a reading of the database until what was read has taken its
    /// place: so that no reading undoes a change that it does not know. Those who ask do not wait for it.
    change: Mutex<()>,
    /// Counts what changes among certificates.
    changes: watch::Sender<u64>,
    /// What robots have in use, as of so many changes.
    in_use: Mutex<(u64, Arc<InUseByName>)>,
}

impl Index {
    pub(super) fn load(database: &mut dyn Database) -> Result<Self> {
        let index = Self::default();
        index.reload(database)?;
        Ok(index)
    }

    /// Takes what the database has in place of what was known.
    pub(super) fn reload(&self, database: &mut dyn Database) -> Result<()> {
        let _changing = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut certificates = HashMap::new();
        let sql = format!("SELECT {CERTIFICATE}, {UNUSED} FROM certificates c");
        database.query(&sql, &[], &mut |row| {
            let certificate = certificate(row)?;
            let unused: u64 = row.get(8)?;
            let status = status(&certificate, unused > 0);
            certificates.insert(certificate.serial.as_str().into(), status);
            Ok(())
        })?;
        let mut sessions = HashMap::new();
        database.query(
            "SELECT hash, \"user\", created, expires, address, agent FROM sessions",
            &[],
            &mut |row| {
                let session = session(row)?;
                sessions.insert(session.hash, session);
                Ok(())
            },
        )?;
        let people = people::load(database)?;
        *self.people.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(people);
        *self
            .certificates
            .write()
            .unwrap_or_else(PoisonError::into_inner) = certificates;
        self.changes.send_modify(|changes| *changes += 1);
        *self
            .sessions
            .write()
            .unwrap_or_else(PoisonError::into_inner) = sessions;
        Ok(())
    }

    pub(super) fn people(&self) -> Arc<People> {
        let people = self.people.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&people)
    }

    pub(super) fn set_people(&self, people: Arc<People>) {
        let _changing = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        *self.people.write().unwrap_or_else(PoisonError::into_inner) = people;
    }

    pub(super) fn forget_sessions(&self, of: impl Fn(&Session) -> bool) {
        self.sessions_mut(|sessions| sessions.retain(|_, session| !of(session)));
    }

    fn put(&self, certificate: &Certificate) {
        let status = status(certificate, false);
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

    pub(super) fn revoke(&self, serials: &[String]) {
        self.certificates_mut(|certificates| {
            for serial in serials {
                if let Some(status) = certificates.get_mut(serial.as_str()) {
                    status.revoked = true;
                }
            }
        });
    }

    /// Looked for where something changed since.
    fn in_use(&self) -> Arc<InUseByName> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = *self.changes.borrow();
        if in_use.0 != changes {
            let certificates = self.certificates.read();
            let certificates = certificates.unwrap_or_else(PoisonError::into_inner);
            *in_use = (changes, Arc::new(newest(&certificates)));
        }
        Arc::clone(&in_use.1)
    }

    pub(super) fn certificates_mut<T>(
        &self,
        change: impl FnOnce(&mut HashMap<Box<str>, CertificateStatus>) -> T,
    ) -> T {
        let _changing = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = change(
            &mut self
                .certificates
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.changes.send_modify(|changes| *changes += 1);
        outcome
    }

    fn sessions_mut<T>(&self, change: impl FnOnce(&mut HashMap<[u8; 32], Session>) -> T) -> T {
        let _changing = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        change(
            &mut self
                .sessions
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// Of each robot the one that ends last of those that it has used and that were not revoked.
fn newest(certificates: &HashMap<Box<str>, CertificateStatus>) -> InUseByName {
    let mut in_use = InUseByName::new();
    for (serial, status) in certificates {
        let counts = status.kind == CertificateKind::Robot && !status.revoked && !status.is_unused;
        let name = &*status.common_name;
        // Of two that end together always the same one.
        let is_later =
            |known: &InUse| (known.not_after_ms, &known.serial) < (status.not_after_ms, serial);
        if counts && in_use.get(name).is_none_or(is_later) {
            let found = InUse {
                serial: serial.clone(),
                not_before_ms: status.not_before_ms,
                not_after_ms: status.not_after_ms,
            };
            in_use.insert(name.into(), found);
        }
    }
    in_use
}

pub(super) fn status(certificate: &Certificate, is_unused: bool) -> CertificateStatus {
    CertificateStatus {
        common_name: certificate.common_name.as_str().into(),
        kind: certificate.kind,
        key: certificate.key,
        not_before_ms: certificate.not_before_ms,
        not_after_ms: certificate.not_after_ms,
        revoked: certificate.revoked_ms.is_some(),
        is_unused,
    }
}

/// A row that begins with [`CERTIFICATE`].
pub(super) fn certificate(row: &Row<'_>) -> Result<Certificate> {
    let kind: String = row.get(2)?;
    Ok(Certificate {
        serial: row.get(0)?,
        common_name: row.get(1)?,
        kind: if kind == CertificateKind::Robot.as_str() {
            CertificateKind::Robot
        } else {
            CertificateKind::Consumer
        },
        key: row.get(3)?,
        not_before_ms: row.get(4)?,
        not_after_ms: row.get(5)?,
        revoked_ms: row.get(6)?,
        der: row.get(7)?,
    })
}

fn session(row: &Row<'_>) -> Result<Session> {
    Ok(Session {
        hash: row.get(0)?,
        user: row.get(1)?,
        created_ms: row.get(2)?,
        expires_ms: row.get(3)?,
        address: row.get(4)?,
        agent: row.get(5)?,
    })
}

pub(super) fn insert_certificate(
    database: &mut dyn Database,
    certificate: &Certificate,
) -> Result<()> {
    database.execute(
        "INSERT INTO certificates (serial, common_name, kind, key, not_before, not_after, revoked, der)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        values![
            certificate.serial,
            certificate.common_name,
            certificate.kind.as_str(),
            certificate.key,
            certificate.not_before_ms,
            certificate.not_after_ms,
            certificate.revoked_ms,
            certificate.der,
        ],
    )?;
    Ok(())
}

/// Certificates.
impl Store {
    /// Keeps a certificate that was issued without a token (a consumer's, a renewal).
    ///
    /// # Errors
    /// When it cannot be written, or the serial exists.
    pub async fn insert_certificate(
        &self,
        certificate: Certificate,
    ) -> std::result::Result<(), StoreError> {
        let (index, issued) = (self.inner.index.clone(), certificate.clone());
        self.write(
            move |database| insert_certificate(database, &certificate),
            move |()| index.put(&issued),
        )
        .await
    }

    /// Whether any was ever given. From memory, never waits.
    #[must_use]
    pub fn knows_certificates(&self) -> bool {
        let certificates = self.inner.index.certificates.read();
        let certificates = certificates.unwrap_or_else(PoisonError::into_inner);
        !certificates.is_empty()
    }

    /// Told whenever something changed among certificates, here or at another relay on the database.
    #[must_use]
    pub fn identity_changes(&self) -> watch::Receiver<u64> {
        self.inner.index.changes.subscribe()
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

    /// What robots have in use. From memory.
    #[must_use]
    pub fn certificates_in_use(&self) -> Arc<InUseByName> {
        self.inner.index.in_use()
    }

    /// The certificate with this serial.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn certificate(
        &self,
        serial: &str,
    ) -> std::result::Result<Option<Certificate>, StoreError> {
        let serial = serial.to_owned();
        self.inner
            .readers
            .read("certificate", move |database| {
                database.row(
                    &format!("SELECT {CERTIFICATE} FROM certificates c WHERE c.serial = ?1"),
                    values![serial],
                    certificate,
                )
            })
            .await
    }

    /// All certificates with this common name, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn certificates_of(
        &self,
        common_name: &str,
    ) -> std::result::Result<Vec<Certificate>, StoreError> {
        let name = common_name.to_owned();
        self.inner
            .readers
            .read("certificates_of", move |database| {
                database.rows(
                    &format!(
                        "SELECT {CERTIFICATE} FROM certificates c WHERE c.common_name = ?1 ORDER BY c.not_before DESC"
                    ),
                    values![name],
                    certificate,
                )
            })
            .await
    }

    /// Revokes a serial, and what was asked for with it and not used yet: whoever has copied its key may have been who
    /// asked. What was revoked by this. The broker refuses it from then on; a client that is connected must be
    /// disconnected by the caller.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn revoke_certificate(
        &self,
        serial: &str,
        now_ms: u64,
    ) -> std::result::Result<Vec<String>, StoreError> {
        let (serial, index) = (serial.to_owned(), self.inner.index.clone());
        self.write(
            move |database| {
                database.rows(
                    &format!(
                        "UPDATE certificates SET revoked = ?2
                         WHERE revoked IS NULL AND (serial = ?1 OR serial IN {LATER}) RETURNING serial"
                    ),
                    values![serial, now_ms],
                    |row| row.get(0),
                )
            },
            move |serials: &Vec<String>| index.revoke(serials),
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
    ) -> std::result::Result<Vec<String>, StoreError> {
        let (name, index) = (common_name.to_owned(), self.inner.index.clone());
        self.write(
            move |database| {
                database.rows(
                    "UPDATE certificates SET revoked = ?2 WHERE common_name = ?1 AND revoked IS NULL RETURNING serial",
                    values![name, now_ms],
                    |row| row.get(0),
                )
            },
            move |serials: &Vec<String>| index.revoke(serials),
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
    pub async fn insert_session(&self, session: Session) -> std::result::Result<(), StoreError> {
        let (index, kept) = (self.inner.index.clone(), session.clone());
        self.write(
            move |database| {
                database.execute(
                    "INSERT INTO sessions (hash, \"user\", created, expires, address, agent)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    values![
                        session.hash,
                        session.user,
                        session.created_ms,
                        session.expires_ms,
                        session.address,
                        session.agent
                    ],
                )?;
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

    /// All sessions of a person that count at `now_ms`, the newest first. From memory, never waits.
    #[must_use]
    pub fn sessions_of(&self, user: &str, now_ms: u64) -> Vec<Session> {
        let sessions = self.inner.index.sessions.read();
        let sessions = sessions.unwrap_or_else(PoisonError::into_inner);
        let counts = |session: &&Session| session.user == user && session.expires_ms > now_ms;
        let mut found: Vec<Session> = sessions.values().filter(counts).cloned().collect();
        found.sort_by_key(|session| (std::cmp::Reverse(session.created_ms), session.hash));
        found
    }

    /// Ends the sessions of a person, but for one that is spared.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn end_sessions_of(
        &self,
        user: &str,
        spared: Option<[u8; 32]>,
    ) -> std::result::Result<u64, StoreError> {
        let (user, index) = (user.to_owned(), self.inner.index.clone());
        let of = user.clone();
        self.write(
            move |database| {
                database.execute(
                    "DELETE FROM sessions WHERE \"user\" = ?1 AND hash <> ?2",
                    values![user, spared.unwrap_or_default()],
                )
            },
            move |_| {
                index.forget_sessions(|session| session.user == of && Some(session.hash) != spared);
            },
        )
        .await
    }

    /// Ends a session; false when there was none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn delete_session(&self, hash: [u8; 32]) -> std::result::Result<bool, StoreError> {
        let index = self.inner.index.clone();
        self.write(
            move |database| {
                let deleted =
                    database.execute("DELETE FROM sessions WHERE hash = ?1", values![hash])?;
                Ok(deleted == 1)
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
    pub async fn expire_sessions(&self, now_ms: u64) -> std::result::Result<u64, StoreError> {
        let index = self.inner.index.clone();
        self.write(
            move |database| {
                database.execute("DELETE FROM sessions WHERE expires <= ?1", values![now_ms])
            },
            move |_| index.sessions_mut(|s| s.retain(|_, session| session.expires_ms > now_ms)),
        )
        .await
    }

    /// A person's password hash.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn credential(
        &self,
        user: &str,
    ) -> std::result::Result<Option<Credential>, StoreError> {
        let user = user.to_owned();
        self.inner
            .readers
            .read("credential", move |database| {
                database.row(
                    "SELECT \"user\", hash FROM credentials WHERE \"user\" = ?1",
                    values![user],
                    |row| {
                        Ok(Credential {
                            user: row.get(0)?,
                            hash: row.get(1)?,
                        })
                    },
                )
            })
            .await
    }

    /// Sets the password hash of somebody who is known; false for others.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn set_credential(
        &self,
        credential: Credential,
    ) -> std::result::Result<bool, StoreError> {
        self.change_people(move |database| people::set_hash(database, &credential))
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
