//! Who may want a message: an index from robots and types to clients, so that nobody is asked in vain. A message
//! is looked up under six keys, however many clients there are.

use std::collections::HashMap;

use lekiwi_protocol::RobotId;

use super::topic::KindKey;

/// A client's number. Used again after it went.
pub type ClientId = u32;

/// What a client is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    robot: Option<RobotId>,
    kind: KindKey,
}

impl Key {
    /// Messages of `robot`, or of all, with types under `kind`.
    #[must_use]
    pub fn new(robot: Option<RobotId>, kind: KindKey) -> Self {
        Self { robot, kind }
    }
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    clients: HashMap<Key, Vec<ClientId>>,
    /// By client: the last lookup that found it.
    found: Vec<u64>,
    lookups: u64,
}

impl Index {
    /// Puts `client` under `keys`.
    pub fn insert(&mut self, client: ClientId, keys: &[Key]) {
        let slot = client as usize;
        if self.found.len() <= slot {
            self.found.resize(slot + 1, 0);
        }
        for key in keys {
            self.clients.entry(key.clone()).or_default().push(client);
        }
    }

    /// Takes `client` away from `keys`, where it was put.
    pub fn remove(&mut self, client: ClientId, keys: &[Key]) {
        for key in keys {
            let Some(clients) = self.clients.get_mut(key) else {
                continue;
            };
            if let Some(at) = clients.iter().position(|found| *found == client) {
                clients.swap_remove(at);
            }
            if clients.is_empty() {
                self.clients.remove(key);
            }
        }
    }

    /// Hands `take` every client that may want a message of `robot` and type `kind`, once.
    pub fn find(&mut self, robot: &RobotId, kind: &str, mut take: impl FnMut(ClientId)) {
        self.lookups += 1;
        let family = kind.split('.').next().unwrap_or_default();
        for robot in [None, Some(robot)] {
            for kind in [
                KindKey::Any,
                KindKey::Family(family.into()),
                KindKey::Exact(kind.into()),
            ] {
                let key = Key::new(robot.cloned(), kind);
                for client in self.clients.get(&key).into_iter().flatten() {
                    let found = self.found.get_mut(*client as usize);
                    if found
                        .is_some_and(|last| std::mem::replace(last, self.lookups) != self.lookups)
                    {
                        take(*client);
                    }
                }
            }
        }
    }

    /// Keys that are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether nobody wants anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }
}
