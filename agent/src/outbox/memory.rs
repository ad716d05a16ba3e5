//! Events while the disk takes none: a bounded queue. Lost with the process, hence a stream of its own.

use std::collections::VecDeque;

use lekiwi_agent_core::outbox::{Bounds, Cursor, Losses, Progress, covers};
use lekiwi_protocol::message::{Event, EventBatch, Priority, SeqRange};
use uuid::Uuid;

use super::{Draft, Limit, is_plain_tombstone, lose, within};

struct Held {
    priority: Priority,
    ordinal: u32,
    stream: Uuid,
    bytes: u64,
    event: Event,
}

impl Held {
    fn is_plain_tombstone(&self) -> bool {
        is_plain_tombstone(&self.event.kind, &self.event.data)
    }
}

/// The queue. Several streams when the disk failed, came back and failed again.
pub(super) struct Memory {
    ordinal: u32,
    stream: Uuid,
    last_seq: u64,
    bytes: u64,
    events: VecDeque<Held>,
}

impl Memory {
    pub(super) fn new(ordinal: u32, stream: Uuid) -> Self {
        Self {
            ordinal,
            stream,
            last_seq: 0,
            bytes: 0,
            events: VecDeque::new(),
        }
    }

    /// Numbers what follows in a new stream.
    pub(super) fn begin(&mut self, ordinal: u32, stream: Uuid) {
        self.ordinal = ordinal;
        self.stream = stream;
        self.last_seq = 0;
    }

    pub(super) fn append(&mut self, draft: &Draft<'_>) -> u64 {
        let free = Bounds::MEMORY.excess(self.bytes, draft.bytes);
        if free > 0 {
            let mut losses = Losses::default();
            let left = self.bytes.saturating_sub(free);
            // Earlier tombstones say their part in the new ones.
            self.give_up(&mut losses, |held, _| held.is_plain_tombstone());
            for priority in Priority::ALL.into_iter().rev() {
                self.give_up(&mut losses, |held, bytes| {
                    held.priority == priority && bytes > left
                });
            }
            for dropped in losses.tombstones() {
                self.push(&Draft::tombstone(draft.timestamp, &dropped));
            }
        }
        self.push(draft)
    }

    /// Removes, oldest first, what `goes` says so of, told how many bytes are left.
    fn give_up(&mut self, losses: &mut Losses, goes: impl Fn(&Held, u64) -> bool) {
        let bytes = &mut self.bytes;
        self.events.retain(|held| {
            let gone = goes(held, *bytes);
            if gone {
                *bytes -= held.bytes;
                let Event {
                    seq, kind, data, ..
                } = &held.event;
                lose(losses, held.stream, *seq, kind, data);
            }
            !gone
        });
    }

    fn push(&mut self, draft: &Draft<'_>) -> u64 {
        self.last_seq += 1;
        self.bytes += draft.bytes;
        self.events.push_back(Held {
            priority: Priority::of(draft.kind),
            ordinal: self.ordinal,
            stream: self.stream,
            bytes: draft.bytes,
            event: Event {
                seq: self.last_seq,
                kind: draft.kind.to_owned(),
                timestamp: draft.timestamp,
                data: draft.data.clone(),
            },
        });
        self.last_seq
    }

    pub(super) fn pending_after(
        &self,
        progress: &Progress,
        limit: Limit,
    ) -> Option<(Priority, EventBatch)> {
        Priority::ALL
            .into_iter()
            .find_map(|priority| self.pending_of(priority, progress.of(priority), limit))
    }

    fn pending_of(
        &self,
        priority: Priority,
        cursor: Cursor,
        limit: Limit,
    ) -> Option<(Priority, EventBatch)> {
        let after = |held: &&Held| {
            let (ordinal, seq) = (held.ordinal, held.event.seq);
            held.priority == priority && Cursor { ordinal, seq } > cursor
        };
        let first = self.events.iter().find(after)?;
        let same = self
            .events
            .iter()
            .filter(after)
            .take_while(|held| held.ordinal == first.ordinal);
        let batch = EventBatch {
            stream: first.stream,
            ordinal: first.ordinal,
            events: within(limit, same.map(|held| (held.event.clone(), held.bytes))),
        };
        Some((priority, batch))
    }

    pub(super) fn acknowledge(&mut self, stream: Uuid, ranges: &[SeqRange]) -> usize {
        let before = self.events.len();
        let bytes = &mut self.bytes;
        self.events.retain(|held| {
            let acknowledged = held.stream == stream && covers(ranges, held.event.seq);
            if acknowledged {
                *bytes -= held.bytes;
            }
            !acknowledged
        });
        before - self.events.len()
    }

    /// The streams that it holds events of, and the one that it numbers in.
    pub(super) fn streams(&self) -> impl Iterator<Item = Uuid> {
        let mut streams: Vec<Uuid> = self.events.iter().map(|held| held.stream).collect();
        streams.push(self.stream);
        streams.dedup();
        streams.into_iter()
    }

    pub(super) fn stream(&self) -> Uuid {
        self.stream
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(super) fn len(&self) -> u64 {
        self.events.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}
