//! Certificates that take the place of others. One that renews another counts from the start, and so does the other,
//! until the robot connects with the new one: only then it is known that it can.

use super::database::{Database, Result, Row, values};
use super::identity::{CERTIFICATE, certificate as from_row, insert_certificate, status};
use super::records::{Certificate, NewEvent, Renewal, Standing};
use super::{Store, StoreError, transaction};

/// Renewals of one robot that are given within [`SPAN_MS`].
const MOST: u64 = 60;
const SPAN_MS: u64 = 3_600_000;

/// What was asked for with the certificate ?1, what was asked for with that, and so on, as far as nobody has connected
/// with it yet.
pub(super) const LATER: &str = "(WITH RECURSIVE later (serial) AS (
    SELECT certificate FROM renewals WHERE renews = ?1 AND used IS NULL
    UNION SELECT r.certificate FROM renewals r JOIN later l ON r.renews = l.serial WHERE r.used IS NULL
    ) SELECT serial FROM later)";

/// What became of a renewal in the database.
struct Renewed {
    renewal: Renewal,
    /// Earlier candidates of the same renewal.
    dropped: Vec<String>,
}

impl From<Renewal> for Renewed {
    fn from(renewal: Renewal) -> Self {
        Self {
            renewal,
            dropped: Vec::new(),
        }
    }
}

fn renew(
    database: &mut dyn Database,
    renews: &str,
    fresh: &Certificate,
    now_ms: u64,
) -> Result<Renewed> {
    let counts =
        "SELECT 1 FROM certificates WHERE serial = ?1 AND revoked IS NULL AND not_after > ?2";
    if !database.exists(counts, values![renews, now_ms])? {
        return Ok(Renewal::Ended.into());
    }
    let again = database.row(
        &format!(
            "SELECT {CERTIFICATE} FROM renewals r JOIN certificates c ON c.serial = r.certificate
             WHERE r.renews = ?1 AND r.used IS NULL AND c.key = ?2 AND c.revoked IS NULL AND c.not_after > ?3"
        ),
        values![renews, fresh.key, now_ms],
        from_row,
    )?;
    if let Some(again) = again {
        return Ok(Renewal::Again(again).into());
    }
    let asked: u64 = database
        .value(
            "SELECT count(*) FROM renewals r JOIN certificates c ON c.serial = r.certificate
             WHERE c.common_name = ?1 AND r.asked > ?2",
            values![fresh.common_name, now_ms.saturating_sub(SPAN_MS)],
        )?
        .unwrap_or_default();
    if asked >= MOST {
        return Ok(Renewal::TooMany.into());
    }
    let dropped = database.rows(
        &format!(
            "UPDATE certificates SET revoked = ?2 WHERE revoked IS NULL AND serial IN {LATER} RETURNING serial"
        ),
        values![renews, now_ms],
        |row| row.get(0),
    )?;
    insert_certificate(database, fresh)?;
    database.execute(
        "INSERT INTO renewals (certificate, renews, asked) VALUES (?1, ?2, ?3)",
        values![fresh.serial, renews, now_ms],
    )?;
    Ok(Renewed {
        renewal: Renewal::Issued,
        dropped,
    })
}

/// What [`standing`] reads.
const STANDING: &str = "r.renews, r.used,
    (SELECT count(*) FROM renewals n WHERE n.renews = c.serial AND n.used = c.revoked)
    FROM certificates c LEFT JOIN renewals r ON r.certificate = c.serial";

fn standing(row: &Row<'_>) -> Result<Standing> {
    let renews: Option<String> = row.get(8)?;
    let used: Option<u64> = row.get(9)?;
    let replaced: u64 = row.get(10)?;
    Ok(Standing {
        certificate: from_row(row)?,
        is_unused: renews.is_some() && used.is_none(),
        renews,
        is_replaced: replaced > 0,
    })
}

impl Store {
    /// All certificates, or those of one name: by name, the newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn identities(
        &self,
        name: Option<String>,
    ) -> std::result::Result<Vec<Standing>, StoreError> {
        self.inner
            .readers
            .read("identities", move |database| {
                let of = if name.is_some() {
                    "WHERE c.common_name = ?1"
                } else {
                    ""
                };
                let sql = format!(
                    "SELECT {CERTIFICATE}, {STANDING} {of} ORDER BY c.common_name, c.not_before DESC, c.serial"
                );
                match &name {
                    Some(name) => database.rows(&sql, values![name], standing),
                    None => database.rows(&sql, &[], standing),
                }
            })
            .await
    }

    /// The certificate with this serial, and its place among the others of its owner.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn identity(
        &self,
        serial: &str,
    ) -> std::result::Result<Option<Standing>, StoreError> {
        let serial = serial.to_owned();
        self.inner
            .readers
            .read("identity", move |database| {
                let sql = format!("SELECT {CERTIFICATE}, {STANDING} WHERE c.serial = ?1");
                database.row(&sql, values![serial], standing)
            })
            .await
    }

    /// Serials of certificates that were revoked and would otherwise count at `now_ms`, with when.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn revoked(
        &self,
        now_ms: u64,
    ) -> std::result::Result<Vec<(String, u64)>, StoreError> {
        self.inner
            .readers
            .read("revoked", move |database| {
                database.rows(
                    "SELECT serial, revoked FROM certificates
                     WHERE revoked IS NOT NULL AND not_after > ?1 ORDER BY serial",
                    values![now_ms],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
            })
            .await
    }

    /// Keeps `fresh`, which renews the certificate with the serial `renews`; or answers the one that the same key got
    /// before. A candidate for another key that was never used is revoked.
    ///
    /// # Errors
    /// When it cannot be written; then nothing happened.
    pub async fn renew(
        &self,
        renews: &str,
        fresh: Certificate,
        now_ms: u64,
    ) -> std::result::Result<Renewal, StoreError> {
        let (renews, index, issued) = (renews.to_owned(), self.inner.index.clone(), fresh.clone());
        let renewed = self.write(
            move |database| renew(database, &renews, &fresh, now_ms),
            move |renewed: &Renewed| {
                if renewed.renewal == Renewal::Issued {
                    index.revoke(&renewed.dropped);
                    let status = status(&issued, true);
                    index.certificates_mut(|c| c.insert(issued.serial.as_str().into(), status));
                }
            },
        );
        Ok(renewed.await?.renewal)
    }

    /// A robot uses the certificate with this serial, which renews another, for the first time: the others of its name
    /// are revoked, and what `event` makes of the one that it renews goes into the log, all at once. False where it was
    /// used before, or is revoked.
    ///
    /// # Errors
    /// When it cannot be written; then nothing happened.
    pub async fn promote(
        &self,
        serial: &str,
        event: impl Fn(&Certificate, &str) -> NewEvent + Send + 'static,
        now_ms: u64,
    ) -> std::result::Result<bool, StoreError> {
        let (serial, index) = (serial.to_owned(), self.inner.index.clone());
        let used = serial.clone();
        let promoted = self.write_events(
            move |database, commit| {
                let renews: Option<String> = database.value(
                    "SELECT renews FROM renewals WHERE certificate = ?1 AND used IS NULL",
                    values![serial],
                )?;
                let certificate = database.row(
                    &format!(
                        "SELECT {CERTIFICATE} FROM certificates c WHERE c.serial = ?1 AND c.revoked IS NULL"
                    ),
                    values![serial],
                    from_row,
                )?;
                let (Some(renews), Some(certificate)) = (renews, certificate) else {
                    return Ok(None);
                };
                database.execute(
                    "UPDATE renewals SET used = ?2 WHERE certificate = ?1",
                    values![serial, now_ms],
                )?;
                let ended: Vec<String> = database.rows(
                    // What was asked for with it before this was written is what the robot has next.
                    &format!(
                        "UPDATE certificates SET revoked = ?3
                         WHERE common_name = ?2 AND serial <> ?1 AND revoked IS NULL AND not_after > ?3
                         AND serial NOT IN {LATER} RETURNING serial"
                    ),
                    values![serial, certificate.common_name, now_ms],
                    |row| row.get(0),
                )?;
                transaction::insert_events(database, &[&event(&certificate, &renews)], commit)?;
                Ok(Some(ended))
            },
            move |ended: &Option<Vec<String>>| {
                if let Some(ended) = ended {
                    index.revoke(ended);
                    index.certificates_mut(|certificates| {
                        if let Some(status) = certificates.get_mut(used.as_str()) {
                            status.is_unused = false;
                        }
                    });
                }
            },
        );
        Ok(promoted.await?.is_some())
    }
}
