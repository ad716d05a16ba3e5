//! Following the log: events in the order of their positions, whichever relay took them. Used by what must not
//! miss any, and as the way by which relays on one database hear of each other's events.

use std::time::Duration;

use tokio::sync::watch;

use super::records::StoredEvent;
use super::{EventQuery, Store, StoreError};

/// A look without being told: for the case that nobody could tell.
const LOOK: Duration = Duration::from_secs(5);

/// A reader of the log that waits at its end.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    appended: watch::Receiver<u64>,
    after: u64,
}

impl Follower {
    /// The position up to which events were given.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.after
    }

    /// The next events that there are by now, at most `limit`. May be cancelled without missing any.
    ///
    /// # Errors
    /// When the database cannot be read, and the next call tries again; or when the store is closed.
    pub async fn now(&mut self, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        // Marked as seen before reading: what is appended meanwhile ends the next wait at once.
        self.appended.mark_unchanged();
        let query = EventQuery {
            after: self.after,
            ..EventQuery::default()
        };
        let events = self.store.find_events(query, limit).await?;
        if let Some(last) = events.last() {
            self.after = last.position;
        }
        Ok(events)
    }

    /// The same, at least one; waits until there are some.
    ///
    /// # Errors
    /// As above.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        loop {
            let events = self.now(limit).await?;
            if !events.is_empty() {
                return Ok(events);
            }
            // Told or not, it is time to look then; unless nobody is left to tell.
            if let Ok(Err(_)) = tokio::time::timeout(LOOK, self.appended.changed()).await {
                return Err(StoreError::Closed);
            }
        }
    }
}

impl Store {
    /// Follows the log from the position `after` on, across all relays on this database.
    #[must_use]
    pub fn follow(&self, after: u64) -> Follower {
        Follower {
            store: self.clone(),
            appended: self.inner.appended.clone(),
            after,
        }
    }
}
