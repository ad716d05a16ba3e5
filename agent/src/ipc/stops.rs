//! Who confirms an emergency stop. A local program that was told answers `{"stopped": ID}` on the connection
//! on which it was told; only that counts, since whoever listens need not be able to stop anything.
//!
//! Invariants: nobody waits here; a connection confirms a stop once, however often it says so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

/// Stops that may be confirmed at a time; more than wait in a second.
const OPEN: usize = 16;

/// The stops that wait for their confirmations. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Stops {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    open: Mutex<VecDeque<(Uuid, watch::Sender<Vec<u64>>)>>,
    /// The next connection's number.
    next: AtomicU64,
    /// Connections that are open and have confirmed a stop.
    proven: AtomicUsize,
}

/// One connection that may confirm.
#[derive(Debug)]
pub(super) struct Witness {
    stops: Stops,
    number: u64,
    is_proven: bool,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if self.is_proven {
            self.stops.inner.proven.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What one stop hears.
#[derive(Debug)]
pub struct Confirmations {
    heard: watch::Receiver<Vec<u64>>,
}

impl Confirmations {
    /// Returns once `told` connections have confirmed. Cancel-safe.
    pub async fn all(&mut self, told: usize) {
        if self
            .heard
            .wait_for(|heard| heard.len() >= told)
            .await
            .is_err()
        {
            // Too many stops came since: nobody is heard any more, and who was counts.
            std::future::pending().await
        }
    }

    /// How many have confirmed so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.heard.borrow().len()
    }
}

impl Stops {
    /// Stop `id` waits for confirmations from now on, until what is returned is dropped.
    pub(super) fn expect(&self, id: Uuid) -> Confirmations {
        let (sender, heard) = watch::channel(Vec::new());
        let mut open = self.open();
        open.retain(|(_, sender)| sender.receiver_count() > 0);
        if open.len() == OPEN {
            open.pop_front();
        }
        open.push_back((id, sender));
        Confirmations { heard }
    }

    /// A connection that listens from now on.
    pub(super) fn witness(&self) -> Witness {
        Witness {
            stops: self.clone(),
            number: self.inner.next.fetch_add(1, Ordering::Relaxed),
            is_proven: false,
        }
    }

    /// How many of those that listen now have ever confirmed a stop.
    pub(super) fn proven(&self) -> usize {
        self.inner.proven.load(Ordering::Relaxed)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, VecDeque<(Uuid, watch::Sender<Vec<u64>>)>> {
        let open = &self.inner.open;
        open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness {
    /// Confirms stop `id`.
    ///
    /// # Errors
    /// When no such stop waits for it.
    pub(super) fn confirm(&mut self, id: Uuid) -> Result<(), String> {
        let open = self.stops.open();
        let mut is_expected = false;
        // Those that could not be read all have the same id.
        for (_, sender) in open.iter().filter(|(open, _)| *open == id) {
            is_expected |= sender.receiver_count() > 0;
            sender.send_if_modified(|heard| {
                let is_new = !heard.contains(&self.number);
                if is_new {
                    heard.push(self.number);
                }
                is_new
            });
        }
        if !is_expected {
            return Err(format!(
                "expected the id of an emergency stop that waits to be confirmed, got {id}: too late, or another's"
            ));
        }
        if !self.is_proven {
            self.is_proven = true;
            self.stops.inner.proven.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_counts_once_and_only_for_the_stop_it_names() {
        let stops = Stops::default();
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (mut one, mut other) = (stops.witness(), stops.witness());
        let mut heard = stops.expect(first);
        let unheard = stops.expect(second);
        one.confirm(first).unwrap();
        one.confirm(first).unwrap();
        assert_eq!((heard.count(), unheard.count(), stops.proven()), (1, 0, 1));
        other.confirm(first).unwrap();
        heard.all(2).await;
        assert_eq!(stops.proven(), 2);
        drop(heard);
        assert_eq!(
            one.confirm(first),
            Err(
                "expected the id of an emergency stop that waits to be confirmed, got \
                 00000000-0000-0000-0000-000000000001: too late, or another's"
                    .to_owned()
            )
        );
        drop(other);
        assert_eq!(stops.proven(), 1, "one that is gone proves nothing");
    }

    #[test]
    fn stops_that_nobody_could_read_are_confirmed_together() {
        let stops = Stops::default();
        let (first, second) = (stops.expect(Uuid::nil()), stops.expect(Uuid::nil()));
        stops.witness().confirm(Uuid::nil()).unwrap();
        assert_eq!((first.count(), second.count()), (1, 1));
    }

    #[test]
    fn however_many_stops_come_few_are_kept_and_those_are_the_newest() {
        let stops = Stops::default();
        let ids: Vec<Uuid> = (1..=40).map(Uuid::from_u128).collect();
        let kept: Vec<Confirmations> = ids.iter().map(|id| stops.expect(*id)).collect();
        let mut witness = stops.witness();
        let heard = ids.iter().map(|id| witness.confirm(*id).is_ok());
        assert_eq!(heard.filter(|is_heard| *is_heard).count(), OPEN);
        assert_eq!(kept.iter().map(Confirmations::count).sum::<usize>(), OPEN);
        assert_eq!(kept.last().map(Confirmations::count), Some(1));
    }
}
