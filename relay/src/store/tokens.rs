//! Enrolment tokens, and which keys used them.

use super::database::{Result, Row, values};
use super::identity::{CERTIFICATE, certificate as from_row, insert_certificate};
use super::records::{Certificate, Redemption, Token};
use super::{Store, StoreError};

/// Tokens with the robot that each of them enrolled first, as [`token`] reads them.
const TOKENS: &str =
    "SELECT t.id, t.hash, t.profile, t.serial, t.robot, t.created, t.expires, t.max_uses,
    (SELECT count(*) FROM token_uses u WHERE u.token = t.id),
    (SELECT min(used) FROM token_uses u WHERE u.token = t.id),
    (SELECT c.common_name FROM token_uses u JOIN certificates c ON c.serial = u.certificate
     WHERE u.token = t.id ORDER BY u.used, u.key LIMIT 1)
    FROM tokens t";

fn token(row: &Row<'_>) -> Result<Token> {
    Ok(Token {
        id: row.get(0)?,
        hash: row.get(1)?,
        profile: row.get(2)?,
        serial: row.get(3)?,
        robot: row.get(4)?,
        created_ms: row.get(5)?,
        expires_ms: row.get(6)?,
        max_uses: row.get(7)?,
        uses: row.get(8)?,
        used_ms: row.get(9)?,
        used_by: row.get(10)?,
    })
}

/// Tokens.
impl Store {
    /// Keeps a new token.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn insert_token(&self, token: Token) -> std::result::Result<(), StoreError> {
        self.write(
            move |database| {
                database.execute(
                    "INSERT INTO tokens (id, hash, profile, serial, robot, created, expires, max_uses)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    values![
                        token.id,
                        token.hash,
                        token.profile,
                        token.serial,
                        token.robot,
                        token.created_ms,
                        token.expires_ms,
                        token.max_uses,
                    ],
                )?;
                Ok(())
            },
            |()| (),
        )
        .await
    }

    /// The token whose secret has this SHA-256.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn token_by_hash(
        &self,
        hash: [u8; 32],
    ) -> std::result::Result<Option<Token>, StoreError> {
        self.inner
            .readers
            .read("token_by_hash", move |database| {
                database.row(&format!("{TOKENS} WHERE t.hash = ?1"), values![hash], token)
            })
            .await
    }

    /// All tokens, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn tokens(&self) -> std::result::Result<Vec<Token>, StoreError> {
        self.inner
            .readers
            .read("tokens", |database| {
                database.rows(
                    &format!("{TOKENS} ORDER BY t.created DESC, t.id"),
                    &[],
                    token,
                )
            })
            .await
    }

    /// Forgets a token; false when there was none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn delete_token(&self, id: &str) -> std::result::Result<bool, StoreError> {
        let id = id.to_owned();
        self.write(
            move |database| {
                let deleted = database.execute("DELETE FROM tokens WHERE id = ?1", values![id])?;
                Ok(deleted == 1)
            },
            |_| (),
        )
        .await
    }

    /// Whether this key used the token before: then the token's time and uses do not matter.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn has_used(
        &self,
        token_id: &str,
        key: [u8; 32],
    ) -> std::result::Result<bool, StoreError> {
        let id = token_id.to_owned();
        self.inner
            .readers
            .read("has_used", move |database| {
                database.exists(
                    "SELECT 1 FROM token_uses WHERE token = ?1 AND key = ?2",
                    values![id, key],
                )
            })
            .await
    }

    /// Binds a use of the token to the key of `certificate` and stores that certificate, in one
    /// transaction; or answers the certificate that the same key got before. A robot's certificates for
    /// other keys are revoked in it with `replaces`; without, they stand in the way. Whether the token is
    /// good for this robot and time is the caller's to check.
    ///
    /// # Errors
    /// When it cannot be written; then nothing happened.
    pub async fn redeem(
        &self,
        token_id: &str,
        certificate: Certificate,
        replaces: bool,
        now_ms: u64,
    ) -> std::result::Result<Redemption, StoreError> {
        let (id, index, issued) = (
            token_id.to_owned(),
            self.inner.index.clone(),
            certificate.clone(),
        );
        self.write(
            move |database| {
                let max_uses: Option<u32> =
                    database.value("SELECT max_uses FROM tokens WHERE id = ?1", values![id])?;
                let Some(max_uses) = max_uses else {
                    return Ok(Redemption::Unknown);
                };
                let again = database.row(
                    &format!(
                        "SELECT {CERTIFICATE} FROM token_uses u JOIN certificates c ON c.serial = u.certificate
                         WHERE u.token = ?1 AND u.key = ?2"
                    ),
                    values![id, certificate.key],
                    from_row,
                )?;
                if let Some(again) = again {
                    return Ok(Redemption::Again(again));
                }
                let (uses, last): (u32, Option<u64>) = database
                    .row(
                        "SELECT count(*), max(used) FROM token_uses WHERE token = ?1",
                        values![id],
                        |row| Ok((row.get(0)?, row.get(1)?)),
                    )?
                    .unwrap_or_default();
                if uses >= max_uses {
                    let last_ms = last.unwrap_or_default();
                    return Ok(Redemption::UsedUp { max_uses, last_ms });
                }
                let others = values![certificate.common_name, certificate.key, now_ms];
                if replaces {
                    database.execute(
                        "UPDATE certificates SET revoked = ?3
                         WHERE common_name = ?1 AND key <> ?2 AND revoked IS NULL AND not_after > ?3",
                        others,
                    )?;
                } else if database.exists(
                    "SELECT 1 FROM certificates
                     WHERE common_name = ?1 AND key <> ?2 AND revoked IS NULL AND not_after > ?3",
                    others,
                )? {
                    return Ok(Redemption::Taken);
                }
                insert_certificate(database, &certificate)?;
                database.execute(
                    "INSERT INTO token_uses (token, key, used, certificate) VALUES (?1, ?2, ?3, ?4)",
                    values![id, certificate.key, now_ms, certificate.serial],
                )?;
                Ok(Redemption::Issued)
            },
            move |redemption| {
                if *redemption == Redemption::Issued {
                    index.replace(&issued, replaces, now_ms);
                }
            },
        )
        .await
    }

    /// The certificate whose place this one took: of the same robot, for another key, revoked by the
    /// very use of a token that gave this one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn replaced_by(
        &self,
        serial: &str,
    ) -> std::result::Result<Option<String>, StoreError> {
        let serial = serial.to_owned();
        self.inner
            .readers
            .read("replaced_by", move |database| {
                database.value(
                    "SELECT old.serial FROM token_uses u
                     JOIN certificates new ON new.serial = u.certificate
                     JOIN certificates old ON old.common_name = new.common_name
                         AND old.key <> new.key AND old.revoked = u.used
                     WHERE u.certificate = ?1 ORDER BY old.not_after DESC LIMIT 1",
                    values![serial],
                )
            })
            .await
    }
}
