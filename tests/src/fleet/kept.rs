//! What a simulated robot keeps until the relay has it: the agent's own outbox on disk for who is killed, or a
//! queue in memory that costs little for who is not.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use lekiwi_agent::outbox::{Limit, Outbox};
use lekiwi_protocol::Timestamp;
use lekiwi_protocol::limits::MAX_EVENTS_PER_MESSAGE;
use lekiwi_protocol::message::{Ack, Event, EventBatch};
use uuid::Uuid;

/// Numbered things that wait for their acknowledgement.
#[derive(Debug)]
pub(super) struct Numbered<T> {
    pub(super) stream: Uuid,
    pub(super) last: u64,
    waiting: VecDeque<(u64, T)>,
    sent: u64,
}

impl<T: Clone> Numbered<T> {
    pub(super) fn new() -> Self {
        Self {
            stream: Uuid::new_v4(),
            last: 0,
            waiting: VecDeque::new(),
            sent: 0,
        }
    }

    pub(super) fn append(&mut self, what: impl FnOnce(u64) -> T) {
        self.last += 1;
        self.waiting.push_back((self.last, what(self.last)));
    }

    /// What was not sent yet, a message's worth, oldest first; it counts as sent from now on.
    pub(super) fn unsent(&mut self) -> Vec<T> {
        let unsent = self.waiting.iter().filter(|(seq, _)| *seq > self.sent);
        let batch: Vec<_> = unsent.take(MAX_EVENTS_PER_MESSAGE).cloned().collect();
        self.sent = batch.last().map_or(self.sent, |(seq, _)| *seq);
        batch.into_iter().map(|(_, what)| what).collect()
    }

    /// All of it is to be sent again.
    pub(super) fn resend(&mut self) {
        self.sent = 0;
    }

    pub(super) fn acknowledge(&mut self, ack: &Ack) {
        for [from, to] in ack.acks.get(&self.stream).into_iter().flatten() {
            self.waiting.retain(|(seq, _)| seq < from || seq > to);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Where a robot keeps its events.
#[derive(Debug)]
pub struct Kept(Place);

enum Place {
    Memory(Numbered<Event>),
    Disk {
        outbox: Box<Outbox>,
        /// What was emitted, by another witness than the outbox.
        journal: std::fs::File,
    },
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory(_) => "memory",
            Self::Disk { .. } => "disk",
        })
    }
}

impl Kept {
    /// In memory: gone with this process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self(Place::Memory(Numbered::new()))
    }

    /// In the agent's outbox, in `folder`, with a file beside it that gets a line for each event.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn on_disk(folder: &Path, now: Timestamp) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let journal = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("emitted"))?;
        Ok(Self(Place::Disk {
            outbox: Box::new(Outbox::open(&folder.join("agent.db"), now)),
            journal,
        }))
    }

    pub(super) fn append(&mut self, kind: &str, now: Timestamp, data: serde_json::Value) {
        match &mut self.0 {
            Place::Memory(events) => events.append(|seq| Event {
                seq,
                kind: kind.to_owned(),
                timestamp: now,
                data,
            }),
            Place::Disk { outbox, journal } => {
                let seq = tokio::task::block_in_place(|| outbox.append(kind, now, data));
                // A line survives the death of this process, if not of the machine: that is enough for a soak.
                let _ = writeln!(journal, "{seq}");
            }
        }
    }

    pub(super) fn unsent(&mut self) -> Option<EventBatch> {
        match &mut self.0 {
            Place::Memory(queue) => {
                let events = queue.unsent();
                (!events.is_empty()).then_some(EventBatch {
                    stream: queue.stream,
                    ordinal: 1,
                    events,
                })
            }
            Place::Disk { outbox, .. } => {
                tokio::task::block_in_place(|| outbox.pending(Limit::default()))
            }
        }
    }

    /// Whether more than one message may wait to be sent: a disk's events are sent again until acknowledged.
    pub(super) fn is_counted(&self) -> bool {
        matches!(self.0, Place::Memory(_))
    }

    pub(super) fn resend(&mut self) {
        if let Place::Memory(events) = &mut self.0 {
            events.resend();
        }
    }

    pub(super) fn acknowledge(&mut self, ack: &Ack) {
        match &mut self.0 {
            Place::Memory(events) => events.acknowledge(ack),
            Place::Disk { outbox, .. } => {
                tokio::task::block_in_place(|| outbox.acknowledge(ack));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.0 {
            Place::Memory(events) => events.is_empty(),
            Place::Disk { outbox, .. } => outbox.is_empty(),
        }
    }

    /// Its stream, and the last number in it.
    pub(super) fn last(&self) -> (Uuid, u64) {
        match &self.0 {
            Place::Memory(events) => (events.stream, events.last),
            Place::Disk { outbox, .. } => (outbox.stream(), outbox.last_seq()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_acknowledged_is_sent_again_and_nothing_else() {
        let mut queue = Numbered::new();
        for _ in 0..MAX_EVENTS_PER_MESSAGE + 2 {
            queue.append(|seq| seq);
        }
        let most = MAX_EVENTS_PER_MESSAGE as u64;
        assert_eq!(queue.unsent(), (1..=most).collect::<Vec<_>>());
        assert_eq!(queue.unsent(), [most + 1, most + 2]);
        assert_eq!(queue.unsent(), Vec::<u64>::new());
        queue.acknowledge(&Ack {
            acks: [(queue.stream, vec![[1, most - 1], [most + 1, most + 1]])].into(),
        });
        queue.acknowledge(&Ack {
            acks: [(Uuid::nil(), vec![[1, u64::MAX]])].into(),
        });
        queue.resend();
        assert_eq!(queue.unsent(), [most, most + 2]);
        assert!(!queue.is_empty());
    }
}
