//! The administrator's credential, made at the first start and shown once. Called by `driver`.

use crate::people::password::{self, PasswordError};
use crate::store::records::Credential;
use crate::store::{Store, StoreError};

/// The administrator's user name.
pub const USER: &str = "admin";

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No password could be made.
    #[error("cannot make the administrator's password")]
    Password(#[from] PasswordError),
    /// The store refused.
    #[error("cannot keep the administrator's password")]
    Store(#[from] StoreError),
}

/// A credential that nobody has yet. Tell it first (terminal or file), then [`keep`](Self::keep) it: a
/// crash in between leaves a password that does nothing, never one that nobody knows.
pub struct NewCredential {
    /// The password.
    pub password: String,
    credential: Credential,
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
    pub async fn keep(self, store: &Store) -> Result<bool, AdminError> {
        Ok(store.set_credential(self.credential, true).await?)
    }
}

/// A new credential if there is none yet.
///
/// # Errors
/// When the store cannot be read or the system has no random numbers.
pub async fn first_start(store: &Store) -> Result<Option<NewCredential>, AdminError> {
    if store.credential(USER).await?.is_some() {
        return Ok(None);
    }
    let password = password::random()?;
    let credential = Credential {
        user: USER.to_owned(),
        hash: password::hash(&password)?,
    };
    Ok(Some(NewCredential {
        password,
        credential,
    }))
}
