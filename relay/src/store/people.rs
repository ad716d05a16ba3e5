//! People with what they may, and groups of robots. Asked for at every request, so answered from memory;
//! the writing thread reads all of it again after each change, which is seldom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lekiwi_protocol::api::Grant;
use lekiwi_protocol::{GroupName, Permission, RobotId, Role, Scope, Timestamp, UserName};
use lekiwi_relay_core::policy::{Groups, Right, Source, What};

use super::database::{Database, DatabaseError, Result, Row, values};
use super::records::{Account, Credential, People};
use super::{Store, StoreError, keys, reads};

/// Reads all of it.
pub(super) fn load(database: &mut dyn Database) -> Result<People> {
    let mut accounts: BTreeMap<UserName, Account> = BTreeMap::new();
    database.query(
        "SELECT name, created, disabled, name IN (SELECT \"user\" FROM credentials),
            name IN (SELECT person FROM second_factors WHERE confirmed IS NOT NULL),
            (SELECT count(*) FROM recovery_codes r WHERE r.person = name), issuer
         FROM people",
        &[],
        &mut |row| {
            let name = parsed::<UserName>(row, 0, "a user name")?;
            let account = Account {
                name: name.clone(),
                created_ms: row.get(1)?,
                disabled_ms: row.get(2)?,
                has_password: row.get(3)?,
                has_factor: row.get(4)?,
                recovery_codes: row.get(5)?,
                issuer: row.get(6)?,
                rights: Vec::new(),
            };
            accounts.insert(name, account);
            Ok(())
        },
    )?;
    database.query(
        "SELECT person, role, scope, lender, until FROM rights ORDER BY person, scope, role, lender",
        &[],
        &mut |row| {
            let name = parsed::<UserName>(row, 0, "a user name")?;
            if let Some(account) = accounts.get_mut(&name) {
                account.rights.push(right(row)?);
            }
            Ok(())
        },
    )?;
    let mut groups = Groups::new();
    database.query("SELECT name FROM robot_groups", &[], &mut |row| {
        groups.insert(parsed(row, 0, "a group's name")?, BTreeSet::new());
        Ok(())
    })?;
    database.query("SELECT name, robot FROM group_robots", &[], &mut |row| {
        let name = parsed::<GroupName>(row, 0, "a group's name")?;
        let robot = parsed::<RobotId>(row, 1, "a robot id")?;
        if let Some(robots) = groups.get_mut(&name) {
            robots.insert(robot);
        }
        Ok(())
    })?;
    let roles = roles(&accounts);
    for account in accounts.values_mut() {
        account
            .rights
            .retain_mut(|right| lasts(right, &roles, &groups));
    }
    let accounts = accounts
        .into_iter()
        .map(|(name, account)| (name, Arc::new(account)));
    Ok(People {
        accounts: accounts.collect(),
        groups,
        keys: keys::load(database)?,
        reads: reads::load(database)?,
    })
}

/// The roles of everybody who is let in.
fn roles(accounts: &BTreeMap<UserName, Account>) -> BTreeMap<UserName, Vec<Right>> {
    let welcome = accounts
        .values()
        .filter(|account| account.disabled_ms.is_none());
    let roles = welcome.map(|account| {
        let rights = account.rights.iter();
        let own = rights.filter(|right| matches!(right.source, Source::Role(_)));
        (account.name.clone(), own.cloned().collect())
    });
    roles.collect()
}

/// Whether a right counts: a loan does as long as its lender may drive the robot, and ends with that right.
fn lasts(right: &mut Right, roles: &BTreeMap<UserName, Vec<Right>>, groups: &Groups) -> bool {
    let (Source::Lent(lender), Scope::Robot(robot)) = (&right.source, &right.on) else {
        return true;
    };
    let own = roles.get(lender).into_iter().flatten();
    let allowing = own.filter(|own| {
        own.permissions.has(Permission::Teleoperate) && own.covers(What::Robot(robot), groups)
    });
    // Never is later than any time.
    let longest = allowing
        .map(|own| own.until)
        .max_by_key(|until| (until.is_none(), *until));
    let Some(longest) = longest else {
        return false;
    };
    right.until = match (right.until, longest) {
        (Some(until), Some(longest)) => Some(until.min(longest)),
        (until, longest) => until.or(longest),
    };
    true
}

/// A row of `person, role, scope, lender, until`.
fn right(row: &Row<'_>) -> Result<Right> {
    let lender: String = row.get(3)?;
    let role = parsed::<Role>(row, 1, "a role")?;
    let until: Option<u64> = row.get(4)?;
    Ok(Right {
        permissions: role.permissions(),
        on: parsed::<Scope>(row, 2, "a scope")?,
        until: until.map(Timestamp::from_ms),
        source: if lender.is_empty() {
            Source::Role(role)
        } else {
            Source::Lent(parsed::<UserName>(row, 3, "a user name")?)
        },
    })
}

pub(super) fn parsed<T: std::str::FromStr>(
    row: &Row<'_>,
    column: usize,
    expected: &'static str,
) -> Result<T> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| DatabaseError::Column {
        column,
        expected,
        actual: "another text",
    })
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Made,
    /// There is nobody of this name.
    Unknown,
    /// Nobody would be left who may give rights.
    LastAdmin,
}

/// The same, or why the store could not tell.
pub(super) type Outcome<T> = std::result::Result<T, StoreError>;

impl Store {
    /// All people and groups as they are. From memory, never waits.
    #[must_use]
    pub fn people(&self) -> Arc<People> {
        self.inner.index.people()
    }

    /// Runs `change`, and takes what people are after it.
    pub(super) async fn change_people<T: Send + 'static>(
        &self,
        mut change: impl FnMut(&mut dyn Database) -> Result<T> + Send + 'static,
    ) -> Outcome<T> {
        let index = self.inner.index.clone();
        let (outcome, _) = self
            .write(
                move |database| Ok((change(database)?, Arc::new(load(database)?))),
                move |(_, people): &(T, Arc<People>)| index.set_people(people.clone()),
            )
            .await?;
        Ok(outcome)
    }

    /// Adds a person; false when there is one of this name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn add_person(
        &self,
        name: UserName,
        hash: Option<String>,
        roles: Vec<Grant>,
        now_ms: u64,
    ) -> Outcome<bool> {
        self.change_people(move |database| {
            insert_person(database, &name, hash.as_deref(), &roles, now_ms)
        })
        .await
    }

    /// Makes a person, known or not, an administrator of the fleet for good who logs in by this password alone. Their sessions
    /// end.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn reset_admin(&self, name: UserName, hash: String, now_ms: u64) -> Outcome<()> {
        let (index, user) = (self.inner.index.clone(), name.clone());
        self.change_people(move |database| {
            let admin = Grant {
                role: Role::Admin,
                on: Scope::Fleet,
                until: None,
            };
            insert_person(database, &name, None, &[], now_ms)?;
            let (user, hash) = (name.to_string(), hash.clone());
            set_hash(database, &Credential { user, hash })?;
            add_role(database, &name, &admin)?;
            let name = name.as_str();
            end_factor(database, name)?;
            database.execute(
                "UPDATE people SET disabled = NULL WHERE name = ?1",
                values![name],
            )?;
            database.execute("DELETE FROM sessions WHERE \"user\" = ?1", values![name])?;
            Ok(())
        })
        .await?;
        index.forget_sessions(|session| session.user == user.as_str());
        Ok(())
    }

    /// Removes a person with all that is theirs, and what they lent. Their sessions end.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn remove_person(&self, name: UserName, now_ms: u64) -> Outcome<Change> {
        let (index, user) = (self.inner.index.clone(), name.clone());
        let removed = self
            .change_people(move |database| {
                let name = name.as_str();
                if is_last_admin(database, name)? {
                    return Ok(Change::LastAdmin);
                }
                end_what_they_gave(database, name, now_ms)?;
                database.execute("DELETE FROM rights WHERE person = ?1", values![name])?;
                end_factor(database, name)?;
                database.execute("DELETE FROM credentials WHERE \"user\" = ?1", values![name])?;
                database.execute("DELETE FROM keys WHERE owner = ?1", values![name])?;
                database.execute("DELETE FROM sessions WHERE \"user\" = ?1", values![name])?;
                let removed =
                    database.execute("DELETE FROM people WHERE name = ?1", values![name])?;
                Ok(made(removed))
            })
            .await?;
        if removed == Change::Made {
            index.forget_sessions(|session| session.user == user.as_str());
        }
        Ok(removed)
    }

    /// Lets a person in or not. Who is not let in has no sessions, and what they lent ends.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn disable_person(&self, name: UserName, since_ms: Option<u64>) -> Outcome<Change> {
        let (index, user) = (self.inner.index.clone(), name.clone());
        let changed = self
            .change_people(move |database| {
                let name = name.as_str();
                if let Some(now_ms) = since_ms {
                    if is_last_admin(database, name)? {
                        return Ok(Change::LastAdmin);
                    }
                    database.execute("DELETE FROM sessions WHERE \"user\" = ?1", values![name])?;
                    end_what_they_gave(database, name, now_ms)?;
                }
                let changed = database.execute(
                    "UPDATE people SET disabled = ?2 WHERE name = ?1",
                    values![name, since_ms],
                )?;
                Ok(made(changed))
            })
            .await?;
        if since_ms.is_some() && changed == Change::Made {
            index.forget_sessions(|session| session.user == user.as_str());
        }
        Ok(changed)
    }

    /// Gives a person these roles in place of those they had; what they lent ends, and whom they invited is not let in, since
    /// they may not have it any more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn set_roles(
        &self,
        name: UserName,
        roles: Vec<Grant>,
        now_ms: u64,
    ) -> Outcome<Change> {
        self.change_people(move |database| {
            let known: Option<i64> = database.value(
                "SELECT 1 FROM people WHERE name = ?1",
                values![name.as_str()],
            )?;
            if known.is_none() {
                return Ok(Change::Unknown);
            }
            if !roles.iter().any(Grant::is_admin) && is_last_admin(database, name.as_str())? {
                return Ok(Change::LastAdmin);
            }
            end_what_they_gave(database, name.as_str(), now_ms)?;
            set_roles(database, &name, &roles)?;
            Ok(Change::Made)
        })
        .await
    }

    /// Lends the robots of `on` to a person as an operator; a loan by the same lender is replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn lend(
        &self,
        to: UserName,
        lender: UserName,
        on: Scope,
        until: Timestamp,
    ) -> Outcome<()> {
        self.change_people(move |database| {
            let (role, scope) = (Role::Operator.as_str(), on.to_string());
            database.execute(
                "INSERT INTO rights (person, role, scope, lender, until) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (person, scope, role, lender) DO UPDATE SET until = excluded.until",
                values![to.as_str(), role, scope, lender.as_str(), until.as_ms()],
            )?;
            Ok(())
        })
        .await
    }

    /// Ends the loans of `on` to a person, of one lender or of all; how many there were.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn end_loan(
        &self,
        to: UserName,
        lender: Option<UserName>,
        on: Scope,
    ) -> Outcome<u64> {
        self.change_people(move |database| {
            let scope = on.to_string();
            match &lender {
                Some(lender) => database.execute(
                    "DELETE FROM rights WHERE person = ?1 AND scope = ?2 AND lender = ?3",
                    values![to.as_str(), scope, lender.as_str()],
                ),
                None => database.execute(
                    "DELETE FROM rights WHERE person = ?1 AND scope = ?2 AND lender <> ''",
                    values![to.as_str(), scope],
                ),
            }
        })
        .await
    }

    /// Makes a group, or gives it other robots.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn set_group(&self, name: GroupName, robots: BTreeSet<RobotId>) -> Outcome<()> {
        self.change_people(move |database| {
            database.execute(
                "INSERT INTO robot_groups (name) VALUES (?1) ON CONFLICT (name) DO NOTHING",
                values![name.as_str()],
            )?;
            database.execute(
                "DELETE FROM group_robots WHERE name = ?1",
                values![name.as_str()],
            )?;
            for robot in &robots {
                database.execute(
                    "INSERT INTO group_robots (name, robot) VALUES (?1, ?2)",
                    values![name.as_str(), robot.as_str()],
                )?;
            }
            Ok(())
        })
        .await
    }

    /// Removes a group with the rights and keys on it; false when there is none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn remove_group(&self, name: GroupName) -> Outcome<bool> {
        self.change_people(move |database| {
            let scope = Scope::Group(name.clone()).to_string();
            database.execute("DELETE FROM rights WHERE scope = ?1", values![scope])?;
            database.execute("DELETE FROM keys WHERE scope = ?1", values![scope])?;
            database.execute(
                "DELETE FROM group_robots WHERE name = ?1",
                values![name.as_str()],
            )?;
            let removed = database.execute(
                "DELETE FROM robot_groups WHERE name = ?1",
                values![name.as_str()],
            )?;
            Ok(removed == 1)
        })
        .await
    }
}

fn made(rows: u64) -> Change {
    if rows == 1 {
        Change::Made
    } else {
        Change::Unknown
    }
}

/// Whether this person is the only one who may everything for good.
fn is_last_admin(database: &mut dyn Database, name: &str) -> Result<bool> {
    let admins = |database: &mut dyn Database, of: &str| -> Result<Option<i64>> {
        database.value(
            &format!(
                "SELECT 1 FROM rights r JOIN people p ON p.name = r.person
                 WHERE r.role = 'admin' AND r.scope = 'fleet' AND r.until IS NULL AND p.disabled IS NULL AND p.name {of} ?1
                 LIMIT 1"
            ),
            values![name],
        )
    };
    Ok(admins(database, "=")?.is_some() && admins(database, "<>")?.is_none())
}

/// Adds a person; false when there is one of this name.
pub(super) fn insert_person(
    database: &mut dyn Database,
    name: &UserName,
    hash: Option<&str>,
    roles: &[Grant],
    now_ms: u64,
) -> Result<bool> {
    let added = database.execute(
        "INSERT INTO people (name, created) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
        values![name.as_str(), now_ms],
    )?;
    if added == 0 {
        return Ok(false);
    }
    if let Some(hash) = hash {
        let (user, hash) = (name.to_string(), hash.to_owned());
        set_hash(database, &Credential { user, hash })?;
    }
    set_roles(database, name, roles)?;
    Ok(true)
}

/// Ends loans and open invitations of a person.
fn end_what_they_gave(database: &mut dyn Database, name: &str, now_ms: u64) -> Result<()> {
    database.execute("DELETE FROM rights WHERE lender = ?1", values![name])?;
    database.execute(
        "UPDATE invitations SET revoked = ?2 WHERE inviter = ?1 AND used IS NULL AND revoked IS NULL",
        values![name, now_ms],
    )?;
    Ok(())
}

/// Forgets a person's authenticator and recovery codes; false when there was none.
pub(super) fn end_factor(database: &mut dyn Database, name: &str) -> Result<bool> {
    database.execute(
        "DELETE FROM recovery_codes WHERE person = ?1",
        values![name],
    )?;
    let ended = database.execute(
        "DELETE FROM second_factors WHERE person = ?1",
        values![name],
    )?;
    Ok(ended == 1)
}

/// Sets the hash of somebody who is known; false for others.
pub(super) fn set_hash(database: &mut dyn Database, credential: &Credential) -> Result<bool> {
    let set = database.execute(
        "INSERT INTO credentials (\"user\", hash) SELECT name, ?2 FROM people WHERE name = ?1
         ON CONFLICT (\"user\") DO UPDATE SET hash = excluded.hash",
        values![credential.user, credential.hash],
    )?;
    Ok(set == 1)
}

pub(super) fn set_roles(
    database: &mut dyn Database,
    name: &UserName,
    roles: &[Grant],
) -> Result<()> {
    database.execute(
        "DELETE FROM rights WHERE person = ?1 AND lender = ''",
        values![name.as_str()],
    )?;
    for role in roles {
        add_role(database, name, role)?;
    }
    Ok(())
}

fn add_role(database: &mut dyn Database, name: &UserName, grant: &Grant) -> Result<()> {
    let Grant { role, on, until } = grant;
    database.execute(
        "INSERT INTO rights (person, role, scope, lender, until) VALUES (?1, ?2, ?3, '', ?4)
         ON CONFLICT (person, scope, role, lender) DO UPDATE SET until = excluded.until",
        values![
            name.as_str(),
            role.as_str(),
            on.to_string(),
            until.map(Timestamp::as_ms)
        ],
    )?;
    Ok(())
}
