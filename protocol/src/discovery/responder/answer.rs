//! When answers go out: a little later than asked, not too often, and together.

use core::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::records::Set;

/// Time between two answers to the group, and between two that defend a name.
const EVERY: Duration = Duration::from_secs(1);
const DEFENDED_EVERY: Duration = Duration::from_millis(250);
/// Answers to single askers in a second.
const MOST_DIRECT: u32 = 20;
/// Askers whose further known answers are waited for.
const MOST_WAITING: usize = 16;

#[derive(Debug)]
struct Waiting {
    from: SocketAddrV4,
    at: Instant,
    set: Set,
}

#[derive(Debug, Default)]
pub(super) struct Answers {
    due: Option<(Instant, Set)>,
    waiting: Vec<Waiting>,
    said: Option<Instant>,
    direct: Option<(Instant, u32)>,
}

impl Answers {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().map(|waiting| waiting.at);
        waiting.chain(self.due.map(|(at, _)| at)).min()
    }

    /// What goes to the group now.
    pub(super) fn poll_due(&mut self, now: Instant) -> Option<Set> {
        let ready = self.waiting.iter().position(|waiting| waiting.at <= now);
        if let Some(Waiting { set, .. }) = ready.map(|at| self.waiting.swap_remove(at)) {
            if !set.is_empty() {
                self.schedule(now, Duration::ZERO, set, false);
            }
            return self.poll_due(now);
        }
        let (_, set) = self.due.take_if(|(at, _)| *at <= now)?;
        self.said(now);
        Some(set)
    }

    /// The group was told.
    pub(super) fn said(&mut self, now: Instant) {
        self.said = Some(now);
    }

    /// Answers the group after `wait`, or as soon as it may be told again.
    pub(super) fn schedule(&mut self, now: Instant, wait: Duration, set: Set, defended: bool) {
        let every = if defended { DEFENDED_EVERY } else { EVERY };
        let at = self.said.map_or(now, |said| said + every).max(now + wait);
        self.due = Some(match self.due {
            Some((due, before)) => (due.min(at), before.with(set)),
            None => (at, set),
        });
    }

    /// Somebody asked who has more to say about what it knows.
    pub(super) fn wait_for_more(&mut self, from: SocketAddrV4, at: Instant, set: Set) {
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push(Waiting { from, at, set });
        }
    }

    /// What `from` waits for.
    pub(super) fn waiting(&mut self, from: SocketAddrV4) -> impl Iterator<Item = &mut Set> {
        let waiting = self.waiting.iter_mut();
        waiting
            .filter(move |waiting| waiting.from == from)
            .map(|waiting| &mut waiting.set)
    }

    /// Whether one more single asker gets an answer.
    pub(super) fn may_answer_one(&mut self, now: Instant) -> bool {
        let (start, count) = match self.direct {
            Some((start, count)) if now.saturating_duration_since(start) < EVERY => (start, count),
            _ => (now, 0),
        };
        self.direct = Some((start, count.saturating_add(1)));
        count < MOST_DIRECT
    }
}
