//! The administrator's credential, made at the first start and shown once; and again for who lost it. Called by `driver` and
//! `maintenance`.

use lekiwi_protocol::api::Grant;
use lekiwi_protocol::id::NameError;
use lekiwi_protocol::{Role, Scope, UserName};

use crate::people::password::{self, PasswordError};
use crate::store::{Store, StoreError};

/// The administrator's user name.
pub const USER: &str = "admin";

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No password could be made.
    #[error("cannot make the administrator's password")]
    Password(#[from] PasswordError),
    /// The name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store refused.
    #[error("cannot keep the administrator's password")]
    Store(#[from] StoreError),
}

/// A credential that nobody has yet. Tell it first (terminal or file), then [`keep`](Self::keep) it: a
/// crash in between leaves a password that does nothing, never one that nobody knows.
pub struct NewCredential {
    /// The password.
    pub password: String,
    name: UserName,
    hash: String,
}

impl std::fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewCredential(…)")
    }
}

impl NewCredential {
    /// From now on the password is taken; unless somebody else was faster.
    ///
    /// # Errors
    /// When the store cannot write.
    pub async fn keep(self, store: &Store, now_ms: u64) -> Result<bool, AdminError> {
        let all = Grant {
            role: Role::Admin,
            on: Scope::Fleet,
            until: None,
        };
        let added = store.add_person(self.name, Some(self.hash), vec![all], now_ms);
        Ok(added.await?)
    }
}

/// Makes `name` an administrator of the fleet with a new password and nothing else that they had to show, whatever they were;
/// the password.
///
/// # Errors
/// When the system has no random numbers, or the store cannot write.
pub async fn reset(store: &Store, name: UserName, now_ms: u64) -> Result<String, AdminError> {
    let password = password::random()?;
    let hash = password::hash(&password)?;
    store.reset_admin(name, hash, now_ms).await?;
    Ok(password)
}

/// A new credential if there is nobody yet.
///
/// # Errors
/// When the system has no random numbers.
pub fn first_start(store: &Store) -> Result<Option<NewCredential>, AdminError> {
    if !store.people().accounts.is_empty() {
        return Ok(None);
    }
    let password = password::random()?;
    Ok(Some(NewCredential {
        name: UserName::new(USER)?,
        hash: password::hash(&password)?,
        password,
    }))
}
