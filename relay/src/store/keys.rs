//! API keys. Kept by digests of their secrets; asked for at every request, so answered from memory, with
//! [`People`](super::records::People).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use lekiwi_protocol::{Permissions, Scope, Timestamp, UserName};
use lekiwi_relay_core::policy::{Right, Source};
use uuid::Uuid;

use super::database::{Database, DatabaseError, Result, Row, values};
use super::people::parsed;
use super::records::Key;
use super::{Store, StoreError};

/// A use is noted once in this time.
const NOTED_MS: u64 = 60_000;

/// All keys, by the digests of all secrets that may work.
pub(super) fn load(database: &mut dyn Database) -> Result<HashMap<[u8; 32], Arc<Key>>> {
    let mut keys = HashMap::new();
    database.query(
        "SELECT id, owner, name, note, permissions, scope, hash, old_hash, old_until, created, expires, used FROM keys",
        &[],
        &mut |row| {
            let key = Arc::new(key(row)?);
            let old = key.old.map(|(hash, _)| hash);
            for hash in [key.hash].into_iter().chain(old) {
                keys.insert(hash, Arc::clone(&key));
            }
            Ok(())
        },
    )?;
    Ok(keys)
}

fn key(row: &Row<'_>) -> Result<Key> {
    let permissions: String = row.get(4)?;
    let permissions: Permissions =
        serde_json::from_str(&permissions).map_err(|_| DatabaseError::Column {
            column: 4,
            expected: "permissions",
            actual: "another text",
        })?;
    let (old_hash, old_until): (Option<[u8; 32]>, Option<u64>) = (row.get(7)?, row.get(8)?);
    let expires_ms: u64 = row.get(10)?;
    let used_ms: Option<u64> = row.get(11)?;
    Ok(Key {
        id: parsed::<Uuid>(row, 0, "a key's id")?,
        owner: parsed::<UserName>(row, 1, "a user name")?,
        name: row.get(2)?,
        note: row.get(3)?,
        right: Right {
            permissions,
            on: parsed::<Scope>(row, 5, "a scope")?,
            until: Some(Timestamp::from_ms(expires_ms)),
            source: Source::Key,
        },
        hash: row.get(6)?,
        old: old_hash.zip(old_until),
        created_ms: row.get(9)?,
        expires_ms,
        used_ms: AtomicU64::new(used_ms.unwrap_or_default()),
    })
}

impl Store {
    /// The key for which a secret with this digest works at `now_ms`. From memory, never waits.
    #[must_use]
    pub fn key(&self, hash: &[u8; 32], now_ms: u64) -> Option<Arc<Key>> {
        let people = self.people();
        let key = people.keys.get(hash)?;
        let is_old = || {
            key.old
                .is_some_and(|(old, until)| old == *hash && now_ms < until)
        };
        let works = now_ms < key.expires_ms && (key.hash == *hash || is_old());
        works.then(|| Arc::clone(key))
    }

    /// Keeps that a key was shown, unless that was kept a minute ago. Never waits; what cannot be written now is
    /// written with the next use.
    pub fn note_use(&self, key: &Key, now_ms: u64) {
        let noted = key.used_ms.load(Ordering::Relaxed);
        let noting = || {
            let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
            key.used_ms.compare_exchange(noted, now_ms, set, read)
        };
        if now_ms.saturating_sub(noted) < NOTED_MS || noting().is_err() {
            return;
        }
        let id = key.id.to_string();
        let written = self.write(
            move |database| {
                database.execute(
                    "UPDATE keys SET used = ?2 WHERE id = ?1 AND COALESCE(used, 0) < ?2",
                    values![id, now_ms],
                )
            },
            |_| (),
        );
        // Asked once, it is with the writing thread; nobody waits for what comes of it.
        drop(written.now_or_never());
    }

    /// Keeps a new key; false when its owner has `most` of them already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn insert_key(&self, key: Key, most: u64) -> std::result::Result<bool, StoreError> {
        // A list of words always becomes JSON.
        let permissions = serde_json::to_string(&key.right.permissions).unwrap_or_default();
        let (id, scope) = (key.id.to_string(), key.right.on.to_string());
        self.change_people(move |database| {
            let owner = key.owner.as_str();
            let count = "SELECT count(*) FROM keys WHERE owner = ?1";
            if database.value::<u64>(count, values![owner])?.unwrap_or_default() >= most {
                return Ok(false);
            }
            // Who was removed meanwhile gets none.
            let added = database.execute(
                "INSERT INTO keys (id, owner, name, note, permissions, scope, hash, created, expires)
                 SELECT ?1, name, ?3, ?4, ?5, ?6, ?7, ?8, ?9 FROM people WHERE name = ?2",
                values![
                    id,
                    owner,
                    key.name,
                    key.note,
                    permissions,
                    scope,
                    key.hash,
                    key.created_ms,
                    key.expires_ms
                ],
            )?;
            Ok(added == 1)
        })
        .await
    }

    /// Gives a key another secret, and lets that with the digest `shown` work until `old_until_ms` at most. Where `shown` is
    /// the one before already, its time is not prolonged: what was to replace it was lost. False when there is no
    /// such key with this secret.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn rotate_key(
        &self,
        id: Uuid,
        shown: [u8; 32],
        hash: [u8; 32],
        old_until_ms: u64,
    ) -> std::result::Result<bool, StoreError> {
        self.change_people(move |database| {
            let changed = database.execute(
                "UPDATE keys SET old_until = CASE WHEN hash = ?2 OR old_until > ?4 THEN ?4 ELSE old_until END,
                 old_hash = ?2, hash = ?3 WHERE id = ?1 AND (hash = ?2 OR old_hash = ?2)",
                values![id.to_string(), shown, hash, old_until_ms],
            )?;
            Ok(changed == 1)
        })
        .await
    }

    /// Forgets a key; false when there is none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn remove_key(&self, id: Uuid) -> std::result::Result<bool, StoreError> {
        self.change_people(move |database| {
            let id = id.to_string();
            Ok(database.execute("DELETE FROM keys WHERE id = ?1", values![id])? == 1)
        })
        .await
    }

    /// Forgets keys that ended before `before_ms`; how many.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn expire_keys(&self, before_ms: u64) -> std::result::Result<u64, StoreError> {
        self.change_people(move |database| {
            database.execute("DELETE FROM keys WHERE expires <= ?1", values![before_ms])
        })
        .await
    }
}
