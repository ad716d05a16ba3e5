//! Authenticators of people, and the codes that let in whoever lost theirs.

use lekiwi_protocol::UserName;

use super::Store;
use super::database::values;
use super::people::{self, Outcome};
use super::records::Factor;

/// Wrong codes in a row after which an authenticator is taken no more: with three codes of a million good at any time, whoever
/// guesses gets in by chance once in 3,300 times. NIST SP 800-63B allows no more than a hundred.
pub const MOST_MISSES: u64 = 100;

impl Store {
    /// A person's authenticator, confirmed or not.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn factor(&self, user: &str) -> Outcome<Option<Factor>> {
        let user = user.to_owned();
        self.inner
            .readers
            .read("factor", move |database| {
                database.row(
                    "SELECT secret, confirmed, last_step, misses FROM second_factors WHERE person = ?1",
                    values![user],
                    |row| {
                        Ok(Factor {
                            secret: row.get(0)?,
                            confirmed_ms: row.get(1)?,
                            last_step: row.get(2)?,
                            misses: row.get(3)?,
                        })
                    },
                )
            })
            .await
    }

    /// Keeps the secret of an authenticator that is still to show that it has it; false when they have one already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn begin_factor(&self, name: UserName, secret: Vec<u8>) -> Outcome<bool> {
        self.write(
            move |database| {
                let kept = database.execute(
                    "INSERT INTO second_factors (person, secret, last_step, misses) VALUES (?1, ?2, 0, 0)
                     ON CONFLICT (person) DO UPDATE SET secret = excluded.secret
                     WHERE second_factors.confirmed IS NULL",
                    values![name.as_str(), secret],
                )?;
                Ok(kept == 1)
            },
            |_| (),
        )
        .await
    }

    /// Has logins take the authenticator with this secret from now on, after a code of `step`, or recovery codes with these
    /// hashes. False when it is not the one that waits for that.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn confirm_factor(
        &self,
        name: UserName,
        secret: Vec<u8>,
        step: u64,
        recovery: Vec<[u8; 32]>,
        now_ms: u64,
    ) -> Outcome<bool> {
        self.change_people(move |database| {
            let confirmed = database.execute(
                "UPDATE second_factors SET confirmed = ?3, last_step = ?4, misses = 0
                 WHERE person = ?1 AND secret = ?2 AND confirmed IS NULL",
                values![name.as_str(), secret, now_ms, step],
            )?;
            if confirmed == 0 {
                return Ok(false);
            }
            for hash in &recovery {
                database.execute(
                    "INSERT INTO recovery_codes (person, hash) VALUES (?1, ?2)",
                    values![name.as_str(), hash],
                )?;
            }
            Ok(true)
        })
        .await
    }

    /// Takes the code of `step`, if none of it or a later one was taken yet and not too many were wrong; or notes that one was
    /// wrong, where there is no step. Whether it was taken.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn spend_step(&self, user: &str, step: Option<u64>) -> Outcome<bool> {
        let user = user.to_owned();
        self.write(
            move |database| {
                if let Some(step) = step {
                    let taken = database.execute(
                        "UPDATE second_factors SET last_step = ?2, misses = 0
                         WHERE person = ?1 AND last_step < ?2 AND misses < ?3",
                        values![user, step, MOST_MISSES],
                    )?;
                    if taken == 1 {
                        return Ok(true);
                    }
                }
                database.execute(
                    "UPDATE second_factors SET misses = misses + 1 WHERE person = ?1",
                    values![user],
                )?;
                Ok(false)
            },
            |_| (),
        )
        .await
    }

    /// Takes a recovery code by its hash, for good, and takes codes of the authenticator again; false when there is none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn spend_recovery_code(&self, user: &str, hash: [u8; 32]) -> Outcome<bool> {
        let user = user.to_owned();
        self.change_people(move |database| {
            let taken = database.execute(
                "DELETE FROM recovery_codes WHERE person = ?1 AND hash = ?2",
                values![user, hash],
            )?;
            if taken == 1 {
                database.execute(
                    "UPDATE second_factors SET misses = 0 WHERE person = ?1",
                    values![user],
                )?;
            }
            Ok(taken == 1)
        })
        .await
    }

    /// Has a person log in by their password alone; false when they did.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn end_factor(&self, name: UserName) -> Outcome<bool> {
        self.change_people(move |database| people::end_factor(database, name.as_str()))
            .await
    }
}
