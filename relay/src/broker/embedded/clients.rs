//! Who is connected to the broker, and how many messages went either way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use lekiwi_protocol::Timestamp;
use lekiwi_protocol::api::{ConnectionKind, ConnectionView};
use rmqtt::types::{ClientId, Id};

use super::{Embedded, hooks};
use crate::clock;
use crate::logging::Seldom;
use crate::metrics::Metrics;

/// One of them.
#[derive(Debug)]
struct Client {
    id: Id,
    since: Timestamp,
    received: AtomicU64,
    sent: AtomicU64,
}

/// Connected clients, by name.
#[derive(Debug, Default)]
pub(super) struct Clients {
    connected: RwLock<HashMap<ClientId, Client>>,
    /// Who is slow is said now and then.
    slow: Seldom,
}

impl Clients {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<ClientId, Client>> {
        self.connected
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<ClientId, Client>> {
        self.connected
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn joined(&self, id: &Id, now: Timestamp) {
        let client = Client {
            id: id.clone(),
            since: now,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        };
        self.write().insert(id.client_id.clone(), client);
    }

    pub(super) fn left(&self, id: &Id) {
        let mut clients = self.write();
        // An older connection's end must not hide the newer one.
        if clients
            .get(&id.client_id)
            .is_some_and(|current| hooks::link(&current.id) == hooks::link(id))
        {
            clients.remove(&id.client_id);
        }
    }

    /// Counts a message from it.
    pub(super) fn heard(&self, id: &Id) {
        if let Some(client) = self.read().get(&id.client_id) {
            client.received.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a message to it.
    pub(super) fn told(&self, id: &Id) {
        if let Some(client) = self.read().get(&id.client_id) {
            client.sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that a client does not read as fast as it is told.
    pub(super) fn slow(&self, metrics: &Metrics, id: &Id, waiting: usize) {
        metrics.slow_consumer("mqtt");
        if let Some(unsaid) = self.slow.may_say(clock::monotonic()) {
            tracing::warn!(client = %id.client_id, waiting, unsaid, "an MQTT client is slow");
        }
    }

    pub(super) fn len(&self) -> i64 {
        self.read().len() as i64
    }

    /// All of them.
    pub(super) fn ids(&self) -> Vec<Id> {
        self.read()
            .values()
            .map(|client| client.id.clone())
            .collect()
    }

    /// Clients whose certificate says `common_name`.
    pub(super) fn of(&self, common_name: &str) -> Vec<Id> {
        self.read()
            .iter()
            .filter(|(client, _)| {
                client
                    .strip_prefix(common_name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            })
            .map(|(_, client)| client.id.clone())
            .collect()
    }
}

impl Embedded {
    /// How many clients are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        usize::try_from(self.clients.len()).unwrap_or(0)
    }

    /// The first `most` connected clients by id, of those whose id is beyond `after`.
    #[must_use]
    pub fn connected(&self, after: &str, most: usize) -> Vec<ConnectionView> {
        // Whoever connects waits for this lock: names are sorted without it.
        let mut all: Vec<ClientId> = {
            let clients = self.clients.read();
            let beyond = clients.keys().filter(|id| &***id > after);
            beyond.cloned().collect()
        };
        all.sort_unstable();
        let clients = self.clients.read();
        let view = |id: ClientId| {
            // It may have gone meanwhile.
            let client = clients.get(&id)?;
            Some(ConnectionView {
                id: id.to_string(),
                kind: if hooks::is_consumer(&id) {
                    ConnectionKind::Consumer
                } else {
                    ConnectionKind::Robot
                },
                user: None,
                since: client.since,
                received: client.received.load(Ordering::Relaxed),
                sent: client.sent.load(Ordering::Relaxed),
            })
        };
        all.into_iter().filter_map(view).take(most).collect()
    }

    /// Whether clients can connect.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        !self.tasks.iter().any(|task| task.is_finished())
    }
}
