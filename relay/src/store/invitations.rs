//! Invitations: who may make an account of which name and roles, by a secret of which the digest is kept.

use lekiwi_protocol::UserName;

use super::Store;
use super::database::{DatabaseError, Result, Row, values};
use super::people::{self, Outcome, parsed};
use super::records::Invitation;

const COLUMNS: &str = "id, hash, person, roles, inviter, created, expires, used, revoked";

fn invitation(row: &Row<'_>) -> Result<Invitation> {
    let roles: String = row.get(3)?;
    let roles = serde_json::from_str(&roles).map_err(|_| DatabaseError::Column {
        column: 3,
        expected: "roles",
        actual: "another text",
    })?;
    Ok(Invitation {
        id: row.get(0)?,
        hash: row.get(1)?,
        person: parsed::<UserName>(row, 2, "a user name")?,
        roles,
        inviter: parsed::<UserName>(row, 4, "a user name")?,
        created_ms: row.get(5)?,
        expires_ms: row.get(6)?,
        used_ms: row.get(7)?,
        revoked_ms: row.get(8)?,
    })
}

/// What became of an invitation that somebody used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joining {
    /// They are in.
    Joined(UserName),
    /// Somebody of this name is there by now.
    Taken(UserName),
    /// It is not open.
    Over,
}

impl Store {
    /// Keeps an invitation.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn insert_invitation(&self, invitation: Invitation) -> Outcome<()> {
        self.write(
            move |database| {
                // Roles are enumerations and names, which always become JSON.
                let roles = serde_json::to_string(&invitation.roles).unwrap_or_default();
                database.execute(
                    &format!(
                        "INSERT INTO invitations ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
                    ),
                    values![
                        invitation.id,
                        invitation.hash,
                        invitation.person.as_str(),
                        roles,
                        invitation.inviter.as_str(),
                        invitation.created_ms,
                        invitation.expires_ms,
                        invitation.used_ms,
                        invitation.revoked_ms,
                    ],
                )?;
                Ok(())
            },
            |()| (),
        )
        .await
    }

    /// The invitation whose secret has this SHA-256.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn invitation(&self, hash: [u8; 32]) -> Outcome<Option<Invitation>> {
        self.inner
            .readers
            .read("invitation", move |database| {
                let sql = format!("SELECT {COLUMNS} FROM invitations WHERE hash = ?1");
                database.row(&sql, values![hash], invitation)
            })
            .await
    }

    /// All invitations, the newest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn invitations(&self) -> Outcome<Vec<Invitation>> {
        self.inner
            .readers
            .read("invitations", |database| {
                let sql = format!("SELECT {COLUMNS} FROM invitations ORDER BY created DESC, id");
                database.rows(&sql, &[], invitation)
            })
            .await
    }

    /// Takes an invitation back; false when it is not open.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn revoke_invitation(&self, id: &str, now_ms: u64) -> Outcome<bool> {
        let id = id.to_owned();
        self.write(
            move |database| {
                let revoked = database.execute(
                    "UPDATE invitations SET revoked = ?2
                     WHERE id = ?1 AND used IS NULL AND revoked IS NULL AND expires > ?2",
                    values![id, now_ms],
                )?;
                Ok(revoked == 1)
            },
            |_| (),
        )
        .await
    }

    /// Adds the person whom the invitation is for, once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn join(
        &self,
        hash: [u8; 32],
        password_hash: String,
        now_ms: u64,
    ) -> Outcome<Joining> {
        self.change_people(move |database| {
            let sql = format!(
                "UPDATE invitations SET used = ?2
                 WHERE hash = ?1 AND used IS NULL AND revoked IS NULL AND expires > ?2 RETURNING {COLUMNS}"
            );
            let Some(found) = database.row(&sql, values![hash, now_ms], invitation)? else {
                return Ok(Joining::Over);
            };
            let (name, roles) = (found.person, found.roles);
            if people::insert_person(database, &name, Some(&password_hash), &roles, now_ms)? {
                return Ok(Joining::Joined(name));
            }
            database.execute(
                "UPDATE invitations SET used = NULL WHERE hash = ?1",
                values![hash],
            )?;
            Ok(Joining::Taken(name))
        })
        .await
    }

    /// Forgets invitations whose time was over before `before_ms`; how many.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn forget_invitations(&self, before_ms: u64) -> Outcome<u64> {
        self.write(
            move |database| {
                database.execute(
                    "DELETE FROM invitations WHERE expires < ?1",
                    values![before_ms],
                )
            },
            |_| (),
        )
        .await
    }
}
