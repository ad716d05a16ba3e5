//! Who may use the interface: the administrator's password, sessions, and the brake on guessing.
//!
//! * [`password`] makes and checks slow hashes; [`admin`] is the credential of the first start.
//! * [`sessions`] are what a login gives, [`keys`] what programs have instead; [`throttle`] slows down those who guess.

pub mod admin;
pub mod keys;
pub mod password;
pub mod sessions;
pub mod throttle;

use crate::clock;
use crate::store::{Store, StoreError};

/// Forgets sessions that ended, and keys that ended long ago.
///
/// # Errors
/// When the store cannot write.
pub async fn expire(store: &Store) -> Result<(), StoreError> {
    let now_ms = clock::now_ms();
    store.expire_sessions(now_ms).await?;
    let kept_ms = keys::KEPT.as_millis() as u64;
    store.expire_keys(now_ms.saturating_sub(kept_ms)).await?;
    Ok(())
}
