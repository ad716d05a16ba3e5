//! What waits for one client, bounded. The most urgent goes first; within a priority, what came first.
//!
//! A client that reads slowly (a message waited longer than its priority may, or half of the bound is used) gets
//! only the newest of each robot's pictures: they become one, and nothing is lost by that but the course of
//! things. Only when that is not enough messages are dropped: the least urgent first, of these the oldest. Both
//! are said to the client.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::Lagged;
use lekiwi_protocol::message::Priority;

use super::message::{Content, Held, Message, PictureKey, deadline};

/// What may wait for a client, bytes: some 10,000 events at once, as of a fleet that comes back. Messages are counted
/// in full, though all clients share them.
pub const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;
/// A client counts as slow for so long at least, so that it is not told of every breath.
pub const SLOW_AT_LEAST: Duration = Duration::from_secs(10);
/// Types that are counted apart in what was dropped.
const MAX_KINDS: usize = 32;

/// Something for the client.
#[derive(Debug)]
pub(super) enum Next<C> {
    /// It is slow, and so much waits for it.
    Slowed(u64),
    /// It is not any more; so many were merged.
    Resumed(u64),
    /// These were dropped.
    Lagged(Lagged),
    /// A message, and whether it waited too long.
    Message(Arc<Message<C>>, bool),
}

#[derive(Debug)]
struct Entry<C> {
    since: Duration,
    message: Arc<Message<C>>,
}

#[derive(Debug)]
struct Slow<C> {
    since: Duration,
    merged: u64,
    told: bool,
    /// Pictures, in the order in which the first of each came.
    pictures: HashMap<PictureKey, Held<C>>,
    order: VecDeque<PictureKey>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue<C> {
    lanes: [VecDeque<Entry<C>>; 4],
    /// The positions of events that wait: urgent ones overtake.
    positions: BTreeSet<u64>,
    weight: usize,
    bound: usize,
    slow: Option<Box<Slow<C>>>,
    resumed: Option<u64>,
    lagged: Option<Box<Lagged>>,
}

impl<C: Content> Queue<C> {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            lanes: Default::default(),
            positions: BTreeSet::new(),
            weight: 0,
            bound,
            slow: None,
            resumed: None,
            lagged: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        let pictures = self.slow.as_ref().map_or(0, |slow| slow.order.len());
        pictures + self.lanes.iter().map(VecDeque::len).sum::<usize>()
    }

    /// The least position of an event that waits.
    pub(super) fn first_position(&self) -> Option<u64> {
        self.positions.first().copied()
    }

    /// Puts a message behind those of its priority.
    pub(super) fn push(&mut self, now: Duration, message: Arc<Message<C>>) {
        self.recover(now);
        if self.slow.is_none() && self.is_late(now) {
            self.slow_down(now);
        }
        self.put(now, message);
        if self.slow.is_none() && self.weight > self.bound / 2 {
            self.slow_down(now);
        }
        while self.weight > self.bound && self.drop_one() {}
    }

    /// Notes what was lost on the way to this queue.
    pub(super) fn lost(&mut self, lost: &Lagged) {
        let lagged = self.lagged.get_or_insert_default();
        lagged.dropped += lost.dropped;
        for (kind, n) in &lost.kinds {
            count(&mut lagged.kinds, kind, *n);
        }
        lagged.after = earliest(lagged.after, lost.after);
    }

    /// The next thing.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Next<C>> {
        if let Some(lagged) = self.lagged.take() {
            return Some(Next::Lagged(*lagged));
        }
        if self.slow.is_none() && self.is_late(now) {
            self.slow_down(now);
        }
        self.recover(now);
        if let Some(merged) = self.resumed.take() {
            return Some(Next::Resumed(merged));
        }
        let waiting = self.len() as u64;
        if let Some(slow) = &mut self.slow
            && !std::mem::replace(&mut slow.told, true)
        {
            return Some(Next::Slowed(waiting));
        }
        let entry = self
            .take(Priority::Critical)
            .or_else(|| self.take(Priority::High))
            .or_else(|| self.take(Priority::Normal))
            .or_else(|| self.take_picture())
            .or_else(|| self.take(Priority::Low))?;
        let late = now.saturating_sub(entry.since) > deadline(entry.message.priority);
        Some(Next::Message(entry.message, late))
    }

    fn put(&mut self, now: Duration, message: Arc<Message<C>>) {
        let Some(slow) = self.slow.as_mut().filter(|_| message.picture) else {
            self.weight += message.weight();
            self.positions.extend(message.position);
            let lane = &mut self.lanes[message.priority as usize];
            return lane.push_back(Entry {
                since: now,
                message,
            });
        };
        let key = message.key();
        if let Some(held) = slow.pictures.get_mut(&key) {
            self.weight -= held.weight();
            held.add(message);
            self.weight += held.weight();
            slow.merged += 1;
        } else {
            let held = Held::new(now, message, false);
            self.weight += held.weight();
            slow.order.push_back(key.clone());
            slow.pictures.insert(key, held);
        }
    }

    fn take(&mut self, priority: Priority) -> Option<Entry<C>> {
        let entry = self.lanes[priority as usize].pop_front()?;
        self.weight -= entry.message.weight();
        if let Some(position) = &entry.message.position {
            self.positions.remove(position);
        }
        Some(entry)
    }

    fn take_picture(&mut self) -> Option<Entry<C>> {
        let slow = self.slow.as_mut()?;
        let held = slow.pictures.remove(&slow.order.pop_front()?)?;
        self.weight -= held.weight();
        Some(Entry {
            since: held.since,
            message: held.release(),
        })
    }

    /// Whether something waited for longer than it may.
    fn is_late(&self, now: Duration) -> bool {
        self.lanes
            .iter()
            .filter_map(VecDeque::front)
            .any(|entry| now.saturating_sub(entry.since) > deadline(entry.message.priority))
    }

    /// From now on pictures become one.
    fn slow_down(&mut self, now: Duration) {
        self.slow = Some(Box::new(Slow {
            since: now,
            merged: 0,
            told: false,
            pictures: HashMap::new(),
            order: VecDeque::new(),
        }));
        for lane in Priority::ALL {
            let entries = std::mem::take(&mut self.lanes[lane as usize]);
            let (pictures, rest) = entries.into_iter().partition(|entry| entry.message.picture);
            self.lanes[lane as usize] = rest;
            let pictures: VecDeque<Entry<C>> = pictures;
            for entry in pictures {
                self.weight -= entry.message.weight();
                self.put(entry.since, entry.message);
            }
        }
    }

    /// Ends slowness once nothing waits.
    fn recover(&mut self, now: Duration) {
        let over = |slow: &Slow<C>| {
            slow.told && slow.order.is_empty() && now >= slow.since + SLOW_AT_LEAST
        };
        if self.slow.as_deref().is_some_and(over)
            && self.lanes.iter().all(VecDeque::is_empty)
            && let Some(slow) = self.slow.take()
        {
            self.resumed = Some(slow.merged);
        }
    }

    /// Drops the least urgent, of these the oldest.
    fn drop_one(&mut self) -> bool {
        let Some(entry) = self
            .take(Priority::Low)
            .or_else(|| self.take_picture())
            .or_else(|| self.take(Priority::Normal))
            .or_else(|| self.take(Priority::High))
            .or_else(|| self.take(Priority::Critical))
        else {
            return false;
        };
        let lagged = self.lagged.get_or_insert_default();
        lagged.dropped += 1;
        count(&mut lagged.kinds, &entry.message.kind, 1);
        // The position before it: what is beyond can be had again.
        let before = entry
            .message
            .position
            .map(|position| position.saturating_sub(1));
        lagged.after = earliest(lagged.after, before);
        true
    }
}

/// Adds to the count of `kind`, or to that of others when there are too many kinds.
pub fn count(kinds: &mut BTreeMap<String, u64>, kind: &str, n: u64) {
    let kind = if kinds.contains_key(kind) || kinds.len() < MAX_KINDS {
        kind
    } else {
        "other"
    };
    *kinds.entry(kind.to_owned()).or_default() += n;
}

/// The earlier of two positions, where there are any.
#[must_use]
pub fn earliest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
