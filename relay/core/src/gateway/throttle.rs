//! How often a subscription is told pictures, of each robot and type by itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lekiwi_protocol::api::ThrottleMode;

use super::message::{Content, Held, Message, PictureKey};

/// The spans of one subscription.
#[derive(Debug)]
pub(super) struct Throttle<C> {
    span: Duration,
    mode: ThrottleMode,
    /// Pictures whose span runs, and what waits for its end.
    running: HashMap<PictureKey, Option<Held<C>>>,
    /// The ends of the spans. All are as long, so that they end in the order in which they began.
    ends: VecDeque<(Duration, PictureKey)>,
    held: usize,
}

impl<C: Content> Throttle<C> {
    pub(super) fn new(span: Duration, mode: ThrottleMode) -> Self {
        Self {
            span,
            mode,
            running: HashMap::new(),
            ends: VecDeque::new(),
            held: 0,
        }
    }

    /// Takes a picture, and gives it back if it may be told now.
    pub(super) fn take(
        &mut self,
        now: Duration,
        message: Arc<Message<C>>,
    ) -> Option<Arc<Message<C>>> {
        self.forget(now);
        let aggregate = self.mode == ThrottleMode::Aggregate;
        let key = message.key();
        match (self.running.get_mut(&key), self.mode) {
            (Some(Some(held)), _) => held.add(message),
            (Some(_), ThrottleMode::Sample) => {}
            (Some(nothing), _) => {
                *nothing = Some(Held::new(now, message, aggregate));
                self.held += 1;
            }
            (None, ThrottleMode::Aggregate) => {
                self.begin(now, key, Some(Held::new(now, message, aggregate)));
            }
            (None, _) => {
                self.begin(now, key, None);
                return Some(message);
            }
        }
        None
    }

    /// What is due.
    pub(super) fn poll(&mut self, now: Duration) -> Option<Arc<Message<C>>> {
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            let (_, key) = self.ends.pop_front()?;
            let Some(Some(held)) = self.running.remove(&key) else {
                continue;
            };
            self.held -= 1;
            // What is told now begins a span of its own; an aggregate begins with the next that comes.
            if self.mode == ThrottleMode::Latest {
                self.begin(now, key, None);
            }
            return Some(held.release());
        }
        None
    }

    /// When `poll` will have something, or may have.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let first = self.ends.front().filter(|_| self.held > 0);
        first.map(|(end, _)| *end)
    }

    fn begin(&mut self, now: Duration, key: PictureKey, held: Option<Held<C>>) {
        self.held += usize::from(held.is_some());
        self.running.insert(key.clone(), held);
        self.ends.push_back((now + self.span, key));
    }

    /// Ends spans in which nothing waits.
    fn forget(&mut self, now: Duration) {
        while let Some((end, key)) = self.ends.front() {
            if *end > now || matches!(self.running.get(key), Some(Some(_))) {
                return;
            }
            self.running.remove(key);
            self.ends.pop_front();
        }
    }
}
