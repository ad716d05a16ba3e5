//! One client: its subscriptions, and what waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::RobotId;
use lekiwi_protocol::api::{Lagged, RelayMessage, Subscribe};

use super::index::Key;
use super::message::{Content, Message};
use super::queue::{MAX_WAITING_BYTES, Next, Queue};
use super::replay::Seam;
use super::throttle::Throttle;
use super::wanted::{MAX_SUBSCRIPTIONS, RequestError, Wanted, Within};

#[derive(Debug)]
struct Subscription<C> {
    id: String,
    /// Tells it from an earlier one of the same name.
    number: u64,
    wanted: Wanted,
    throttle: Option<Throttle<C>>,
    seam: Seam,
}

/// Stored events that a subscription waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// For whom.
    pub subscription: u64,
    /// Of this robot only, where no other is wanted.
    pub robot: Option<RobotId>,
    /// Beyond this position.
    pub after: u64,
}

/// What is to be done for a client.
#[derive(Debug)]
pub enum Output<C> {
    /// Tell it something that only it is told.
    Say(RelayMessage),
    /// Tell it a message; `late` when it waited longer than its priority may.
    Tell {
        /// The message.
        message: Arc<Message<C>>,
        /// Whether it waited too long.
        late: bool,
    },
    /// Nothing waits: read stored events, and hand them to [`Client::page`].
    Read(Read),
}

/// A client.
#[derive(Debug)]
pub struct Client<C> {
    subscriptions: Vec<Subscription<C>>,
    says: Vec<RelayMessage>,
    queue: Queue<C>,
    numbers: u64,
    /// The last position that came or was read.
    seen: u64,
    within: Within,
}

impl<C: Content> Default for Client<C> {
    fn default() -> Self {
        Self::new(MAX_WAITING_BYTES, None)
    }
}

impl<C: Content> Client<C> {
    /// A client that wants nothing yet, for which at most `bound` bytes wait, and that may hear of the robots in `within`.
    #[must_use]
    pub fn new(bound: usize, within: Within) -> Self {
        Self {
            subscriptions: Vec::new(),
            says: Vec::new(),
            queue: Queue::new(bound),
            numbers: 0,
            seen: 0,
            within,
        }
    }

    /// Takes a subscription; `end` is the log's last position. One of the same name ends.
    ///
    /// # Errors
    /// When the request is refused; the client is as before.
    pub fn subscribe(&mut self, request: &Subscribe, end: u64) -> Result<(), RequestError> {
        let wanted = Wanted::check(request, self.within.clone())?;
        if let Some(got) = request.from.filter(|from| *from > end) {
            return Err(RequestError::From { end, got });
        }
        let others = |subscription: &&Subscription<C>| subscription.id != request.id;
        if self.subscriptions.iter().filter(others).count() >= MAX_SUBSCRIPTIONS {
            return Err(RequestError::Subscriptions);
        }
        self.subscriptions.retain(|old| old.id != request.id);
        self.numbers += 1;
        self.seen = self.seen.max(request.from.unwrap_or(end));
        self.subscriptions.push(Subscription {
            id: request.id.clone(),
            number: self.numbers,
            throttle: wanted
                .throttle
                .map(|(span, mode)| Throttle::new(span, mode)),
            wanted,
            seam: request.from.map_or_else(Seam::live, Seam::replay),
        });
        self.says.push(RelayMessage::Subscribed {
            id: request.id.clone(),
            position: end,
        });
        Ok(())
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn unsubscribe(&mut self, id: &str) -> Result<(), RequestError> {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|old| old.id != id);
        if self.subscriptions.len() == before {
            return Err(RequestError::Unknown(id.chars().take(80).collect()));
        }
        self.says
            .push(RelayMessage::Unsubscribed { id: id.to_owned() });
        Ok(())
    }

    /// Says something to the client before anything else.
    pub fn say(&mut self, message: RelayMessage) {
        self.says.push(message);
    }

    /// Things that were to be said to it and are not yet.
    #[must_use]
    pub fn unsaid(&self) -> usize {
        self.says.len()
    }

    /// Where an index finds this client.
    #[must_use]
    pub fn keys(&self) -> Box<[Key]> {
        let keys = |subscription: &Subscription<C>| subscription.wanted.keys();
        let keys: BTreeSet<Key> = self.subscriptions.iter().flat_map(keys).collect();
        keys.into_iter().collect()
    }

    /// The robots that it names.
    #[must_use]
    pub fn robots(&self) -> Box<[RobotId]> {
        let named = |subscription: &Subscription<C>| {
            let robots = subscription.wanted.robots().unwrap_or_default();
            robots.into_iter().cloned().collect::<Vec<_>>()
        };
        let robots: BTreeSet<RobotId> = self.subscriptions.iter().flat_map(named).collect();
        robots.into_iter().collect()
    }

    /// Takes a message that it may want. Answers whether something is to be done now, or at a new time.
    pub fn offer(&mut self, now: Duration, message: &Arc<Message<C>>) -> bool {
        let (mut told, mut throttled) = (false, None);
        self.seen = self.seen.max(message.position.unwrap_or_default());
        for (at, subscription) in self.subscriptions.iter_mut().enumerate() {
            if !subscription.wanted.matches(&message.robot, &message.kind)
                || message
                    .position
                    .is_some_and(|position| !subscription.seam.take(position))
            {
                continue;
            }
            if subscription.throttle.is_some() && message.picture {
                throttled = throttled.or(Some(at));
            } else {
                told = true;
            }
        }
        // Once, and as often as the most eager of its subscriptions wants.
        let message = if told {
            Some(message.clone())
        } else {
            let throttle = throttled
                .and_then(|at| self.subscriptions.get_mut(at))
                .and_then(|subscription| subscription.throttle.as_mut());
            let Some(throttle) = throttle else {
                return false;
            };
            throttle.take(now, message.clone())
        };
        if let Some(message) = message {
            self.queue.push(now, message);
        }
        true
    }

    /// Messages were lost before they could be offered.
    pub fn lost(&mut self, lost: &Lagged) {
        self.queue.lost(lost);
    }

    /// What is to be done next.
    pub fn poll_output(&mut self, now: Duration) -> Option<Output<C>> {
        if !self.says.is_empty() {
            return Some(Output::Say(self.says.remove(0)));
        }
        for subscription in &mut self.subscriptions {
            while let Some(due) = subscription.throttle.as_mut().and_then(|t| t.poll(now)) {
                self.queue.push(now, due);
            }
        }
        let output = match self.queue.pop(now) {
            Some(Next::Slowed(waiting)) => Output::Say(RelayMessage::Slowed { waiting }),
            Some(Next::Resumed(merged)) => Output::Say(RelayMessage::Resumed { merged }),
            Some(Next::Lagged(lagged)) => Output::Say(RelayMessage::Lagged(lagged)),
            Some(Next::Message(message, late)) => Output::Tell { message, late },
            None => return self.wanted_page().map(Output::Read),
        };
        Some(output)
    }

    /// Where the client goes on if it is cut off after what it was told so far: up to this position of the log it was
    /// told every event that it wants, or that there was no room for it. Beyond it are those that an urgent one
    /// overtook, and that one.
    #[must_use]
    pub fn position(&self) -> u64 {
        let waiting = self
            .queue
            .first_position()
            .map(|first| first.saturating_sub(1));
        let unread = self.subscriptions.iter().filter_map(|s| s.seam.wants());
        unread.chain(waiting).fold(self.seen, u64::min)
    }

    /// When `poll_output` may have something, if nothing is offered before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let throttles = self
            .subscriptions
            .iter()
            .filter_map(|s| s.throttle.as_ref());
        throttles.filter_map(Throttle::timeout).min()
    }

    /// Stored events that were read for `subscription`, in the order of the log: how far into the log that was,
    /// whether there are no more, and what they say. Answers those that are wanted.
    pub fn page(
        &mut self,
        subscription: u64,
        position: u64,
        whole: bool,
        events: Vec<Arc<Message<C>>>,
    ) -> Vec<Arc<Message<C>>> {
        let found = self
            .subscriptions
            .iter_mut()
            .find(|s| s.number == subscription);
        // It may have ended meanwhile.
        let Some(subscription) = found else {
            return Vec::new();
        };
        self.seen = self.seen.max(position);
        if subscription.seam.page(position, whole) {
            self.says.push(RelayMessage::Replayed {
                id: subscription.id.clone(),
                position: subscription.seam.position(),
            });
        }
        let wanted =
            |message: &Arc<Message<C>>| subscription.wanted.matches(&message.robot, &message.kind);
        events.into_iter().filter(wanted).collect()
    }

    fn wanted_page(&self) -> Option<Read> {
        self.subscriptions.iter().find_map(|subscription| {
            let after = subscription.seam.wants()?;
            let robots = subscription.wanted.robots();
            let robot = robots.filter(|robots| robots.len() == 1);
            let robot = robot.and_then(|robots| robots.into_iter().next().cloned());
            Some(Read {
                subscription: subscription.number,
                robot,
                after,
            })
        })
    }
}
