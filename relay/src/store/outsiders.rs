//! People for whom a provider of OpenID Connect vouches: they come with their roles at each login.

use lekiwi_protocol::UserName;

use super::database::{Database, Result, values};
use super::people::{parsed, set_roles};
use super::records::{Outsider, Welcome};
use super::{Store, StoreError};

impl Store {
    /// Lets somebody in for whom a provider vouches, with these roles in place of those they had. Who has been here is known
    /// by what the provider calls them for good; who is new gets the name that it says, unless somebody has it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn welcome(
        &self,
        outsider: Outsider,
        now_ms: u64,
    ) -> std::result::Result<Welcome, StoreError> {
        self.change_people(move |database| welcome(database, &outsider, now_ms))
            .await
    }
}

fn welcome(database: &mut dyn Database, outsider: &Outsider, now_ms: u64) -> Result<Welcome> {
    let known: Option<(UserName, Option<u64>)> = database.row(
        "SELECT name, disabled FROM people WHERE issuer = ?1 AND subject = ?2",
        values![outsider.issuer, outsider.subject],
        |row| Ok((parsed(row, 0, "a user name")?, row.get(1)?)),
    )?;
    let is_nobody = outsider.roles.is_empty();
    let name = match known {
        Some((name, disabled)) => {
            set_roles(database, &name, &outsider.roles)?;
            if disabled.is_some() {
                return Ok(Welcome::Disabled(name));
            }
            if is_nobody {
                return Ok(Welcome::NoRole);
            }
            name
        }
        None if is_nobody => return Ok(Welcome::NoRole),
        None => {
            let Some(name) = outsider.name.clone() else {
                return Ok(Welcome::Nameless);
            };
            let added = database.execute(
                "INSERT INTO people (name, created, issuer, subject) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO NOTHING",
                values![name.as_str(), now_ms, outsider.issuer, outsider.subject],
            )?;
            if added == 0 {
                return Ok(Welcome::Taken(name));
            }
            set_roles(database, &name, &outsider.roles)?;
            name
        }
    };
    Ok(Welcome::In(name))
}
