//! Who listens to the live stream, and what waits for each of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::slice;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lekiwi_protocol::api::{ConnectionKind, ConnectionView, RelayMessage, Subscribe, Watchers};
use lekiwi_protocol::{RobotId, Timestamp};
use lekiwi_relay_core::gateway::{
    Client, ClientId, Content as _, Index, Key, MAX_WAITING_BYTES, Output, Read, RequestError,
    Within, deadline,
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, mpsc};

use super::{Batch, Content, Message, content};
use crate::clock;
use crate::logging::Seldom;
use crate::metrics::Metrics;
use crate::store::Page;
use crate::store::records::StoredEvent;
use crate::traces::Traces;

/// How often it is told who watches, at most.
const PRESENCE: Duration = Duration::from_secs(1);
/// What is taken out of a queue at once, bytes: what is out cannot be overtaken any more.
const BURST_BYTES: usize = 16 * 1024;
/// Watchers of one robot that are named.
const MAX_USERS: usize = 100;

/// The stream; cheap to clone.
#[derive(Debug, Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    hub: Mutex<Hub>,
    watching: AtomicUsize,
    begun: Instant,
    subscribers: Gauge,
    metrics: Arc<Metrics>,
    /// Who is slow is said now and then.
    slow: Seldom,
}

#[derive(Debug, Default)]
struct Hub {
    index: Index,
    clients: Vec<Option<Slot>>,
    free: Vec<ClientId>,
    presence: HashMap<RobotId, Presence>,
    /// Robots whose watchers changed since it was told.
    changed: HashSet<RobotId>,
    presences: u64,
    /// Listeners so far.
    numbers: u64,
    ended: bool,
}

#[derive(Debug)]
struct Slot {
    /// Tells it from earlier ones in its place.
    number: u64,
    since: Timestamp,
    mailbox: Arc<Mailbox>,
    keys: Box<[Key]>,
    robots: Box<[RobotId]>,
    user: Arc<str>,
    session: [u8; 32],
    within: Within,
}

#[derive(Debug)]
struct Presence {
    since: Timestamp,
    clients: Vec<ClientId>,
}

#[derive(Debug)]
struct Mailbox {
    client: Mutex<State>,
    /// Something is to be done.
    news: Notify,
    received: AtomicU64,
    sent: AtomicU64,
}

#[derive(Debug)]
struct State {
    client: Client<Content>,
    ended: bool,
}

/// A listener. It goes when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    id: ClientId,
    number: u64,
    user: Arc<str>,
    mailbox: Arc<Mailbox>,
    live: Live,
}

/// What is to be done for a listener.
#[derive(Debug)]
pub enum Todo {
    /// Tell it something that only it is told.
    Say(RelayMessage),
    /// Tell it a message; after it, the client goes on from this position if it is cut off.
    Tell(Arc<Message>, u64),
    /// Read stored events for it; the last of what is to be done.
    Read(Read),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            inner: Arc::new(Inner {
                hub: Mutex::default(),
                watching: AtomicUsize::new(0),
                begun: clock::monotonic(),
                subscribers: metrics.live_subscribers.clone(),
                metrics: metrics.clone(),
                slow: Seldom::default(),
            }),
        }
    }

    /// A listener of `user`, by the session with this hash, that may hear of the robots in `within` and wants nothing yet.
    #[must_use]
    pub fn watch(&self, user: &str, session: [u8; 32], within: Within) -> Watcher {
        let client = Client::new(MAX_WAITING_BYTES, within.clone());
        let mailbox = Arc::new(Mailbox {
            client: Mutex::new(State {
                client,
                ended: false,
            }),
            news: Notify::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        let user: Arc<str> = user.into();
        let mut hub = lock(&self.inner.hub);
        hub.numbers += 1;
        let number = hub.numbers;
        lock(&mailbox.client).ended = hub.ended;
        let slot = Slot {
            number,
            since: Timestamp::from_ms(clock::now_ms()),
            mailbox: mailbox.clone(),
            keys: Box::default(),
            robots: Box::default(),
            user: user.clone(),
            session,
            within,
        };
        let id = match hub.free.pop() {
            Some(id) => {
                hub.clients[id as usize] = Some(slot);
                id
            }
            None => {
                hub.clients.push(Some(slot));
                (hub.clients.len() - 1) as ClientId
            }
        };
        self.inner.watching.fetch_add(1, Ordering::SeqCst);
        self.inner.subscribers.inc();
        Watcher {
            id,
            number,
            user,
            mailbox,
            live: self.clone(),
        }
    }

    /// Who watches `robot`, of those who named it.
    #[must_use]
    pub fn watchers(&self, robot: &RobotId) -> Watchers {
        lock(&self.inner.hub).watchers(robot)
    }

    /// How many listen.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.watching.load(Ordering::SeqCst)
    }

    /// The first `most` listeners by id, of those whose id is beyond `after`.
    #[must_use]
    pub fn connected(&self, after: &str, most: usize) -> Vec<ConnectionView> {
        // Messages are handed out under the same lock: names are made and sorted without it.
        let taken: Vec<(u64, usize)> = {
            let hub = lock(&self.inner.hub);
            let slots = hub.clients.iter().enumerate();
            slots
                .filter_map(|(at, slot)| Some((slot.as_ref()?.number, at)))
                .collect()
        };
        let named = taken
            .into_iter()
            .map(|(number, at)| (format!("live:{number}"), number, at));
        let mut all: Vec<_> = named.filter(|(id, ..)| &**id > after).collect();
        all.sort_unstable();
        let hub = lock(&self.inner.hub);
        let view = |(id, number, at): (String, u64, usize)| {
            // It may have gone meanwhile, and another have come in its place.
            let slot = hub.clients.get(at)?.as_ref();
            let slot = slot.filter(|slot| slot.number == number)?;
            Some(ConnectionView {
                id,
                kind: ConnectionKind::Live,
                user: Some(slot.user.to_string()),
                since: slot.since,
                received: slot.mailbox.received.load(Ordering::Relaxed),
                sent: slot.mailbox.sent.load(Ordering::Relaxed),
            })
        };
        all.into_iter().filter_map(view).take(most).collect()
    }

    /// Ends the listeners of sessions that do not count any more, or that may hear of other robots than they did: who may,
    /// comes back.
    pub fn end_sessions(&self, counts: impl Fn(&[u8; 32], &Within) -> bool) {
        let hub = lock(&self.inner.hub);
        for slot in hub.clients.iter().flatten() {
            if !counts(&slot.session, &slot.within) {
                slot.mailbox.end();
            }
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.count() > 0
    }

    fn now(&self) -> Duration {
        clock::monotonic().saturating_duration_since(self.inner.begun)
    }

    /// Hands out what comes, until the sending end is gone.
    pub(super) async fn hand_out(self, mut batches: mpsc::Receiver<Batch>, traces: Traces) {
        let mut presence = tokio::time::interval(PRESENCE);
        presence.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let batch = tokio::select! {
                batch = batches.recv() => match batch {
                    Some(batch) => batch,
                    None => break,
                },
                _ = presence.tick() => {
                    let now = Timestamp::from_ms(clock::now_ms());
                    let messages = lock(&self.inner.hub).presences(now);
                    Batch { messages, lost: None, since: None }
                }
            };
            if let Some(lost) = batch.lost {
                for slot in lock(&self.inner.hub).clients.iter().flatten() {
                    lock(&slot.mailbox.client).client.lost(&lost);
                    slot.mailbox.news.notify_one();
                }
            }
            for message in batch.messages {
                let message = Arc::new(message);
                self.deliver(&message);
                if let Some(event) = message.content.event() {
                    traces.done("push", batch.since, slice::from_ref(event));
                }
                // Thousands of listeners may have been served: others have their turn.
                tokio::task::consume_budget().await;
            }
        }
        let mut hub = lock(&self.inner.hub);
        hub.ended = true;
        for slot in hub.clients.iter().flatten() {
            slot.mailbox.end();
        }
    }

    fn deliver(&self, message: &Arc<Message>) {
        let now = self.now();
        let mut hub = lock(&self.inner.hub);
        let Hub { index, clients, .. } = &mut *hub;
        index.find(&message.robot, &message.kind, |id| {
            let Some(slot) = clients.get(id as usize).and_then(Option::as_ref) else {
                return;
            };
            if lock(&slot.mailbox.client).client.offer(now, message) {
                slot.mailbox.news.notify_one();
            }
        });
    }
}

impl Hub {
    fn watchers(&self, robot: &RobotId) -> Watchers {
        let Some(presence) = self.presence.get(robot) else {
            return Watchers::default();
        };
        let mut users = BTreeMap::new();
        for id in &presence.clients {
            let slot = self.clients.get(*id as usize).and_then(Option::as_ref);
            let Some(user) = slot.map(|slot| &slot.user) else {
                continue;
            };
            if users.contains_key(&**user) || users.len() < MAX_USERS {
                *users.entry(user.to_string()).or_default() += 1;
            }
        }
        Watchers {
            count: presence.clients.len() as u64,
            users,
            since: Some(presence.since),
        }
    }

    fn presences(&mut self, now: Timestamp) -> Vec<Message> {
        let changed: Vec<RobotId> = self.changed.drain().collect();
        let message = |robot: RobotId| {
            self.presences += 1;
            let watchers = self.watchers(&robot);
            content::presence(now, robot, self.presences, watchers)
        };
        changed.into_iter().map(message).collect()
    }

    /// Notes what a client wants from now on.
    fn wants(&mut self, now: Timestamp, id: ClientId, keys: Box<[Key]>, robots: Box<[RobotId]>) {
        let Some(slot) = self.clients.get_mut(id as usize).and_then(Option::as_mut) else {
            return;
        };
        let old_keys = std::mem::replace(&mut slot.keys, keys);
        let old_robots = std::mem::replace(&mut slot.robots, robots);
        self.index.remove(id, &old_keys);
        self.index.insert(id, &slot.keys);
        let (old, new): (HashSet<&RobotId>, HashSet<&RobotId>) =
            (old_robots.iter().collect(), slot.robots.iter().collect());
        for robot in old.difference(&new) {
            if let Some(presence) = self.presence.get_mut(*robot) {
                presence.clients.retain(|client| *client != id);
                if presence.clients.is_empty() {
                    self.presence.remove(*robot);
                }
                self.changed.insert((*robot).clone());
            }
        }
        for robot in new.difference(&old) {
            let presence = self.presence.entry((*robot).clone());
            let nobody = || Presence {
                since: now,
                clients: Vec::new(),
            };
            presence.or_insert_with(nobody).clients.push(id);
            self.changed.insert((*robot).clone());
        }
    }
}

impl Mailbox {
    fn end(&self) {
        lock(&self.client).ended = true;
        self.news.notify_one();
    }
}

impl Watcher {
    /// Takes a subscription; `end` says the log's last position. It is asked while nothing is handed out, so that
    /// what is beyond its answer comes after this.
    ///
    /// # Errors
    /// When it is refused.
    pub fn subscribe(
        &self,
        request: &Subscribe,
        end: impl FnOnce() -> u64,
    ) -> Result<(), RequestError> {
        self.change(|client| client.subscribe(request, end()))
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn unsubscribe(&self, id: &str) -> Result<(), RequestError> {
        self.change(|client| client.unsubscribe(id))
    }

    /// Says something to the client before anything else.
    pub fn say(&self, message: RelayMessage) {
        lock(&self.mailbox.client).client.say(message);
        self.mailbox.news.notify_one();
    }

    /// Whether there is room for more to be said to it.
    #[must_use]
    pub fn hears(&self, most: usize) -> bool {
        lock(&self.mailbox.client).client.unsaid() < most
    }

    /// What is to be done next, at most `most` things; `None` at the end. Can be cancelled without loss.
    pub async fn next(&self, most: usize) -> Option<Vec<Todo>> {
        loop {
            let now = self.live.now();
            let timeout = {
                let mut state = lock(&self.mailbox.client);
                if state.ended {
                    return None;
                }
                let todo = self.todo(&mut state.client, now, most);
                if !todo.is_empty() {
                    return Some(todo);
                }
                state.client.poll_timeout()
            };
            match timeout {
                None => self.mailbox.news.notified().await,
                Some(due) => {
                    let left = due.saturating_sub(now);
                    // Either way there may be something.
                    let _ = tokio::time::timeout(left, self.mailbox.news.notified()).await;
                }
            }
        }
    }

    /// Where the client goes on if it is cut off after what was to be done so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        lock(&self.mailbox.client).client.position()
    }

    /// What of the stored events that were [read](Todo::Read) the client wants.
    #[must_use]
    pub fn page(&self, read: &Read, page: Page) -> Vec<Arc<Message>> {
        let message = |stored: StoredEvent| {
            let robot = stored.told_as()?;
            Some(Arc::new(content::event(robot, stored)))
        };
        let events = page.events.into_iter().filter_map(message).collect();
        let wanted = lock(&self.mailbox.client).client.page(
            read.subscription,
            page.position,
            page.whole,
            events,
        );
        self.told(wanted.len());
        wanted
    }

    /// Counts a message from the client.
    pub fn heard(&self) {
        self.mailbox.received.fetch_add(1, Ordering::Relaxed);
    }

    fn told(&self, messages: usize) {
        let messages = messages as u64;
        self.mailbox.sent.fetch_add(messages, Ordering::Relaxed);
        self.live.inner.metrics.live_told.inc_by(messages);
    }

    fn todo(&self, client: &mut Client<Content>, now: Duration, most: usize) -> Vec<Todo> {
        let (mut todo, mut bytes) = (Vec::new(), 0);
        let (mut dropped, mut behind) = (0, 0);
        let metrics = &self.live.inner.metrics;
        while todo.len() < most && bytes < BURST_BYTES {
            match client.poll_output(now) {
                None => break,
                Some(Output::Say(message)) => {
                    if let RelayMessage::Lagged(lagged) = &message {
                        metrics.shed("live", lagged.dropped);
                        dropped += lagged.dropped;
                    }
                    todo.push(Todo::Say(message));
                }
                Some(Output::Tell { message, late }) => {
                    if late {
                        metrics.live_late.inc();
                        behind += 1;
                        tracing::debug!(
                            kind = %message.kind, deadline = ?deadline(message.priority), "told too late"
                        );
                    }
                    bytes += message.content.weight();
                    todo.push(Todo::Tell(message, client.position()));
                }
                Some(Output::Read(read)) => {
                    todo.push(Todo::Read(read));
                    break;
                }
            }
        }
        let messages = todo.iter().filter(|todo| matches!(todo, Todo::Tell(..)));
        self.told(messages.count());
        if dropped + behind > 0 {
            self.lags(dropped, behind);
        }
        todo
    }

    /// So many messages were dropped because the client did not take them, or came to it too late.
    fn lags(&self, dropped: u64, late: u64) {
        let inner = &*self.live.inner;
        inner.metrics.slow_consumer("live");
        if let Some(unsaid) = inner.slow.may_say(clock::monotonic()) {
            let (client, user) = (format!("live:{}", self.number), &*self.user);
            tracing::warn!(client, user, dropped, late, unsaid, "a live client is slow");
        }
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Client<Content>) -> Result<(), RequestError>,
    ) -> Result<(), RequestError> {
        let now = Timestamp::from_ms(clock::now_ms());
        // First the hub, then the client: as where messages are handed out.
        let mut hub = lock(&self.live.inner.hub);
        let (keys, robots) = {
            let mut state = lock(&self.mailbox.client);
            change(&mut state.client)?;
            (state.client.keys(), state.client.robots())
        };
        hub.wants(now, self.id, keys, robots);
        drop(hub);
        self.mailbox.news.notify_one();
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let now = Timestamp::from_ms(clock::now_ms());
        let mut hub = lock(&self.live.inner.hub);
        hub.wants(now, self.id, Box::default(), Box::default());
        hub.clients[self.id as usize] = None;
        hub.free.push(self.id);
        self.live.inner.watching.fetch_sub(1, Ordering::SeqCst);
        self.live.inner.subscribers.dec();
    }
}
