//! Enrolment tokens, and which keys used them.

use rusqlite::{OptionalExtension, Row, params};

use super::identity::{certificate as from_row, insert_certificate};
use super::records::{Certificate, Redemption, Token};
use super::{Store, StoreError};

/// Tokens with the robot that each of them enrolled first.
const TOKENS: &str = "SELECT t.*,
    (SELECT count(*) FROM token_uses u WHERE u.token = t.id) AS uses,
    (SELECT min(used) FROM token_uses u WHERE u.token = t.id) AS used,
    (SELECT c.common_name FROM token_uses u JOIN certificates c ON c.serial = u.certificate
     WHERE u.token = t.id ORDER BY u.used, u.key LIMIT 1) AS used_by
    FROM tokens t";

fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
    Ok(Token {
        id: row.get("id")?,
        hash: row.get("hash")?,
        profile: row.get("profile")?,
        serial: row.get("serial")?,
        robot: row.get("robot")?,
        created_ms: row.get::<_, i64>("created")? as u64,
        expires_ms: row.get::<_, i64>("expires")? as u64,
        max_uses: row.get("max_uses")?,
        uses: row.get("uses")?,
        used_ms: row.get::<_, Option<i64>>("used")?.map(|ms| ms as u64),
        used_by: row.get("used_by")?,
    })
}

/// Tokens.
impl Store {
    /// Keeps a new token.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn insert_token(&self, token: Token) -> Result<(), StoreError> {
        self.write(
            move |c| {
                c.prepare_cached(
                    "INSERT INTO tokens (id, hash, profile, serial, robot, created, expires, max_uses) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    token.id,
                    token.hash,
                    token.profile,
                    token.serial,
                    token.robot,
                    token.created_ms as i64,
                    token.expires_ms as i64,
                    token.max_uses,
                ])?;
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
    pub async fn token_by_hash(&self, hash: [u8; 32]) -> Result<Option<Token>, StoreError> {
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached(&format!("{TOKENS} WHERE t.hash = ?1"))?
                    .query_row([hash], token)
                    .optional()
            })
            .await
    }

    /// All tokens, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.inner
            .readers
            .read(|c| {
                c.prepare_cached(&format!("{TOKENS} ORDER BY t.created DESC, t.id"))?
                    .query_map([], token)?
                    .collect()
            })
            .await
    }

    /// Forgets a token; false when there was none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn delete_token(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write(
            move |c| {
                Ok(c.prepare_cached("DELETE FROM tokens WHERE id = ?1")?
                    .execute([&id])?
                    == 1)
            },
            |_| (),
        )
        .await
    }

    /// Whether this key used the token before: then the token's time and uses do not matter.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn has_used(&self, token_id: &str, key: [u8; 32]) -> Result<bool, StoreError> {
        let id = token_id.to_owned();
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached("SELECT 1 FROM token_uses WHERE token = ?1 AND key = ?2")?
                    .exists(params![id, key])
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
    ) -> Result<Redemption, StoreError> {
        let (id, index, issued) = (
            token_id.to_owned(),
            self.inner.index.clone(),
            certificate.clone(),
        );
        self.write(
            move |c| {
                let max_uses: Option<u32> = c
                    .prepare_cached("SELECT max_uses FROM tokens WHERE id = ?1")?
                    .query_row([&id], |row| row.get(0))
                    .optional()?;
                let Some(max_uses) = max_uses else {
                    return Ok(Redemption::Unknown);
                };
                let again = c
                    .prepare_cached(
                        "SELECT c.* FROM token_uses u JOIN certificates c ON c.serial = u.certificate
                         WHERE u.token = ?1 AND u.key = ?2",
                    )?
                    .query_row(params![id, certificate.key], from_row)
                    .optional()?;
                if let Some(again) = again {
                    return Ok(Redemption::Again(again));
                }
                let (uses, last): (u32, Option<i64>) = c
                    .prepare_cached("SELECT count(*), max(used) FROM token_uses WHERE token = ?1")?
                    .query_row([&id], |row| Ok((row.get(0)?, row.get(1)?)))?;
                if uses >= max_uses {
                    let last_ms = last.unwrap_or_default() as u64;
                    return Ok(Redemption::UsedUp { max_uses, last_ms });
                }
                let now = now_ms as i64;
                let others = params![certificate.common_name, certificate.key, now];
                if replaces {
                    c.prepare_cached(
                        "UPDATE certificates SET revoked = ?3
                         WHERE common_name = ?1 AND key <> ?2 AND revoked IS NULL AND not_after > ?3",
                    )?
                    .execute(others)?;
                } else if c
                    .prepare_cached(
                        "SELECT 1 FROM certificates
                         WHERE common_name = ?1 AND key <> ?2 AND revoked IS NULL AND not_after > ?3",
                    )?
                    .exists(others)?
                {
                    return Ok(Redemption::Taken);
                }
                insert_certificate(c, &certificate)?;
                c.prepare_cached(
                    "INSERT INTO token_uses (token, key, used, certificate) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![id, certificate.key, now, certificate.serial])?;
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
    pub async fn replaced_by(&self, serial: &str) -> Result<Option<String>, StoreError> {
        let serial = serial.to_owned();
        self.inner
            .readers
            .read(move |c| {
                c.prepare_cached(
                    "SELECT old.serial FROM token_uses u
                     JOIN certificates new ON new.serial = u.certificate
                     JOIN certificates old ON old.common_name = new.common_name
                         AND old.key <> new.key AND old.revoked = u.used
                     WHERE u.certificate = ?1 ORDER BY old.not_after DESC LIMIT 1",
                )?
                .query_row([serial], |row| row.get(0))
                .optional()
            })
            .await
    }
}
